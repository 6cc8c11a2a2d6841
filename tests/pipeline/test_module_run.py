"""A whole run on a PyTorch module that a file of the user's makes: with and without predictions, changed, steered, and refused where nobody trusts it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import sparselight as sl
from sparselight.cli import app
from sparselight.errors import ConfigError, SparselightError, SubjectError
from sparselight.pipeline import run_pipeline
from sparselight.pipeline.recipe import Recipe
from sparselight.records import EvalRecord, SequenceSteeringRecord
from sparselight.serve.live.config import LiveConfig
from sparselight.serve.live.service import LiveService

SITE = "cell:output"
CODE = '''
"""A recurrent network over letters."""

import torch
from torch import nn

from alphabet import LETTERS  # stands beside this file
from sparselight.protocols import Batch, Example
from sparselight.subjects import ModuleSubject


class Cell(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.gru = nn.GRU(d, d, batch_first=True)

    def forward(self, x):
        return self.gru(x)[0]


class Reader(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.letters, self.cell, self.head = nn.Embedding(len(LETTERS), d), Cell(d), nn.Linear(d, len(LETTERS))

    def forward(self, ids):
        return self.head(self.cell(self.letters(ids)))


def prepare(examples):
    sizes = torch.tensor([len(example.text) for example in examples])
    ids = torch.zeros(len(examples), int(sizes.max()), dtype=torch.int64)
    for row, example in enumerate(examples):
        ids[row, :len(example.text)] = torch.tensor([LETTERS.index(letter) for letter in example.text])
    counts = torch.arange(ids.shape[1]) < sizes[:, None]
    row, place = counts.nonzero().T
    return Batch(ids, counts, counts, row, place, ids[counts], place, place + 1)


def nats(output, batch):
    found = torch.full(batch.counts.shape, float("nan"))
    found[:, 1:] = nn.functional.cross_entropy(output[:, :-1].transpose(1, 2), batch.input_ids[:, 1:], reduction="none")
    return found[batch.counts]


def make(d: int, predicts: bool = True):
    torch.manual_seed(0)
    more = {"predict": lambda output, batch: output[batch.counts], "loss": nats, "continues": True} if predicts else {}
    return ModuleSubject(Reader(d), prepare, f"reader-{d}", "1", [Example("a", "WAG", "a"), Example("b", "MKTA", "b")],
                         token_text=lambda number: LETTERS[number], **more)
'''


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Proteins of which every other one has a stretch of W that is labelled as a helix, and the code of a subject."""
    folder = tmp_path_factory.mktemp("module")
    rng, lines = np.random.default_rng(0), []
    for number in range(120):
        text, labels = "".join(rng.choice(list("AGVSERTIDPKQNFY"), 50)), "1" * 50
        if number % 2:
            text, labels = f"{text[:10]}{'W' * 12}{text[22:]}", f"{'1' * 10}{'H' * 12}{'1' * 28}"
        lines.append(f">protein{number}\n{text}\n{labels}\n")
    (folder / "data").mkdir()
    (folder / "data" / "all.3line").write_text("".join(lines))
    (folder / "reader.py").write_text(CODE)
    (folder / "alphabet.py").write_text("from sparselight.corpus.protein.residues import AMINO_ACIDS as LETTERS\n")
    return folder


def recipe(place: Path, **subject: Any) -> Recipe:
    sae: dict[str, Any] = {"k": 4, "n_tokens": 4000, "batch_tokens": 256, "dead_after_tokens": 2000}
    return Recipe.parse({
        "corpus": {"kind": "protein", "root": str(place / "data"), "held_out_frac": 0.4},
        "select": {"seed_labels": ["transmembrane region=helix"], "retrieve": ["dense"], "max_tokens": 2400, "guard": "report"},
        "subject": {"kind": "module", "source": f"{place / 'reader.py'}:make", "arguments": {"d": 16}, "trust_remote_code": True, **subject},
        "sample": {"general_tokens": 3000, "held_out_tokens": 2000}, "harvest": {"site": SITE, "dtype": "float32"},
        "train": {**sae, "n_latents": 32}, "residual": {**sae, "n_latents": 8, "k": 1, "n_tokens": 1000},
        "evaluate": {"suite": "core,association", "n_bootstrap": 40, "n_tokens": 1000, "association": {"n_permutations": 39, "n_shuffles": 2}},
        "explain": {"min_support": 5, "min_fires": 5, "n_shuffles": 2, "n_bootstrap": 20},
        "intervene": {"n_features": 1, "n_candidates": 2, "side_effect_tokens": 100},
    })


@pytest.fixture(scope="module")
def folder(place: Path) -> Path:
    run_pipeline(recipe(place), place / "run")
    return place / "run"


def stages(folder: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((folder / "run.json").read_text())["stages"]
    return found


def measured(folder: Path) -> set[tuple[str, str]]:
    record = EvalRecord.load(folder / stages(folder)["evaluate"] / "evaluation.json")
    return {(row.coder, row.metric) for row in record.rows if row.value is not None}


def test_a_module_goes_through_all_stages(folder: Path) -> None:
    assert {("subject", "ce_nats"), ("base", "ce_recovered_mean"), ("base", "kl_nats"), ("base", "association_f1")} <= measured(folder)
    assert json.loads((folder / stages(folder)["intervene"] / "interventions.json").read_text())["results"]
    page = (folder / json.loads((folder / "run.json").read_text())["report"]).read_text()
    assert "reader-16" in page
    card = next(card for card in sl.open_run(folder).cards if card.explanation)
    with sl.open_run(folder).edit(card.key, "clamp", 2, unit="max") as model:
        assert model is not None


def test_without_predictions_nothing_is_said_of_them(place: Path) -> None:
    folder = place / "silent"
    run_pipeline(recipe(place, arguments={"d": 16, "predicts": False}), folder)
    assert ("base", "fvu") in measured(folder)
    assert not any(metric.startswith(("ce_", "kl_")) for _, metric in measured(folder))
    intervene = json.loads((folder / stages(folder)["intervene"] / "record.json").read_text())
    assert (intervene["summary"]["n_edits"], intervene["summary"]["why_no_edits"]) == (0, "it was made without predict=")
    with pytest.raises(SparselightError, match="neither fills in masks nor writes"):
        CliRunner().invoke(app, ["steer", str(folder), "--feature", "0", "--study", "--goal", "pattern: R-G-D"], catch_exceptions=False, standalone_mode=False)


def test_other_code_is_another_subject_and_comments_are_not(place: Path, folder: Path) -> None:
    before, code = stages(folder), place / "reader.py"
    code.write_text(CODE.replace("torch.manual_seed(0)", "torch.manual_seed(0)  # any other would do"))
    run_pipeline(recipe(place), folder, until="harvest")
    assert stages(folder)["harvest"] == before["harvest"]
    other = place / "other"
    code.write_text(CODE.replace("place, place + 1)", "place, place + 1, None)"))
    run_pipeline(recipe(place), other, until="select")
    assert stages(other)["corpus"] == before["corpus"]
    assert stages(other)["select"] != before["select"]
    code.write_text(CODE)


def test_sequences_are_written_from_left_to_right(folder: Path) -> None:
    feature = ["steer", str(folder), "--source", "base", "--feature", helix_latent(folder), "--json"]
    arguments = [*feature, "--study", "--goal", "label: transmembrane region=helix"]
    for name, value in {"n_sequences": 8, "length": 30, "strengths": [2], "sample_tokens": 1500, "probe_tokens": 3000, "n_random": 1}.items():
        arguments += ["--set", f"steer.{name}={value}"]
    planned = invoke([*arguments, "--dry-run"])
    assert planned["written_residues"] == 8 * 30 * planned["n_arms"]
    result = invoke(arguments)
    study = SequenceSteeringRecord.load(Path(result["record"]))
    assert all(sequence.text.startswith("M") and len(sequence.text) == 30 for arm in study.arms for sequence in arm.sequences)
    assert study.settings["prompt"] == "M"
    assert "sweeps" not in study.settings
    assert "sweeps" not in Path(result["page"]).read_text()
    assert result["next_command"].endswith("--prompt M")
    shown = invoke([*feature, "--clamp", "2x", "--prompt", "MKT", "--n-tokens", "5"])
    assert all(len(text["before"]) == len(text["after"]) == 5 for text in shown["texts"])
    with pytest.raises(ConfigError, match=r"steer\.start"):
        invoke([*arguments, "--set", "start=masks"])


def test_who_serves_a_run_says_whether_its_code_may_run(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"live\.trust_remote_code"):
        LiveService(folder, LiveConfig()).load()
    live = LiveService(folder, LiveConfig(trust_remote_code=True))
    live.load()
    assert live.run.subject.name == "reader-16"
    assert live.info(True).writes == "predictions"


def test_code_that_nobody_trusts_does_not_run(place: Path) -> None:
    with pytest.raises(SubjectError, match="trust_remote_code") as err:
        run_pipeline(recipe(place, trust_remote_code=False), place / "untrusted")
    assert "reader.py" in str(err.value)
    assert not list((place / "untrusted").glob("corpus-*"))


def helix_latent(folder: Path) -> str:
    cards = [card for card in sl.open_run(folder).cards if card.source == "base" and card.evidence]
    return str(max(cards, key=lambda card: card.evidence.f1.value if card.evidence else 0.0).latent)


def invoke(arguments: list[str]) -> Any:
    done = CliRunner().invoke(app, arguments, catch_exceptions=False, standalone_mode=False)
    return json.loads(done.stdout.strip().splitlines()[-1])
