"""Reads a store: any rows in any order, memory-mapped, as float32; the token and example tables; checksums.

Every file is compared with its SHA-256 when it is first touched in a process. Refuses: a folder without a complete store, a file that
is missing, truncated or changed, an unknown site, a store made from another subject.
"""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparselight.config import canonical_json
from sparselight.errors import StoreError, nearest
from sparselight.files import sha256_file
from sparselight.records import Shard, StoreManifest, SubjectRef
from sparselight.store.plan import shard_paths
from sparselight.store.tensors import map_tensor, read_header

MAX_OPEN_MAPS = 512  # each holds a file descriptor, of which a process commonly has 1024

# Files found whole by this process, as they were then: a file that is written anew is looked at anew.
_checked: set[tuple[str, int, int, str]] = set()


class FolderStore:
    """The activations in one folder. Rows are tokens, in corpus order."""

    def __init__(self, folder: Path, manifest: StoreManifest):
        self.folder, self.manifest = folder, manifest
        self.n_tokens = manifest.n_tokens
        self._first_row = np.cumsum([0, *(shard.n_tokens for shard in manifest.shards)])
        self._map = functools.lru_cache(maxsize=MAX_OPEN_MAPS)(self._open_map)

    def __repr__(self) -> str:
        sites = ", ".join(f"{site} [{width}]" for site, width in self.manifest.sites.items())
        return f"FolderStore({self.n_tokens} tokens of {self.manifest.n_examples} examples, {sites}, {self.manifest.dtype}, {self.folder})"

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a complete store.

        Raises:
            StoreError: when there is none.
            RunError: when its manifest is damaged or newer than this sparselight.
        """
        if not (folder / "manifest.json").exists():
            partial = (folder / "plan.json").exists()
            raise StoreError(
                asked=f"open the activation store {folder}", why="its harvest did not finish" if partial else "there is no store",
                instead="run the same harvest again: it goes on where it stopped" if partial else "give the folder of a finished harvest",
            )
        return cls(folder, StoreManifest.load(folder / "manifest.json"))

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what the manifest says of the content (checksums of all shards included), not of how long it took."""
        return hashlib.sha256(canonical_json(self.manifest.model_dump(mode="json", exclude={"harvest_s"})).encode()).hexdigest()

    def check_subject(self, ref: SubjectRef) -> None:
        """Refuse to go with another subject than the one that was harvested.

        Raises:
            StoreError: naming both.
        """
        own = self.manifest.subject
        if own.fingerprint != ref.fingerprint:
            raise StoreError(
                asked=f"use the store {self.folder} with the subject {ref.name} ({ref.fingerprint[:12]})",
                why=f"it is a store from another subject or revision: {own.name} ({own.fingerprint[:12]})",
                instead="harvest this subject into another folder, or load the subject that the store came from",
            )

    def sample(self, n_rows: int, site: str) -> Float[Tensor, "row d_in"]:
        """About `n_rows` evenly spaced rows, as float32; all of them when there are fewer."""
        return self.read(np.unique(np.linspace(0, self.n_tokens - 1, n_rows).astype(np.int64)), site)

    def read(self, rows: Int[np.ndarray, " row"], site: str) -> Float[Tensor, "row d_in"]:
        """Read rows, in the order asked for, as float32.

        Raises:
            StoreError: when the site is not stored, or a shard is missing, truncated or changed.
            IndexError: when a row is outside [0, n_tokens).
        """
        if site not in self.manifest.sites:
            raise StoreError(asked=f"read {site} from the store {self.folder}", why="that site is not in it", instead=nearest(site, self.manifest.sites))
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) and not 0 <= rows.min() <= rows.max() < self.n_tokens:
            raise IndexError(f"rows {rows.min()} to {rows.max()} of a store with {self.n_tokens} rows")
        values = np.empty((len(rows), self.manifest.sites[site]), dtype=np.float32)
        order = np.argsort(rows, kind="stable")  # ascending reads touch each page once
        ascending = rows[order]
        edges = np.searchsorted(ascending, self._first_row)
        for shard in np.flatnonzero(np.diff(edges)):
            span = slice(edges[shard], edges[shard + 1])
            stored = self._map(int(shard), site)[ascending[span] - self._first_row[shard]]
            if stored.dtype == np.uint16:  # bfloat16 is the upper half of a float32
                values.view(np.uint32)[order[span]] = stored.astype(np.uint32) << 16
            else:
                values[order[span]] = stored
        return torch.from_numpy(values)

    def tokens(self) -> pa.Table:
        """One line a row: example, position, token_id, char_start, char_end."""
        return self._tokens

    def examples(self) -> pa.Table:
        """One line an example: example (the number that `tokens` uses), id, group."""
        return self._examples

    def rows_of(self, examples: Sequence[str]) -> Int[np.ndarray, " row"]:
        """The rows of the examples with these ids, ascending.

        Raises:
            StoreError: when an id is not in the store.
        """
        try:
            numbers = np.unique(np.array([self._number_of[name] for name in examples], dtype=np.int64))
        except KeyError as err:
            raise StoreError(
                asked=f"find the example {err.args[0]!r} in the store {self.folder}", why="it was not harvested", instead="use ids from the store's examples()",
            ) from None
        column = self._tokens.column("example").to_numpy()
        starts, stops = np.searchsorted(column, numbers), np.searchsorted(column, numbers, side="right")
        return np.concatenate([np.arange(start, stop) for start, stop in zip(starts, stops, strict=True)] or [np.arange(0)])

    def verify(self) -> None:
        """Compare every file with its checksum now.

        Raises:
            StoreError: naming all files that are missing, truncated or changed.
        """
        damaged = [(path, damage) for shard in self.manifest.shards for path, sha256 in self._files(shard) if (damage := find_damage(path, sha256))]
        try:
            _ = read_table(self.folder / "examples.parquet")
        except (OSError, pa.ArrowException) as err:
            damaged.append((self.folder / "examples.parquet", str(err)))
        if damaged:
            raise self._damaged(damaged)

    @functools.cached_property
    def _tokens(self) -> pa.Table:
        files = [self._files(shard)[1] for shard in self.manifest.shards]
        for path, sha256 in files:
            self._check(path, sha256)
        return pa.concat_tables([read_table(path) for path, _ in files]).combine_chunks()

    @functools.cached_property
    def _examples(self) -> pa.Table:
        path = self.folder / "examples.parquet"
        try:
            return read_table(path)
        except (OSError, pa.ArrowException) as err:
            raise self._damaged([(path, str(err))]) from None

    @functools.cached_property
    def _number_of(self) -> dict[str, int]:
        return dict(zip(self._examples.column("id").to_pylist(), self._examples.column("example").to_pylist(), strict=True))

    def _open_map(self, shard: int, site: str) -> np.ndarray:
        path, sha256 = self._files(self.manifest.shards[shard])[0]
        self._check(path, sha256)
        return map_tensor(path, read_header(path)[site])

    def _files(self, shard: Shard) -> tuple[tuple[Path, str], tuple[Path, str]]:
        paths = shard_paths(self.folder, shard.name)
        return (paths.activations, shard.sha256), (paths.tokens, shard.tokens_sha256)

    def _check(self, path: Path, sha256: str) -> None:
        try:
            stat = path.stat()
            key = (str(path.resolve()), stat.st_mtime_ns, stat.st_size, sha256)
            if key in _checked:
                return
        except OSError:
            key = None
        damage = find_damage(path, sha256)
        if damage:
            raise self._damaged([(path, damage)])
        assert key is not None
        _checked.add(key)

    def _damaged(self, files: Sequence[tuple[Path, str]]) -> StoreError:
        names = " and ".join(path.name for path, _ in files)
        return StoreError(
            asked=f"read the store {self.folder}", why="; ".join(f"{path.name} is damaged: {damage}" for path, damage in files),
            instead=f"delete {names} there and run the same harvest again: it makes only what is missing or damaged",
        )


def find_damage(path: Path, sha256: str) -> str:
    """What is wrong with a file of which the checksum is known, or nothing."""
    try:
        found = sha256_file(path)
        if found == sha256:
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


def read_table(path: Path) -> pa.Table:
    return pq.read_table(path, page_checksum_verification=True, memory_map=False)
