"""`sparselight corpus info` says what a corpus holds, in words and as one JSON object."""

import json
from pathlib import Path

import pytest

from sparselight.cli import main


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"text": f"text {number % 8} of several words", "topic": "ab"[number % 2]}) + "\n" for number in range(10)) + "{}\n")
    return file


def told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int | str | None, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["corpus", "info", *arguments])
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


def test_text_and_json(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(path), "--set", 'corpus.labels=["topic"]', "--set", "corpus.on_bad_row=skip", "--set", "corpus.dedup=exact"]
    code, out, _ = told(arguments, capsys)
    assert code == 0
    for words in ("examples      8 in 8 groups", "topic: 8 with 2 values: 'a' 4, 'b' 4", "1 bad rows", "rows.jsonl, line 11", "2 exact, 0 near", "2 dropped"):
        assert words in out
    code, out, _ = told([*arguments, "--json"], capsys)
    assert code == 0
    assert json.loads(out)["n_examples"] == 8


def test_the_table_of_a_recipe(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.toml").write_text(f'[corpus]\nroot = "{path}"\non_bad_row = "skip"\n[train]\nk = 3\n')
    assert "examples      10 in" in told([str(tmp_path / "mine.toml")], capsys)[1]


@pytest.mark.parametrize(("arguments", "words"), [
    (["/no/such/place"], "does not exist"), (["{path}"], "rows.jsonl, line 11"), (["{path}", "--set", "train.lr=1"], "only the table corpus"),
    (["{path}", "--set", "corpus.txt=1"], "corpus.txt"),
])
def test_faults(arguments: list[str], words: str, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = told([argument.format(path=path) for argument in arguments], capsys)
    assert code == 2
    assert words in err
    assert "Traceback" not in err
