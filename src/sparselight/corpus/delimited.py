"""Rows of CSV and TSV files by column name, each with the line that it begins at.

Python's own csv module parses, fed line by line: it alone says which physical line a record with line breaks inside begins at, and so does
the byte position of text that is not UTF-8. Refuses: a file without a header, a repeated column name, a quote that is never closed.
"""

import csv
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from sparselight.corpus.sources import Source
from sparselight.corpus.tables import BOM, Row, top_columns
from sparselight.errors import CorpusError

LONGEST_FIELD = 2**31 - 1
UNCLOSED = "unexpected end of data"  # csv's words for a quote that is open at the end of the file


def delimited_rows(sources: Sequence[Source], columns: Sequence[str], delimiter: str, quote: str) -> Iterator[Row]:
    """Rows below a header line; blank lines are passed over."""
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_FIELD))  # of the process: csv knows no other, and documents are longer than its 128 KiB
    for source in sources:
        with source.open() as handle:
            feed = _Feed(handle)
            reader = csv.reader(feed, delimiter=delimiter, strict=True, **({"quotechar": quote} if quote else {"quoting": csv.QUOTE_NONE}))
            header = _header(source, reader, feed)
            top_columns(source, columns, header)
            yield from _records(source, reader, feed, header)


class _Feed:
    """Decoded lines for csv.reader, with the count of lines and the first fault since it was last cleared."""

    def __init__(self, handle: BinaryIO):
        self.handle, self.line, self.offset, self.fault = handle, 0, 0, ""

    def __iter__(self) -> Iterator[str]:
        for raw in self.handle:
            line = raw.removeprefix(BOM) if self.line == 0 else raw
            self.line += 1
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as err:
                at = self.offset + len(raw) - len(line) + err.start
                self.fault = self.fault or f"it is not UTF-8 text (byte {err.start} of line {self.line}, {at} of the file)"
                text = line.decode("utf-8", errors="replace")
            self.offset += len(raw)
            yield text


def _header(source: Source, reader: Iterator[list[str]], feed: _Feed) -> list[str]:
    asked = f"read the header of {source.path}"
    try:
        header: list[str] = next(reader, [])
    except csv.Error as err:
        raise CorpusError(asked=asked, why=str(err), instead='mend the first line, or set corpus.quote = "" when quotes mean nothing') from None
    if feed.fault or not any(header):
        raise CorpusError(asked=asked, why=feed.fault or "the first line names no column", instead="give a file whose first line names its columns")
    names = [name for name in header if name]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise CorpusError(asked=asked, why=f"the column {repeated!r} occurs twice", instead="rename one of them")
    return header


def _records(source: Source, reader: Iterator[list[str]], feed: _Feed, header: Sequence[str]) -> Iterator[Row]:
    while True:
        number, feed.fault, fault = feed.line + 1, "", ""
        cells: list[str] = []
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as err:
            if UNCLOSED in str(err):  # all lines up to the end are inside that quote: leaving out the row would lose them unseen
                raise CorpusError(asked=f"read {source.path}, line {number}", why="a quote that opens in this row is never closed",
                                  instead='close it, or set corpus.quote = "" when quotes mean nothing in this file') from None
            fault = str(err)
        if not cells and not fault:
            continue
        fault = feed.fault or fault or (f"it has {len(cells)} fields, the header has {len(header)}" if len(cells) != len(header) else "")
        yield Row(source.name, number, {} if fault else dict(zip(header, cells, strict=True)), fault, "line")
