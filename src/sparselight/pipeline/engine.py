"""Runs stages in order inside one run folder: skips what is finished, goes on with what was interrupted, keeps times.

A stage's folder is named by the stage and the hash of its config and inputs; `record.json` in it, written last, says that it is
complete. Nothing outside a stage's own folder changes while it works, so any interruption costs at most that stage's last part.
"""

import hashlib
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparselight import __version__
from sparselight.config import canonical_json
from sparselight.errors import RunError
from sparselight.files import folder_lock, write_bytes
from sparselight.protocols import Progress, no_progress
from sparselight.records import RunRecord, StageRecord

HEARTBEAT_S = 2.0


@dataclass(frozen=True)
class Stage:
    """One step of a run."""

    name: str
    inputs: tuple[str, ...]
    """Stages whose output it reads."""
    config: Mapping[str, Any]
    """Resolved settings that change its output."""
    work: Callable[[Path, Progress], dict[str, Any]]
    """Does the work in the given folder and returns a summary; its key `output`, if any, is the fingerprint of what was made."""
    intact: Callable[[Path], bool] = lambda _folder: True
    """Cheap look at a finished folder; False (a file was deleted because it was damaged) does the stage again."""


@dataclass
class Watcher:
    """What a run tells whoever watches: every call has a default that does nothing."""

    stage_begins: Callable[[str, bool], None] = lambda _name, _finished: None
    stage_ends: Callable[[StageRecord], None] = lambda _record: None
    progress: Callable[[str], Progress] = lambda _name: no_progress


@dataclass
class Run:
    """A run folder being worked on: finished stages by name, with their folders."""

    folder: Path
    records: dict[str, StageRecord] = field(default_factory=dict)

    def path(self, stage: str) -> Path:
        return stage_folder(self.folder, stage, self.records[stage].hash)


def stage_folder(run: Path, stage: str, digest: str) -> Path:
    return run / f"{stage}-{digest[:10]}"


def stage_hash(stage: Stage, records: Mapping[str, StageRecord]) -> str:
    """SHA-256 over the stage's name, settings, record version and the outputs of its inputs."""
    content = {
        "stage": stage.name, "version": StageRecord.VERSION, "config": dict(stage.config),
        "inputs": {name: records[name].output for name in stage.inputs},
    }
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def execute(folder: Path, name: str, recipe: Mapping[str, Any], make_stages: Callable[[Run], list[Stage]], until: str | None = None,
            watcher: Watcher | None = None) -> Run:
    """Run every stage up to `until` (the last, if None).

    Raises:
        RunError: when another process works in the folder, or the folder holds something that is not a run.
    """
    watcher = watcher or Watcher()
    check_folder(folder)
    run = Run(folder)
    with folder_lock(folder, asked=f"run in {folder}"):
        for stage in make_stages(run):
            digest = stage_hash(stage, run.records)
            place = stage_folder(folder, stage.name, digest)
            finished = (place / "record.json").exists() and stage.intact(place)
            watcher.stage_begins(stage.name, finished)
            record = StageRecord.load(place / "record.json") if finished else _work(stage, digest, place, run, watcher)
            run.records[stage.name] = record
            save_run_record(run, name, recipe)
            watcher.stage_ends(record)
            if stage.name == until:
                break
    return run


def check_folder(folder: Path) -> None:
    if folder.is_file() or (folder.is_dir() and not (folder / "run.json").exists() and any(path.name != ".lock" for path in folder.iterdir())):
        raise RunError(asked=f"use {folder} as a run folder", why="it holds something else", instead="give a new folder, or that of an earlier run, with --out")


def save_run_record(run: Run, name: str, recipe: Mapping[str, Any]) -> None:
    stages = {stage: run.path(stage).name for stage in run.records}
    report = run.path("report") / "report.html" if "report" in run.records else None
    RunRecord(
        name=name, recipe=dict(recipe), stages=stages, wall_s={stage: record.wall_s for stage, record in run.records.items()},
        report=report.relative_to(run.folder).as_posix() if report else None,
    ).save(run.folder / "run.json")


def _work(stage: Stage, digest: str, place: Path, run: Run, watcher: Watcher) -> StageRecord:
    place.mkdir(parents=True, exist_ok=True)
    if not (run.folder / "run.json").exists():
        write_bytes(run.folder / "run.json", b"{}\n")  # marks the folder as a run before its first stage is finished
    clock = _Clock(place / ".elapsed_s", watcher.progress(stage.name))
    summary = stage.work(place, clock)
    record = StageRecord(
        stage=stage.name, hash=digest, output=str(summary.pop("output", digest)), config=dict(stage.config),
        inputs={name: run.records[name].output for name in stage.inputs}, wall_s=clock.elapsed_s(), machine=machine(),
        sparselight_version=__version__, summary=summary,
    )
    record.save(place / "record.json")
    clock.path.unlink(missing_ok=True)
    return record


class _Clock:
    """A Progress that passes calls on and keeps, on disk, the seconds spent over all attempts at a stage."""

    def __init__(self, path: Path, inner: Progress):
        self.path, self.inner, self.began, self.written = path, inner, time.monotonic(), time.monotonic()
        try:
            self.before = float(path.read_text())
        except (OSError, ValueError):
            self.before = 0.0

    def elapsed_s(self) -> float:
        return self.before + time.monotonic() - self.began

    def __call__(self, done: float, total: float, note: str = "") -> None:
        if time.monotonic() - self.written > HEARTBEAT_S:
            write_bytes(self.path, f"{self.elapsed_s():.3f}".encode())
            self.written = time.monotonic()
        self.inner(done, total, note)


def machine() -> str:
    """The machine in words: processor, cores in use, system."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{model}, {os.cpu_count()} cores, {platform.system()}"
