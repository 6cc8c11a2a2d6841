"""Sparse activations on disk: of one coder over the tokens of a frame, in Parquet files of neighbouring latents.

Owns the files `latents-NNNNN.parquet`, each with the columns latent, token (index into the frame) and value for BIN_LATENTS latents, and the
conversion to the matrices that search and scoring use, one file at a time: memory does not grow with the number of latents. Any other reader of
Parquet can use them too. Refuses: a cache that was made of another sample of tokens, and one that is missing or damaged.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int
from scipy import sparse

from sparselight.errors import RunError
from sparselight.files import atomic_path, make_folder

BIN_LATENTS = 1024
FLUSH_ENTRIES = 1 << 21  # held in memory before they are written: 24 MB
SCHEMA = pa.schema([("latent", pa.int32()), ("token", pa.int32()), ("value", pa.float32())])
ENCODING = {"latent": "DELTA_BINARY_PACKED", "token": "DELTA_BINARY_PACKED", "value": "PLAIN"}
META_KEY = b"sparselight.activations"

Entries = Int[np.ndarray, " entry"]


class CacheWriter:
    """Writes one cache; entries come in blocks of ascending tokens. Nothing stands in the folder until all of it does."""

    def __init__(self, folder: Path, n_latents: int, n_tokens: int, digest: str):
        make_folder(folder)
        meta = json.dumps({"n_latents": n_latents, "n_tokens": n_tokens, "frame": digest})
        schema = SCHEMA.with_metadata({META_KEY: meta.encode()})
        self.edges = np.append(np.arange(0, n_latents, BIN_LATENTS), n_latents)
        self._stack = contextlib.ExitStack()
        self._writers = []
        for number in range(len(self.edges) - 1):
            temporary = self._stack.enter_context(atomic_path(folder / bin_name(number)))
            self._writers.append(self._stack.enter_context(
                pq.ParquetWriter(temporary, schema, compression="zstd", compression_level=1, use_dictionary=False, column_encoding=ENCODING)))
        self._blocks: list[tuple[Entries, Entries, np.ndarray]] = []
        self._n_held = 0

    def add(self, latent: Entries, token: Entries, value: Float[np.ndarray, " entry"]) -> None:
        """Take in a block, ordered by latent, then token."""
        self._blocks.append((latent.astype(np.int32), token.astype(np.int32), value))
        self._n_held += len(latent)
        if self._n_held >= FLUSH_ENTRIES:
            self._flush()

    def _flush(self) -> None:
        if not self._n_held:
            return
        latent, token, value = (np.concatenate(column) for column in zip(*self._blocks, strict=True))
        by_latent = sparse.csr_matrix((np.arange(len(latent)), latent, [0, len(latent)]), shape=(1, int(self.edges[-1]))).tocsc()
        order, bounds = by_latent.data, by_latent.indptr[self.edges]  # a counting sort; stable, so tokens stay ascending within a latent
        for writer, start, stop in zip(self._writers, bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            if stop > start:
                chosen = order[start:stop]
                writer.write_table(pa.table([latent[chosen], token[chosen], value[chosen]], schema=SCHEMA), row_group_size=1 << 16)
        self._blocks, self._n_held = [], 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self._flush()
        self._stack.__exit__(kind, value, trace)


class ActivationCache:
    """A cache that was written whole.

    Raises:
        RunError: when it is missing, damaged, or made of another sample of tokens than `digest`.
    """

    def __init__(self, folder: Path, digest: str | None = None):
        self.folder = folder
        meta = self._meta()
        if digest is not None and meta["frame"] != digest:
            raise self._error("it was made of another sample of tokens (other settings, another corpus or store)")
        self.n_latents, self.n_tokens = int(meta["n_latents"]), int(meta["n_tokens"])

    def bins(self) -> Iterator[tuple[int, sparse.csc_matrix]]:
        """The first latent of each file, and its activations [token, latent of the file]."""
        for number, start in enumerate(range(0, self.n_latents, BIN_LATENTS)):
            table = self._read(number)
            yield start, self._matrix(table, start, min(BIN_LATENTS, self.n_latents - start))

    def read(self, latents: Entries) -> sparse.csc_matrix:
        """Activations [token, latent] of some latents, in the order given."""
        latents = np.asarray(latents, dtype=np.int64)
        parts = []
        for number in np.unique(latents // BIN_LATENTS).tolist():
            wanted = np.unique(latents[latents // BIN_LATENTS == number])
            parts.append(self._read(number, [("latent", "in", wanted.tolist())]))
        table = pa.concat_tables(parts) if parts else SCHEMA.empty_table()
        known, back = np.unique(latents, return_inverse=True)
        column = np.searchsorted(known, table.column("latent").to_numpy())
        entries = (table.column("value").to_numpy(), (table.column("token").to_numpy(), column))
        return sparse.csc_matrix(entries, shape=(self.n_tokens, len(known)))[:, back]

    def _matrix(self, table: pa.Table, start: int, n_latents: int) -> sparse.csc_matrix:
        latent, token, value = (table.column(name).to_numpy() for name in SCHEMA.names)
        row = sparse.csr_matrix((np.arange(len(latent)), latent - start, [0, len(latent)]), shape=(1, n_latents)).tocsc()
        return sparse.csc_matrix((value[row.data], token[row.data], row.indptr), shape=(self.n_tokens, n_latents))

    def _read(self, number: int, filters: list[tuple[str, str, list[int]]] | None = None) -> pa.Table:
        try:
            return pq.read_table(self.folder / bin_name(number), columns=SCHEMA.names, filters=filters)
        except (OSError, pa.ArrowException) as err:
            raise self._error(f"{bin_name(number)} is missing or damaged ({err})") from None

    def _meta(self) -> dict[str, Any]:
        try:
            return json.loads((pq.read_schema(self.folder / bin_name(0)).metadata or {})[META_KEY])
        except (OSError, KeyError, ValueError, pa.ArrowException) as err:
            raise self._error(f"{bin_name(0)} is missing or damaged ({err})") from None

    def _error(self, why: str) -> RunError:
        return RunError(asked=f"read the activations in {self.folder}", why=why, instead="run the stage `explain` again with the settings of the run")


def n_bins(n_latents: int) -> int:
    """Files of a cache."""
    return -(-n_latents // BIN_LATENTS)


def bin_name(number: int) -> str:
    return f"latents-{number:05}.parquet"
