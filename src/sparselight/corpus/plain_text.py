"""Plain text files as a corpus: files, blocks, lines or parts under headings as documents, cut into examples at paragraph ends.

Owns: `.txt`, `.md` and `.rst` files of a folder, or a single file of any ending. A document is a group. Refuses: text that is not UTF-8,
a heading pattern that is no regular expression.
"""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from sparselight.corpus.base import ListCorpus
from sparselight.corpus.columns import cut_example
from sparselight.corpus.config import CorpusConfig
from sparselight.corpus.sources import find_sources
from sparselight.errors import CorpusError
from sparselight.protocols import Example


class PlainText(ListCorpus):
    """Sections of text files; the document (by default the file) is the group, the folder a label."""

    @classmethod
    def read(cls, root: Path, section_chars: int) -> Self:
        """Read one text file, or every text file under a folder, each one document."""
        config = CorpusConfig(kind="text", root=str(root), section_chars=section_chars)
        return cls([section for example in text_examples(config) for section in cut_example(example, section_chars, always=True)], str(root))


def text_examples(config: CorpusConfig) -> Iterator[Example]:
    """Every document of every file, uncut."""
    heading = _pattern(config.heading)
    for source in find_sources(config):
        labels = {"folder": Path(source.name).parent.as_posix()}
        for line, text in _documents(source.text(), config.documents, heading):
            name = source.name if config.documents == "file" else f"{source.name}:{line}"
            yield Example(name, text, name, labels)


def _documents(text: str, documents: str, heading: re.Pattern[str]) -> Iterator[tuple[int, str]]:
    """(number of its first line from 1, text) of each document; those of white space only are none."""
    if documents == "file":
        yield 1, text
        return
    begin, part = 1, ""
    for number, line in enumerate(io.StringIO(text), 1):
        begins = {"line": True, "block": not line.strip() or not part, "heading": heading.match(line) is not None}[documents]
        if begins:
            if part.strip():
                yield begin, part
            begin, part = number, ""
        if documents == "heading":
            part += line
        elif line.strip():
            part += line if documents == "block" else line.rstrip("\n")
    if part.strip():
        yield begin, part


def _pattern(heading: str) -> re.Pattern[str]:
    try:
        return re.compile(heading)
    except re.error as err:
        raise CorpusError(asked=f"set corpus.heading to {heading!r}", why=f"it is no regular expression: {err}",
                          instead="write for example '# ' for Markdown titles, or ' = [^=]' for those of WikiText") from None
