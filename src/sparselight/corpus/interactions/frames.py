"""Files of columns, read whole and as text: CSV, TSV, Parquet, RecBole's atomic files, the `::` and `|` files of older MovieLens releases.

pyarrow reads them, so that millions of rows take seconds; a row with another number of fields, or a number that is none, is a bad row with
its line. Refuses: files that are no such table, text in another encoding, columns that are not there.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from jaxtyping import Bool, Float

from sparselight.corpus.sources import BadRows, Source, readable
from sparselight.corpus.tables import BOM, arrow_errors
from sparselight.errors import CorpusError

DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t", ".inter": "\t", ".item": "\t", ".user": "\t", ".data": "\t", ".dat": "::"}
PIPED = ("u.item", "u.user")  # of ml-100k
OLD_MOVIELENS = (".dat", ".data", *PIPED)  # written in Latin-1, no header, no quotes


@dataclass(frozen=True, slots=True)
class Frame:
    """Columns of text, empty where a value is missing."""

    source: Source
    table: pa.Table
    first_line: int
    """Line, or row, of the first entry."""

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def names(self) -> list[str]:
        return list(self.table.column_names)

    def where(self, row: int) -> str:
        return f"{self.source.name}, line {row + self.first_line}"

    def text(self, name: str, setting: str) -> pa.StringArray:
        """A column as text.

        Raises:
            CorpusError: when it is not there.
        """
        if name not in self.names:
            raise CorpusError(asked=f"read the column {name!r} of {self.source.path} ({setting})", why=f"its columns are {', '.join(self.names)}",
                              instead=f"name one of them in {setting}")
        column = self.table.column(name).combine_chunks()
        return pc.fill_null(pc.cast(column, pa.string()), "")

    def keep(self, rows: Bool[np.ndarray, " row"]) -> pa.Table:
        return self.table.filter(pa.array(rows))


def read_frame(source: Source, bad: BadRows, names: Sequence[str] | None = None) -> Frame:
    """Read a file by its ending.

    Args:
        names: of the columns of a file without a header.

    Raises:
        CorpusError: when the file cannot be read as a table.
    """
    plain = source.path.name.lower().removesuffix(".gz")
    if plain.endswith(".parquet"):
        with readable(source.path), arrow_errors(source):
            return Frame(source, pq.read_table(source.path), 1)
    old = plain.endswith(OLD_MOVIELENS)
    delimiter = "|" if plain in PIPED else next((mark for ending, mark in DELIMITERS.items() if plain.endswith(ending)), ",")
    with source.open() as handle:
        raw = handle.read().removeprefix(BOM)
    raw = raw.decode("latin-1").replace("::", "\t").encode() if old else raw
    first = raw.partition(b"\n")[0]
    delimiter = "\t" if delimiter == "::" or (b"\t" in first and b"," not in first and not old) else delimiter  # ReChorus calls tab-separated files .csv
    quote = '"' if plain.endswith((".csv", ".tsv")) else ""
    header = list(names) if names else _header(source, raw, delimiter, quote)
    return Frame(source, _parse(source, raw, header, delimiter, quote, bool(names), bad), 1 if names else 2)


def _header(source: Source, raw: bytes, delimiter: str, quote: str) -> list[str]:
    line = raw.partition(b"\n")[0].decode("utf-8", errors="replace").strip("\r")
    names = next(csv.reader([line], delimiter=delimiter, **({"quotechar": quote} if quote else {"quoting": csv.QUOTE_NONE})), [])
    if not names or not all(names) or len(set(names)) < len(names):
        raise CorpusError(asked=f"read the header of {source.path}", why=f"its first line ({line[:60]!r}) does not name each column once",
                          instead="give a file whose first line names its columns")
    return names


def _parse(source: Source, raw: bytes, header: list[str], delimiter: str, quote: str, no_header: bool, bad: BadRows) -> pa.Table:
    faults: list[tuple[int, str]] = []

    def note(row: pa_csv.InvalidRow) -> str:
        faults.append((row.number, f"it has {row.actual_columns} fields, not {row.expected_columns}"))
        return "skip"

    try:
        table = pa_csv.read_csv(
            io.BytesIO(raw), pa_csv.ReadOptions(use_threads=False, column_names=header, skip_rows=0 if no_header else 1),
            pa_csv.ParseOptions(delimiter=delimiter, quote_char=quote or False, invalid_row_handler=note),
            pa_csv.ConvertOptions(column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=False),
        )
    except pa.ArrowInvalid as err:
        raise CorpusError(asked=f"read the corpus file {source.path}", why=f"it is no table of UTF-8 text ({str(err).splitlines()[0]})",
                          instead="convert it to UTF-8 with one separator throughout") from None
    for number, why in faults:
        bad.add(f"{source.name}, line {number}", why)
    return table


def numbers(frame: Frame, name: str, setting: str, dates: bool = False) -> tuple[Float[np.ndarray, " row"], list[tuple[int, str]]]:
    """A column as numbers, and the rows that hold none.

    Args:
        dates: whether ISO dates count, as seconds since 1970.
    """
    column = frame.table.column(name).combine_chunks() if name in frame.names else frame.text(name, setting)
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        column = pc.divide(pc.cast(pc.cast(column, pa.timestamp("us")), pa.int64()).cast(pa.float64()), 1e6)
    if not pa.types.is_string(column.type) and not pa.types.is_large_string(column.type):
        values = pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False)
        return values, [(int(row), f"its {name} is missing") for row in np.flatnonzero(np.isnan(values))]
    text = frame.text(name, setting)
    try:
        return pc.cast(text, pa.float64()).to_numpy(zero_copy_only=False), []
    except pa.ArrowInvalid:
        return _numbers_one_by_one(text.to_pylist(), name, dates)


def _numbers_one_by_one(texts: Sequence[str], name: str, dates: bool) -> tuple[Float[np.ndarray, " row"], list[tuple[int, str]]]:
    values, faults = np.full(len(texts), np.nan), []
    for row, text in enumerate(texts):
        try:
            values[row] = float(text) if not dates or "-" not in text[1:] else _seconds(text)
        except ValueError:
            faults.append((row, f"its {name} is {text!r}, not a number{' or an ISO date' if dates else ''}" if text else f"its {name} is missing"))
    return values, faults


def _seconds(text: str) -> float:
    """Seconds since 1970 of an ISO date; one without a zone is UTC, so that every machine reads the same."""
    found = datetime.fromisoformat(text)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
