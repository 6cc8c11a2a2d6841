"""`sparselight steer`: what it refuses before and after it opens a run, and how pairs of texts are shown. Whole runs: tests/e2e/test_steer.py."""

import json
import re
from pathlib import Path

import pytest

from sparselight.cli import main
from sparselight.cli.steer import print_found, print_texts
from sparselight.errors import ConfigError
from sparselight.pipeline.steering import FindResult, FoundFeature, SteerResult, dose
from sparselight.records import SteeredText


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["steer", *arguments, "--json"])
    assert stopped.value.code == 2
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(("arguments", "why"), [
    (["--clamp", "2x", "--prompt", "a"], "no feature is named"),
    (["--feature", "1", "--prompt", "a"], "it is not said how"),
    (["--feature", "1", "--clamp", "2x", "--ablate"], "one edit has one operation"),
    (["--feature", "1", "--clamp", "2x", "--on", "verbs"], "there is no such choice"),
    (["--feature", "1", "--clamp", "2x", "--study"], "a study sweeps strengths of its own"),
    (["--feature", "1", "--study", "--on", "generated"], "a study edits every counted token"),
    (["--feature", "1", "--study", "--set", "strengths=[2,1]"], "do not fit|rise from above 0"),
    (["--feature", "1", "--study", "--set", "strength=2"], "there is no such setting"),
    (["--feature", "1", "--clamp", "2x", "--prompt", "a"], "there is no such file"),
    (["--find", "key"], "there is no such file"),
])
def test_what_cannot_be_done_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], why: str) -> None:
    assert re.search(why, refusal(capsys, str(tmp_path / "run"), *arguments)["why"])
    assert not list(tmp_path.iterdir())


def test_doses_are_activations_or_multiples() -> None:
    assert dose("12.5") == (12.5, "absolute")
    assert dose(" -2x ") == (-2.0, "q99")
    with pytest.raises(ConfigError, match="it is no number"):
        dose("much")


def test_pairs_are_shown_side_by_side_with_changes_marked(capsys: pytest.CaptureFixture[str]) -> None:
    edit = {"operation": "clamp", "amount": 2.0, "site": "resid_post.1", "where": {"tokens": "generated"}}
    texts = [SteeredText(prompt="def ", seed=0, strength=2, before="read[x](self)", after="write(self)"),
             SteeredText(prompt="a", seed=1, strength=2, before="same", after="same")]
    print_texts(SteerResult(run="r", feature="base/3", title="the word `x`", edit=edit, reference=4.0, texts=texts, next_command="sparselight steer r"))
    shown = capsys.readouterr().out
    assert "base/3: the word `x`" in shown
    assert "clamp 2 x 4 (its 99 % quantile) at resid_post.1, generated tokens" in shown
    assert "[write](self)" in shown
    assert "the edit changes nothing here" in shown


def test_candidates_are_shown_by_way_of_searching(capsys: pytest.CaptureFixture[str]) -> None:
    row = FoundFeature(source="base", latent=3, score=1.0, by="output", why="raises [it]", title="")
    print_found(FindResult(run="r", goal="tokens: key", found={"output": [row], "association": []}, not_searched={"attribution": "of text"},
                           next_command="sparselight steer r --feature 3"))
    shown = capsys.readouterr().out
    assert "by output" in shown
    assert "raises [it]" in shown
    assert "by association: nothing found" in shown
    assert "by attribution: not searched, of text" in shown
