"""Writes the files of a store, each atomically and with its checksum, on a thread of its own; finds out which shards stand already.

A shard counts as done when its record is there and both files have the recorded SHA-256. Refuses: nothing; a full disk or an
unwritable folder comes back as StoreError, and finished shards stay.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int
from torch import Tensor

from sparselight.errors import RunError
from sparselight.files import atomic_path, folder_lock, sha256_file, write_bytes, write_error
from sparselight.protocols import Example
from sparselight.records import Shard
from sparselight.store.plan import PlannedShard, ShardRecord, shard_paths
from sparselight.store.tensors import write_tensors


@dataclass(frozen=True, slots=True)
class ShardContent:
    """The rows of one shard, in corpus order."""

    activations: Mapping[str, Float[Tensor, "row d_in"]]
    """By site, in the number format of the store."""
    tokens: Mapping[str, Int[np.ndarray, " row"]]
    """By column of the token table."""
    harvest_s: float


class ShardWriter:
    """Writes shards in the background, at most one in flight. An error comes up at the next `write` or at the end."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="shard-writer")
        self._in_flight: Future[None] | None = None

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finish the shard in flight even when the caller failed: it is then one less to do again."""
        self._pool.shutdown(wait=True)
        if kind is None:
            self._wait()

    def write(self, planned: PlannedShard, content: ShardContent) -> None:
        self._wait()
        self._in_flight = self._pool.submit(write_shard, self.folder, planned, content)

    def _wait(self) -> None:
        if self._in_flight is not None:
            self._in_flight.result()


@contextmanager
def writable_folder(folder: Path) -> Iterator[None]:
    """Make a folder, hold its lock, and clear away what a killed writer left half-written.

    Raises:
        RunError: when another process writes it.
        StoreError: when it cannot be made or written.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(folder_lock(folder, asked=f"harvest into {folder}"))
            for leftover in folder.glob(".*.tmp"):
                leftover.unlink(missing_ok=True)
        except OSError as err:
            raise write_error(folder, err) from err
        yield


def write_shard(folder: Path, planned: PlannedShard, content: ShardContent) -> None:
    """Write the two files of a shard, then the record that marks it as done."""
    paths = shard_paths(folder, planned.name)
    with atomic_path(paths.activations) as temporary:
        sha256 = write_tensors(temporary, content.activations)
    table = parquet_bytes(pa.table({name: pa.array(column, pa.int32()) for name, column in content.tokens.items()}))
    write_bytes(paths.tokens, table)
    shard = Shard(
        name=planned.name, n_tokens=planned.n_tokens, n_examples=planned.n_examples, sha256=sha256, tokens_sha256=hashlib.sha256(table).hexdigest(),
    )
    ShardRecord(shard=shard, harvest_s=content.harvest_s).save(paths.record)


def write_examples(folder: Path, examples: Sequence[Example]) -> None:
    """Write the example table, unless it stands there already."""
    table = pa.table({
        "example": pa.array(range(len(examples)), pa.int32()),
        "id": pa.array([example.id for example in examples], pa.string()),
        "group": pa.array([example.group for example in examples], pa.string()),
    })
    content, path = parquet_bytes(table), folder / "examples.parquet"
    if not path.exists() or path.read_bytes() != content:
        write_bytes(path, content)


def finished_shard(folder: Path, planned: PlannedShard) -> ShardRecord | None:
    """The record of a planned shard whose files are all there and unchanged, else None."""
    paths = shard_paths(folder, planned.name)
    try:
        record = ShardRecord.load(paths.record)
        found = (record.shard.name, record.shard.n_tokens, record.shard.n_examples)
        whole = (sha256_file(paths.activations), sha256_file(paths.tokens)) == (record.shard.sha256, record.shard.tokens_sha256)
    except (RunError, OSError):
        return None
    return record if whole and found == (planned.name, planned.n_tokens, planned.n_examples) else None


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as Parquet with page checksums; made in memory, so that a full disk is met by one plain write."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue().to_pybytes()
