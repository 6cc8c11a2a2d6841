"""Reading and streaming need the same memory whatever the size of the store."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sparselight.records import StoreManifest, SubjectRef, TokenPolicy
from sparselight.store.formats import StoredRows, encode, to_numpy
from sparselight.store.writer import ShardContent, write_shard

SITE, D_IN, SHARD_ROWS = "resid_post.1", 512, 4096
ALLOWED_BYTES = 1 << 25

CHILD = """
import resource, sys
import numpy as np
import torch
from sparselight.store import FolderStore, RowStream
folder, allowed = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
store = FolderStore.open(folder, map_bytes=allowed // 4)
with RowStream(store, "resid_post.1", None, 256, 0, prefetch_bytes=allowed // 8) as stream:  # what every run needs: threads, kernels
    for step in range(3):
        stream.batch(step)
def now(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))
base = now("VmRSS")
resource.setrlimit(resource.RLIMIT_AS, (now("VmSize") + allowed, resource.RLIM_INFINITY))
total = 0.0
with RowStream(store, "resid_post.1", None, 256, 1, prefetch_bytes=allowed // 8) as stream:
    for step in range(store.n_tokens // 256):
        total += float(stream.batch(step).sum(dtype=torch.float64))
for first in range(0, store.n_tokens, 1024):
    total -= float(store.read(np.arange(first, min(first + 1024, store.n_tokens)), "resid_post.1").sum(dtype=torch.float64))
print(now("VmHWM") - base, total)
"""


def write_store(folder: Path, n_shards: int) -> None:
    folder.mkdir()
    generator, shards = torch.Generator().manual_seed(0), []
    for number in range(n_shards):
        values, _ = encode(torch.randn(SHARD_ROWS, D_IN, generator=generator), "bfloat16")
        column = np.arange(SHARD_ROWS, dtype=np.int32)
        tokens = dict.fromkeys(("example", "position", "token_id", "char_start", "char_end"), column)
        content = ShardContent({SITE: StoredRows(to_numpy(values), None)}, tokens, 0.0)
        shards.append(write_shard(folder, f"shard-{number:05}", 1, content, "bfloat16").shard)
    subject = SubjectRef(name="noise", fingerprint="f", token_policy=TokenPolicy(prepend_bos=False, context_tokens=8))
    StoreManifest(subject=subject, corpus_fingerprint="c", sites={SITE: D_IN}, dtype="bfloat16", shards=shards, n_tokens=n_shards * SHARD_ROWS,
                  n_examples=n_shards, harvest_s=0.0).save(folder / "manifest.json")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures memory through /proc")
def test_a_store_four_times_the_allowed_memory_is_streamed_within_it(tmp_path):
    """The child may take ALLOWED_BYTES of address space more than it has after its first batches; the store is four times that."""
    n_shards = 4 * ALLOWED_BYTES // (SHARD_ROWS * D_IN * 2) + 1
    write_store(tmp_path / "large", n_shards)
    write_store(tmp_path / "small", 2)
    grown = {}
    for name in ("small", "large"):
        done = subprocess.run([sys.executable, "-c", CHILD, tmp_path / name, str(ALLOWED_BYTES)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        grown[name], difference = (float(word) for word in done.stdout.split())
        assert abs(difference) < 1e-3  # all rows were seen, each once
    assert sum(path.stat().st_size for path in (tmp_path / "large").glob("*.safetensors")) > 4 * ALLOWED_BYTES
    assert grown["large"] < ALLOWED_BYTES
