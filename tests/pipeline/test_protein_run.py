"""A whole run on proteins with a tiny masked language model: from labelled sequences to the report, then steering and a structure from the command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from sparselight.cli import app
from sparselight.errors import SparselightError
from sparselight.pipeline import run_pipeline
from sparselight.pipeline.recipe import Recipe
from sparselight.records import EvalRecord, SequenceSteeringRecord
from sparselight.testing.families import family_tokenizer, tiny_model
from sparselight.vocab import WORKS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on proteins of which every other one has a stretch of W that is labelled as a helix, and a stretch whose label is not known."""
    place = tmp_path_factory.mktemp("proteins")
    rng, lines = np.random.default_rng(0), []
    for number in range(120):
        text, labels = "".join(rng.choice(list("AGVSERTIDPKQNFY"), 50)), "1" * 30 + "2" * 20
        if number % 2:
            text, labels = f"{text[:10]}{'W' * 12}{text[22:]}", f"{'1' * 10}{'H' * 12}{'1' * 18}{'U' * 10}"
        lines.append(f">protein{number}\n{text}\n{labels}\n")
    (place / "data").mkdir()
    (place / "data" / "all.3line").write_text("".join(lines))
    tiny_model("esm").save_pretrained(place / "model")
    family_tokenizer("esm").save_pretrained(place / "model")
    run_pipeline(recipe(place), place / "run")
    return place / "run"


def recipe(place: Path) -> Recipe:
    sae: dict[str, Any] = {"k": 4, "n_tokens": 6000, "batch_tokens": 256, "dead_after_tokens": 2000}
    association = {"n_permutations": 39, "n_shuffles": 2}
    return Recipe.parse({
        "corpus": {"kind": "protein", "root": str(place / "data"), "held_out_frac": 0.4},
        "select": {"seed_labels": ["transmembrane region=helix"], "retrieve": ["dense"], "max_tokens": 2400, "guard": "report"},
        "subject": {"source": str(place / "model"), "context_tokens": 62},
        "sample": {"general_tokens": 3000, "held_out_tokens": 2000}, "harvest": {"site": "resid_post.1", "dtype": "float32"},
        "train": {**sae, "n_latents": 32}, "residual": {**sae, "n_latents": 8, "k": 1, "n_tokens": 1000},
        "evaluate": {"suite": "core,association,association_rules", "n_bootstrap": 40, "n_tokens": 1000, "association": association,
                     "association_rules": {"n_shuffles": 2}},
        "explain": {"min_support": 5, "min_fires": 5, "n_shuffles": 2, "n_bootstrap": 20},
        "intervene": {"n_features": 1, "n_candidates": 2, "side_effect_tokens": 100},
    })


def call(*arguments: str) -> Any:
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exception is None, done.exception
    return json.loads(done.stdout.strip().splitlines()[-1])


def refused(*arguments: str) -> str:
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert isinstance(done.exception, SparselightError), done.output
    return done.exception.why


def test_a_report_stands_at_the_end(folder: Path) -> None:
    run = json.loads((folder / "run.json").read_text())
    assert {stage for stage, works in WORKS.items() if "proteins" in works} == set(run["stages"])
    page = (folder / run["report"]).read_text()
    assert "<script" not in page
    assert "Annotation that fits best" in page
    record = EvalRecord.load(folder / run["stages"]["evaluate"] / "evaluation.json")
    measured = {(row.coder, row.metric) for row in record.rows}
    assert {("subject", "top1_accuracy"), ("base", "top1_accuracy"), ("base", "top1_agreement"), ("base", "association_f1"), ("base", "rule_pairs")} <= measured
    assert any("are not known, and they are left out" in note for note in record.notes)


def test_a_study_of_sequences_ends_with_a_page(folder: Path) -> None:
    study = ["steer", str(folder), "--feature", latent_of(folder), "--study", "--goal", "label: transmembrane region=helix"]
    small = [part for name, value in {"n_sequences": 8, "length": 30, "strengths": [1, 2], "tokens_a_step": 10, "sample_tokens": 1500, "probe_tokens": 3000,
                                      "n_random": 2, "n_shown": 2}.items() for part in ("--set", f"{name}={json.dumps(value)}")]
    plan = call(*study, *small, "--dry-run")
    assert (plan["n_sequences"], plan["written_residues"]) == (8, plan["n_arms"] * 8 * 30 * 2), "two sweeps"
    assert not (folder / "steering").exists()
    result = call(*study, *small)
    record = SequenceSteeringRecord.load(Path(result["record"]))
    assert record.judge.auroc is not None
    assert {arm.kind for arm in record.arms} >= {"no edit", "latent", "random latent", "random direction"}
    assert record.card in Path(result["page"]).read_text()


def test_what_a_study_of_sequences_cannot_do_is_said(folder: Path) -> None:
    study = ["steer", str(folder), "--feature", latent_of(folder), "--study"]
    for more, why in ((["--scale", "3"], "held up"), (["--prompt", "30"], "same starts"), (["--goal", "tokens: L"], "neither a pattern nor a label"),
                      (["--set", "n_tokens=3"], "no such setting"), (["--goal", "label: domain=SH2"], "carry it")):
        assert why in refused(*study, *more)


def test_sequences_before_and_after(folder: Path) -> None:
    shown = call("steer", str(folder), "--feature", latent_of(folder), "--clamp", "3x", "--prompt", "12", "--prompt", "MK<mask><mask>AY")
    assert [(text["prompt"], len(text["before"]), len(text["after"])) for text in shown["texts"]] == [("12", 12, 12), ("MK<mask><mask>AY", 6, 6)]
    assert set(shown["texts"][0]["after"]) <= set("ACDEFGHIKLMNPQRSTVWY")
    assert "after a prompt" in refused("steer", str(folder), "--feature", "0", "--clamp", "3x", "--prompt", "12", "--on", "last")


def test_a_latent_on_a_structure(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("Bio", reason="structures are read by Biopython")
    names = {"A": "ALA", "W": "TRP", "K": "LYS"}
    lines = [f"ATOM  {number:>5}  CA  {names[letter]} A{number:>4}    {3.8 * number:8.3f}{number % 3:8.3f}{number % 5:8.3f}{1.0:6.2f}{0.0:6.2f}           C"
             for number, letter in enumerate("AKWWWWWWAK", 1)]
    (tmp_path / "a.pdb").write_text("\n".join([*lines, "END", ""]))
    picture = tmp_path / "a.svg"
    view = call("features", str(folder), "--latent", f"base/{latent_of(folder)}", "--structure", str(tmp_path / "a.pdb"), "--plot", str(picture))
    assert (view["n_residues"], view["chain"]) == (10, "A")
    assert picture.read_text().startswith("<svg")
    assert "no file is named" in refused("features", str(folder), "--latent", "base/0", "--structure", str(tmp_path / "a.pdb"))


def latent_of(folder: Path) -> str:
    """The latent that fires most."""
    rows = call("features", str(folder), "--source", "base", "--sort", "n_fires", "--limit", "1")["cards"]
    return str(rows[0]["latent"])
