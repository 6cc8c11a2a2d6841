"""From a row to examples: which column is the text, the id, the group, a label, the side of the split; long texts cut into sections.

Owns: what a value may be (labels are texts, numbers, booleans, dates; empty means absent) and the cut of an example with its spans.
A row that gives no example raises `BadValue` with the reason; what becomes of it is decided by `BadRows`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import date, time
from decimal import Decimal
from typing import Any

from sparselight.corpus.config import CorpusConfig
from sparselight.corpus.python_source import cut_sections
from sparselight.corpus.tables import Row
from sparselight.protocols import Example, Span

MISSING = object()


class BadValue(ValueError):  # noqa: N818 - an outcome of a row, not an error of the program
    """Why a row cannot become an example."""


class ColumnReader:
    """Makes examples of rows by the columns that a config names."""

    def __init__(self, config: CorpusConfig):
        self.text = [config.text] if isinstance(config.text, str) else list(config.text)
        self.id, self.group, self.split = config.id, config.group, config.split
        self.labels = dict(config.labels) if isinstance(config.labels, dict) else {name: name for name in config.labels}
        self.held_out_values = frozenset(config.held_out_values)
        self.unseen_labels = dict(self.labels)

    def columns(self) -> list[str]:
        """All columns that are read."""
        named = [*self.text, self.id, self.group, self.split, *self.labels.values()]
        return list(dict.fromkeys(column for column in named if column))

    def read(self, row: Row) -> tuple[Example, bool | None]:
        """The example of a row, and whether it is held out (None without a split column).

        Raises:
            BadValue: when the row gives none.
        """
        if row.fault:
            raise BadValue(row.fault)
        identifier = self._name(row, self.id, "id") if self.id else f"{row.file}:{row.number}"
        group = self._name(row, self.group, "group") if self.group else identifier
        example = Example(identifier, self._text(row), group, self._labels(row))
        return example, self._name(row, self.split, "split") in self.held_out_values if self.split else None

    def _text(self, row: Row) -> str:
        parts = []
        for column in self.text:
            value = look_up(row, column)
            if value is MISSING and len(self.text) == 1:
                raise BadValue(f"it has no field {column!r}, only {', '.join(map(repr, row.fields)) or 'none'} (corpus.text)")
            if value is not MISSING and value is not None:
                if not isinstance(value, str):
                    raise BadValue(f"the field {column!r} is {_shown(value)}, not text (corpus.text)")
                parts.append(value)
        text = "\n\n".join(part for part in parts if part.strip())
        if not text:
            raise BadValue(f"its text is empty (corpus.text = {', '.join(self.text)})")
        check_text(text)
        return text

    def _name(self, row: Row, column: str, setting: str) -> str:
        value = look_up(row, column)
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            shown = "missing" if value is MISSING or value in (None, "") else f"{_shown(value)}, neither text nor a whole number"
            raise BadValue(f"its {setting} is {shown} (corpus.{setting} = {column!r})")
        check_text(str(value))
        return str(value)

    def _labels(self, row: Row) -> dict[str, str]:
        labels = {}
        for name, column in self.labels.items():
            value = look_up(row, column)
            if value is not MISSING:
                self.unseen_labels.pop(name, None)
                if (label := label_text(value, column)) != "":
                    labels[name] = label
        return labels


def look_up(row: Row, column: str) -> Any:
    """The value of a column: by its whole name, else as a path into objects; MISSING when there is none."""
    if column in row.fields:
        return row.fields[column]
    if column == "_file":
        return row.file
    value: Any = row.fields
    for part in column.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return MISSING
        value = value[part]
    return value


def label_text(value: Any, column: str) -> str:
    """A label's value as text; empty when it is absent."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str | int | float | Decimal | date | time):
        raise BadValue(f"the field {column!r} is {_shown(value)}: a label is a text, a number, a boolean or a date (corpus.labels)")
    check_text(str(value))
    return str(value)


def check_text(text: str) -> None:
    """Refuse text that no file can hold: half of a surrogate pair, which JSON can escape and UTF-8 cannot write."""
    try:
        text.encode()
    except UnicodeEncodeError as err:
        raise BadValue(f"it holds half of a surrogate pair (character {err.start} of {_shown(text)})") from None


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def cut_example(example: Example, longest_chars: int | None, always: bool = False) -> Iterator[Example]:
    """An example, or its sections when it is longer: `ID#0`, `ID#1`, ... in the same group, each with its part of the spans.

    Args:
        always: number the section of a short example too.
    """
    if not always and (longest_chars is None or len(example.text) <= longest_chars):
        yield example
        return
    for number, (start, end) in enumerate(cut_sections(example.text, longest_chars or len(example.text))):
        spans = tuple(clip_spans(example.spans, start, end))
        yield replace(example, id=f"{example.id}#{number}", text=example.text[start:end], spans=spans)


def clip_spans(spans: tuple[Span, ...], start: int, end: int) -> Iterator[Span]:
    """The parts of spans inside [start, end), counted from start."""
    for span in spans:
        if span.start < end and span.end > start:
            yield replace(span, start=max(span.start, start) - start, end=min(span.end, end) - start)
