"""Writes the files of a store, each atomically and with its checksum, on a thread of its own; finds out which shards stand already.

A shard counts as done when its record is there and both files have the recorded SHA-256 (remote ones: the recorded size). Refuses:
nothing; a full disk, an unwritable folder or a lost connection comes back as StoreError, and finished shards stay.
"""

import hashlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int

from sparselight.errors import RunError
from sparselight.files import atomic_path, folder_lock, sha256_file, write_bytes, write_error
from sparselight.protocols import Example
from sparselight.records import Rounding, Shard, SkippedExample
from sparselight.store.formats import StoredRows, shard_tensors
from sparselight.store.place import Location, StagedFolder
from sparselight.store.plan import PlannedShard, ShardRecord, shard_paths
from sparselight.store.tensors import write_tensors

MAX_QUEUED_SHARDS = 2  # written behind the one that is being made; each is held in memory whole


@dataclass(frozen=True, slots=True)
class ShardContent:
    """The rows of one shard, in corpus order."""

    rows: Mapping[str, StoredRows]
    """By site, in the number format of the store."""
    tokens: Mapping[str, Int[np.ndarray, " row"]]
    """By column of the token table."""
    harvest_s: float
    rounding: dict[str, Rounding] = field(default_factory=dict)
    skipped: list[SkippedExample] = field(default_factory=list)
    n_massive_tokens: int = 0

    @property
    def n_tokens(self) -> int:
        return len(self.tokens["example"])


class ShardWriter:
    """Writes shards in the background, a few in flight at most. An error comes up at the next `write` or at the end."""

    def __init__(self, place: StagedFolder, dtype: str):
        self.place, self.dtype = place, dtype
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="shard-writer")
        self._in_flight: deque[Future[None]] = deque()

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finish the shards in flight even when the caller failed: they are then that much less to do again."""
        self._pool.shutdown(wait=True)
        while kind is None and self._in_flight:
            self._in_flight.popleft().result()

    def write(self, planned: PlannedShard, content: ShardContent) -> None:
        while self._in_flight and (len(self._in_flight) >= MAX_QUEUED_SHARDS or self._in_flight[0].done()):
            self._in_flight.popleft().result()
        self._in_flight.append(self._pool.submit(self._write, planned, content))

    def _write(self, planned: PlannedShard, content: ShardContent) -> None:
        write_shard(self.place.folder, planned.name, planned.n_examples, content, self.dtype)
        paths = shard_paths(self.place.folder, planned.name)
        self.place.publish(paths.activations.name, paths.tokens.name, keep=False)
        self.place.publish(paths.record.name)


@contextmanager
def writable_folder(location: Location) -> Iterator[StagedFolder]:
    """Make a folder, hold its lock, and clear away what a killed writer left half-written.

    Raises:
        RunError: when another process writes it.
        StoreError: when it cannot be made or written.
    """
    place = StagedFolder(location)
    with ExitStack() as stack:
        try:
            stack.enter_context(folder_lock(place.folder, asked=f"write the store {location}"))
            for leftover in place.folder.glob(".*.tmp"):
                leftover.unlink(missing_ok=True)
        except OSError as err:
            raise write_error(place.folder, err) from err
        place.begin()
        yield place


def write_shard(folder: Path, name: str, n_examples: int, content: ShardContent, dtype: str) -> ShardRecord:
    """Write the two files of a shard, then the record that marks it as done."""
    paths = shard_paths(folder, name)
    with atomic_path(paths.activations) as temporary:
        sha256, n_bytes = write_tensors(temporary, shard_tensors(content.rows, dtype))
    table = token_bytes(content.tokens)
    write_bytes(paths.tokens, table)
    shard = Shard(
        name=name, n_tokens=content.n_tokens, n_examples=n_examples, sha256=sha256, tokens_sha256=hashlib.sha256(table).hexdigest(), n_bytes=n_bytes,
        tokens_bytes=len(table), rounding=content.rounding, skipped=content.skipped, n_massive_tokens=content.n_massive_tokens,
    )
    record = ShardRecord(shard=shard, harvest_s=content.harvest_s)
    record.save(paths.record)
    return record


def example_bytes(ids: Sequence[str], groups: Sequence[str], first_example: int) -> bytes:
    """The example table as Parquet."""
    return parquet_bytes(pa.table({
        "example": pa.array(range(first_example, first_example + len(ids)), pa.int32()),
        "id": pa.array(ids, pa.string()), "group": pa.array(groups, pa.string()),
    }))


def write_examples(place: StagedFolder, name: str, examples: Sequence[Example], first_example: int) -> str:
    """Write an example table, unless it stands there already. Returns its SHA-256."""
    content = example_bytes([example.id for example in examples], [example.group for example in examples], first_example)
    path = place.folder / name
    if not path.exists() or path.read_bytes() != content:
        write_bytes(path, content)
        place.publish(name)
    return hashlib.sha256(content).hexdigest()


def finished_shard(place: StagedFolder, planned: PlannedShard) -> ShardRecord | None:
    """The record of a planned shard whose files are all there and unchanged, else None."""
    paths = shard_paths(place.folder, planned.name)
    try:
        record = ShardRecord.load(paths.record)
        shard = record.shard
        if record.dropped:
            return None
        if place.remote is None:
            whole = (sha256_file(paths.activations), sha256_file(paths.tokens)) == (shard.sha256, shard.tokens_sha256)
        else:
            whole = (place.uploaded_size(paths.activations.name), place.uploaded_size(paths.tokens.name)) == (shard.n_bytes, shard.tokens_bytes)
    except (RunError, OSError):
        return None
    return record if whole and (shard.name, shard.planned_tokens, shard.n_examples) == (planned.name, planned.n_tokens, planned.n_examples) else None


def token_bytes(tokens: Mapping[str, Int[np.ndarray, " row"]]) -> bytes:
    """The token table as Parquet. Neighbouring positions and character offsets differ little: differences take less than half of the space."""
    table = pa.table({name: pa.array(column, pa.int32()) for name, column in tokens.items()})
    rising = ["position", "char_start", "char_end"]
    return parquet_bytes(table, use_dictionary=[name for name in tokens if name not in rising], column_encoding=dict.fromkeys(rising, "DELTA_BINARY_PACKED"))


def parquet_bytes(table: pa.Table, **settings: object) -> bytes:
    """A table as Parquet with page checksums; made in memory, so that a full disk is met by one plain write."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True, **settings)
    return sink.getvalue().to_pybytes()
