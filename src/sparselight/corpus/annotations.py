"""Annotations that stand in tables of their own, keyed by example id: spans (start, end, name, value) and labels (name, value).

Owns: reading them (JSONL, CSV, TSV, Parquet) and laying them on examples before long ones are cut. Refuses, by table, row and value: an
offset outside the text, an id that no example has; with `on_bad_row = "skip"` such rows are counted instead.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from sparselight.corpus.columns import MISSING, BadValue, label_text, look_up
from sparselight.corpus.config import CorpusConfig, kind_of
from sparselight.corpus.delimited import delimited_rows
from sparselight.corpus.sources import BadRows, Source
from sparselight.corpus.tables import Row, jsonl_rows, parquet_rows
from sparselight.errors import CorpusError
from sparselight.protocols import Example, Span

SPAN_COLUMNS = ("id", "start", "end", "name", "value")
LABEL_COLUMNS = ("id", "name", "value")
READERS: dict[str, Callable[[Sequence[Source], Sequence[str]], Iterator[Row]]] = {
    "jsonl": jsonl_rows, "parquet": parquet_rows, "csv": partial(delimited_rows, delimiter=",", quote='"'),
    "tsv": partial(delimited_rows, delimiter="\t", quote='"'),
}


class Placed(NamedTuple):
    """An annotation and the row that it came from."""

    where: str
    span: Span


class Annotations:
    """All annotations of a corpus by example id; each id is asked for once."""

    def __init__(self, config: CorpusConfig, bad: BadRows):
        self.bad = bad
        self.spans: dict[str, list[Placed]] = {}
        self.labels: dict[str, dict[str, tuple[str, str]]] = {}  # id -> name -> (where, value)
        for row, identifier, name, value in self._rows("spans", config.spans, SPAN_COLUMNS):
            try:
                span = Span(_offset(row, "start"), _offset(row, "end"), name, value)
            except BadValue as err:
                bad.add(row.where, str(err))
                continue
            self.spans.setdefault(identifier, []).append(Placed(row.where, span))
        for row, identifier, name, value in self._rows("example_labels", config.example_labels, LABEL_COLUMNS):
            labels = self.labels.setdefault(identifier, {})
            if name in labels and labels[name][1] != value:
                bad.add(row.where, f"{identifier!r} has the label {name} = {labels[name][1]!r} already, and here {value!r}")
            labels.setdefault(name, (row.where, value))

    def add_to(self, example: Example) -> Example:
        """The example with its annotations, spans in order of their start."""
        labels = {name: value for name, (_, value) in self.labels.pop(example.id, {}).items()}
        spans = list(check_spans(example, self.spans.pop(example.id, ()), self.bad))
        if not labels and not spans:
            return example
        ordered = sorted((*example.spans, *spans), key=lambda span: (span.start, span.end, span.name, span.value))
        return replace(example, labels={**example.labels, **labels}, spans=tuple(ordered))

    def check_all_used(self) -> None:
        """Complain of every id that no example had."""
        for identifier, spans in self.spans.items():
            for where, _ in spans:
                self.bad.add(where, f"no example has the id {identifier!r}")
        for identifier, labels in self.labels.items():
            for where, _ in labels.values():
                self.bad.add(where, f"no example has the id {identifier!r}")

    def _rows(self, setting: str, path: str, columns: Sequence[str]) -> Iterator[tuple[Row, str, str, str]]:
        """Rows of a table with their id, name and value."""
        if not path:
            return
        source, kind = Source(Path(path).expanduser(), Path(path).name), kind_of(path)
        if kind not in READERS:
            raise CorpusError(asked=f"read corpus.{setting} = {path!r}", why="its ending is none of .jsonl, .csv, .tsv, .parquet",
                              instead=f"give such a table with the columns {', '.join(columns)}")
        for row in READERS[kind]([source], columns):
            try:
                identifier, name, value = (_text(row, column) for column in ("id", "name", "value"))
            except BadValue as err:
                self.bad.add(row.where, str(err))
                continue
            yield row, identifier, name, value


def check_spans(example: Example, spans: Sequence[Placed], bad: BadRows) -> Iterator[Span]:
    """The spans that lie inside the text of their example and hold at least one character."""
    for where, span in spans:
        if 0 <= span.start < span.end <= len(example.text):
            yield span
        else:
            bad.add(where, f"the span {span.start} to {span.end} ({span.name} = {span.value!r}) is empty or outside the text of {example.id!r}, "
                           f"which has {len(example.text)} characters")


def _text(row: Row, column: str) -> str:
    value = _value(row, column)
    text = label_text(value, column)
    if text == "":
        raise BadValue(f"its {column} is empty")
    return text


def _offset(row: Row, column: str) -> int:
    value = _value(row, column)
    if isinstance(value, str) and value.strip().removeprefix("-").isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadValue(f"its {column} is {value!r}, not a whole number of characters")
    return value


def _value(row: Row, column: str) -> Any:
    if row.fault:
        raise BadValue(row.fault)
    value = look_up(row, column)
    if value is MISSING:
        raise BadValue(f"it has no field {column!r}, only {', '.join(map(repr, row.fields)) or 'none'}")
    return value
