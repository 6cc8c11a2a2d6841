"""`sparselight select`: runs and recipes, strategies side by side, labels as truth, what it refuses and what it leaves alone."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from sparselight.cli import main
from sparselight.select import Selection
from sparselight.testing import tiny_corpus, tiny_subject, tiny_tokenizer

SEED = "security/cipher.py"
DENSE = ("--set", 'select.retrieve=["dense"]', "--set", "select.common_frac=0.2")  # a setting of BM25 back at its default


@dataclass
class Place:
    """A recipe over a small corpus and a tiny subject, and the run folder that `select` made of it."""

    recipe: Path
    run: Path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("select")
    subject = tiny_subject()
    subject.model.save_pretrained(folder / "subject")
    tiny_tokenizer().save_pretrained(folder / "subject")
    rows = [{"id": example.id, "text": example.text, "file": example.group, **example.labels} for example in tiny_corpus(320)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "held_out.txt").write_text("security/digest.py\nlists/search.py\n")
    recipe = folder / "mine.toml"
    recipe.write_text(f"""
[corpus]
root = "{folder}/corpus.jsonl"
id = "id"
group = "file"
labels = ["package"]
held_out_ids = "{folder}/held_out.txt"
[subject]
source = "{folder}/subject"
context_tokens = 64
[harvest]
site = "resid_post.1"
[select]
seeds = ["{SEED}"]
max_tokens = 9000
common_frac = 0.5
""")
    assert call(recipe, "--out", folder / "run") == 0
    return Place(recipe, folder / "run")


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as found:
        main(["select", *map(str, arguments)])
    return found.value.code or 0  # type: ignore[return-value]


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"}


def test_a_recipe_runs_until_its_selection_and_is_found_finished(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert sorted(path.name.partition("-")[0] for path in place.run.iterdir() if path.name != ".lock") == ["corpus", "run.json", "select"]
    assert call(place.recipe, "--out", place.run, "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["finished"], plan["n_examples"], plan["strategies"]) == (True, 320, ["bm25"])
    before = files(place.run)
    assert call(place.recipe, "--out", place.run, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert files(place.run) == before
    [strategy] = result["strategies"]
    saved = Selection.load(next(place.run.glob("select-*")) / "selection.parquet")
    assert strategy["n_examples"] == len(saved.examples)
    assert strategy["n_tokens"] == saved.n_tokens <= result["max_tokens"] == 9000
    assert strategy["seed_counts"] == {"seeds": 40}
    assert strategy["n_held_out"] > 0
    assert f"--out {place.run}" in result["next_command"]


def test_strategies_stand_side_by_side_with_known_examples(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(place.run, "--compare", "dense,bm25+dense,bm25", "--truth", "package=security", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert [strategy["name"] for strategy in result["strategies"]] == ["bm25", "dense", "bm25+dense"]
    for strategy in result["strategies"]:
        truth = strategy["truth"]
        assert truth["n_true"] == 40
        assert truth["recall"] == truth["n_found"] / 40
        assert truth["precision"] > truth["base_rate"] == pytest.approx(40 / 280)
        ranks = [point["rank"] for point in strategy["curve"]]
        assert ranks == sorted(ranks)
        assert ranks[-1] == strategy["n_examples"] - strategy["n_seeds"]
        assert [point["score"] for point in strategy["curve"]] == sorted((point["score"] for point in strategy["curve"]), reverse=True)
        assert strategy["samples"][0]["rank"] == 1
    assert result["strategies"][0]["truth"]["recall"] == 1
    assert result["overlap"]["bm25"]["bm25"] == 1
    assert result["overlap"]["bm25"]["dense"] == result["overlap"]["dense"]["bm25"] < 1


def test_a_recipe_may_retrieve_by_both(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(place.recipe, "--out", tmp_path / "run", "--set", 'select.retrieve=["bm25", "dense"]', "--set", "select.near_duplicates=drop", "--json") == 0
    strategy = json.loads(capsys.readouterr().out)["strategies"][0]
    saved = Selection.load(next((tmp_path / "run").glob("select-*")) / "selection.parquet")
    assert set(saved.scores_by) == {"bm25", "dense"}
    assert strategy["left_out"] == saved.left_out
    assert len(list((tmp_path / "run" / "vectors").iterdir())) == 1


def test_what_people_see(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(place.run, "--compare", "dense", "--truth", "package=security") == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("chosen", "40 by select.seeds", "recall 1.000 (40 of 40)", "rank", "####", "samples", "security/digest.py#",
                                          "(held out)", "overlap", "next:"))
    assert call(place.run, "--dry-run") == 0
    assert "the first is finished" in capsys.readouterr().out


def test_other_settings_are_tried_without_a_trace(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    before = {name: content for name, content in files(place.run).items() if not name.startswith("vectors/")}
    assert call(place.run, "--set", 'select.seed_labels=["package=shapes"]', "--set", "select.seeds=[]", "--json") == 0
    strategy = json.loads(capsys.readouterr().out)["strategies"][0]
    assert strategy["seed_counts"] == {"seed_labels": 80}
    assert call(place.run, "--set", "select.query=encrypt the secret", "--set", "select.seeds=[]", *DENSE, "--json") == 0
    strategy = json.loads(capsys.readouterr().out)["strategies"][0]
    assert (strategy["name"], strategy["n_seeds"], strategy["seed_counts"]) == ("dense", 0, {"query": 1})
    assert {name: content for name, content in files(place.run).items() if not name.startswith("vectors/")} == before


def test_vectors_are_kept_and_damaged_ones_made_again(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    dense = (place.run, *DENSE, "--json")
    assert call(*dense) == 0
    first = capsys.readouterr().out
    [kept] = (place.run / "vectors").glob("*.safetensors")
    written = kept.stat().st_mtime_ns
    assert call(*dense) == 0
    assert capsys.readouterr().out == first
    assert kept.stat().st_mtime_ns == written
    kept.write_bytes(b"torn")
    assert call(*dense) == 0
    assert capsys.readouterr().out == first
    assert kept.stat().st_size > 1000


def test_a_run_that_is_further_on_is_not_taken_back(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads((place.run / "run.json").read_text())
    further = {**record, "stages": {**record["stages"], "train": "train-0"}}
    (tmp_path / "run.json").write_text(json.dumps(further))
    assert call(place.recipe, "--out", tmp_path, "--set", "select.pool=1") == 2
    assert "it holds a run with other settings" in capsys.readouterr().err
    assert json.loads((tmp_path / "run.json").read_text()) == further


@pytest.mark.parametrize(("arguments", "words"), [
    (["--compare", "bm52"], "use 'bm25'"),
    (["--truth", "package=secure"], "--truth"),
    (["--set", "corpus.seed=3"], "only the table select can be tried"),
    (["--out", "elsewhere"], "a run folder is only read"),
    (["--set", "select.seeds=[]"], "no seed is given"),
    (["--set", 'select.seeds=["security/cypher.py"]'], "use 'security/cipher.py'"),
    (["--set", 'select.seeds=["security/digest.py"]'], "held out for evaluation"),
    (["--set", "select.rerank=tracin"], "influence is measured on a trained SAE"),
    (["--set", "select.rerank=tracin", "--set", "select.sae=nowhere/sae"], "nowhere/sae"),
    (["--set", "select.sae=some/sae"], "would do nothing"),
    ([*DENSE, "--set", "select.encoder=nowhere/at/all"], "select.encoder = 'nowhere/at/all'"),
    (["--set", 'select.retrieve=["dense"]'], "select.common_frac = 0.5 would do nothing"),
])
def test_refusals(arguments: list[str], words: str, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(place.run, *arguments) == 2
    assert words in capsys.readouterr().err.replace("\n", " ")


def test_what_is_no_recipe_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("demoo") == 2
    assert "use 'demo'" in capsys.readouterr().err
    (tmp_path / "run.json").write_text("{}")
    assert call(tmp_path) == 2
    assert "damaged" in capsys.readouterr().err


def test_help_is_complete() -> None:
    done = subprocess.run([sys.executable, "-m", "sparselight", "select", "--help"], capture_output=True, text=True, check=True, env={"COLUMNS": "200"})
    assert all(option in done.stdout for option in ("--out", "--set", "--compare", "--truth", "--dry-run", "--json", "bm25+dense"))
