"""The first stage: where examples come from.

Owns: reading sources into examples with groups and labels, and their fingerprints. Each kind of source is one file here and one row
of KINDS.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import Field

from sparselight.config import Config
from sparselight.corpus.base import ListCorpus
from sparselight.corpus.plain_text import PlainText
from sparselight.corpus.python_source import SKIPPED_FOLDERS, PythonSource, stdlib_root
from sparselight.errors import CorpusError

__all__ = ["CorpusConfig", "ListCorpus", "PlainText", "PythonSource", "load_corpus", "source_fingerprint"]


class CorpusConfig(Config):
    """Where the examples come from and how they are split."""

    kind: Literal["python_source", "text"] = "python_source"
    """What the files hold: Python source (labels from Python's own tokenizer), or plain text (.txt, .md, .rst)."""
    root: str = "stdlib"
    """A folder, or `stdlib`: the standard library of the running Python."""
    include_tests: bool = True
    """Whether files under test folders count (python_source only)."""
    section_chars: int = Field(1600, ge=200)
    """Longest example, in characters; longer files are cut at statement or paragraph ends."""
    held_out_frac: float = Field(0.25, gt=0, lt=1)
    """Share of groups (files) that are never trained on."""
    seed: int = 0
    """Of the split."""

    def path(self) -> Path:
        return stdlib_root() if self.root == "stdlib" else Path(self.root).expanduser()


KINDS: dict[str, Callable[[CorpusConfig], ListCorpus]] = {
    "python_source": lambda config: PythonSource.read(config.path(), config.include_tests, config.section_chars),
    "text": lambda config: PlainText.read(config.path(), config.section_chars),
}
CLASSES: dict[str, type[ListCorpus]] = {"python_source": PythonSource, "text": PlainText}


def load_corpus(config: CorpusConfig) -> ListCorpus:
    """Read a corpus.

    Raises:
        CorpusError: when the root is missing, a file is unreadable, or there is no example.
    """
    check_root(config)
    return KINDS[config.kind](config)


def check_root(config: CorpusConfig) -> None:
    if not config.path().exists():
        raise CorpusError(asked=f"read the corpus at corpus.root = {config.root!r}", why=f"{config.path()} does not exist",
                          instead="give an existing folder, or `stdlib` for the standard library of this Python")


def source_fingerprint(config: CorpusConfig) -> str:
    """Cheap hash of the files as they stand (paths, sizes, times), to notice a change without reading them."""
    check_root(config)
    digest, root = hashlib.sha256(), config.path()
    for path in [root] if root.is_file() else sorted(root.rglob("*.py" if config.kind == "python_source" else "*.*")):
        if SKIPPED_FOLDERS.intersection(path.relative_to(root).parts):
            continue
        try:
            stat = path.stat()
        except OSError:
            continue
        digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()
