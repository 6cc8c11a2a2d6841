"""One measurement from start to entry: ours beside every other library that can do the task, two or three processes alive at a time.

Each other library meets ours in rounds of its own, so that memory holds however many there are; ours is there in all of them.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from . import results
from .candidates import peers_for
from .processes import ROOT, CandidateError, Process
from .roof import floor_s
from .rounds import Times, Turn, ratio, rounded, summary, take_turns
from .task import Task

Say = Callable[[str], None]


@contextlib.contextmanager
def given(task: Task) -> Iterator[Path]:
    """A folder with the activations of a task."""
    with TemporaryDirectory() as name:
        sizes = [str(value) for value in (task.d_in, task.n_latents, task.batch, task.k, task.seed)]
        subprocess.run([sys.executable, "-m", "benchmarks.side_by_side.data", name, *sizes], cwd=ROOT, check=True)
        yield Path(name)


class Measurement:
    """The rows of an entry, filled contestant by contestant."""

    def __init__(self, task: Task, tuned: bool, say: Say):
        self.task, self.tuned, self.say = task, tuned, say
        self.rows: dict[str, dict[str, Any]] = {}

    def start(self, stack: contextlib.ExitStack, name: str, folder: Path, task: Task | None = None, row: str = "") -> Process | None:
        """A process that is ready and computes what it should, or None with the reason in its row."""
        row = row or name
        try:
            process = stack.enter_context(Process(name, task or self.task, folder, self.tuned))
            facts = process.start()
            if not facts["probe"]["passed"]:
                raise CandidateError(f"it computes something else: {facts['probe']}")
        except CandidateError as err:
            self.skip(row, err)
            return None
        self.rows[row] = facts
        return process

    def turns(self, contestants: dict[str, Process], reps: int, warm_up: int, turn: Turn | None = None) -> dict[str, Times]:
        """Rounds of these; nothing where one fails on the way, which is noted under the name of the last: ours come first and have run before."""
        try:
            return take_turns(contestants, reps, warm_up, turn)
        except CandidateError as err:
            self.skip(list(contestants)[-1], err)
            return {}

    def skip(self, row: str, err: CandidateError) -> None:
        why = str(err).replace(f"{ROOT}{os.sep}", "")[:300]  # no path of this machine in a result
        self.rows[row] = {"skipped": why}
        self.say(f"  {row}: skipped, {why}")


def measure(task: Task, shape: str, ours: list[str], peers: list[str] | None, reps: int, warm_up: int, tuned: bool, folder: Path, say: Say) -> results.Entry:
    """Ours and others at one task.

    Args:
        peers: names of other libraries' candidates; None for all that can do the task.

    Raises:
        CandidateError: when none of ours can do it.
    """
    say(f"{task.mode} {task.kind} {task.state}, shape {shape}: d_in {task.d_in}, latents {task.n_latents}, batch {task.batch}, k {task.k}, "
        f"{task.precision}{', bf16 autocast' if task.autocast else ''}")
    measurement, roof = Measurement(task, tuned, say), None
    rows = measurement.rows
    with contextlib.ExitStack() as stack:
        own = {name: process for name in ours if (process := measurement.start(stack, name, folder)) is not None}
        if not own:
            raise CandidateError("none of ours can do this")
        if task.device == "cuda":
            roof = next(iter(own.values())).ask("roof")
        own_times = {name: Times() for name in own}
        names = [name for name in peers_for(task.kind, task.mode) if peers is None or name in peers]
        for name in names or [""]:
            for each, found in meet(measurement, own, name, folder, reps, warm_up).items():
                own_times[each].steps_s += found.steps_s
        for name, process in own.items():
            rows[name]["peak_bytes"] = process.ask("memory")["peak_bytes"]
            if own_times[name].steps_s:
                rows[name] |= summary(own_times[name], task.batch)
                say("  " + line(name, rows[name]))
    return entry(task, shape, rows, roof)


def meet(measurement: Measurement, own: dict[str, Process], name: str, folder: Path, reps: int, warm_up: int) -> dict[str, Times]:
    """Rounds of ours with one other (alone, where there is no name); fills the other's row and returns the times of ours."""
    if not name:
        return measurement.turns(own, reps, warm_up)
    with contextlib.ExitStack() as stack:
        process = measurement.start(stack, name, folder)
        times = measurement.turns(own | {name: process}, reps, warm_up) if process else {}
        if process and times:
            measurement.rows[name] |= summary(times[name], measurement.task.batch) | {
                "ratio": {each: ratio(times[name], times[each]) for each in own}, "peak_bytes": process.ask("memory")["peak_bytes"]}
            measurement.say("  " + line(name, measurement.rows[name]))
        return {each: found for each, found in times.items() if each in own}


def entry(task: Task, shape: str, rows: dict[str, dict[str, Any]], roof: dict[str, float] | None = None) -> results.Entry:
    """What is kept of a measurement."""
    first = next(row for row in rows.values() if "skipped" not in row)
    machine = results.machine(first["device"], first["torch"], task.threads)
    facts = {name: value for name, value in task.as_json().items() if name not in ("device", "options", "threads")}
    kept: results.Entry = {"device": machine["gpu"] or machine["processor"], "shape": shape, **facts, "machine": machine, "rows": rows}
    if roof is not None:
        floor = floor_s(task, roof)
        kept["roof"] = {name: rounded(value) for name, value in roof.items()} | {"floor_s": rounded(floor)}
        for row in rows.values():
            if "step_s" in row:
                row["roofline_frac"] = rounded(floor / row["step_s"])
    return kept


def line(name: str, row: dict[str, Any]) -> str:
    """One candidate for the terminal."""
    text = f"{name:<36} {1e3 * row['step_s']:9.1f} ms [{1e3 * row['min_s']:.1f} to {1e3 * row['max_s']:.1f}] {row['tokens_per_s']:>10,.0f} tokens/s"
    if "peak_bytes" in row:
        text += f" {row['peak_bytes'] / 2**20:7,.0f} MiB"
    for own, value in row.get("ratio", {}).items():
        text += f"  {own} {value['median']:.1f} x [{value['min']:.1f} to {value['max']:.1f}]"
    return text
