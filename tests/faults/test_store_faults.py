"""A killed, starved or damaged store never reads wrong, and running the harvest again mends it."""

import errno
import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sparselight import files
from sparselight.errors import RunError, StoreError
from sparselight.store import FolderStore, HarvestConfig, harvest

TOY = Path(__file__).parents[1] / "store" / "toy_subject.py"
spec = importlib.util.spec_from_file_location("toy_fault_subject", TOY)
toy = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toy)

SITE = "resid_post.1"
CONFIG = HarvestConfig(site=SITE, dtype="bfloat16", shard_tokens=40, batch_tokens=32)


def run_harvest(folder, subject=None, config=CONFIG):
    return harvest(subject or toy.ToySubject(), toy.toy_examples(), [SITE], folder, config, "corpus0")


def contents(folder):
    """Every file that does not hold a duration."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in (".safetensors", ".parquet") or path.name == "plan.json"}


@pytest.fixture
def whole(tmp_path):
    store = run_harvest(tmp_path / "whole")
    assert len(store.manifest.shards) >= 4
    return store


def test_resumes_after_an_exception_and_makes_only_what_is_missing(tmp_path, whole):
    all_batches = toy.ToySubject()
    run_harvest(tmp_path / "other", all_batches)

    def fail(n_batches):
        if n_batches == 8:
            raise RuntimeError("the model broke")

    with pytest.raises(RuntimeError, match="the model broke"):
        run_harvest(tmp_path / "store", toy.ToySubject(before_capture=fail))
    done = sorted(path.name for path in (tmp_path / "store").glob("shard-*.json"))
    assert 0 < len(done) < len(whole.manifest.shards)
    assert not (tmp_path / "store" / "manifest.json").exists()
    with pytest.raises(StoreError, match="did not finish"):
        FolderStore.open(tmp_path / "store")
    subject = toy.ToySubject()
    store = run_harvest(tmp_path / "store", subject)
    assert len(subject.batches) < len(all_batches.batches)
    assert contents(tmp_path / "store") == contents(whole.folder)
    assert store.fingerprint == whole.fingerprint


def test_a_partial_store_of_another_subject_is_refused_not_overwritten(tmp_path):
    def fail(n_batches):
        if n_batches == 8:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        run_harvest(tmp_path, toy.ToySubject(before_capture=fail))
    before = contents(tmp_path)
    with pytest.raises(StoreError, match="another subject or revision"):
        run_harvest(tmp_path, toy.ToySubject("0" * 64))
    assert contents(tmp_path) == before


def test_a_deleted_shard_record_costs_that_shard_only(whole):
    before = contents(whole.folder)
    times = {path.name: path.stat().st_mtime_ns for path in whole.folder.glob("*.safetensors")}
    (whole.folder / "shard-00002.json").unlink()
    assert run_harvest(whole.folder).fingerprint == whole.fingerprint
    assert contents(whole.folder) == before
    changed = [name for name, stamp in times.items() if (whole.folder / name).stat().st_mtime_ns != stamp]
    assert changed == ["shard-00002.safetensors"]


def flip_byte(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(("name", "damage", "message"), [
    ("shard-00001.safetensors", flip_byte,
     "shard-00001.safetensors is damaged: its SHA-256 is [0-9a-f]{64}, expected [0-9a-f]{64}.*delete shard-00001.safetensors"),
    ("shard-00001.safetensors", truncate, "shard-00001.safetensors is damaged: it is truncated: it has .* bytes"),
    ("shard-00001.safetensors", lambda path: os.truncate(path, 5), "it is truncated: its 5 bytes do not hold the header"),
    ("shard-00001.safetensors", Path.unlink, "shard-00001.safetensors is damaged: it is missing"),
    ("shard-00001.safetensors", lambda path: path.write_bytes(b"x" * 1000), "truncated|not that of a safetensors file"),
    ("tokens-00001.parquet", flip_byte, "tokens-00001.parquet is damaged"),
    ("tokens-00001.parquet", Path.unlink, "tokens-00001.parquet is damaged: it is missing"),
    ("examples.parquet", truncate, "examples.parquet is damaged"),
])
def test_damage_is_named_and_mended_by_harvesting_again(whole, name, damage, message):
    before = contents(whole.folder)
    whole.read(np.arange(whole.n_tokens), SITE)  # found whole once: a later change must still be seen
    damage(whole.folder / name)
    store = FolderStore.open(whole.folder)
    with pytest.raises(StoreError, match=message):
        store.verify()
    with pytest.raises(StoreError, match=message):
        store.read(np.arange(store.n_tokens), SITE)
        store.tokens()
        store.examples()
    if name.startswith("shard"):
        first = store.manifest.shards[0].n_tokens
        assert store.read(np.arange(first), SITE).shape == (first, 12)  # the other shards stay readable
    mended = run_harvest(whole.folder)
    mended.verify()
    assert contents(whole.folder) == before
    assert mended.fingerprint == whole.fingerprint


def test_a_full_disk_is_named_and_finished_shards_stay(tmp_path, whole, monkeypatch):
    real, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 9:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(StoreError, match=r"cannot write .*: the disk is full\. Instead: free some space"):
        run_harvest(tmp_path / "store")
    monkeypatch.undo()
    assert list((tmp_path / "store").glob("shard-*.json"))
    assert not list((tmp_path / "store").glob(".*.tmp"))
    run_harvest(tmp_path / "store")
    assert contents(tmp_path / "store") == contents(whole.folder)


def test_a_really_full_disk(tmp_path, whole):
    mount = tmp_path / "small"
    mount.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", mount], capture_output=True).returncode == 0
    if not mounted:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        with pytest.raises(StoreError, match="the disk is full"):
            run_harvest(mount / "store")
        assert list((mount / "store").glob("shard-*.json"))
        subprocess.run(["mount", "-o", "remount,size=1m", mount], check=True)
        assert run_harvest(mount / "store").fingerprint == whole.fingerprint
    finally:
        subprocess.run(["umount", "-l", mount], check=True)  # shards that are still mapped do not hold it


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write .*file"):
        run_harvest(tmp_path / "file" / "store")


KILLED = """
import importlib.util, os, sys, time
from pathlib import Path
from sparselight.store import HarvestConfig, harvest
spec = importlib.util.spec_from_file_location("toy", sys.argv[1])
toy = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toy)
real, folder = os.fsync, Path(sys.argv[2])
def slow(descriptor):
    if list(folder.glob(".shard-00002.safetensors.*")):
        (folder.parent / "writing").touch()
        time.sleep(600)
    real(descriptor)
os.fsync = slow
harvest(toy.ToySubject(), toy.toy_examples(), ["resid_post.1"], folder, HarvestConfig.model_validate_json(sys.argv[3]), "corpus0")
"""


def test_killed_in_the_middle_of_a_write_then_run_again_gives_the_same_bytes(tmp_path, whole):
    folder = tmp_path / "store"
    child = subprocess.Popen([sys.executable, "-c", KILLED, TOY, folder, CONFIG.model_dump_json()])
    try:
        while not (tmp_path / "writing").exists():
            assert child.poll() is None
            time.sleep(0.05)
        with pytest.raises(RunError, match="another process is writing"):  # two processes, one store: the second refuses
            run_harvest(folder)
        assert child.poll() is None
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert list(folder.glob(".shard-00002.safetensors.*.tmp"))
    assert sorted(path.name for path in folder.glob("shard-*.json")) == ["shard-00000.json", "shard-00001.json"]
    with pytest.raises(StoreError, match="did not finish"):
        FolderStore.open(folder)
    store = run_harvest(folder)
    assert contents(folder) == contents(whole.folder)
    assert store.fingerprint == whole.fingerprint
    assert not list(folder.glob(".*.tmp"))
