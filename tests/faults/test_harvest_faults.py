"""What goes wrong while activations are harvested, kept and read: kills, flipped bits in every kind of file, broken examples, jumping clocks."""

import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from sparselight.errors import RunError, StoreError
from sparselight.store import FolderStore, HarvestConfig, RowStream, harvest, repair, verify

FOLDER = Path(__file__).parent
spec = importlib.util.spec_from_file_location("toy_harvest_fault_subject", FOLDER.parent / "store" / "toy_subject.py")
toy = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toy)

SITE = "resid_post.1"
CONFIG = HarvestConfig(site=SITE, dtype="bfloat16", shard_tokens=40, batch_tokens=32)
KINDS = ["shard-00001.safetensors", "tokens-00001.parquet", "shard-00001.json", "examples.parquet", "plan.json", "manifest.json"]


def run_harvest(folder, subject=None, config=CONFIG):
    return harvest(subject or toy.ToySubject(), toy.toy_examples(), [SITE], folder, config, "corpus0")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_fifty_random_moments_a_store_is_unfinished_or_right():
    seed, memory = os.environ.get("KILL_SEED", "0"), Path("/dev/shm")  # a file system in memory, where there is one: waiting for disks is not what is tested
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as root:
        done = subprocess.run([sys.executable, FOLDER / "kill_harvests.py", root, "50", seed], capture_output=True, text=True, check=False,
                              env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["kills"] >= 50
    assert found["unfinished"] >= 10, found  # the moments are spread over the work


def flip_bit(path, rng):
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


@pytest.mark.parametrize("name", KINDS)
def test_any_flipped_bit_in_any_kind_of_file_is_named(tmp_path, name):
    run_harvest(tmp_path)
    path, rng = tmp_path / name, random.Random(name)
    whole = path.read_bytes()
    for _ in range(60):
        flip_bit(path, rng)
        assert name in verify(tmp_path), f"{path.read_bytes()} for {whole}"
        path.write_bytes(whole)
    assert verify(tmp_path) == {}


@pytest.mark.parametrize("name", KINDS)
def test_after_a_repair_the_good_shards_are_used_still(tmp_path, name):
    before = run_harvest(tmp_path)
    x, first = before.read(np.arange(before.n_tokens), SITE), before.manifest.shards[0].n_tokens
    second = before.manifest.shards[1].n_tokens
    flip_bit(tmp_path / name, random.Random(1))
    if name == "examples.parquet":  # ids are nowhere else: only the harvest has them
        with pytest.raises(StoreError, match="only the harvest can make it again"):
            repair(tmp_path)
        report = repair(tmp_path, lambda: run_harvest(tmp_path))
    else:
        report = repair(tmp_path)
    assert list(report.damaged) == [name]
    assert report.rebuilt == ([name] if name.endswith("json") else [])
    assert verify(tmp_path) == {}
    store = FolderStore.open(tmp_path)
    if name in KINDS[:2]:
        assert report.dropped == store.manifest.dropped == ["shard-00001"]
        x = torch.cat([x[:first], x[first + second:]])
    else:
        assert store.fingerprint == before.fingerprint
    assert torch.equal(store.read(np.arange(store.n_tokens), SITE), x)
    assert len(store.tokens()) == store.n_tokens
    assert run_harvest(tmp_path).fingerprint == before.fingerprint


def test_a_damaged_manifest_is_named_on_opening(tmp_path):
    run_harvest(tmp_path)
    flip_bit(tmp_path / "manifest.json", random.Random(0))
    with pytest.raises(RunError, match="manifest.json"):
        FolderStore.open(tmp_path)


def test_no_damaged_row_is_ever_handed_out(tmp_path):
    """Also when the file looks untouched: same size, same time of change, found whole before by this process."""
    store = run_harvest(tmp_path)
    rows, path = np.arange(store.n_tokens), tmp_path / "shard-00002.safetensors"
    x, stat, whole, rng = store.read(rows, SITE), path.stat(), path.read_bytes(), random.Random(3)
    n_seen = 0
    for _ in range(60):
        flip_bit(path, rng)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        try:
            assert torch.equal(FolderStore.open(tmp_path).read(rows, SITE), x)  # a flip in the padding of the header harms nothing
        except StoreError as err:
            assert "shard-00002.safetensors is damaged" in str(err)
            n_seen += 1
        path.write_bytes(whole)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert n_seen > 50
    assert torch.equal(FolderStore.open(tmp_path).read(rows, SITE), x)


def test_a_row_damaged_while_a_stream_reads_is_named(tmp_path):
    store = run_harvest(tmp_path)
    path = tmp_path / "shard-00001.safetensors"
    with RowStream(store, SITE, None, 16, 0) as stream:
        for step in range(4):
            stream.batch(step)
        with path.open("r+b") as handle:  # in place, among the values
            handle.seek(-12 * 2 * 20, os.SEEK_END)
            byte = handle.read(1)[0] ^ 1
            handle.seek(-1, os.SEEK_CUR)
            handle.write(bytes([byte]))
        with pytest.raises(StoreError, match="shard-00001.safetensors is damaged: at resid_post.1 .* do not match their checksums"):
            for step in range(4, 40):
                stream.batch(step)


@pytest.mark.parametrize("map_bytes", [0, 1 << 30])
def test_a_shard_truncated_while_it_is_open_is_named(tmp_path, map_bytes):
    run_harvest(tmp_path)
    store = FolderStore.open(tmp_path, map_bytes=map_bytes)
    with RowStream(store, SITE, None, 64, 0, prefetch_bytes=0) as stream:
        stream.batch(0)
        os.truncate(tmp_path / "shard-00001.safetensors", 200)
        with pytest.raises(StoreError, match="shard-00001.safetensors is damaged: it is truncated"):
            for step in range(1, 20):
                stream.batch(step)


class OneBroken(toy.ToySubject):
    """NaN for one word, and for all else in the forward pass that holds it."""

    def activation(self, token_id, position, site):
        values = super().activation(token_id, position, site)
        if (token_id == self.word).any():
            values[:] = torch.nan
        return values


def test_one_example_that_gives_nan_is_skipped_counted_and_named(tmp_path):
    examples = toy.toy_examples()
    examples[5] = type(examples[5])("spoilt", "w1 poison w2", "file1")
    subject = OneBroken()
    subject.word = int(toy.ToySubject().prepare([examples[5]]).token_id[1])
    store = harvest(subject, examples, [SITE], tmp_path / "all", CONFIG, "c")
    assert [(example.id, example.n_tokens) for example in store.manifest.skipped] == [("spoilt", 3)]
    assert "not finite" in store.manifest.skipped[0].why
    good = [example for example in examples if example.id != "spoilt"]
    without = harvest(toy.ToySubject(), good, [SITE], tmp_path / "good", CONFIG, "c")
    assert torch.equal(store.read(np.arange(store.n_tokens), SITE), without.read(np.arange(without.n_tokens), SITE))


def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch):
    expected = run_harvest(tmp_path / "steady")
    rng = random.Random(0)
    for name in ("time", "monotonic", "perf_counter"):
        monkeypatch.setattr(time, name, lambda: rng.uniform(-1e9, 1e9))
    for name in ("time_ns", "monotonic_ns", "perf_counter_ns"):
        monkeypatch.setattr(time, name, lambda: rng.randrange(10**18))
    store = run_harvest(tmp_path / "jumping")
    with RowStream(store, SITE, None, 16, 0) as one, RowStream(expected, SITE, None, 16, 0) as other:
        batches = [(one.batch(step), other.batch(step)) for step in range(12)]
    monkeypatch.undo()
    assert all(torch.equal(a, b) for a, b in batches)
    assert store.fingerprint == expected.fingerprint
    assert store.manifest.harvest_s >= 0
    for path in (tmp_path / "jumping").iterdir():  # files from the year 2100, and from 1970
        os.utime(path, (rng.choice([4.1e9, 0.0]),) * 2)
    assert verify(tmp_path / "jumping") == {}
    subject = toy.ToySubject()
    assert run_harvest(tmp_path / "jumping", subject).fingerprint == expected.fingerprint
    assert subject.n_captured == 0
