"""What reading a store costs: random order beside sequential, a training loop beside one without data, memory beside size, bytes a value.

Goals: random order >= 0.5 x a sequential read of the same rows; a training loop loses < 3 % to data; memory does not grow with the store;
bfloat16 = 2 bytes a value + < 2 %. Candidates take turns; medians of the ratios within a round.
Run: `python benchmarks/store.py [--rows 786432] [--d 384] [--rounds 7] [--small]`; writes results/store.json.
"""

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparselight import __version__
from sparselight.pipeline.engine import machine
from sparselight.records import StoreManifest, SubjectRef, TokenPolicy
from sparselight.store import FolderStore, RowStream, store_info
from sparselight.store.fetch import MAP_BYTES
from sparselight.store.formats import StoredRows, encode, row_sums, to_numpy
from sparselight.store.writer import ShardContent, example_bytes, write_shard

RESULT = Path(__file__).parent / "results" / "store.json"
SITE, BATCH, SHARD_ROWS, EXAMPLE_TOKENS = "resid_post.0", 4096, 65536, 256

MEMORY_CHILD = """
import sys, numpy as np, torch
from sparselight.store import FolderStore, RowStream
torch.set_num_threads(1)
store = FolderStore.open(sys.argv[1], map_bytes=int(sys.argv[2]))
def high_water():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
base = high_water()
with RowStream(store, "resid_post.0", None, 1024, 0) as stream:
    for step in range(store.n_tokens // 1024):
        stream.batch(step)
print(high_water() - base)
"""


def write_store(folder: Path, n_rows: int, d: int, dtype: str) -> FolderStore:
    """Noise with the token columns of ordinary text: ids by Zipf's law, four characters a token."""
    folder.mkdir(parents=True)
    generator, rng, shards = torch.Generator().manual_seed(0), np.random.default_rng(0), []
    for number, first in enumerate(range(0, n_rows, SHARD_ROWS)):
        n = min(SHARD_ROWS, n_rows - first)
        values, scale = encode(torch.randn(n, d, generator=generator), dtype)
        position = np.arange(n, dtype=np.int32) % EXAMPLE_TOKENS
        lengths = rng.integers(2, 7, n).astype(np.int32)
        start = np.cumsum(lengths) - lengths
        start -= start[np.arange(n) // EXAMPLE_TOKENS * EXAMPLE_TOKENS]
        tokens = {"example": (first + np.arange(n, dtype=np.int32)) // EXAMPLE_TOKENS, "position": position,
                  "token_id": np.minimum(rng.zipf(1.3, n), 50_000).astype(np.int32), "char_start": start, "char_end": start + lengths}
        content = ShardContent({SITE: StoredRows(to_numpy(values), None if scale is None else scale.numpy())}, tokens, 0.0)
        shards.append(write_shard(folder, f"shard-{number:05}", n // EXAMPLE_TOKENS, content, dtype).shard)
    n_examples = -(-n_rows // EXAMPLE_TOKENS)
    (folder / "examples.parquet").write_bytes(example_bytes([f"document-{i:06}" for i in range(n_examples)], ["g"] * n_examples, 0))
    subject = SubjectRef(name="noise", fingerprint="noise", token_policy=TokenPolicy(prepend_bos=False, context_tokens=EXAMPLE_TOKENS))
    StoreManifest(subject=subject, corpus_fingerprint="noise", sites={SITE: d}, dtype=dtype, shards=shards, n_tokens=n_rows, n_examples=n_examples,
                  harvest_s=0.0).save(folder / "manifest.json")
    return FolderStore.open(folder)


def reading(store: FolderStore, n_batches: int) -> dict[str, Callable[[int], None]]:
    """Ways to read the same number of rows; each gets a round's number, so that no two rounds read the same rows."""
    n_all = store.n_tokens // BATCH

    def files(_round: int) -> None:
        buffer, left = bytearray(1 << 20), n_batches * BATCH * row_bytes(store)
        for path in sorted(store.folder.glob("*.safetensors")) * (1 + n_batches // n_all):
            with path.open("rb", buffering=0) as handle:
                while left > 0 and (n := handle.readinto(buffer)):
                    left -= n

    def sequential(turn: int) -> None:
        for step in range(turn * n_batches, (turn + 1) * n_batches):
            first = step % n_all * BATCH
            store.read(np.arange(first, first + BATCH), SITE)

    def random(turn: int, prefetch_bytes: int) -> None:
        with RowStream(store, SITE, None, BATCH, turn, **({} if prefetch_bytes < 0 else {"prefetch_bytes": prefetch_bytes})) as stream:
            for step in range(n_batches):
                stream.batch(step)

    return {"files": files, "sequential": sequential, "random": lambda turn: random(turn, 0), "random, read ahead": lambda turn: random(turn, -1)}


def row_bytes(store: FolderStore) -> int:
    return sum(shard.n_bytes for shard in store.manifest.shards) // store.n_tokens


def drop_from_page_cache(store: FolderStore) -> bool:
    """Whether the next read of the store comes from the disk."""
    if not hasattr(os, "posix_fadvise"):
        return False
    os.sync()
    for path in store.folder.glob("*.safetensors"):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    return True


def measure_reading(folder: Path, n_rounds: int, map_bytes: int, cold: bool) -> dict[str, Any]:
    """Rows a second of every way, and its ratio to the sequential read of the same round.

    Args:
        map_bytes: as of FolderStore.open; 0 is what rows beyond a bound see. Mapped pages cannot be dropped from the page cache.
        cold: drop the store from the page cache before every turn.
    """
    store = FolderStore.open(folder, map_bytes=map_bytes)
    store.read(np.arange(0, store.n_tokens, SHARD_ROWS), SITE)  # the first look at each shard is not what is measured
    ways = reading(store, n_batches := max(8, store.n_tokens // BATCH // (8 if cold else 2)))
    rounds: list[dict[str, float]] = []
    for turn in range(n_rounds + 1):
        row = {}
        for name, run in ways.items():
            if cold and not drop_from_page_cache(store):
                return {"skipped": "this system cannot drop files from its page cache"}
            began = time.perf_counter()
            run(turn)
            row[name] = n_batches * BATCH / (time.perf_counter() - began)
        rounds.append(row)
    rounds = rounds[1:]  # the first fills caches
    return {
        "n_rows_a_round": n_batches * BATCH,
        "median_rows_per_s": {name: round(statistics.median(row[name] for row in rounds)) for name in rounds[0]},
        "median_ratio_to_sequential": {name: round(statistics.median(row[name] / row["sequential"] for row in rounds), 3) for name in rounds[0]},
    }


def measure_checksums(store: FolderStore, n_rounds: int) -> float:
    """Share of a sequential read that goes into the checksums of its rows."""
    rows = np.arange(min(store.n_tokens, BATCH))
    shares = []
    for _ in range(n_rounds):
        began = time.perf_counter()
        store.read(rows, SITE)
        read_s, stored = time.perf_counter() - began, store.read_stored(rows, SITE)
        began = time.perf_counter()
        row_sums(stored, rows)
        shares.append((time.perf_counter() - began) / read_s)
    return round(statistics.median(shares), 4)


def measure_training(store: FolderStore, n_rounds: int, n_steps: int, expansion: int) -> dict[str, Any]:
    """Seconds a step of dense encoder and decoder products, with batches of the store and with one batch in memory.

    The products of an SAE without its gradients: a step that is cheaper than a real one, so that the share of data is rather overstated.
    """
    d = store.manifest.sites[SITE]
    W_enc, W_dec = torch.randn(d, expansion * d) / d**0.5, torch.randn(expansion * d, d) / (expansion * d) ** 0.5
    memory = store.read(np.arange(BATCH), SITE)

    def loop(batch: Callable[[int], torch.Tensor]) -> float:
        began = time.perf_counter()
        for step in range(n_steps):
            (batch(step) @ W_enc).relu_() @ W_dec
        return (time.perf_counter() - began) / n_steps

    rounds = []
    for turn in range(n_rounds):
        with RowStream(store, SITE, None, BATCH, turn) as stream:
            rounds.append((loop(lambda _step: memory), loop(stream.batch)))
    return {"n_latents": expansion * d, "median_step_s": {"in memory": round(statistics.median(row[0] for row in rounds), 5),
                                                          "from the store": round(statistics.median(row[1] for row in rounds), 5)},
            "median_lost_frac": round(statistics.median(row[1] / row[0] - 1 for row in rounds), 4)}


def measure_memory(folder: Path, sizes: list[int], d: int) -> dict[str, Any]:
    """Peak memory of an epoch above what the imports took, for stores of different sizes, mappings bounded to a quarter of the smallest."""
    if not Path("/proc/self/status").exists():
        return {"skipped": "measured through /proc"}
    map_bytes, peaks = sizes[0] * d * 2 // 4, {}
    for n_rows in sizes:
        store = write_store(folder / f"memory-{n_rows}", n_rows, d, "bfloat16")
        size = sum(shard.n_bytes for shard in store.manifest.shards)
        done = subprocess.run([sys.executable, "-c", MEMORY_CHILD, store.folder, str(map_bytes)], capture_output=True, text=True, check=True)
        peaks[str(size)] = int(done.stdout)
    return {"map_bytes": map_bytes, "peak_bytes_by_store_bytes": peaks}


def main(options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(options.threads)
    result: dict[str, Any] = {
        "machine": machine(), "torch": str(torch.__version__), "sparselight": __version__, "threads": options.threads, "load_before": os.getloadavg()[0],
        "n_rows": options.rows, "d": options.d, "batch": BATCH, "n_rounds": options.rounds, "by_dtype": {},
        "goals": {"random_to_sequential": 0.5, "lost_frac": 0.03, "overhead_frac": 0.02},
    }
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for dtype in ("bfloat16", "float32", "int8"):
            place = Path(folder) / dtype
            info = store_info(write_store(place, options.rows, options.d, dtype).folder)
            result["by_dtype"][dtype] = {
                "bytes_per_value": round(info.bytes_per_value, 4), "overhead_frac": round(info.overhead_frac, 4),
                "from_disk": measure_reading(place, max(2, options.rounds // 3), 0, cold=True),
                "from_page_cache_unmapped": measure_reading(place, max(2, options.rounds // 3), 0, cold=False),
                "from_page_cache": measure_reading(place, options.rounds, MAP_BYTES, cold=False),
            }
            store = FolderStore.open(place)
            result["by_dtype"][dtype]["checksum_share_of_a_sequential_read"] = measure_checksums(store, options.rounds)
            if dtype == "bfloat16":
                result["training"] = measure_training(store, max(2, options.rounds // 2), options.steps, options.expansion)
            del store
            gc.collect()
        result["memory"] = measure_memory(Path(folder), [options.rows // 4, options.rows], options.d)
    return result


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=786_432)
    parser.add_argument("--d", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=30, help="of the training loop, a round")
    parser.add_argument("--expansion", type=int, default=16, help="latents a dimension in the training loop")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--folder", help="where the stores are written; by default the system's temporary folder")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--small", action="store_true", help="see that it works: little data, no useful numbers")
    options = parser.parse_args()
    if options.small:
        options.rows, options.rounds, options.steps, options.expansion = 131_072, 2, 5, 2
    return options


if __name__ == "__main__":
    options = parse()
    result = main(options)
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for dtype, row in result["by_dtype"].items():
        print(f"{dtype:<9} {row['bytes_per_value']:.3f} bytes a value; random / sequential, from the page cache: "
              f"{row['from_page_cache']['median_ratio_to_sequential']['random, read ahead']}, from disk: "
              f"{row['from_disk'].get('median_ratio_to_sequential', {}).get('random, read ahead', '-')}")
    print(f"training loop loses {100 * result['training']['median_lost_frac']:.1f} % to data; memory {result['memory']}; written to {options.out}")
