"""Kills harvests and appends of a tiny store at random moments, over and over: what test_harvest_faults.py runs in a process.

Imports once and forks each victim, so that a kill costs milliseconds. After every kill the store must be refused as unfinished, or hold
exactly what a complete harvest holds. Prints what it did as JSON.
"""

import importlib.util
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from sparselight.errors import StoreError
from sparselight.protocols import Example
from sparselight.store import FolderStore, HarvestConfig, append, harvest, verify

spec = importlib.util.spec_from_file_location("toy", Path(__file__).parents[1] / "store" / "toy_subject.py")
toy = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toy)

CONFIG = HarvestConfig(dtype="int8", shard_tokens=30, batch_tokens=32)
EXAMPLES = toy.toy_examples(40)
MORE = [Example(f"more{i}", example.text, example.group) for i, example in enumerate(toy.toy_examples(20, seed=9))]


def make(folder: Path) -> None:
    harvest(toy.ToySubject(), EXAMPLES, ["resid_post.0", "resid_post.1"], folder, CONFIG, "corpus0")


def add(folder: Path) -> None:
    append(toy.ToySubject(), MORE, folder, CONFIG, "corpus1")


def in_child(work: Callable[[Path], None], folder: Path) -> int:
    child = os.fork()
    if not child:
        try:
            work(folder)
            os._exit(0)
        except BaseException as err:
            print(repr(err), file=sys.stderr, flush=True)
            os._exit(1)
    return child


def finish(child: int) -> None:
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, "a harvest that was not killed failed"


def fingerprint(folder: Path) -> str:
    """Of a finished store, all of whose files are what they should be; nothing for an unfinished one."""
    try:
        store = FolderStore.open(folder)
    except StoreError:
        return ""
    assert verify(folder) == {}, verify(folder)
    return store.fingerprint


def main(root: Path, n_kills: int, seed: int) -> None:
    began, whole = time.monotonic(), root / "whole"
    finish(in_child(make, whole))
    harvested, longest_s = fingerprint(whole), time.monotonic() - began
    finish(in_child(add, whole))
    appended = fingerprint(whole)
    rng, kills, states, n_rounds = random.Random(seed), 0, Counter(), 0
    while kills < n_kills:
        folder, n_rounds = root / f"round{n_rounds}", n_rounds + 1
        for work, allowed, wanted in ((make, {"", harvested}, harvested), (add, {harvested, appended}, appended)):
            patience = rng.randrange(1, 8)
            for _ in range(patience):
                child = in_child(work, folder)
                time.sleep(rng.random() * longest_s * 0.8)
                os.kill(child, signal.SIGKILL)
                _, status = os.waitpid(child, 0)
                kills += os.WIFSIGNALED(status)
                longest_s *= 1.0 if os.WIFSIGNALED(status) else 0.8  # it came to its end before: the first one took longer than they do now
                found = fingerprint(folder)
                assert found in allowed, f"after {kills} kills {folder} reads as another store"
                states["finished" if found == wanted else "unfinished"] += 1
            finish(in_child(work, folder))
            assert fingerprint(folder) == wanted
        names = {path.name for path in folder.iterdir()}
        assert names == {path.name for path in whole.iterdir()}, names
        shutil.rmtree(folder)
    print(json.dumps({"kills": kills, "rounds": n_rounds, **states}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
