"""What goes wrong during a training: a kill at any moment, activations that are not finite, a full disk."""

import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sparselight.errors import StoreError, TrainingError
from sparselight.kernels import use_backend
from sparselight.kernels.dispatch import BACKENDS
from sparselight.train import checkpoint, objectives, train_sae
from sparselight.train.checkpoint import Checkpoints
from sparselight.train.log import TrainingLog, read_log
from sparselight.train.optimizer import Adam
from sparselight.train.state import TrainState

HELPER = Path(__file__).with_name("train_cases.py")
sys.path.insert(0, str(HELPER.parent))
from train_cases import CASES, SITE, STORE, SUBJECT, MemoryStore, config_for  # noqa: E402

SEED = os.environ.get("KILL_SEED", "0")
KILLED_FOR_REAL = ["batch_topk", "relu", "gated", "orthogonal", "dead latents", "bf16", "skip transcoder", "residual", "many"]
KILLS_EACH = 6  # at least 50 in all


class Server:
    """Trainings in processes that can be killed."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, str(HELPER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(self, case: str, folder: Path) -> int:
        """Begin a case; the id of its process, which stays its own until wait()."""
        return self._ask(f"{case}\t{folder}")

    def wait(self) -> int:
        """Exit code of the process that was started."""
        return self._ask("")

    def run(self, case: str, folder: Path) -> str:
        self.start(case, folder)
        assert self.wait() == 0
        return (folder / "hash").read_text()

    def _ask(self, line: str) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server()
    server.run("topk", tmp_path_factory.mktemp("first"))  # so that no case's duration holds the imports
    yield server
    server.process.communicate()


@pytest.mark.parametrize("case", KILLED_FOR_REAL)
def test_killed_at_random_moments_the_weights_come_out_the_same(case: str, server: Server, tmp_path: Path) -> None:
    began = time.monotonic()
    expected = server.run(case, tmp_path / "whole")
    duration, rng, kills, attempts = time.monotonic() - began, random.Random(f"{SEED} {case}"), 0, 0
    while kills < KILLS_EACH:  # a training that came to its end before the kill begins again in another folder
        folder = tmp_path / f"killed-{attempts}"
        process = server.start(case, folder)
        time.sleep(rng.uniform(0.05, 0.8) * duration)
        os.kill(process, signal.SIGKILL)
        if server.wait() == -signal.SIGKILL:
            kills += 1
        else:
            assert (folder / "hash").read_text() == expected
            attempts += 1
            duration *= 0.8  # the first one took longer than they do now
    folder = tmp_path / f"killed-{attempts}"
    assert server.run(case, folder) == expected
    for log in (tmp_path / "whole").rglob("log.jsonl"):
        lines, whole = ([{**line, "tokens_per_s": 0} for line in read_log(root / log.relative_to(tmp_path / "whole"))] for root in (folder, tmp_path / "whole"))
        assert lines == whole
    assert not list(folder.rglob("checkpoints"))
    assert not list(folder.rglob("*.tmp"))


def test_that_is_at_least_50_kills() -> None:
    assert KILLS_EACH * len(KILLED_FOR_REAL) >= 50


class KilledError(BaseException):
    pass


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread for tiny matrices; no fsync: it guards against a power cut, not a kill, and takes most of the time here."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


PLACES = [(Adam, "step"), (TrainingLog, "write"), (Checkpoints, "save_if_due"), (TrainState, "tensors"), (checkpoint, "save_file")]


def killed_here(case: str, folder: Path, rng: random.Random) -> None:
    """Run a case until some function is called for the n-th time; checkpoints are written at every third step or so."""
    place, name = rng.choice(PLACES)
    n = rng.randrange(2, 6) if (place, name) in PLACES[3:] or place is TrainingLog else rng.randrange(2, 24)
    calls = []
    real, real_save = getattr(place, name), Checkpoints.save_if_due

    def fails(*arguments: object, **more: object) -> object:
        calls.append(1)
        if len(calls) == n:
            raise KilledError
        return real(*arguments, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save_if_due", lambda self, state: real_save(self, state) if state.step % 3 == 0 else None)
        patch.setattr(place, name, fails)
        with contextlib.suppress(KilledError):
            CASES[case](folder, {"checkpoint_every_s": 0.0}, lambda *_: None)


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name in ("torch", "compiled")])
@pytest.mark.parametrize("case", CASES)
def test_stopped_in_the_middle_of_anything_the_weights_come_out_the_same(case: str, backend: str, tmp_path: Path) -> None:
    """Each time all state is made anew, the kernels' caches too."""
    rng = random.Random(f"{SEED} {case} {backend}")
    with use_backend(backend):
        expected = CASES[case](tmp_path / "whole", {}, lambda *_: None)
        for _ in range(3):
            killed_here(case, tmp_path / "stopped", rng)
        assert CASES[case](tmp_path / "stopped", {}, lambda *_: None) == expected
        best = [path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("best.safetensors")]
        assert all((tmp_path / "stopped" / path).read_bytes() == (tmp_path / "whole" / path).read_bytes() for path in best)


def spoiled(row: int) -> MemoryStore:
    x = STORE.sites[SITE].clone()
    x[row, 3] = float("inf")
    return MemoryStore(x)


SHORT = config_for({}, checkpoint_every_s=0.0)


def test_activations_that_are_not_finite_are_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"train on step \d+: row 17 of the store \(shard shard-00000, its row 17\) holds .* not finite at resid_post.1"):
        train_sae(spoiled(17), None, SITE, SHORT, tmp_path, SUBJECT)


def test_a_step_that_is_not_finite_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, term = [], objectives.TERMS["mse"]

    def breaks(inputs: objectives.TermInputs) -> torch.Tensor:
        seen.append(1)
        return term.value(inputs) * (float("nan") if len(seen) == 8 else 1.0)

    monkeypatch.setitem(objectives.TERMS, "mse", dataclasses.replace(term, value=breaks))
    with pytest.raises(TrainingError, match=r"take training step 7: its mse is nan.*train.lr smaller"):
        train_sae(STORE, None, SITE, SHORT, tmp_path, SUBJECT)
    newest = max((tmp_path / "checkpoints").glob("step-*"))
    found = checkpoint.read_checkpoint(newest)
    assert found is not None
    assert found[1] == 7
    assert all(tensor.isfinite().all() for name, tensor in found[0].items() if name != "best.loss")


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
            train_sae(STORE, None, SITE, SHORT, tmp_path, SUBJECT)
    assert [path.name[0] for path in (tmp_path / "checkpoints").iterdir()] == ["s", "s"]  # the last two, and nothing torn
    lines = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert lines["step"] == 4
    train_sae(STORE, None, SITE, SHORT, tmp_path, SUBJECT)  # space was made
