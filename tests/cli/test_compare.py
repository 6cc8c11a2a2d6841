"""`sparselight compare`: what it prints and writes, and what it exits with."""

import json
from pathlib import Path

import pytest
from compare_cases import write_evaluation

from sparselight.cli import main


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    return int(caught.value.code or 0)


@pytest.fixture
def places(tmp_path: Path) -> list[str]:
    write_evaluation(tmp_path / "topk", {"topk": (0.30, 32.0)})
    write_evaluation(tmp_path / "relu", {"relu": (0.34, 40.0)})
    return [str(tmp_path / "topk"), str(tmp_path / "relu")]


def test_table_and_files(places: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run("compare", *places, "--out", str(tmp_path / "out")) == 0
    shown = capsys.readouterr().out
    assert "resid_post.2 of sparselight-demo-lm" in shown
    assert "0.300 *" in shown
    assert "comparison.html" in shown
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["comparison.html", "comparison.json", "comparison.parquet"]


def test_narrow_terminals_number_the_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    write_evaluation(tmp_path / "all", {f"a rather long name {number}": (0.3 + 0.01 * number, 32.0) for number in range(7)})
    assert run("compare", str(tmp_path / "all"), "--out", str(tmp_path / "out")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "1: a rather long name 0" in lines
    assert max(len(line) for line in lines if not line.startswith(("page:", "data:", "next:"))) <= 80
    assert any(line.startswith("on the page besides: ") and line.endswith(" rows, 2 SAEs, 5 controls") for line in lines)


def test_one_object(places: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compare", *places, "--out", str(tmp_path / "out"), "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert [column["name"] for column in result["comparison"]["columns"]][:2] == ["topk", "relu"]
    assert Path(result["page"]).is_file()


def test_default_folder(places: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("compare", *places, "--json") == 0
    assert json.loads(capsys.readouterr().out)["folder"] == "comparisons/topk-relu"


def test_refusal_writes_nothing(places: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_evaluation(tmp_path / "elsewhere", {"x": (0.5, 32.0)}, site="resid_post.3")
    assert run("compare", places[0], str(tmp_path / "elsewhere"), "--out", str(tmp_path / "out")) == 2
    assert "site: resid_post.2 (topk); resid_post.3 (elsewhere)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run("compare", places[0], str(tmp_path / "elsewhere"), "--out", str(tmp_path / "out"), "--anyway") == 0
    assert "not measured alike" in capsys.readouterr().out


def test_not_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sae").mkdir()
    assert run("compare", str(tmp_path / "sae")) == 2
    assert f"sparselight evaluate {tmp_path / 'sae'}" in capsys.readouterr().err
