"""Fetches rows of a store's shards into memory, checked.

The rows of one fetch are taken in ascending order, shard by shard, and put back into the order asked for. Every row is compared with its
checksum; before that, each shard is looked at when it is first touched: its size and header, and in a small store its SHA-256 too.
Memory: what one fetch needs, used again by the next; shards stay mapped, up to a bound if one is set.
Refuses: what is missing, truncated or changed, by file and row.
"""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from sparselight.errors import StoreError
from sparselight.files import sha256_file
from sparselight.kernels.rows import available, take_rows
from sparselight.records import StoreManifest
from sparselight.store.formats import FORMATS, ROW_NUMBER_FACTOR, StoredRows, decode_into, expected_regions, row_sums, value_bytes
from sparselight.store.place import FileCache, Remote
from sparselight.store.shards import Chosen, LocalShard, RangedShard, ShardFile
from sparselight.store.tensors import NUMPY, Region, read_header

MAP_BYTES = 1 << 62  # of shards that stay mapped: all. Mapped pages are page cache, which the system takes back; rows of unmapped shards cost a call each
MAX_OPEN_FILES = 512  # of which a process commonly has 1024
FULL_CHECK_BYTES = 1 << 30  # stores up to this size have their SHA-256 checked when first touched: about a second in all

# Files found whole by this process, as they were then: a file that is written anew is looked at anew.
_checked: set[tuple[str, int, int, str]] = set()


class RowFetcher:
    """Rows of one store. Safe to use from several threads.

    Args:
        damage_error: makes the user-facing error of what is wrong with a file.
        map_bytes: bound on the size of the shards that stay mapped.
    """

    def __init__(
        self, manifest: StoreManifest, folder: Path, remote: Remote | None, cache: FileCache | None, damage_error: Callable[[dict[str, str]], StoreError],
        map_bytes: int = MAP_BYTES,
    ):
        self.manifest, self.folder, self.remote, self.cache, self.damage_error = manifest, folder, remote, cache, damage_error
        self._first_row = np.cumsum([0, *(shard.n_tokens for shard in manifest.shards)])
        self._shards: dict[int, tuple[ShardFile, dict[str, Region]]] = {}
        self._left_to_map, self._lock, self._scratch = map_bytes, threading.Lock(), threading.local()

    def read_into(self, rows: Int[np.ndarray, " row"], site: str, outs: Sequence[Float[Tensor, "row d_in"]]) -> None:
        """Fetch rows in ascending order, and hand them out in their own."""
        is_ascending = bool((rows[1:] >= rows[:-1]).all())
        place = np.arange(len(rows))
        if not is_ascending:
            order = np.argsort(rows)
            rows, place[order] = rows[order], np.arange(len(rows))
        if self._read_mapped(rows, place if is_ascending else order, site, outs):
            return
        stored = self.gather(rows, site)
        first = 0
        for out in outs:
            last = first + len(out)
            if is_ascending:
                decode_into(StoredRows(stored.values[first:last], None if stored.scale is None else stored.scale[first:last]), None, self.manifest.dtype, out)
            else:
                decode_into(stored, place[first:last], self.manifest.dtype, out)
            first = last

    def gather(self, rows: Int[np.ndarray, " row"], site: str) -> StoredRows:
        """Ascending rows as they stand on disk, checked; in memory that the next call of this thread takes again."""
        dtype, width = self.manifest.dtype, self.manifest.sites[site]
        values = self._memory("values", len(rows) * width * value_bytes(dtype)).view(NUMPY[FORMATS[dtype][0]]).reshape(len(rows), width)
        scale = self._memory("scale", len(rows) * 4).view("<f4") if dtype == "int8" else None
        sums = self._memory("sums", len(rows) * 4).view("<u4")
        for number, file, regions, chosen, span in self._touched(rows, site):
            wanted = [(regions[site], values[span])]
            if scale is not None:
                wanted.append((regions[f"{site}.row_scale"], scale[span]))
            has_sums = f"{site}.row_sum" in regions
            if has_sums:
                wanted.append((regions[f"{site}.row_sum"], sums[span]))
            try:
                file.take(wanted, chosen)
            except (OSError, ValueError) as err:
                raise self._shard_damaged(number, str(err)) from None
            if has_sums:
                wrong = chosen.rows[row_sums(StoredRows(values[span], None if scale is None else scale[span]), chosen.rows) != sums[span]]
                if len(wrong):
                    raise self._shard_damaged(number, f"at {site} {len(wrong)} of {len(chosen.rows)} rows do not match their checksums, row {wrong[0]} first")
        return StoredRows(values, scale)

    def _read_mapped(self, rows: Int[np.ndarray, " row"], order: Int[np.ndarray, " row"], site: str, outs: Sequence[Float[Tensor, "row d_in"]]) -> bool:
        """Ascending rows from mapped shards straight to where they belong, where the compiled kernels run.

        Args:
            order: of each row its place in the outs, counted through.

        Returns:
            Whether that was done: else nothing is said of what was written. Damage is left to the other way, which names it.
        """
        dtype, width = self.manifest.dtype, self.manifest.sites[site]
        if not available(dtype) or not all(out.is_contiguous() for out in outs):
            return False
        firsts, bases = np.cumsum([0, *(len(out) for out in outs)]), np.array([out.data_ptr() for out in outs])
        which = np.searchsorted(firsts, order, side="right") - 1
        targets = bases[which] + (order - firsts[which]) * (4 * width)
        for _, file, regions, chosen, span in self._touched(rows, site):
            try:
                base = file.address()
            except ValueError:
                return False
            if base is None:
                return False
            places = [base + regions[name].offset_bytes if name in regions else None for name in (site, f"{site}.row_sum", f"{site}.row_scale")]
            assert places[0] is not None
            if take_rows(places[0], places[1], places[2], chosen.rows, targets[span], width, dtype, int(ROW_NUMBER_FACTOR)):
                return False
        return True

    def _touched(self, rows: Int[np.ndarray, " row"], site: str) -> list[tuple[int, ShardFile, dict[str, Region], Chosen, slice]]:
        """The shards that ascending rows are in, each with its part of them; all are announced before the first is read."""
        edges = np.searchsorted(rows, self._first_row)
        touched = []
        for number in np.flatnonzero(np.diff(edges)).tolist():
            local = rows[edges[number]:edges[number + 1]] - self._first_row[number]
            chosen = Chosen(local, bool((local[1:] - local[:-1] == 1).all()))
            file, regions = self._shard(number)
            file.advise(regions[site], chosen)
            touched.append((number, file, regions, chosen, slice(edges[number], edges[number + 1])))
        return touched

    def _memory(self, name: str, n_bytes: int) -> np.ndarray:
        found: np.ndarray | None = getattr(self._scratch, name, None)
        if found is None or len(found) < n_bytes:
            found = np.empty(n_bytes, np.uint8)
            setattr(self._scratch, name, found)
        return found[:n_bytes]

    def _shard(self, number: int) -> tuple[ShardFile, dict[str, Region]]:
        """A shard's file and the regions in it, looked at when first touched."""
        with self._lock:
            if number not in self._shards:
                try:
                    file, path = self._open(number)
                    self._shards[number] = (file, self._look_at(number, file, path))
                except FileNotFoundError:
                    raise self._shard_damaged(number, "it is missing") from None
                except (OSError, ValueError) as err:
                    raise self._shard_damaged(number, str(err)) from None
            return self._shards[number]

    def _open(self, number: int) -> tuple[ShardFile, Path | None]:
        shard = self.manifest.shards[number]
        name = f"{shard.name}.safetensors"
        path: Path | None = self.folder / name
        if self.remote is not None:
            assert self.cache is not None
            path = self.cache.get(self.remote, name, shard.sha256, shard.n_bytes)
        if path is None:
            assert self.remote is not None
            return RangedShard(self.remote, name), None
        may_hold, size = len(self._shards) < MAX_OPEN_FILES, path.stat().st_size
        keep_map = may_hold and 0 < size <= self._left_to_map
        if keep_map:
            self._left_to_map -= size
        return LocalShard(path, keep_map, may_hold), path

    def _look_at(self, number: int, file: ShardFile, path: Path | None) -> dict[str, Region]:
        """Raises ValueError or OSError when a shard cannot be whole."""
        shard, manifest = self.manifest.shards[number], self.manifest
        regions = file.regions()
        if path is not None:
            size = path.stat().st_size
            if shard.n_bytes and size != shard.n_bytes:
                raise ValueError(f"{'it is truncated: ' if size < shard.n_bytes else ''}it has {size} of {shard.n_bytes} bytes")
            total = sum(shard.n_bytes for shard in manifest.shards)
            if self.remote is None and (not shard.n_bytes or total <= FULL_CHECK_BYTES) and (damage := find_damage(path, shard.sha256)):
                raise ValueError(damage)
        if shard.n_bytes and regions != expected_regions(manifest.sites, manifest.dtype, shard.n_tokens):
            raise ValueError("its header is not that of this shard")
        return regions

    def _shard_damaged(self, number: int, damage: str) -> StoreError:
        return self.damage_error({f"{self.manifest.shards[number].name}.safetensors": damage})


def find_damage(path: Path, sha256: str, again: bool = False) -> str:
    """What is wrong with a file of which the checksum is known, or nothing.

    Args:
        again: read it also when this process has found it whole before and it looks the same.
    """
    try:
        stat = path.stat()
        key = (str(path.resolve()), stat.st_mtime_ns, stat.st_size, sha256)
        if key in _checked and not again:
            return ""
        found = sha256_file(path)
        if found == sha256:
            _checked.add(key)
            return ""
        if path.suffix == ".safetensors":
            read_header(path)
    except FileNotFoundError:
        return "it is missing"
    except OSError as err:
        return err.strerror or str(err)
    except ValueError as err:
        return f"{err} (SHA-256 {found}, expected {sha256})"
    return f"its SHA-256 is {found}, expected {sha256}"
