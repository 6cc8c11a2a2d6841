"""Logs beside log.jsonl: the same numbers, one run however often it is interrupted, a refusal where the package is missing."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from planted import SITE, SUBJECT, MemoryStore, directions, planted

from sparselight.errors import ConfigError
from sparselight.train import TrainConfig, trackers, train_many, train_sae

CONFIG = TrainConfig.parse({"n_latents": 64, "k": 4, "n_tokens": 12_800, "batch_tokens": 128, "log_every_steps": 10})
STORE = MemoryStore(planted(directions(), 2_000, 1))


class KilledError(Exception):
    pass


def interrupted_training(folder: Path, config: TrainConfig) -> None:
    """Stopped at step 57, the last checkpoint at 33: lines of steps 40 and 50 were written and are written again."""
    from sparselight.train.checkpoint import Checkpoints

    def progress(done: float, total: float, note: str = "") -> None:
        if done == 57 * 128:
            raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save_if_due", lambda self, state: self.save(state) if state.step == 33 else None)
        with pytest.raises(KilledError):
            train_sae(STORE, None, SITE, config, folder, SUBJECT, progress=progress)
    train_sae(STORE, None, SITE, config, folder, SUBJECT)


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_tensorboard_shows_every_point_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    interrupted_training(tmp_path, CONFIG.model_copy(update={"log_to": ("tensorboard",)}))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    lines = lines_of(tmp_path)
    for name in ("mse", "fvu", "l0", "lr", "grad_norm"):
        points = events.Scalars(name)
        assert [point.step for point in points] == [line["step"] for line in lines] == list(range(10, 101, 10))
        assert [point.value for point in points] == pytest.approx([line[name] for line in lines])


def test_each_sae_of_a_sweep_has_its_own_run(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    config = CONFIG.model_copy(update={"log_to": ("tensorboard",)})
    train_many(STORE, None, SITE, {"a": config, "b": config.model_copy(update={"k": 2.0})}, tmp_path, SUBJECT)
    assert all(len(list((tmp_path / name / "tensorboard").glob("events*"))) == 1 for name in ("a", "b"))


@pytest.mark.parametrize("name", trackers.TRACKERS)
def test_a_missing_tracker_is_refused_before_anything_is_written(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", lambda module: raise_missing() if name in module else real(module))
    command = "'sparselight.track.'" if name == "tensorboard" else name
    with pytest.raises(ConfigError, match=rf"log to train.log_to = '{name}': the package {name} is not installed. Instead: run `pip install {command}`"):
        train_sae(STORE, None, SITE, CONFIG.model_copy(update={"log_to": (name,)}), tmp_path, SUBJECT)
    assert not list(tmp_path.iterdir())


def raise_missing() -> None:
    raise ImportError


class Recorder:
    """Stands in for wandb and trackio where they are not installed: one run, its points."""

    def __init__(self) -> None:
        self.inits: list[dict] = []
        self.points: list[tuple[int, dict]] = []

    def init(self, **arguments: object) -> "Recorder":
        self.inits.append(arguments)
        return self

    def log(self, values: dict, step: int) -> None:
        self.points.append((step, values))

    def finish(self) -> None:
        pass


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_resumed_run_is_the_same_run_and_gives_no_point_twice(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setitem(sys.modules, name, recorder)  # type: ignore[arg-type]
    interrupted_training(tmp_path, CONFIG.model_copy(update={"log_to": (name,)}))
    assert [step for step, _ in recorder.points] == list(range(10, 101, 10))
    assert [values["mse"] for _, values in recorder.points] == [line["mse"] for line in lines_of(tmp_path)]
    assert "step" not in recorder.points[0][1]
    first, second = recorder.inits
    assert {**first} == {**second}
    assert first["resume"] == "allow"


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_trackers import CONFIG, interrupted_training
interrupted_training(Path({folder!r}), CONFIG.model_copy(update={{"log_to": ({name!r},)}}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_with_the_real_package_offline(name: str, tmp_path: Path) -> None:
    """In a process of its own: these packages start threads and services."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed (pip install {name})")
    code = SCRIPT.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "run"), name=name)
    env = os.environ | {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == ""
    assert [line["step"] for line in lines_of(tmp_path / "run")] == list(range(10, 101, 10))
    if name == "trackio":
        import sqlite3

        (database,) = (tmp_path / "trackio").glob("*.db")
        steps = sqlite3.connect(database).execute("SELECT step FROM metrics ORDER BY id").fetchall()
        assert [step for (step,) in steps] == list(range(10, 101, 10))
    else:
        runs = [path.name.rpartition("-")[2] for path in (tmp_path / "run" / "wandb").glob("offline-run-*")]
        assert len(runs) == 2
        assert len(set(runs)) == 1
