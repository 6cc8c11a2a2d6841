"""What goes wrong during a training: a kill at any moment, activations that are not finite, a diverging loss."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sparselight.errors import TrainingError

SCRIPT = '''
import hashlib, sys
from pathlib import Path
import torch
from sparselight.records import StoreManifest, SubjectRef, TokenPolicy
from sparselight.train import TrainConfig, train_sae

SITE = "resid_post.1"
SUBJECT = SubjectRef(name="noise", fingerprint="p", token_policy=TokenPolicy(prepend_bos=True, context_tokens=64))

class Rows:
    def __init__(self, x):
        self.x, self.n_tokens, self.fingerprint = x, len(x), hashlib.sha256(x.numpy().tobytes()).hexdigest()
        self.manifest = StoreManifest(subject=SUBJECT, corpus_fingerprint="c", sites={SITE: x.shape[1]}, dtype="float32", shards=[],
                                      n_tokens=len(x), n_examples=1, harvest_s=0)
    def read(self, rows, site):
        return self.x[torch.from_numpy(rows)]

BASE = TrainConfig(n_latents=96, k=4, n_tokens=24_000, batch_tokens=64, dead_after_tokens=4_000, checkpoint_every_s=0)
RESIDUAL = TrainConfig(n_latents=24, k=2, n_tokens=12_000, batch_tokens=64, dead_after_tokens=2_000, checkpoint_every_s=0)
ROWS = Rows(torch.randn(3_000, 24, generator=torch.Generator().manual_seed(0)) ** 3)

def train_both(folder):
    base = train_sae(ROWS, None, SITE, BASE, folder / "base", SUBJECT)
    residual = train_sae(ROWS, None, SITE, RESIDUAL, folder / "residual", SUBJECT, base)
    return base.weights_hash(), residual.weights_hash()
'''
exec(SCRIPT)  # the same definitions here and in the process that is killed


def steps_done(folder: Path) -> int:
    return sum((folder / name / "log.jsonl").read_text().count("\n") for name in ("base", "residual") if (folder / name / "log.jsonl").exists())


def test_killed_at_random_moments_the_weights_come_out_the_same(tmp_path: Path) -> None:
    """The uninterrupted training runs in a process of its own, as the interrupted one does."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT + "\nprint(*train_both(Path(sys.argv[1])))\n")

    def start(folder: Path) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, str(script), str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    expected, errors = start(tmp_path / "whole").communicate(timeout=120)
    assert len(expected.split()) == 2, errors
    rng, kills, folder = random.Random(os.environ.get("KILL_SEED", "0")), 0, tmp_path / "killed"
    for target in (6, 26, 45):  # of 37 and 18 log lines
        process = start(folder)
        while process.poll() is None and steps_done(folder) < target:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.05)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
    found, errors = start(folder).communicate(timeout=120)
    assert found == expected, errors
    assert kills >= 2
    for name, n_steps in (("base", 375), ("residual", 187)):
        lines = [json.loads(line) for line in (folder / name / "log.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [*range(10, n_steps, 10), n_steps]
        whole = [json.loads(line) for line in (tmp_path / "whole" / name / "log.jsonl").read_text().splitlines()]
        assert [line["mse"] for line in lines] == [line["mse"] for line in whole]
        assert not (folder / name / "checkpoints").exists()
        assert sorted(path.name for path in (folder / name).iterdir()) == [".lock", "log.jsonl", "sae", "training.json"]


def spoiled(row: int) -> "Rows":
    x = ROWS.x.clone()
    x[row, 3] = float("inf")
    rows = Rows(x)
    rows.fingerprint = hashlib.sha256(x.numpy().tobytes()).hexdigest()
    return rows


def test_activations_that_are_not_finite_are_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"train on step \d+: row 17 of the store holds activations that are not finite at resid_post.1"):
        train_sae(spoiled(17), None, SITE, BASE, tmp_path, SUBJECT)


def test_a_step_that_is_not_finite_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparselight.train import objectives

    seen = []

    def breaks(inputs: objectives.TermInputs) -> torch.Tensor:
        seen.append(1)
        return objectives.mse(inputs) * (float("nan") if len(seen) == 8 else 1.0)

    monkeypatch.setitem(objectives.TERMS, "mse", breaks)
    with pytest.raises(TrainingError, match=r"take training step 7: its mse is nan.*train.lr smaller"):
        train_sae(ROWS, None, SITE, BASE, tmp_path, SUBJECT)
    from sparselight.train.checkpoint import read_checkpoint

    newest = max((tmp_path / "checkpoints").glob("step-*"))
    found = read_checkpoint(newest)
    assert found is not None
    assert found[1] == 7
    assert all(tensor.isfinite().all() for tensor in found[0].values())


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparselight.errors import StoreError
    from sparselight.train import checkpoint

    real, calls = checkpoint.save_file, []

    def full(*arguments: object, **more: object) -> None:
        calls.append(1)
        if len(calls) == 5:
            raise OSError(28, "No space left on device")
        real(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        with pytest.raises(StoreError, match="the disk is full"):
            train_sae(ROWS, None, SITE, BASE, tmp_path, SUBJECT)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] and steps_done(tmp_path) == 0
    newest = max((tmp_path / "checkpoints").glob("step-*"))
    assert newest.name == "step-000000004.safetensors"
