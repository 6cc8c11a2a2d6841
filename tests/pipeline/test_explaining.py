"""The catalogue of a run: made of what the stages left, kept up to date, never at the cost of what was added."""

from concurrent.futures import Future, ThreadPoolExecutor, wait

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from explained_run import card_of, make_run, redo

from sparselight.errors import RunError
from sparselight.interpret import Catalogue
from sparselight.pipeline import explaining
from sparselight.pipeline.explaining import run_catalogue
from sparselight.records import Explanation, RunRecord


def llm(text):
    return Explanation(text=text, explainer="llm")


def test_a_runs_catalogue_holds_cards_annotations_and_edits(tmp_path):
    run = make_run(tmp_path)
    table = {
        "coder": ["base", "base+residual", "base+residual", "untrained SAE"], "dataset": ["general"] * 4, "level": ["spans"] * 4, "latent": [1, 1, 2, 0],
        "kind": ["region"] * 4, "label": ["zinc finger", "again", "of the residual", "control"], "f1": [0.5, 0.6, 0.7, 0.8], "f1_low": [0.4] * 4,
        "f1_high": [0.9] * 4, "null_f1_max": [0.1] * 4, "n_labelled": [30] * 4, "q_screen": [0.01, None, None, None], "associated": [True, False, True, True],
    }
    (run / "evaluate-1" / "tables").mkdir(parents=True)
    pq.write_table(pa.table(table), run / "evaluate-1" / "tables" / "association.association_latents.parquet")
    catalogue = run_catalogue(run)
    assert catalogue.path == run / "catalogue.duckdb"
    assert [found.label for found in catalogue.card("base", 1).associations] == ["zinc finger"]
    assert [found.label for found in catalogue.card("residual", 0).associations] == ["of the residual"]
    assert len(catalogue.edits("base", 0)) == len(catalogue.card("base", 0).edits) == 1
    assert [card.latent for card in catalogue.search("zinc finger")] == [1]
    assert Catalogue(run / "explain-1").card("base", 1).associations == []  # the stage's own stays as it was


def test_what_was_added_stays_when_a_stage_is_redone_and_goes_with_the_weights(tmp_path):
    run = make_run(tmp_path)
    catalogue = run_catalogue(run)
    catalogue.add_explanations({("base", 0): [llm("greetings")], ("residual", 0): [llm("farewells")]})
    assert run_catalogue(run).card("base", 0).explanations[-1].text == "greetings"
    redo(run, "explain", "explain-2", [card_of("base", 0, "new"), card_of("base", 1), card_of("residual", 0)])
    again = run_catalogue(run)
    assert [explanation.text for explanation in again.card("base", 0).explanations] == ["new", "greetings"]
    redo(run, "explain", "explain-3", [card_of("base", 0), card_of("residual", 0)], weights={"residual": "other weights"})
    last = run_catalogue(run)
    assert [explanation.explainer for explanation in last.card("base", 0).explanations] == ["statistical", "llm"]
    assert [explanation.explainer for explanation in last.card("residual", 0).explanations] == ["statistical"]
    assert len(last.edits("base", 0)) == 1


def test_who_read_the_record_first_does_not_bring_old_cards_back(tmp_path, monkeypatch):
    run, load, others = make_run(tmp_path), RunRecord.load, list[Future]()
    with ThreadPoolExecutor(1) as pool:
        def then_redone(path):
            record = load(path)
            monkeypatch.setattr(explaining.RunRecord, "load", load)
            redo(run, "explain", "explain-2", [card_of("base", 0, "new"), card_of("base", 1), card_of("residual", 0)])
            others.append(pool.submit(run_catalogue, run))
            wait(others, timeout=0.5)  # it overtakes, if it can
            return record

        monkeypatch.setattr(explaining.RunRecord, "load", then_redone)
        run_catalogue(run)
        assert others[0].result().card("base", 0).explanation.text == "new"


def test_a_damaged_catalogue_of_the_run_is_made_anew(tmp_path):
    run = make_run(tmp_path)
    (run / "catalogue.duckdb").write_bytes(b"no database" * 1000)
    assert len(run_catalogue(run)) == 3


def test_of_a_folder_that_cannot_be_written_the_stages_own_is_opened(tmp_path, monkeypatch):
    def refuse(**_settings):
        raise PermissionError("read-only")

    run = make_run(tmp_path)
    monkeypatch.setattr(explaining.tempfile, "TemporaryDirectory", refuse)
    catalogue = run_catalogue(run)
    assert catalogue.path == run / "explain-1" / "catalogue.duckdb"
    assert len(catalogue) == 3


def test_an_unfinished_run_is_refused(tmp_path):
    run = make_run(tmp_path, stages=("train", "residual"))
    with pytest.raises(RunError, match="its stage explain is not finished"):
        run_catalogue(run)
    with pytest.raises(RunError, match="there is no such file"):
        run_catalogue(tmp_path / "nowhere")
