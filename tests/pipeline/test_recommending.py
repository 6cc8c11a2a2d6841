"""A whole run on a recommender that the run trains: from a table of interactions to the report, resumed, planned without writing, refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import sparselight as sl
from sparselight.cli import app
from sparselight.errors import ConfigError
from sparselight.interpret.item_concepts import ItemConceptsConfig
from sparselight.intervene.edited_recommender import EditedRecommender
from sparselight.pipeline import plan, run_pipeline
from sparselight.pipeline.item_concepts import run_concepts
from sparselight.pipeline.recipe import Recipe
from sparselight.pipeline.recommender_evidence import read_findings
from sparselight.pipeline.tuning import TuneResult
from sparselight.records import EditSet, EvalRecord, RecommendationLists
from sparselight.testing.llm_server import LlmServer
from sparselight.testing.recommender import GENRES, tiny_interactions, tiny_items
from sparselight.vocab import WORKS


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny world as files of a user."""
    folder = tmp_path_factory.mktemp("shop")
    rows = [(example.id, span.value, number) for example in tiny_interactions(48) for number, span in
            enumerate(span for span in example.spans if span.name == "item")]
    (folder / "log.csv").write_text("user_id,item_id,timestamp\n" + "".join(f"{user},{item},{at}\n" for user, item, at in rows))
    items = tiny_items()
    lines = [f"{one},{title},{labels['genre'][0]}\n" for one, title, labels in zip(items.ids, items.titles, items.labels, strict=True)]
    (folder / "items.csv").write_text("item_id,title,genre\n" + "".join(lines))
    return folder


def recipe(table: Path, **changes: Any) -> Recipe:
    sae = {"architecture": "topk", "k": 2, "n_tokens": 2048, "batch_tokens": 64, "dead_after_tokens": 512}
    return Recipe.parse({
        "corpus": {"kind": "interactions", "root": str(table / "log.csv"), "held_out_frac": 0.4, "interactions": {"items": str(table / "items.csv")}},
        "select": {"query": "Night Scream Blood", "max_tokens": 200, "common_frac": 1.0},
        "subject": {"kind": "recommender", "source": "train", "recommender": {"d": 8, "max_epochs": 2, "max_history": 6}},
        "sample": {"general_tokens": 500, "held_out_tokens": 200}, "harvest": {"site": "user_vector", "dtype": "float32"},
        "train": {**sae, "n_latents": 24}, "residual": {**sae, "n_latents": 8, "k": 1},
        "evaluate": {"suite": "reconstruction,behaviour,ranking", "n_bootstrap": 40, "n_tokens": 400},
        "explain": {"min_support": 5, "min_fires": 5, "n_shuffles": 2, "n_bootstrap": 20},
        "intervene": {"n_features": 1, "n_candidates": 2, "side_effect_tokens": 60}, **changes,
    })


@pytest.fixture(scope="module")
def folder(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    place = tmp_path_factory.mktemp("runs") / "run"
    planned = plan(recipe(table), place)
    assert {row.stage for row in planned.rows} >= {"harvest", "report"}
    assert not place.exists()
    run_pipeline(recipe(table), place)
    return place


def test_from_interactions_to_the_report(table: Path, folder: Path) -> None:
    result = run_pipeline(recipe(table), folder)
    assert result.report is not None
    page = (folder / result.report).read_text(encoding="utf-8")
    assert "Night A (1970)" in page or "Scream B (1980)" in page
    assert "What the recommender&#39;s latents stand for" in page or "What the recommender's latents stand for" in page
    assert "HR@10" in page
    findings = read_findings(folder / result.stages["intervene"])
    assert findings is not None
    assert {row.coder for row in findings.concepts.summaries} == {"sae", "shuffled concepts", "untrained SAE", "raw dimensions"}
    assert run_concepts(folder, ItemConceptsConfig())[1] == folder / result.stages["intervene"] / "concepts.json"
    assert {stage for stage, works in WORKS.items() if "recommenders" in works} == set(result.stages)
    subject = next(folder.glob("subject-*/recommender.json"))
    written = subject.stat().st_mtime_ns
    record = EvalRecord.load(folder / result.stages["evaluate"] / "evaluation.json")
    found = {(row.coder, row.metric, row.setting): row.value.value for row in record.rows if row.dataset == "general"}
    assert 0 <= found["base", "ranking_hr", "k=10"] <= 1
    assert found["subject", "ce_nats", ""] > 0
    assert found["zero ablation", "ranking_hr", "k=10"] == 0
    concepts, path = run_concepts(folder, ItemConceptsConfig(min_positive=1, n_positive=4, n_negative=4))
    assert {row.coder for row in concepts.summaries} == {"sae", "shuffled concepts", "untrained SAE", "raw dimensions"}
    stood = path.stat().st_mtime_ns
    assert run_concepts(folder, ItemConceptsConfig(min_positive=1, n_positive=4, n_negative=4)) == (concepts, path)
    assert path.stat().st_mtime_ns == stood
    shown = CliRunner().invoke(app, ["concepts", str(folder), "--set", "min_positive=1", "--top", "3"])
    assert shown.exit_code == 0, shown.output
    assert "untrained SAE" in shown.output
    again = run_pipeline(recipe(table), folder)
    assert again.stages == result.stages
    assert subject.stat().st_mtime_ns == written
    assert json.loads(subject.read_text())["results"][0]["part"] == "dev"


def test_a_corpus_of_text_trains_no_recommender(table: Path, tmp_path: Path) -> None:
    text = {"kind": "csv", "root": str(table / "items.csv"), "text": "title"}
    with pytest.raises(ConfigError, match=r"corpus is of kind csv.*corpus\.kind = 'interactions'"):
        run_pipeline(recipe(table, corpus=text), tmp_path / "run")


def test_less_of_what_is_popular_leaves_a_curve_an_edit_and_a_page(folder: Path) -> None:
    result = sl.tune(folder, less="popular", strengths=[1.0, 0.5, 0.0], n_latents=4, max_cost=1.0)
    assert result.balance is not None
    assert [dose.strength for dose in result.balance.doses] == [1.0, 0.5, 0.0]
    assert result.kept == 0.0
    assert result.balance.segments == ["popular taste", "rare taste"]
    opened = sl.open_run(folder)
    edit = opened.edit(result.edit)
    served = EditedRecommender(opened.subject.module, opened.sae(), edit.edits.edits)
    batch = opened.subject.prepare(opened.stages.corpus_side("held_out").examples[:3])
    assert batch.inputs is not None
    edited = opened.subject.user_vectors(batch, edit.functions)
    torch.testing.assert_close(served.vectors(batch.input_ids, batch.inputs["lengths"], batch.inputs["users"]), edited)
    page = Path(result.page).read_text(encoding="utf-8")
    assert "Recommend less of what is popular" in page
    assert "penalty on popular items" in page
    assert RecommendationLists.load(Path(result.edit).parent / "lists.json") == result.lists


def test_more_of_a_label_is_tuned_from_the_command_line(folder: Path) -> None:
    record = run_concepts(folder, ItemConceptsConfig())[0]
    best = max((one for one in record.concepts if one.route == "label"), key=lambda one: one.confidence)
    arguments = ["tune", str(folder), "--more", best.label, "--set", f"min_confidence={best.confidence - 0.01}", "--set", "keep=1.0"]
    planned = CliRunner().invoke(app, [*arguments, "--dry-run", "--json"])
    assert json.loads(planned.stdout)["goal"] == f"more {best.label}"
    assert not Path(json.loads(planned.stdout)["out"]).exists()
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    result = TuneResult.model_validate_json(done.stdout)
    assert result.tuning is not None
    assert result.tuning.doses[0].overlap.value == 1.0
    assert result.tuning.doses[-1].share.value >= result.tuning.doses[0].share.value
    edit = EditSet.load(Path(result.edit)).edits[0]
    assert (edit.operation, edit.amount, edit.unit) == ("add", 1.0, "active_mean")
    shown = CliRunner().invoke(app, arguments)
    assert "kept: strength 1" in shown.output


@pytest.mark.parametrize(("asked", "match"), [
    ({}, "give more= or less="),
    ({"more": "genre=Horror", "less": "popular"}, "one edit has one goal"),
    ({"more": "popular"}, "--more popularity=head"),
    ({"less": "genre=Sorrow"}, "no latent is named best by it"),
    ({"less": "popular", "keep": 0.3}, r"no such strength is measured.*give one of 1, 0\.75"),
    ({"less": "popular", "strengths": [0.0, 1.0]}, "begin with 1"),
    ({"less": "popular", "n_controls": 3}, r"tune\.n_controls.*leave it out"),
])
def test_what_cannot_be_tuned_is_refused(folder: Path, asked: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        sl.tune(folder, **asked)


def test_a_language_model_names_latents_of_a_recommender(folder: Path) -> None:
    with LlmServer() as server:
        result = sl.name_latents(folder, endpoint=server.url, model="test-model", scorers=["detection", "level_prediction"], top=4, recipe="recsae")
    assert any(latent.explanations for latent in result.latents)
    asked = "\n".join(message["content"] for body in server.requests for message in body["messages"])
    assert any(word in asked for words in GENRES.values() for word in words)
