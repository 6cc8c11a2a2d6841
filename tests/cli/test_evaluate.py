"""`sparselight evaluate`: SAEs by themselves with stores and corpora, what it prints and writes, what it refuses."""

import dataclasses
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sparselight.cli import main
from sparselight.corpus import ListCorpus
from sparselight.protocols import Example
from sparselight.records import EvalRecord
from sparselight.sae import load_sae
from sparselight.sae.disk import save_sae
from sparselight.store import FolderStore, HarvestConfig, harvest
from sparselight.subjects import HuggingFaceSubject, SubjectConfig, load_subject
from sparselight.testing import tiny_corpus, tiny_subject, tiny_tokenizer
from sparselight.train import TrainConfig, train_sae

SITE = "resid_post.1"
SMALL = ["--set", "evaluate.n_tokens=600", "--set", "evaluate.n_bootstrap=60"]
SUITE = ["--suite", "reconstruction,behaviour"]


@dataclass
class Place:
    """A subject in a folder, its corpus as a file, stores of the two sides, two SAEs and one of another site."""

    folder: Path
    subject: HuggingFaceSubject
    corpus: list[str]

    def path(self, name: str) -> str:
        return str(self.folder / name)

    @property
    def stores(self) -> list[str]:
        return ["--store", self.path("train"), "--held-out", self.path("held_out")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder, tiny = tmp_path_factory.mktemp("evaluate"), tiny_subject()
    tiny.model.save_pretrained(folder / "subject")
    tiny_tokenizer().save_pretrained(folder / "subject")
    subject = load_subject(SubjectConfig(source=str(folder / "subject"), context_tokens=64))
    corpus = tiny_corpus(64)
    train, held_out = (corpus.subset([index for index, example in enumerate(corpus) if (example.group in HELD_OUT) == side]) for side in (False, True))
    for name, part, site in (("train", train, SITE), ("held_out", held_out, SITE), ("elsewhere", train, "resid_post.0")):
        harvest(subject, part.examples, [site], folder / name, HarvestConfig(site=site), part.fingerprint())
    for name, store, site, seed in (("first", "train", SITE, 0), ("second", "train", SITE, 1), ("other_site", "elsewhere", "resid_post.0", 0)):
        config = TrainConfig.parse({"n_latents": 48, "k": 4, "batch_tokens": 128, "n_tokens": 1280, "dead_after_tokens": 256, "seed": seed}, "train")
        train_sae(FolderStore.open(folder / store), None, site, config, folder / "saes" / name, subject.ref())
    write_corpus(corpus, folder / "corpus.jsonl")
    told = ["--corpus", str(folder / "corpus.jsonl"), "--set", "corpus.id=id", "--set", "corpus.group=group", "--set", 'corpus.labels=["package"]']
    return Place(folder, subject, told)


HELD_OUT = ("files/paths.py", "shapes/square.py", "lists/search.py", "security/digest.py")


def write_corpus(corpus: ListCorpus, path: Path) -> None:
    path.write_text("".join(json.dumps({"id": one.id, "text": one.text, "group": one.group, **one.labels}) + "\n" for one in corpus))


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as found:
        main(["evaluate", *map(str, arguments)])
    return found.value.code or 0  # type: ignore[return-value]


def result(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out)


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.replace("\n", " ")


def test_an_sae_with_stores_and_corpus_finds_its_subject_by_its_record(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    arguments = (place.path("saes/first/sae"), *place.stores, *place.corpus, *SUITE, *SMALL, "--out", tmp_path)
    assert call(*arguments, "--json") == 0
    found = result(capsys)
    record = EvalRecord.load(tmp_path / "evaluation.json")
    assert EvalRecord.model_validate(found["record"]) == record
    assert record.subject == place.subject.ref()
    assert record.coders["first"].source == place.path("saes/first/sae")
    assert {"fvu", "ce_nats"} <= {row.metric for row in record.rows if row.coder == "first"}
    assert record.families["reconstruction"].passed_tokens == 0  # both sides are stored
    assert record.datasets["general"].held_out_store == FolderStore.open(place.path("held_out")).fingerprint
    assert len(pq.read_table(tmp_path / "values.parquet")) >= len(record.rows)
    assert found["next_command"] == f"sparselight compare {tmp_path}"
    assert call(*arguments) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("Reconstruction", "fvu", "first", "untrained SAE (control)", "next:", "only 4 groups"))
    assert EvalRecord.load(tmp_path / "evaluation.json") == record  # nothing was measured again


def test_several_saes_share_tokens_and_go_beside_each_other(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(place.path("saes/first/sae"), place.path("saes/second/sae"), *place.stores, "--suite", "reconstruction", *SMALL, "--json") == 0
    found = result(capsys)
    assert Path(found["folder"]) == place.folder / "saes" / "evaluation"
    record = EvalRecord.model_validate(found["record"])
    assert {name for name, coder in record.coders.items() if not coder.is_control} == {"first", "second"}
    assert any((row.coder, row.reference, row.metric) == ("second", "first", "fvu") for row in record.differences)
    assert record.subject == place.subject.ref()  # of the stores: nothing ran
    assert not any("trained on these held-out examples" in note for note in record.notes)


def test_without_text_what_needs_the_subject_is_listed(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(place.path("saes/first/sae"), *place.stores, "--suite", "core", *SMALL, "--out", tmp_path) == 0
    assert "behaviour: not measured, it runs the subject, and none is given" in capsys.readouterr().out
    assert call(place.path("saes/first/sae"), *place.stores, "--suite", "behaviour", *SMALL, "--out", tmp_path) == 2
    assert "measure behaviour: it runs the subject" in refusal(capsys)


def test_a_held_out_store_alone_is_divided_by_groups(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = ("--set", "corpus.held_out_frac=0.5", "--set", "corpus.seed=0")
    arguments = (place.path("saes/first/sae"), "--held-out", place.path("held_out"), "--suite", "reconstruction", *SMALL, *split)
    assert call(*arguments, "--out", tmp_path, "--json") == 0
    record = EvalRecord.model_validate(result(capsys)["record"])
    assert record.datasets["general"].n_groups == 2
    assert record.datasets["general"].fit_store == record.datasets["general"].held_out_store
    assert "untrained SAE" in record.coders


def test_a_corpus_alone_is_split_and_the_subject_captures(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(place.path("saes/first/sae"), *place.corpus, "--set", "corpus.held_out_frac=0.5", *SUITE, *SMALL, "--out", tmp_path, "--json") == 0
    record = EvalRecord.model_validate(result(capsys)["record"])
    assert record.families["reconstruction"].passed_tokens > record.n_tokens["general"]
    assert record.datasets["general"].held_out_store is None
    assert any("no record tells whether first trained on these held-out examples" in note for note in record.notes)


def test_one_store_and_a_corpus_take_the_other_groups_as_the_other_side(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (place.path("saes/first/sae"), *place.corpus, "--suite", "reconstruction", *SMALL, "--no-controls", "--out", tmp_path, "--json")
    assert call(*arguments, "--store", place.path("train")) == 0
    record = EvalRecord.model_validate(result(capsys)["record"])
    assert record.datasets["general"].n_groups == len(HELD_OUT)
    assert {name for name, coder in record.coders.items() if coder.is_control} == {"zero ablation", "mean ablation"}
    assert call(*arguments, "--held-out", place.path("held_out")) == 0
    assert EvalRecord.model_validate(result(capsys)["record"]).datasets["general"].n_groups == len(HELD_OUT)


def test_weights_alone(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(place.path("saes/first/sae"), "--suite", "geometry", "--out", tmp_path, "--json") == 0
    record = EvalRecord.model_validate(result(capsys)["record"])
    assert {row.family for row in record.rows} == {"geometry"}
    assert record.n_tokens == {}


def test_dry_run_says_what_would_be_done(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (place.path("saes/first/sae"), *place.corpus, "--suite", "core,probing", *SMALL, "--out", tmp_path / "out", "--dry-run")
    assert call(*arguments, "--json") == 0
    plan = result(capsys)
    assert [family["name"] for family in plan["families"] if family["not_measured"]] == []
    assert plan["captured_tokens"] == 1200
    assert plan["passed_tokens"] > plan["captured_tokens"]
    assert plan["seconds"] > 0
    assert not (tmp_path / "out").exists()
    assert call(*arguments) == 0
    assert "nothing was done" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "words"), [
    (["{first}", "{other_site}"], "evaluate first and other_site together: the first was trained at resid_post.1, the second at resid_post.0"),
    (["{first}", "{first}"], "one of them is named twice"),
    (["{first}", "--site", "resid_post.2"], "its record says that it was trained at resid_post.1"),
    (["{first}", "--held-out", "{train}"], "first was trained on this very store"),
    (["{first}", "--store", "{train}"], "give --held-out STORE or --corpus too"),
    (["{first}", "--store", "{elsewhere}", "--held-out", "{held_out}"], "that site is not in it"),
    (["{first}", "--store", "{held_out}", "--held-out", "{held_out}"], "stand on both sides"),
    (["{first}", "--suite", "probin"], "use 'probing'"),
    (["{first}", "--set", "evaluate.probing.kk=1"], "set evaluate.probing.kk: there is no such setting"),
    (["{first}", "--set", "train.k=1"], "there is no such setting"),
    (["{first}", "--suite", "stability", "--set", "evaluate.n_tokens=10"], "it compares SAEs, and there is only one"),
    (["{first}", "--store", "{train}", "--held-out", "{held_out}", "--subject", "demo"], "stores hold no text for it to read"),
    (["nowhere"], "load the SAE nowhere"),
])
def test_refusals(arguments: list[str], words: str, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {name: place.path(f"saes/{name}/sae") for name in ("first", "second", "other_site")}
    names |= {name: place.path(name) for name in ("train", "held_out", "elsewhere")}
    assert call(*[argument.format(**names) for argument in arguments], "--out", tmp_path / "out") == 2
    assert words in refusal(capsys)
    assert not (tmp_path / "out" / "evaluation.json").exists()


def test_another_subject_is_refused(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tiny_subject(seed=3)
    other.model.save_pretrained(tmp_path / "subject")
    tiny_tokenizer().save_pretrained(tmp_path / "subject")
    told = ("--subject", tmp_path / "subject", "--set", "subject.context_tokens=64")
    assert call(place.path("saes/first/sae"), *place.corpus, *told, *SUITE, *SMALL, "--out", tmp_path / "out") == 2
    assert "first belongs to" in refusal(capsys)
    assert not (tmp_path / "out").exists()


def test_an_sae_of_another_subject_than_the_store_is_refused(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sae = load_sae(place.path("saes/first/sae"))
    assert sae.record is not None
    save_sae(sae, sae.record.model_copy(update={"subject": sae.record.subject.model_copy(update={"fingerprint": "f" * 64})}), tmp_path / "sae")
    assert call(tmp_path / "sae", *place.stores, *SMALL) == 2
    assert "(ffffffffffff)" in refusal(capsys)


def test_an_sae_without_a_record_needs_a_site(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(place.path("saes/first/sae"), tmp_path / "sae")
    (tmp_path / "sae" / "sparselight.json").unlink()
    assert call(tmp_path / "sae", *place.stores, *SMALL, "--out", tmp_path / "out") == 2
    assert "give --site" in refusal(capsys)
    assert call(tmp_path / "sae", *place.stores, *SMALL, "--site", SITE, "--suite", "reconstruction", "--out", tmp_path / "out", "--json") == 0
    record = EvalRecord.model_validate(result(capsys)["record"])
    assert any("no record tells whether" in note for note in record.notes)


def test_a_corpus_that_is_not_in_the_store_is_refused(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strangers = [dataclasses.replace(example, id=f"x{example.id}") for example in tiny_corpus(16)]
    write_corpus(ListCorpus([Example(one.id, one.text, one.group) for one in strangers], "strangers"), tmp_path / "corpus.jsonl")
    told = ("--corpus", tmp_path / "corpus.jsonl", "--set", "corpus.id=id", "--set", "corpus.group=group")
    assert call(place.path("saes/first/sae"), *place.stores, *told, *SMALL, "--out", tmp_path / "out") == 2
    assert "they share no example id" in refusal(capsys)


def test_help_is_complete() -> None:
    done = subprocess.run([sys.executable, "-m", "sparselight", "evaluate", "--help"], capture_output=True, text=True, check=True, env={"COLUMNS": "200"})
    assert all(option in done.stdout for option in ("--suite", "--store", "--held-out", "--corpus", "--subject", "--site", "--no-controls", "--out", "--json"))
