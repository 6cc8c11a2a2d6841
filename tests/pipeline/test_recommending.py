"""A whole run on a recommender that the run trains: from a table of interactions to the report, resumed, planned without writing, refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sparselight.cli import app
from sparselight.errors import ConfigError
from sparselight.interpret.item_concepts import ItemConceptsConfig
from sparselight.pipeline import plan, run_pipeline
from sparselight.pipeline.item_concepts import run_concepts
from sparselight.pipeline.recipe import Recipe
from sparselight.records import EvalRecord
from sparselight.testing.recommender import tiny_interactions, tiny_items
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


def test_from_interactions_to_the_report(table: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    planned = plan(recipe(table), folder)
    assert {row.stage for row in planned.rows} >= {"harvest", "report"}
    assert not folder.exists()
    result = run_pipeline(recipe(table), folder)
    assert result.report is not None
    page = (folder / result.report).read_text(encoding="utf-8")
    assert "Night A (1970)" in page or "Scream B (1980)" in page
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
