"""Reads rows out of one shard file: a local one through a mapping or by single reads, a remote one by ranges of bytes.

Mapped rows are copied without a call to the system; the pages belong to the page cache, which the system takes back when it needs memory. Rows
that are not in the page cache are announced to the kernel first: it then fetches them side by side, not one after the other.
"""

import contextlib
import errno
import mmap
import os
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Int

from sparselight.store.place import Remote
from sparselight.store.tensors import NUMPY, Region, parse_header, read_header

N_PROBES = 3  # pages that are looked up in the page cache before a read
RANGE_GAP_BYTES = 1 << 16  # nearer ranges of a remote file are fetched as one: the bytes between cost less than a request


class Chosen(NamedTuple):
    """Rows of one shard, ascending, and whether they are one unbroken run."""

    rows: Int[np.ndarray, " row"]
    is_run: bool


class ShardFile(Protocol):
    """One shard's activations."""

    def regions(self) -> dict[str, Region]: ...
    def advise(self, region: Region, chosen: Chosen) -> None: ...
    def take(self, wanted: list[tuple[Region, np.ndarray]], chosen: Chosen) -> None: ...
    def address(self) -> int | None: ...


class LocalShard:
    """A shard in a local file.

    Args:
        keep_map: map the file once and for all; else rows are read into memory one by one, which costs a call a row and no address space.
        keep_open: keep a file descriptor (a mapping has one of its own).
    """

    def __init__(self, path: Path, keep_map: bool = False, keep_open: bool = False):
        self.path = path
        self._map: mmap.mmap | None = None
        self._descriptor: int | None = None
        if keep_map:
            with contextlib.suppress(OSError), path.open("rb") as handle:  # no room in the address space: rows are then read one by one
                self._map = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        if self._map is not None and hasattr(mmap, "MADV_RANDOM"):
            self._map.madvise(mmap.MADV_RANDOM)  # no reading ahead of rows that nobody asked for
        elif keep_open:
            self._descriptor = os.open(path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._descriptor)

    def regions(self) -> dict[str, Region]:
        return read_header(self.path)

    def advise(self, region: Region, chosen: Chosen) -> None:
        """Ask the kernel for rows that are not in the page cache; returns at once."""
        if not hasattr(os, "posix_fadvise"):
            return
        with contextlib.suppress(FileNotFoundError), self._opened() as descriptor:  # take() says what is missing; what is mapped can still be read
            if not _is_cached(descriptor, region, chosen.rows):
                for start, end in runs(region, chosen.rows, mmap.PAGESIZE):
                    os.posix_fadvise(descriptor, start, end - start, os.POSIX_FADV_WILLNEED)

    def take(self, wanted: list[tuple[Region, np.ndarray]], chosen: Chosen) -> None:
        """Copy the chosen rows of each region into the array beside it."""
        if self._map is not None:
            self._take_mapped(self._map, wanted, chosen)
            return
        with self._opened() as descriptor:
            for region, out in wanted:
                _read_ranges(descriptor, memoryview(out).cast("B"), runs(region, chosen.rows, 0))  # type: ignore[arg-type]

    def address(self) -> int | None:
        """Where the file lies in memory, whole; None when it is not mapped."""
        return None if self._map is None else np.frombuffer(_whole(self._map), np.uint8).ctypes.data

    def _take_mapped(self, mapped: mmap.mmap, wanted: list[tuple[Region, np.ndarray]], chosen: Chosen) -> None:
        _whole(mapped)
        for region, out in wanted:
            n_values = region.shape[0] * region.row_bytes // NUMPY[region.dtype].itemsize
            stored = np.frombuffer(mapped, NUMPY[region.dtype], n_values, region.offset_bytes).reshape(region.shape)
            if chosen.is_run:
                out[:] = stored[chosen.rows[0]:chosen.rows[-1] + 1]
            else:
                np.take(stored, chosen.rows, axis=0, out=out, mode="clip")  # "clip" writes to `out` without a buffer between

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        if self._descriptor is not None:
            yield self._descriptor
            return
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


class RangedShard:
    """A shard in a remote file, read by ranges."""

    def __init__(self, remote: Remote, name: str):
        self.remote, self.name = remote, name

    def regions(self) -> dict[str, Region]:
        [length] = self.remote.ranges(self.name, [0], [8])
        [text] = self.remote.ranges(self.name, [8], [8 + min(int.from_bytes(length, "little"), 1 << 24)])
        return parse_header(text)

    def advise(self, region: Region, chosen: Chosen) -> None:
        """Nothing: take() already asks for all ranges at once."""

    def address(self) -> None:
        """Not in memory."""

    def take(self, wanted: list[tuple[Region, np.ndarray]], chosen: Chosen) -> None:
        """Copy the chosen rows of each region into the array beside it."""
        spans = [list(runs(region, chosen.rows, RANGE_GAP_BYTES)) for region, _ in wanted]
        flat = [span for found in spans for span in found]
        contents = iter(self.remote.ranges(self.name, [start for start, _ in flat], [end for _, end in flat]))
        for (region, out), found in zip(wanted, spans, strict=True):
            done = 0
            for start, end in found:
                stored = np.frombuffer(next(contents), NUMPY[region.dtype]).reshape(-1, *region.shape[1:])
                first, last = (start - region.offset_bytes) // region.row_bytes, (end - region.offset_bytes) // region.row_bytes
                own = chosen.rows[done:np.searchsorted(chosen.rows, last)] - first
                np.take(stored, own, axis=0, out=out[done:done + len(own)], mode="clip")
                done += len(own)


def _whole(mapped: mmap.mmap) -> mmap.mmap:
    """The mapping, if its file still has all the bytes: touching pages that are gone would end the process."""
    if mapped.size() < len(mapped):
        raise ValueError(f"it is truncated: it has {mapped.size()} of {len(mapped)} bytes")
    return mapped


def runs(region: Region, rows: Int[np.ndarray, " row"], gap_bytes: int) -> Iterable[tuple[int, int]]:
    """The byte ranges [start, end) that hold ascending rows; ranges nearer than `gap_bytes` are one."""
    starts = region.offset_bytes + rows * region.row_bytes
    breaks = np.flatnonzero(np.diff(starts) > gap_bytes + region.row_bytes) + 1
    firsts = starts[np.concatenate([[0], breaks])]
    ends = starts[np.concatenate([breaks - 1, [len(rows) - 1]])] + region.row_bytes
    return zip(firsts.tolist(), ends.tolist(), strict=True)


def _read_ranges(descriptor: int, memory: memoryview, ranges: Iterable[tuple[int, int]]) -> None:
    """Fill memory with the bytes of the ranges, one after the other."""
    done = 0
    for start, end in ranges:
        while start < end:
            n_read = os.preadv(descriptor, [memory[done:done + end - start]], start)
            if not n_read:
                raise ValueError(f"it is truncated: it has no bytes {start} to {end}")
            start, done = start + n_read, done + n_read


def _is_cached(descriptor: int, region: Region, rows: Int[np.ndarray, " row"]) -> bool:
    """Whether a few of the rows are all in the page cache; yes where the system cannot tell."""
    if not hasattr(os, "RWF_NOWAIT"):
        return True
    byte = [bytearray(1)]
    for row in rows[::-(-len(rows) // N_PROBES)].tolist():
        try:
            os.preadv(descriptor, byte, region.offset_bytes + row * region.row_bytes, os.RWF_NOWAIT)
        except OSError as err:
            return err.errno != errno.EAGAIN
    return True
