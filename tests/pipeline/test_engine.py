"""Runs stage by stage: what a stage's hash is made of."""

from pathlib import Path

import pytest

from sparselight.pipeline import engine


def test_the_hash_of_a_package_is_of_its_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of what Python, here or in another process, is compiling meanwhile."""
    monkeypatch.setattr(engine.resources, "files", lambda _package: tmp_path)
    compiled = tmp_path / "evaluate" / "__pycache__"
    compiled.mkdir(parents=True)
    (tmp_path / "evaluate" / "words.py").write_text("WORDS = 1\n")
    of = engine.source_hash.__wrapped__
    before = of("evaluate")
    (compiled / "words.cpython-311.pyc.140037").write_bytes(b"half of it")
    (compiled / "words.cpython-311.pyc").write_bytes(b"all of it")
    assert of("evaluate") == before
    (tmp_path / "evaluate" / "words.toml").write_text("words = 1\n")
    assert of("evaluate") != before
