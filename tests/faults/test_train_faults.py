"""What goes wrong during a training: a kill at any moment, activations that are not finite, a full disk."""

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

from sparselight.errors import StoreError, TrainingError
from sparselight.train import checkpoint, objectives

HELPER = Path(__file__).with_name("train_both.py")
sys.path.insert(0, str(HELPER.parent))
from train_both import BASE, ROWS, SITE, SUBJECT, Rows, train_both, train_sae  # noqa: E402


def steps_done(folder: Path) -> int:
    return sum((folder / name / "log.jsonl").read_text().count("\n") for name in ("base", "residual") if (folder / name / "log.jsonl").exists())


def test_killed_at_random_moments_the_weights_come_out_the_same(tmp_path: Path) -> None:
    expected, folder = train_both(tmp_path / "whole"), tmp_path / "killed"
    rng, kills = random.Random(os.environ.get("KILL_SEED", "0")), 0

    def start() -> subprocess.Popen[str]:
        arguments = [sys.executable, str(HELPER), str(folder), str(torch.get_num_threads())]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    for target in (rng.randrange(2, 25), rng.randrange(28, 45)):  # lines of the log: 30 while the base trains, 18 for the residual
        process = start()
        while process.poll() is None and steps_done(folder) < target:
            time.sleep(0.001)
        time.sleep(rng.random() * 0.02)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
    found, errors = start().communicate(timeout=120)
    assert tuple(found.split()) == expected, errors
    assert kills >= 1
    for name, n_steps in (("base", 300), ("residual", 187)):
        lines, whole = (list(map(json.loads, (run / name / "log.jsonl").read_text().splitlines())) for run in (folder, tmp_path / "whole"))
        assert [line["step"] for line in lines] == sorted({*range(10, n_steps, 10), n_steps})
        assert [line["mse"] for line in lines] == [line["mse"] for line in whole]
        assert sorted(path.name for path in (folder / name).iterdir()) == [".lock", "log.jsonl", "sae", "training.json"]


def spoiled(row: int) -> Rows:
    x = ROWS.x.clone()
    x[row, 3] = float("inf")
    rows = Rows(x)
    rows.fingerprint = hashlib.sha256(x.numpy().tobytes()).hexdigest()
    return rows


def test_activations_that_are_not_finite_are_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"train on step \d+: row 17 of the store holds activations that are not finite at resid_post.1"):
        train_sae(spoiled(17), None, SITE, BASE, tmp_path, SUBJECT)


def test_a_step_that_is_not_finite_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def breaks(inputs: objectives.TermInputs) -> torch.Tensor:
        seen.append(1)
        return objectives.mse(inputs) * (float("nan") if len(seen) == 8 else 1.0)

    monkeypatch.setitem(objectives.TERMS, "mse", breaks)
    with pytest.raises(TrainingError, match=r"take training step 7: its mse is nan.*train.lr smaller"):
        train_sae(ROWS, None, SITE, BASE.model_copy(update={"checkpoint_every_s": 0.0}), tmp_path, SUBJECT)
    newest = max((tmp_path / "checkpoints").glob("step-*"))
    found = checkpoint.read_checkpoint(newest)
    assert found is not None
    assert found[1] == 7
    assert all(tensor.isfinite().all() for tensor in found[0].values())


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert [path.name[0] for path in (tmp_path / "checkpoints").iterdir()] == ["s", "s"]  # the last two, and nothing torn
    train_sae(ROWS, None, SITE, BASE, tmp_path, SUBJECT)  # space was made
