"""Plain text files as a corpus: one file a group, cut into examples of bounded size at paragraph ends.

Owns: `.txt`, `.md` and `.rst` files of a folder, or a single file. Refuses: a path that is not there, text that is not UTF-8.
"""

from pathlib import Path
from typing import Self

from sparselight.corpus.base import ListCorpus
from sparselight.corpus.python_source import cut_sections
from sparselight.errors import CorpusError
from sparselight.protocols import Example

SUFFIXES = {".txt", ".md", ".rst"}


class PlainText(ListCorpus):
    """Sections of text files; the file is the group, its folder a label."""

    @classmethod
    def read(cls, root: Path, section_chars: int) -> Self:
        """Read one text file, or every text file under a folder."""
        paths = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.suffix in SUFFIXES)
        examples = []
        for path in paths:
            name = path.name if root.is_file() else path.relative_to(root).as_posix()
            text = _read(path)
            labels = {"folder": Path(name).parent.as_posix()}
            for number, (start, end) in enumerate(cut_sections(text, section_chars)):
                examples.append(Example(f"{name}#{number}", text[start:end], name, labels))
        return cls(examples, str(root))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as err:
        raise CorpusError(asked=f"read the corpus file {path}", why=f"it is not UTF-8 text (byte {err.start})",
                          instead="convert it to UTF-8, or move it out of corpus.root") from None
    except OSError as err:
        raise CorpusError(asked=f"read the corpus file {path}", why=err.strerror or str(err),
                          instead="make the file readable, or set corpus.root to another path") from None
