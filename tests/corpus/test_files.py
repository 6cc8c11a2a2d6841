"""Which files of a folder are read."""

from pathlib import Path
from typing import Any

import pytest

import sparselight as sl
from sparselight.errors import ConfigError, CorpusError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("cv_0.txt", "cv_1.txt", "notes/a.txt", "notes/b.txt", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"What stands in {name} is text of some length, so that it counts.\n")
    return tmp_path


def read(root: Path, **settings: Any) -> list[str]:
    return sorted({example.group for example in sl.load_corpus(str(root), kind="text", **settings)})


@pytest.mark.parametrize(("files", "names"), [
    ([], ["README.md", "cv_0.txt", "cv_1.txt", "notes/a.txt", "notes/b.txt"]),
    (["cv_*.txt"], ["cv_0.txt", "cv_1.txt"]),
    (["notes/*"], ["notes/a.txt", "notes/b.txt"]),
    (["a.txt", "*.md"], ["README.md", "notes/a.txt"]),
])
def test_patterns_of_names_and_paths(folder: Path, files: list[str], names: list[str]) -> None:
    assert read(folder, files=files) == names


def test_what_cannot_be_chosen_is_refused(folder: Path) -> None:
    with pytest.raises(CorpusError, match="none of the 5 files"):
        read(folder, files=["*.rst"])
    with pytest.raises(CorpusError, match="is a file itself"):
        read(folder / "cv_0.txt", files=["*"])
    with pytest.raises(ConfigError, match=r"corpus\.files"):
        sl.load_corpus(str(folder), kind="python_source", files=["*"])
