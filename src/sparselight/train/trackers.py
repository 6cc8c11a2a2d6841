"""Copies of log.jsonl's lines for TensorBoard, Weights & Biases and trackio, each a row of TRACKERS, imported when asked for (train.log_to).

A resumed training goes on in the same run and gives no point twice: TensorBoard is told from where on older points do not count, the others get no
step again that they have had. Where the last two send them is theirs to say (WANDB_MODE, WANDB_PROJECT, TRACKIO_DIR ... in the environment).
Refuses: a tracker that is not installed.
"""

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sparselight.errors import ConfigError

PROJECT = "sparselight"
INSTALLS = {"tensorboard": "'sparselight[track]'", "wandb": "wandb", "trackio": "trackio"}


class Tracker(Protocol):
    """Somewhere that takes lines."""

    def write(self, step: int, values: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker needs to know of a training."""

    name: str
    id: str
    """The same for the same training in the same folder."""
    folder: Path
    config: Mapping[str, Any]
    first_step: int
    """Where this process goes on."""
    seen_step: int
    """The last step that an earlier process logged."""


class TensorBoard:
    """Event files in FOLDER/tensorboard."""

    def __init__(self, run: TrackedRun):
        self.writer = _load("torch.utils.tensorboard", "tensorboard").SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.first_step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()  # a killed process shall leave no hole

    def close(self) -> None:
        self.writer.close()


class WandB:
    """A run of Weights & Biases."""

    def __init__(self, run: TrackedRun):
        wandb = _load("wandb", "wandb")
        self.seen_step = run.seen_step
        self.run = wandb.init(project=os.environ.get("WANDB_PROJECT", PROJECT), name=run.name, id=run.id, config=dict(run.config), dir=str(run.folder),
                              resume="allow", reinit="create_new")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        if step > self.seen_step:
            self.run.log(dict(values), step=step)

    def close(self) -> None:
        self.run.finish()


class Trackio:
    """A run of trackio, which knows runs by name."""

    def __init__(self, run: TrackedRun):
        self.trackio, self.seen_step = _load("trackio", "trackio"), run.seen_step
        self.run = self.trackio.init(project=PROJECT, name=f"{run.name}-{run.id[:8]}", config=dict(run.config), resume="allow", embed=False,
                                     auto_log_cpu=False, auto_log_gpu=False)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        if step > self.seen_step:
            self.run.log(dict(values), step=step)

    def close(self) -> None:
        self.run.finish()
        with contextlib.suppress(RuntimeError):  # it would finish its current run once more when Python ends, and print
            self.trackio.finish()


TRACKERS: dict[str, Callable[[TrackedRun], Tracker]] = {"tensorboard": TensorBoard, "wandb": WandB, "trackio": Trackio}


def check_installed(names: tuple[str, ...]) -> None:
    """Refuse trackers that are not there, before anything is written.

    Raises:
        ConfigError: naming the package.
    """
    for name in names:
        _load(name, name)


def open_trackers(names: tuple[str, ...], run: TrackedRun) -> list[Tracker]:
    """The trackers that train.log_to names. What they print goes to stderr.

    Raises:
        ConfigError: when one does not start, with its own words (nobody is logged in, say).
    """
    found = []
    with contextlib.redirect_stdout(sys.stderr):
        for name in names:
            try:
                found.append(TRACKERS[name](run))
            except Exception as err:
                raise ConfigError(asked=f"log to train.log_to = {name!r}", why=f"it does not start: {err}",
                                  instead="mend what it says, or leave it out: log.jsonl is written always") from err
    return found


def close_trackers(trackers: Sequence[Tracker]) -> None:
    with contextlib.redirect_stdout(sys.stderr):
        for tracker in trackers:
            tracker.close()


def _load(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ConfigError(asked=f"log to train.log_to = {package!r}", why=f"the package {package} is not installed",
                          instead=f"run `pip install {INSTALLS[package]}`, or leave it out: log.jsonl is written always") from None
