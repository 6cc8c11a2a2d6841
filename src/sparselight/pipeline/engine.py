"""Runs stages in order inside one run folder: skips what is finished, goes on with what was interrupted, keeps times.

A stage's folder is named by the stage and the hash of its config and inputs; `record.json` in it, written last, says that it is
complete and lists its files. A stage whose files are not all there in their size is done again. Nothing outside a stage's own folder
changes while it works, so any interruption costs at most that stage's last part.
"""

import hashlib
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from sparselight import __version__
from sparselight.config import canonical_json
from sparselight.errors import RunError
from sparselight.files import folder_lock, make_folder, write_bytes
from sparselight.protocols import Progress, no_progress
from sparselight.records import RunRecord, StageRecord
from sparselight.vocab import STAGES

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
    repairs: bool = False
    """Whether the work, done again in its own folder, remakes only what is missing there; else the folder is emptied first."""
    code: tuple[str, ...] = ()
    """Packages whose source code counts as an input: for stages that are cheap to redo and whose rules change with the code."""


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
        "stage": stage.name, "version": StageRecord.VERSION, "config": dict(stage.config), "code": [source_hash(package) for package in stage.code],
        "inputs": {name: records[name].output for name in stage.inputs},
    }
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


@cache
def source_hash(package: str) -> str:
    """SHA-256 over the files of a package of sparselight; compiled ones, which another process may be writing, are left out."""
    root, digest = Path(str(resources.files("sparselight"))) / package, hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if "__pycache__" not in path.parts and path.is_file() and path.suffix != ".pyc"):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def finished_record(place: Path) -> StageRecord | None:
    """The record of a complete stage folder; None when the stage is unfinished, or a file of it is gone, cut or its record unreadable."""
    try:
        record = StageRecord.load(place / "record.json")
    except RunError:
        return None
    whole = all((place / name).is_file() and (place / name).stat().st_size == size for name, size in record.files.items())
    return record if whole else None


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
            found = finished_record(place)
            watcher.stage_begins(stage.name, found is not None)
            run.records[stage.name] = found or _work(stage, digest, place, run, watcher)
            if found is None or stage.name == STAGES[-1]:  # a look at an earlier stage of a finished run leaves its record alone
                save_run_record(run, name, recipe)
            watcher.stage_ends(run.records[stage.name])
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
    redo = (place / "record.json").exists()
    if redo and not stage.repairs:
        shutil.rmtree(place)
    make_folder(place)
    (place / "record.json").unlink(missing_ok=True)
    if not (run.folder / "run.json").exists():
        write_bytes(run.folder / "run.json", b"{}\n")  # marks the folder as a run before its first stage is finished
    clock = _Clock(place / ".elapsed_s", watcher.progress(stage.name))
    summary = stage.work(place, clock)
    record = StageRecord(
        stage=stage.name, hash=digest, output=str(summary.pop("output", digest)), config=dict(stage.config),
        inputs={name: run.records[name].output for name in stage.inputs}, wall_s=clock.elapsed_s(), machine=machine(),
        sparselight_version=__version__, summary=summary, files=files_in(place),
    )
    record.save(place / "record.json")
    clock.path.unlink(missing_ok=True)
    return record


def files_in(place: Path) -> dict[str, int]:
    """Size of every file that a stage left, by path; locks and other dot files do not count."""
    paths = sorted(path for path in place.rglob("*") if path.is_file() and not any(part.startswith(".") for part in path.relative_to(place).parts))
    return {path.relative_to(place).as_posix(): path.stat().st_size for path in paths if path != place / "record.json"}


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
