"""Connections to a catalogue's file: read-only, as many as there are readers at once, always of the file that stands there now.

Owns opening and closing. SQL has no way to other files. When the file was replaced, it is opened again; who is reading goes on with the file with which the
block began, so that what belongs together is read together. Refuses: a file that is missing, damaged, no catalogue, or of another version.
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparselight.errors import RunError
from sparselight.interpret.catalogue.writing import FORMAT_VERSION

if TYPE_CHECKING:
    import duckdb


class Connections:
    """Connections to one file.

    Args:
        memory_bytes: most that DuckDB may take for all of them; None leaves that to DuckDB.
        n_threads: threads that a query runs on; None leaves that to DuckDB. With 1, readers at once are quickest: each runs on its own thread and no other.
    """

    def __init__(self, path: Path, memory_bytes: int | None = None, n_threads: int | None = None):
        self.path, self._memory_bytes, self._n_threads = path, memory_bytes, n_threads
        self._lock = threading.Lock()
        self._database: _Database | None = None

    @contextlib.contextmanager
    def one(self) -> Iterator["duckdb.DuckDBPyConnection"]:
        """A connection that nobody else uses until the block ends.

        Raises:
            RunError: when the file is missing, damaged, no catalogue, or of another version.
        """
        with self._lock:
            database = self._current()
            connection = database.take()
        try:
            yield connection
        finally:
            with self._lock:
                database.give_back(connection)

    def rows(self, connection: "duckdb.DuckDBPyConnection", sql: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """The answer of a query of ours.

        Raises:
            RunError: when DuckDB cannot give it: the file is damaged or no catalogue.
        """
        import duckdb

        try:
            cursor = connection.execute(sql, list(values))
            names = [column[0] for column in cursor.description or []]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        except duckdb.Error as err:
            raise self._damaged(err) from None

    def close(self) -> None:
        """Let go of the file; it is opened again when somebody reads."""
        with self._lock:
            if self._database is not None:
                self._database.close()
            self._database = None

    def _current(self) -> "_Database":
        try:
            stat = self.path.stat()
        except OSError:
            raise self._error("there is no such file", "run the stage `explain` first, or give the path of a catalogue.duckdb") from None
        file = (stat.st_ino, stat.st_mtime_ns)
        if self._database is not None and self._database.file != file:
            self._database.close()
            self._database = None
        if self._database is None:
            self._database = _Database(self._open(), file)
        return self._database

    def _open(self) -> "duckdb.DuckDBPyConnection":
        import duckdb

        try:
            connection = duckdb.connect(":memory:", config={"allow_community_extensions": "false"})
            connection.execute(f"ATTACH '{str(self.path).replace(chr(39), chr(39) * 2)}' AS file (READ_ONLY)")
            connection.execute("USE file")
            if self._memory_bytes is not None:
                connection.execute(f"SET memory_limit = '{self._memory_bytes // 2**20}MiB'")
            if self._n_threads is not None:
                connection.execute(f"SET threads = {self._n_threads}")
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
            row = next(iter(connection.execute("SELECT version FROM catalogue").fetchall()), None)
        except duckdb.Error as err:
            raise self._damaged(err) from None
        if row is None or row[0] != FORMAT_VERSION:
            connection.close()
            instead = "upgrade sparselight" if row and row[0] > FORMAT_VERSION else "run the same command again with --until explain: the stage is done anew"
            raise self._error(f"it has version {row and row[0]}, this sparselight reads version {FORMAT_VERSION}", instead)
        return connection

    def _damaged(self, err: Exception) -> RunError:
        return self._error(f"it is damaged or no catalogue ({str(err).splitlines()[0]})")

    def _error(self, why: str, instead: str = "delete that file and run the same command again") -> RunError:
        return RunError(asked=f"read the catalogue {self.path}", why=why, instead=instead)


class _Database:
    """One state of the file, opened, with the connections that wait for a reader. Its methods are called under the lock of `Connections`."""

    def __init__(self, first: "duckdb.DuckDBPyConnection", file: tuple[int, int]):
        self.file = file
        self._first, self._waiting, self._n_taken, self._is_closed = first, list["duckdb.DuckDBPyConnection"](), 0, False

    def take(self) -> "duckdb.DuckDBPyConnection":
        if self._waiting:
            connection = self._waiting.pop()
        else:
            connection = self._first.cursor()
            connection.execute("USE file")
        self._n_taken += 1
        return connection

    def give_back(self, connection: "duckdb.DuckDBPyConnection") -> None:
        self._waiting.append(connection)
        self._n_taken -= 1
        if self._is_closed:
            self.close()

    def close(self) -> None:
        """Close it as soon as nobody reads any more: closing the first connection closes those that were made of it."""
        self._is_closed = True
        if self._n_taken == 0:
            self._first.close()
