"""Writing a catalogue: whole, some cards at a time, and changes to it, each atomically.

Owns the file's form and version. A change is made in a copy that then takes the file's place: a reader sees the old catalogue or the new one, and a
change that is interrupted leaves the old one. Refuses: two writers at once.
"""

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from sparselight.errors import RunError
from sparselight.files import atomic_path, folder_lock
from sparselight.interpret.catalogue.tables import SCHEMAS, Rows, rows_of, table
from sparselight.records import Card

if TYPE_CHECKING:
    import duckdb

FILE_NAME = "catalogue.duckdb"
FORMAT_VERSION = 2
BLOCK_CARDS = 1024
STORAGE = "v1.0.0"  # the oldest DuckDB that must open the file: newer releases write what older command lines cannot read
LOCK = ".catalogue-lock"


def save_catalogue(cards: Iterable[Card], folder: Path, modality: str = "text") -> Path:
    """Write `catalogue.duckdb` into a folder; an old one is replaced whole or not at all.

    Raises:
        StoreError: when the disk is full or the folder cannot be written.
    """
    listed = list(cards)
    return write_catalogue((listed[start : start + BLOCK_CARDS] for start in range(0, len(listed), BLOCK_CARDS)), folder, modality)


def write_catalogue(blocks: Iterable[list[Card]], folder: Path, modality: str = "text", controls: Rows | None = None) -> Path:
    """As `save_catalogue`, of cards that come some at a time and are not held together.

    Args:
        modality: `text`, `residues`, `items` or `image`: how contexts are shown.
        controls: rows of the table `controls`; looked at when the blocks have come to their end.
    """
    path, number = folder / FILE_NAME, 0
    with atomic_path(path) as temporary, _opened(temporary) as connection:
        for name in SCHEMAS:
            connection.register("rows", table(name, []))
            connection.execute(f"CREATE TABLE {name} AS SELECT * FROM rows")
            connection.unregister("rows")
        for block in blocks:
            insert(connection, rows_of(list(enumerate(block, number))))
            number += len(block)
        insert(connection, {"controls": controls or []})
        connection.execute("CREATE TABLE catalogue AS SELECT ?::INTEGER AS version, ?::BIGINT AS n_cards, ?::VARCHAR AS modality",
                           [FORMAT_VERSION, number, modality])
    return path


def insert(connection: "duckdb.DuckDBPyConnection", rows: dict[str, Rows]) -> None:
    """Append rows, by table."""
    for name, listed in rows.items():
        if listed:
            connection.register("rows", table(name, listed))
            connection.execute(f"INSERT INTO {name} BY NAME SELECT * FROM rows")
            connection.unregister("rows")


def update(path: Path, change: Callable[["duckdb.DuckDBPyConnection"], None]) -> None:
    """Change a catalogue: all of the change or nothing.

    Raises:
        RunError: when another process changes it, or it is missing.
        StoreError: when the disk is full.
    """
    if not path.is_file():
        raise RunError(asked=f"change the catalogue {path}", why="there is no such file", instead="run the stage `explain` first")
    with folder_lock(path.parent / LOCK, asked=f"change the catalogue {path}"), atomic_path(path) as temporary:
        shutil.copyfile(path, temporary)
        with _opened(temporary) as connection:
            change(connection)


def add_table(path: Path, name: str, rows: Rows) -> None:
    """Add a table of one's own to a catalogue."""
    def change(connection: "duckdb.DuckDBPyConnection") -> None:
        connection.register("rows", pa.Table.from_pylist(rows))
        connection.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM rows")
        connection.unregister("rows")

    update(path, change)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator["duckdb.DuckDBPyConnection"]:
    """A connection to a file that is being written, and everything in the file at the end."""
    import duckdb

    try:
        with duckdb.connect(str(path), config={"storage_compatibility_version": STORAGE}) as connection:
            yield connection
            connection.execute("CHECKPOINT")
    except duckdb.IOException as err:
        raise OSError(str(err)) from err  # for atomic_path, which names the file and what to do
    finally:
        path.with_name(f"{path.name}.wal").unlink(missing_ok=True)
