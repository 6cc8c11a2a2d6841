"""An endless, globally shuffled stream of stored rows whose position is one integer.

Position p = step * batch_tokens + i belongs to epoch p // n, and is row Permutation(n, (seed, epoch))(p % n): every epoch visits every row
once, in an order of its own. A batch is a pure function of its step, so a resumed training sees what an uninterrupted one sees.
While steps follow one another, a thread reads a window of batches ahead in one pass over the shards; the window changes when rows are
read, never which. Refuses: fewer rows than one batch.
"""

import hashlib
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparselight.errors import StoreError
from sparselight.protocols import Store
from sparselight.store.permutation import Permutation

PREFETCH_BYTES = 1 << 25  # of float32: two windows, one being used while the other is read; larger ones fall out of the processor's caches
ALIGN_BYTES = 64  # as torch aligns; matrix products can round otherwise by alignment
MAX_WINDOW_BATCHES = 64

ReadSteps = Callable[[Sequence[int]], list[Tensor]]


class RowStream:
    """Batches of activations of one site. Close it, or let go of it, to end its thread."""

    def __init__(self, store: Store, site: str, rows: Int[np.ndarray, " row"] | None, batch_tokens: int, seed: int, prefetch_bytes: int = PREFETCH_BYTES):
        """Prepare to stream.

        Args:
            rows: the rows to draw from; None for all.
            batch_tokens: rows a batch.
            prefetch_bytes: memory for batches that are read ahead; 0 reads each when it is asked for.

        Raises:
            StoreError: when there are fewer rows than one batch takes, or the site is not stored.
        """
        self.store, self.site, self.rows, self.batch_tokens, self.seed = store, site, rows, batch_tokens, seed
        if self.n_rows < batch_tokens:
            raise StoreError(
                asked=f"draw batches of train.batch_tokens = {batch_tokens} from {site}", why=f"there are only {self.n_rows} rows to draw from",
                instead="harvest more data, or make train.batch_tokens smaller",
            )
        d_in = store.read(np.empty(0, dtype=np.int64), site).shape[1]  # an unknown site comes up here, not at the first batch
        n_batches = prefetch_bytes // (2 * batch_tokens * d_in * 4)
        if prefetch_bytes:
            n_batches = max(1, min(n_batches, MAX_WINDOW_BATCHES, -(-self.n_rows // batch_tokens)))
        self._ahead = _ReadAhead(n_batches)
        self._memory = _BatchMemory(batch_tokens, d_in, 2 * n_batches + 2)
        self._orders: dict[int, Permutation] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the reading ahead; batches can still be had, each read when it is asked for."""
        self._ahead.close()

    @property
    def n_rows(self) -> int:
        """How many rows one epoch visits."""
        return self.store.n_tokens if self.rows is None else len(self.rows)

    def batch(self, step: int) -> Float[Tensor, "token d_in"]:
        """The activations of one step, float32; the caller's own, to change as it likes."""
        return self._ahead.get(step, self._read)

    def batch_rows(self, step: int) -> Int[np.ndarray, " token"]:
        """The rows of the store that make up one step's batch."""
        epoch, offset = divmod(step * self.batch_tokens, self.n_rows)
        positions = np.arange(offset, offset + self.batch_tokens, dtype=np.int64)
        inside = positions[positions < self.n_rows]
        chosen = self._order(epoch)(inside)
        if len(inside) < self.batch_tokens:  # no batch is longer than an epoch
            chosen = np.concatenate([chosen, self._order(epoch + 1)(positions[len(inside):] - self.n_rows)])
        return chosen if self.rows is None else self.rows[chosen]

    def _read(self, steps: Sequence[int]) -> list[Float[Tensor, "token d_in"]]:
        batches = [self.batch_rows(step) for step in steps]
        read_batches = getattr(self.store, "read_batches", None)
        if read_batches is None:  # a store in memory, say
            return [self.store.read(rows, self.site) for rows in batches]
        outs = [self._memory.get() for _ in batches]
        read_batches(batches, self.site, outs)
        return outs

    def _order(self, epoch: int) -> Permutation:
        found = self._orders.get(epoch)
        if found is None:
            found = Permutation(self.n_rows, epoch_seed(self.seed, epoch))
            self._orders = {**dict(list(self._orders.items())[-1:]), epoch: found}  # a batch needs two at most
        return found


def epoch_seed(seed: int, epoch: int) -> int:
    return int.from_bytes(hashlib.sha256(f"epoch\0{seed}\0{epoch}".encode()).digest()[:8], "little")


class _BatchMemory:
    """Memory for batches, used again once nobody holds the batch: fresh memory costs as much as filling it.

    Who reads ahead and who asks may want some at the same time; no two get the same.
    """

    def __init__(self, n_rows: int, d_in: int, max_kept: int):
        self.shape, self.max_kept = (n_rows, d_in), max_kept
        self._kept: list[tuple[np.ndarray, weakref.ref[np.ndarray]]] = []
        self._lock = threading.Lock()

    def get(self) -> Float[Tensor, "row d_in"]:
        with self._lock:
            for number, (memory, in_use) in enumerate(self._kept):
                if in_use() is None:
                    return self._lend(number, memory)
            if len(self._kept) >= self.max_kept:
                return torch.empty(self.shape)
            memory = np.empty(self.shape[0] * self.shape[1] * 4 + ALIGN_BYTES, np.uint8)
            self._kept.append((memory, weakref.ref(memory)))
            return self._lend(len(self._kept) - 1, memory)

    def _lend(self, number: int, memory: np.ndarray) -> Float[Tensor, "row d_in"]:
        """A tensor over the memory. It keeps `view` alive, and so do its own views: when that is gone, all of them are."""
        view = memory[-memory.ctypes.data % ALIGN_BYTES:][:self.shape[0] * self.shape[1] * 4].view(np.float32).reshape(self.shape)
        self._kept[number] = (memory, weakref.ref(view))
        return torch.from_numpy(view)


class _ReadAhead:
    """Reads windows of steps on a thread while steps are asked for in order; any other step is read by itself.

    It holds no reference to its stream: a stream that nobody needs any more is freed at once, and its thread ends.
    """

    def __init__(self, n_batches: int):
        self.n_batches = n_batches
        self._pool: ThreadPoolExecutor | None = None
        self._windows: dict[int, Future[list[Tensor]]] = {}  # by first step; at most the one in use and the next
        self._last: int | None = None

    def get(self, step: int, read: ReadSteps) -> Tensor:
        follows, self._last = self._last is not None and step == self._last + 1, step
        first = next((first for first in self._windows if first <= step < first + self.n_batches), None)
        if first is None or not follows:
            self._forget()
            if follows and self.n_batches:
                self._start(step + 1, read)
            return read([step])[0]
        if first + self.n_batches not in self._windows:
            self._start(first + self.n_batches, read)
        window = self._windows[first]
        if step == first + self.n_batches - 1:
            del self._windows[first]
        if window.exception() is not None:  # perhaps over a row of another step: this one speaks for itself
            return read([step])[0]
        return window.result().pop(0)

    def close(self) -> None:
        self._forget()
        self.n_batches = 0
        if self._pool is not None:
            self._pool.shutdown(wait=True)
            self._pool = None

    def _start(self, first: int, read: ReadSteps) -> None:
        if self._pool is None:  # its thread ends with the last reference to it, or with the process
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="row-stream")
        self._windows[first] = self._pool.submit(read, range(first, first + self.n_batches))

    def _forget(self) -> None:
        for window in self._windows.values():
            window.cancel()
        self._windows.clear()
