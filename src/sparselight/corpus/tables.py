"""Rows of JSONL, JSON and Parquet files, one after the other, each with its place; CSV and TSV are in `delimited.py`.

A row that cannot be read comes with its fault instead of its fields, so that one bad row does not hide the rest. Refuses: a file that is
no such file at all.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sparselight.corpus.sources import Source, readable
from sparselight.errors import CorpusError

BATCH_ROWS = 1024
BOM = b"\xef\xbb\xbf"
PSEUDO_COLUMNS = ("_file", "_split")  # of every table: the file's name, and which split or part of the source a row is of


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table, or why it is none."""

    file: str
    number: int  # line of a text file, running number elsewhere, from 1
    fields: Mapping[str, Any]
    fault: str = ""
    unit: str = "row"

    @property
    def where(self) -> str:
        return f"{self.file}, {self.unit} {self.number}"


def jsonl_rows(sources: Sequence[Source], _columns: Sequence[str]) -> Iterator[Row]:
    """One JSON object a line; blank lines are passed over."""
    for source in sources:
        offset = 0
        with source.open() as handle:
            for number, raw in enumerate(handle, 1):
                line = raw.removeprefix(BOM) if number == 1 else raw
                if line.strip():
                    fields, fault = _json_object(line, offset + len(raw) - len(line))
                    yield Row(source.name, number, fields, fault, "line")
                offset += len(raw)


def _json_object(line: bytes, offset: int) -> tuple[dict[str, Any], str]:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as err:
        return {}, f"it is not UTF-8 text (byte {err.start} of the line, {offset + err.start} of the file)"
    except json.JSONDecodeError as err:
        return {}, f"it is not valid JSON ({err.msg}, column {err.colno})"
    except (ValueError, RecursionError) as err:
        return {}, f"it is not valid JSON ({err})"
    return (value, "") if isinstance(value, dict) else ({}, f"it is a JSON {_json_type(value)}, not an object")


def _json_type(value: Any) -> str:
    return {dict: "object", list: "list", str: "string", bool: "boolean", type(None): "null"}.get(type(value), "number")


def json_rows(sources: Sequence[Source], _columns: Sequence[str]) -> Iterator[Row]:
    """One JSON document a file: a list of rows, or an object of such lists, whose keys become the column `_split`.

    A row is an object; a list has the columns "0", "1", ...; a string is the column `text`.
    """
    for source in sources:
        for number, (split, value) in enumerate(_json_values(source), 1):
            if isinstance(value, dict):
                fields = value
            elif isinstance(value, list):
                fields = {str(column): item for column, item in enumerate(value)}
            else:
                fields = {"text": value}
            yield Row(source.name, number, {**fields, "_split": split})


def _json_values(source: Source) -> Iterator[tuple[str, Any]]:
    asked = f"read the corpus file {source.path}"
    try:
        content = json.loads(source.text())
    except (ValueError, RecursionError) as err:
        if isinstance(err, CorpusError):
            raise
        raise CorpusError(asked=asked, why=f"it is not valid JSON ({err})", instead='mend it; for one JSON object a line set corpus.kind = "jsonl"') from None
    parts = content if isinstance(content, dict) else {"": content}
    for split, rows in parts.items():
        if not isinstance(rows, list):
            raise CorpusError(asked=asked, why=f"it holds a {_json_type(rows)} where rows are expected" + (f" (at {split!r})" if split else ""),
                              instead="give a list of rows, or an object whose values are such lists")
        yield from ((split, row) for row in rows)


def parquet_rows(sources: Sequence[Source], columns: Sequence[str]) -> Iterator[Row]:
    """Rows of Parquet files; only the columns that are asked for are read."""
    for source in sources:
        with readable(source.path), arrow_errors(source):
            file = pq.ParquetFile(source.path)
            names = file.schema_arrow.names
            number = 0
            for batch in file.iter_batches(BATCH_ROWS, columns=top_columns(source, columns, names)):
                for fields, fault in _batch_rows(batch):
                    number += 1
                    yield Row(source.name, number, fields, fault)


@contextlib.contextmanager
def arrow_errors(source: Source) -> Iterator[None]:
    """Turn Arrow's word on a damaged file into the user-facing error."""
    try:
        yield
    except pa.ArrowException as err:
        raise CorpusError(asked=f"read the corpus file {source.path}", why=f"it is no readable Parquet file ({str(err).splitlines()[0]})",
                          instead="write it again, or set corpus.kind to what it is") from None


def _batch_rows(batch: pa.RecordBatch) -> Iterator[tuple[dict[str, Any], str]]:
    try:
        yield from ((fields, "") for fields in batch.to_pylist())
    except UnicodeDecodeError:  # some text of the batch is no UTF-8: find which row
        for number in range(len(batch)):
            try:
                yield batch.slice(number, 1).to_pylist()[0], ""
            except UnicodeDecodeError as err:
                yield {}, f"it holds text that is not UTF-8 (byte {err.start} of the value)"


def top_columns(source: Source, columns: Sequence[str], names: Sequence[str]) -> list[str]:
    """The columns of a file that hold those that are asked for: `meta` for `meta.title`.

    Raises:
        CorpusError: naming a column that is not there, and those that are.
    """
    found = []
    for column in columns:
        top = column if column in names else column.partition(".")[0]
        if top in names:
            found.append(top)
        elif column not in PSEUDO_COLUMNS:
            raise CorpusError(asked=f"read the column {column!r} of {source.path}", why=f"its columns are {', '.join(names) or 'none'}",
                              instead="name existing columns in corpus.text, corpus.id, corpus.group, corpus.labels, corpus.split")
    return list(dict.fromkeys(found))
