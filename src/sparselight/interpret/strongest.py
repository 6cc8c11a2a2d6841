"""Streaming top-k: of each latent the strongest examples, with the window of activations around each peak, over any number of blocks.

Owns the state, whose size depends on the number of latents alone, never on how much is read; the result is the one that sorting everything
would give, in whatever order blocks arrive: by activation, ties by set and row. Refuses nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int

from sparselight.errors import RunError
from sparselight.files import atomic_path

Entries = Int[np.ndarray, " entry"]


@dataclass(frozen=True, slots=True)
class Peaks:
    """The strongest token of each (latent, example) pair of a block."""

    latent: Entries
    value: Float[np.ndarray, " entry"]
    token_set: int
    """Number of the token set that the block belongs to."""
    row: Entries
    """Of the set's store."""

    def pick(self, chosen: Entries) -> "Peaks":
        return Peaks(self.latent[chosen], self.value[chosen], self.token_set, self.row[chosen])


class Peak(NamedTuple):
    """The strongest token of one example of a latent."""

    value: float
    token_set: int
    row: int
    window: Float[np.ndarray, " window"]
    """Activations around it, 0 outside of the example."""


class Strongest:
    """The k strongest examples of every latent. Slots of a latent are ordered, the strongest first; empty ones have row -1.

    Args:
        window: tokens of activations kept around each peak.
    """

    def __init__(self, n_latents: int, k: int, window: int):
        self.k = k
        self.value = np.zeros((n_latents, k), dtype=np.float32)
        self.token_set = np.full((n_latents, k), np.iinfo(np.int16).max, dtype=np.int16)
        self.row = np.full((n_latents, k), -1, dtype=np.int64)
        self.window = np.zeros((n_latents, k, window), dtype=np.float32)

    def add(self, peaks: Peaks, windows: Callable[[Peaks], Float[np.ndarray, "entry window"]]) -> None:
        """Take in the peaks of a block.

        Args:
            windows: called with the peaks that stay: their activations, 0 outside of the example.
        """
        last = self.value[peaks.latent, -1]
        may_stay = np.flatnonzero((peaks.value > last) | ((peaks.value == last) & self._is_before(peaks)))
        peaks = peaks.pick(may_stay)
        if not len(peaks.latent):
            return
        touched = np.unique(peaks.latent)
        at = np.searchsorted(touched, peaks.latent)
        n_old = len(touched) * self.k
        latent = np.concatenate([np.repeat(np.arange(len(touched)), self.k), at])
        value = np.concatenate([self.value[touched].ravel(), peaks.value])
        token_set = np.concatenate([self.token_set[touched].ravel(), np.full(len(at), peaks.token_set, dtype=np.int16)])
        row = np.concatenate([self.row[touched].ravel(), peaks.row])
        order = np.lexsort((row, token_set, -value, latent))
        place = np.arange(len(order)) - np.searchsorted(latent[order], latent[order])
        kept = order[place < self.k]  # k of every touched latent, because its old slots, empty or not, are among the candidates
        old_windows = self.window[touched].reshape(n_old, -1)
        new = np.flatnonzero(kept >= n_old)
        window = np.zeros((len(kept), self.window.shape[2]), dtype=np.float32)
        window[kept < n_old] = old_windows[kept[kept < n_old]]
        if len(new):
            window[new] = windows(peaks.pick(kept[new] - n_old))
        shape = (len(touched), self.k)
        self.value[touched], self.token_set[touched], self.row[touched] = value[kept].reshape(shape), token_set[kept].reshape(shape), row[kept].reshape(shape)
        self.window[touched] = window.reshape(*shape, -1)

    def _is_before(self, peaks: Peaks) -> np.ndarray:
        """Whether a peak comes before the last one kept of its latent; an empty slot comes after everything."""
        token_set, row = self.token_set[peaks.latent, -1], self.row[peaks.latent, -1]
        return (peaks.token_set < token_set) | ((peaks.token_set == token_set) & (peaks.row < row))

    def of(self, latent: int) -> list[Peak]:
        """Those of one latent, the strongest first."""
        n_kept = int((self.row[latent] >= 0).sum())
        columns = (self.value[latent].tolist(), self.token_set[latent].tolist(), self.row[latent].tolist(), self.window[latent])
        return [Peak(*slot) for slot in zip(*columns, strict=True)][:n_kept]


def find_peaks(latent: Entries, value: Float[np.ndarray, " entry"], token: Entries, example: Int[np.ndarray, " token"], row: Int[np.ndarray, " token"],
               token_set: int) -> Peaks:
    """The strongest token of each latent in each example of a block; the first one where several are equally strong.

    Args:
        latent, value, token: entries ordered by latent, then token.
        example, row: of every token of the block, examples whole and contiguous.
    """
    if not len(latent):
        nothing = np.zeros(0, dtype=np.int64)
        return Peaks(nothing, np.zeros(0, dtype=np.float32), token_set, nothing)
    owner = example[token]
    starts = np.flatnonzero(np.concatenate([[True], (latent[1:] != latent[:-1]) | (owner[1:] != owner[:-1])]))
    largest = np.maximum.reduceat(value, starts)
    run = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(latent))))
    at_peak = np.flatnonzero(value == largest[run])
    first = at_peak[np.unique(run[at_peak], return_index=True)[1]]
    return Peaks(latent[first].astype(np.int64), largest, token_set, row[token[first]])


SCHEMA = pa.schema([
    ("latent", pa.int32()), ("role", pa.string()), ("value", pa.float32()), ("token_set", pa.int16()), ("row", pa.int64()), ("window", pa.list_(pa.float32())),
])


def save_strongest(strongest: Mapping[str, Strongest], path: Path) -> None:
    """Write those of every role as one Parquet file, ordered by latent."""
    parts = []
    for role, kept in strongest.items():
        latent, slot = np.nonzero(kept.row >= 0)
        window = kept.window[latent, slot]
        offsets = np.arange(len(latent) + 1, dtype=np.int32) * window.shape[1]
        parts.append(pa.table([
            latent.astype(np.int32), pa.array([role] * len(latent), pa.string()), kept.value[latent, slot], kept.token_set[latent, slot],
            kept.row[latent, slot], pa.ListArray.from_arrays(offsets, window.ravel())], schema=SCHEMA))
    table = pa.concat_tables(parts).sort_by([("latent", "ascending"), ("value", "descending")])
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=1 << 14)


def load_strongest(path: Path, latents: Sequence[int]) -> dict[tuple[str, int], list[Peak]]:
    """The strongest examples of some latents, by (role, latent), the strongest first.

    Raises:
        RunError: when the file is missing or damaged.
    """
    try:
        rows = pq.read_table(path, filters=[("latent", "in", sorted({int(latent) for latent in latents}))]).to_pylist()
    except (OSError, pa.ArrowException) as err:
        raise RunError(asked=f"read the strongest examples in {path}", why=str(err), instead="run the stage `explain` again") from None
    found: dict[tuple[str, int], list[Peak]] = {}
    for row in rows:
        found.setdefault((row["role"], row["latent"]), []).append(
            Peak(row["value"], row["token_set"], row["row"], np.array(row["window"], dtype=np.float32)))
    return found
