"""Reads a store: any rows in any order, as float32, in bounded memory; the token and example tables.

Refuses: a folder without a complete store, what is missing, truncated or changed, an unknown site, a store made from another subject.
"""

import functools
import hashlib
import shutil
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
from sparselight.records import Shard, StoreManifest, StorePart, SubjectRef
from sparselight.store.fetch import MAP_BYTES, RowFetcher, find_damage
from sparselight.store.formats import StoredRows, value_bytes
from sparselight.store.place import FileCache, Location, Remote, is_remote
from sparselight.store.plan import MANIFEST, plan_name, tokens_name
from sparselight.store.stream import RowStream

PIECE_BYTES = 1 << 24  # of one fetch as stored; larger reads are done in pieces

class FolderStore:
    """The activations in one folder, local or remote. Rows are tokens, in corpus order."""

    def __init__(self, folder: Location, manifest: StoreManifest, cache: FileCache | None = None, map_bytes: int = MAP_BYTES):
        self.manifest = manifest
        self.n_tokens = manifest.n_tokens
        self.remote = Remote(folder) if is_remote(folder) else None
        self.location = str(self.remote or folder)
        self.folder = Path(folder)
        self._cache = cache or (FileCache() if self.remote else None)
        self._fetcher = RowFetcher(manifest, self.folder, self.remote, self._cache, self.damage_error, map_bytes)

    def __repr__(self) -> str:
        sites = ", ".join(f"{site} [{width}]" for site, width in self.manifest.sites.items())
        return f"FolderStore({self.n_tokens} tokens of {self.manifest.n_examples} examples, {sites}, {self.manifest.dtype}, {self.location})"

    @classmethod
    def open(cls, folder: Location, cache: FileCache | None = None, map_bytes: int = MAP_BYTES) -> Self:
        """Open a complete store.

        Args:
            cache: local copies of a remote store's files; by default in SPARSELIGHT_CACHE, up to SPARSELIGHT_CACHE_BYTES.
            map_bytes: bound on the size of the shards that stay mapped into memory, for processes whose address space is limited.

        Raises:
            StoreError: when there is none, or it cannot be reached.
            RunError: when its manifest is damaged or newer than this sparselight.
        """
        if is_remote(folder):
            remote, cache = Remote(folder), cache or FileCache()
            names, path = list(remote.sizes()), cache.folder.parent / "manifests" / f"{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}.json"
            if MANIFEST in names:
                remote.get(MANIFEST, path)
        else:
            path = Path(folder) / MANIFEST
            names = [name for name in (MANIFEST, plan_name(0)) if (Path(folder) / name).exists()]
        if MANIFEST not in names:
            partial = plan_name(0) in names
            raise StoreError(
                asked=f"open the activation store {folder}", why="its harvest did not finish" if partial else "there is no store",
                instead="run the same harvest again: it goes on where it stopped" if partial else "give the folder of a finished harvest",
            )
        return cls(folder, StoreManifest.load(path), cache, map_bytes)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what the manifest says of the content (checksums of all shards included), not of how long it took."""
        content = self.manifest.model_dump(mode="json", include={
            "subject": {"name": True, "fingerprint": True, "token_policy": {"prepend_bos", "context_tokens", "count_specials"}},
            "corpus_fingerprint": True, "sites": True, "dtype": True, "n_tokens": True, "n_examples": True,
            "shards": {"__all__": {"name", "n_tokens", "n_examples", "sha256", "tokens_sha256"}},
        })
        content["subject"]["name"] = self.manifest.subject.address
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()

    def check_subject(self, ref: SubjectRef) -> None:
        """Refuse to go with another subject than the one that was harvested.

        Raises:
            StoreError: naming both.
        """
        own = self.manifest.subject
        if own.fingerprint != ref.fingerprint:
            raise StoreError(
                asked=f"use the store {self.location} with the subject {ref.name} ({ref.fingerprint[:12]})",
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
        rows = self._check_request(rows, site)
        out = torch.empty(len(rows), self.manifest.sites[site])
        step = max(1, PIECE_BYTES // (out.shape[1] * value_bytes(self.manifest.dtype)))
        for start in range(0, len(rows), step):
            self._fetcher.read_into(rows[start:start + step], site, [out[start:start + step]])
        return out

    def read_batches(self, batches: Sequence[Int[np.ndarray, " row"]], site: str, outs: Sequence[Float[Tensor, "row d_in"]]) -> None:
        """Read several batches with one pass over the shards, each into a tensor of its own.

        Raises:
            StoreError, IndexError: as `read`.
        """
        rows = self._check_request(np.concatenate([*batches, np.empty(0, dtype=np.int64)]), site)
        if len(rows):
            self._fetcher.read_into(rows, site, outs)

    def stream(self, site: str, rows: Int[np.ndarray, " row"] | None, batch_tokens: int, seed: int) -> RowStream:
        """Batches to train on, shuffled over all rows; see RowStream."""
        return RowStream(self, site, rows, batch_tokens, seed)

    def read_stored(self, rows: Int[np.ndarray, " row"], site: str) -> StoredRows:
        """Ascending rows as they stand on disk; in memory that the next read of this thread takes again."""
        return self._fetcher.gather(self._check_request(rows, site), site)

    def tokens_of(self, shard: Shard) -> dict[str, Int[np.ndarray, " row"]]:
        """The token table of one shard, by column."""
        table = self.table(tokens_name(shard.name), shard.tokens_sha256, shard.tokens_bytes)
        return {name: table.column(name).to_numpy() for name in table.column_names}

    def copy_file(self, name: str, path: Path) -> None:
        """Copy a file of the store as it stands."""
        if self.remote is not None:
            self.remote.get(name, path)
        else:
            try:
                shutil.copyfile(self.folder / name, path)
            except FileNotFoundError:
                raise self.damage_error({name: "it is missing"}) from None

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
                asked=f"find the example {err.args[0]!r} in the store {self.location}", why="it was not harvested",
                instead="use ids from the store's examples()",
            ) from None
        column = self._tokens.column("example").to_numpy()
        starts, stops = np.searchsorted(column, numbers), np.searchsorted(column, numbers, side="right")
        return np.concatenate([np.arange(start, stop) for start, stop in zip(starts, stops, strict=True)] or [np.arange(0)])

    def verify(self) -> None:
        """Compare every file with its checksum now.

        Raises:
            StoreError: naming all files that are missing, truncated or changed.
        """
        from sparselight.store.check import damaged_files

        damaged = damaged_files(self)
        if damaged:
            raise self.damage_error(damaged)

    def damage_error(self, damaged: dict[str, str]) -> StoreError:
        """The user-facing form of damage, by file."""
        names = " and ".join(damaged)
        return StoreError(
            asked=f"read the store {self.location}", why="; ".join(f"{name} is damaged: {damage}" for name, damage in damaged.items()),
            instead=f"run `sparselight store repair {self.location}`, or delete {names} there and run the same harvest again: "
            "it makes only what is missing or damaged",
        )

    def parts(self) -> list[StorePart]:
        """What the store was put together from; stores of version 1 are one part whose example table has no checksum."""
        manifest = self.manifest
        return manifest.parts or [StorePart(
            corpus_fingerprint=manifest.corpus_fingerprint, first_example=0, n_examples=manifest.n_examples, n_shards=len(manifest.shards),
            shard_tokens=0, examples="examples.parquet", examples_sha256="",
        )]

    def _check_request(self, rows: Int[np.ndarray, " row"], site: str) -> Int[np.ndarray, " row"]:
        if site not in self.manifest.sites:
            raise StoreError(asked=f"read {site} from the store {self.location}", why="that site is not in it", instead=nearest(site, self.manifest.sites))
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) and not 0 <= rows.min() <= rows.max() < self.n_tokens:
            raise IndexError(f"rows {rows.min()} to {rows.max()} of a store with {self.n_tokens} rows")
        return rows

    @functools.cached_property
    def _tokens(self) -> pa.Table:
        return pa.concat_tables(
            [self.table(tokens_name(shard.name), shard.tokens_sha256, shard.tokens_bytes) for shard in self.manifest.shards]).combine_chunks()

    @functools.cached_property
    def _examples(self) -> pa.Table:
        return pa.concat_tables([self.table(part.examples, part.examples_sha256, 0) for part in self.parts()]).combine_chunks()

    def table(self, name: str, sha256: str, n_bytes: int) -> pa.Table:
        """A Parquet table of the store, compared with its checksum where there is one.

        Raises:
            StoreError: when it is missing or damaged, or a remote one finds no room in the cache.
        """
        path: Path | None = self.folder / name
        if self.remote is not None:
            assert self._cache is not None
            path = self._cache.get(self.remote, name, sha256, n_bytes or self.remote.sizes().get(name, 0))
            if path is None:
                raise StoreError(asked=f"read {self.location}/{name}", why=f"it finds no room in a cache of {self._cache.max_bytes} bytes",
                                 instead="set SPARSELIGHT_CACHE_BYTES higher")
        assert path is not None
        damage = find_damage(path, sha256) if sha256 and self.remote is None else ""
        if damage:
            raise self.damage_error({name: damage})
        try:
            return read_table(path)
        except (OSError, pa.ArrowException) as err:
            raise self.damage_error({name: str(err)}) from None

    def number_of(self) -> dict[str, int]:
        """The number of each example by its id."""
        return self._number_of

    @functools.cached_property
    def _number_of(self) -> dict[str, int]:
        return dict(zip(self._examples.column("id").to_pylist(), self._examples.column("example").to_pylist(), strict=True))


def read_table(path: Path) -> pa.Table:
    return pq.read_table(path, page_checksum_verification=True, memory_map=False)
