"""Ours beside ours: what the width of the dictionary costs, and what each term and architecture adds to our own step."""

import contextlib
from typing import Any

from . import results
from .measure import Measurement, Say, entry, given, line
from .processes import CandidateError
from .rounds import Times, Turn, ratio, summary
from .task import Task

WIDTHS = tuple(1024 * 2**power for power in range(1, 7))
SCALING_D_IN = 384
CYCLE = 5  # steps between orthogonality penalties, in the variants that do not pay it every step
PLAIN: dict[str, Any] = {"objective": {"aux": 0.0}}
DEAD_FRAC = 0.1


def orthogonal(chunk: int, every: int) -> dict[str, Any]:
    return {"objective": {"aux": 0.0, "orthogonal": 0.25, "orthogonal_chunk": chunk, "orthogonal_every": every}}


# Name: (what it is compared with, architecture, settings).
VARIANTS: dict[str, tuple[str | None, str, dict[str, Any]]] = {
    "plain": (None, "batch_topk", PLAIN),
    "a tenth dead, no AuxK": (None, "batch_topk", PLAIN | {"dead_frac": DEAD_FRAC}),
    "a tenth dead, AuxK": ("a tenth dead, no AuxK", "batch_topk", {"objective": {"aux": 1 / 32}, "dead_frac": DEAD_FRAC}),
    "tilted (TERM)": ("plain", "batch_topk", {"objective": {"aux": 0.0, "tilt": 1.0}}),
    "Matryoshka": ("plain", "matryoshka", PLAIN),
    "orthogonal, chunk 1024, every step": ("plain", "batch_topk", orthogonal(1024, 1)),
    "orthogonal, chunk 1024, every 5th": ("plain", "batch_topk", orthogonal(1024, CYCLE)),
    "orthogonal, chunk 8192, every step": ("plain", "batch_topk", orthogonal(8192, 1)),
    "orthogonal, chunk 8192, every 5th": ("plain", "batch_topk", orthogonal(8192, CYCLE)),
}


def measure_overheads(task: Task, shape: str, reps: int, warm_up: int, say: Say) -> results.Entry:
    """Every variant beside the one without it, in the same rounds; means over cycles of steps."""
    say(f"overheads, shape {shape}: d_in {task.d_in}, latents {task.n_latents}, batch {task.batch}, k {task.k}")
    tasks = {name: task.with_(mode="overheads", kind=kind, options=settings) for name, (_, kind, settings) in VARIANTS.items()}
    measurement, times = together(tasks, reps, warm_up, Turn(min_s=0.0, max_steps=CYCLE, cycle=CYCLE), say)
    for name, (base, _, _) in VARIANTS.items():
        if base is not None and name in times and base in times:
            measurement.rows[name]["compared_with"] = base
            measurement.rows[name]["ratio"] = {base: ratio(times[name], times[base])}
    for name in times:
        row = measurement.rows[name]
        added = f"  {100 * (row['ratio'][row['compared_with']]['median'] - 1):+.1f} % of {row['compared_with']!r}" if "ratio" in row else ""
        say(f"  {line(name, {key: value for key, value in row.items() if key != 'ratio'})}{added}")
    return entry(task.with_(mode="overheads"), shape, measurement.rows)


def measure_scaling(task: Task, reps: int, warm_up: int, say: Say) -> results.Entry:
    """Widths from 2k to 64k at one d_in."""
    say(f"cost against width, {task.kind}: d_in {SCALING_D_IN}, batch {task.batch}, k {task.k}")
    tasks = {f"m={width}": task.with_(mode="scaling", d_in=SCALING_D_IN, n_latents=width) for width in WIDTHS}
    measurement, times = together(tasks, reps, warm_up, Turn(), say)
    for name, its in tasks.items():
        if name in times:
            measurement.rows[name] |= {"n_latents": its.n_latents, "us_per_token": float(f"{1e6 * measurement.rows[name]['step_s'] / task.batch:.4g}")}
            say(f"  {line(name, measurement.rows[name])}")
    return entry(task.with_(mode="scaling", d_in=SCALING_D_IN, n_latents=max(WIDTHS)), f"d{SCALING_D_IN}", measurement.rows)


def together(tasks: dict[str, Task], reps: int, warm_up: int, turn: Turn, say: Say) -> tuple[Measurement, dict[str, Times]]:
    """All tasks in rounds with each other, each in a process of ours."""
    first = next(iter(tasks.values()))
    measurement = Measurement(first, tuned=False, say=say)
    with contextlib.ExitStack() as stack:
        processes = {}
        for name, task in tasks.items():
            folder = stack.enter_context(given(task))
            process = measurement.start(stack, "ours", folder, task, row=name)
            if process is not None:
                processes[name] = process
        if not processes:
            raise CandidateError(f"none of ours runs: {measurement.rows}")
        times = measurement.turns(processes, reps, warm_up, turn)
        for name in times:
            measurement.rows[name] |= summary(times[name], tasks[name].batch) | {"peak_bytes": processes[name].ask("memory")["peak_bytes"]}
    return measurement, times
