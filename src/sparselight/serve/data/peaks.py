"""The tokens on which each card's latent fires most, as lists show them: a few distinct ones a card.

They stand in the contexts, millions of rows in a large catalogue, whose peaks are read once and kept in `RUN/explorer/peaks.parquet`, which says of which state
of the catalogue's file they are; in a folder that cannot be written they are read at every start. Refuses nothing: a file that is damaged or of another
catalogue is made anew.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sparselight.errors import StoreError
from sparselight.files import atomic_path
from sparselight.interpret import Catalogue
from sparselight.interpret.renderers import visible
from sparselight.report.svg import shorten

FILE_NAME = "peaks.parquet"
N_PEAKS = 4
PEAK_CHARS = 24
OF, VERSION = b"sparselight.catalogue", 1
QUERY = (f"SELECT card, tokens[peak + 1] AS token FROM contexts WHERE shown < {2 * N_PEAKS} AND kind IN ('top', 'quantile', 'importance') "
         "ORDER BY card, shown")


class Peaks:
    """Peak tokens by row of the catalogue; a row without contexts has none.

    Args:
        table: columns `card`, in order, and `token`.
    """

    def __init__(self, table: pa.Table):
        tokens = table.column("token").combine_chunks().dictionary_encode()
        self._shown = [shown_token(token) if token else "" for token in tokens.dictionary.to_pylist()]
        self._codes = tokens.indices.fill_null(len(self._shown)).to_numpy()
        self._shown.append("")  # of no token
        self._rows = table.column("card").to_numpy()

    def __getitem__(self, row: int) -> list[str]:
        first, end = np.searchsorted(self._rows, (row, row + 1))
        codes = self._codes[first:end].tolist()
        return list(dict.fromkeys(self._shown[code] for code in codes if self._shown[code]))[:N_PEAKS]


def read_peaks(catalogue: Catalogue, folder: Path | None = None) -> Peaks:
    """The peaks of a catalogue.

    Args:
        folder: where they are kept; None: nowhere.
    """
    if folder is None:
        return Peaks(catalogue.sql(QUERY))
    path, of = folder / FILE_NAME, _state(catalogue.path)
    table = _kept(path, of)
    if table is None:
        table = catalogue.sql(QUERY)
        if _state(catalogue.path) == of:
            _keep(table.replace_schema_metadata({OF: of}), path)
    return Peaks(table)


def shown_token(token: str) -> str:
    return shorten(visible(token).strip(), PEAK_CHARS) or "\u2423"


def _state(path: Path) -> bytes:
    stat = path.stat()
    return f"{VERSION} {stat.st_size} {stat.st_mtime_ns}".encode()


def _kept(path: Path, of: bytes) -> pa.Table | None:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException):
        return None
    is_ours: Any = (table.schema.metadata or {}).get(OF) == of and table.column_names == ["card", "token"]
    return table if is_ours else None


def _keep(table: pa.Table, path: Path) -> None:
    try:
        with atomic_path(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")
    except StoreError:  # a folder that cannot be written
        return
