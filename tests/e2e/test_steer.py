"""`sparselight steer` on a finished small run: texts, search, a study with its page, and the run still finished."""

import json
import re
import shutil
from pathlib import Path

import pytest
from small_run import overrides, run_command

from sparselight.interpret import Catalogue
from sparselight.records import SteeringRecord

pytestmark = pytest.mark.e2e
SMALL = ["--set", "n_random=1", "--set", "n_bootstrap=500", "--set", "sample_tokens=4000", "--set", "general_tokens=400", "--set", "n_tokens=6",
         "--set", "n_seeds=1", "--set", "strengths=[0.5,1.0]", "--set", "max_doublings=2"]


@pytest.fixture(scope="module")
def run(small_run: tuple[Path, dict], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(small_run[0], tmp_path_factory.mktemp("steer") / "run"))


@pytest.fixture(scope="module")
def feature(run: Path) -> int:
    """The most frequent one of the base SAE."""
    with_contexts = [card for card in Catalogue(next(run.glob("explain-*"))).cards() if card.source == "base" and card.contexts]
    return max(with_contexts, key=lambda card: card.fire_rate).latent


def steer(run: Path, *arguments: str) -> dict:
    done = run_command("steer", str(run), *arguments, "--json")
    assert done.returncode in (0, 2), done.stderr
    return json.loads(done.stdout)


def test_texts_before_and_after(run: Path, feature: int) -> None:
    result = steer(run, "--feature", str(feature), "--clamp", "4x", "--prompt", "import ", "--n-tokens", "8", "--on", "generated")
    (text,) = result["texts"]
    assert text["before"] != text["after"]
    assert result["edit"]["scales"] == [result["reference"]]
    assert result["edit"]["where"]["tokens"] == "generated"
    same = steer(run, "--feature", str(feature), "--add", "0", "--prompt", "import ", "--n-tokens", "8")["texts"][0]
    assert same["before"] == same["after"] == text["before"]


def test_search_by_words_and_by_goal(run: Path) -> None:
    found = steer(run, "--find", "tokens: import, def")
    assert {way: bool(rows) for way, rows in found["found"].items()} == dict.fromkeys(("association", "difference of means", "output", "attribution"), True)
    assert steer(run, "--find", "zzzz")["found"] == {"explanation": []}
    assert "search is empty" in steer(run, "--find", " ")["why"]
    assert "occurs at none" in steer(run, "--find", "words: zzzzqqq")["why"]


def test_a_study_leaves_a_page_a_record_and_the_edit_on_the_card(run: Path, feature: int) -> None:
    planned = steer(run, "--feature", str(feature), "--study", "--dry-run", *SMALL)
    assert not Path(planned["out"]).exists()
    result = steer(run, "--feature", str(feature), "--study", *SMALL)
    study = SteeringRecord.load(Path(result["record"]))
    assert study.card == f"base/{feature}"
    assert study.texts
    assert "<script" not in Path(result["page"]).read_text(encoding="utf-8")
    assert Path(result["folder"]) == Path(planned["out"]) == run / "steering" / f"base-{feature}-add"
    assert Catalogue(run).edits("base", feature)


def test_the_run_is_still_finished(run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.glob("explain-*/*")}
    done = run_command("run", "demo", "--out", str(run), "--json", *overrides())
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in run.glob("explain-*/*")} == before


@pytest.mark.parametrize(("arguments", "why"), [
    (["--feature", "99999", "--clamp", "2x", "--prompt", "a"], "that SAE has 256 latents"),
    (["--feature", "1", "--source", "other", "--clamp", "2x", "--prompt", "a"], "none of that name"),
    (["--feature", "1", "--clamp", "2x"], "there is no prompt"),
    (["--feature", "1", "--scale", "2x", "--prompt", "a"], "a factor has no unit"),
    (["--feature", "1", "--clamp", "2x", "--prompt", "a", "--seeds", "3", "--temperature", "0"], "makes them all alike|n_seeds has to be 1"),
    (["--feature", "1", "--study", "--goal", "tokens: supercalifragilistic"], "no token of"),
])
def test_what_it_refuses(run: Path, arguments: list[str], why: str) -> None:
    assert re.search(why, steer(run, *arguments)["why"])
