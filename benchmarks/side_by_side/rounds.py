"""Contestants take turns, one working at a time, so that a machine that drifts drifts for all; medians, and ratios within a round."""

import random
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .processes import Process

PAUSE_S = 0.03  # threads of a parallel region that has ended spin for some milliseconds


@dataclass(frozen=True)
class Turn:
    """How long a turn is."""

    min_s: float = 0.3
    max_steps: int = 8
    cycle: int = 1
    """Steps that differ from each other come in cycles of this length; what counts is the mean over whole cycles."""


@dataclass
class Times:
    """One contestant's step times, and one time a turn."""

    steps_s: list[float] = field(default_factory=list)
    turns_s: list[float] = field(default_factory=list)

    def add(self, seconds: list[float], cycle: int) -> None:
        means = [statistics.fmean(seconds[start:start + cycle]) for start in range(0, len(seconds), cycle)]
        self.steps_s += means
        self.turns_s.append(statistics.median(means))


def take_turns(contestants: Mapping[str, Process], reps: int, warm_up: int, turn: Turn | None = None, seed: int = 0) -> dict[str, Times]:
    """Rounds in which every contestant has one turn, in an order that changes; the first `warm_up` rounds do not count."""
    turn = turn or Turn()
    times = {name: Times() for name in contestants}
    order, shuffle = list(contestants), random.Random(seed)
    for index in range(warm_up + reps):
        shuffle.shuffle(order)
        for name in order:
            time.sleep(PAUSE_S)
            seconds = contestants[name].ask("turn", min_s=turn.min_s, max_steps=turn.max_steps, cycle=turn.cycle)["seconds"]
            if index >= warm_up:
                times[name].add(seconds, turn.cycle)
    return times


def summary(times: Times, batch: int) -> dict[str, Any]:
    step_s = statistics.median(times.steps_s)
    return {"step_s": rounded(step_s), "min_s": rounded(min(times.steps_s)), "max_s": rounded(max(times.steps_s)), "n_steps": len(times.steps_s),
            "tokens_per_s": rounded(batch / step_s)}


def ratio(slow: Times, fast: Times) -> dict[str, float]:
    """How many times longer `slow` takes than `fast`: median, least and most over the rounds."""
    values = [a / b for a, b in zip(slow.turns_s, fast.turns_s, strict=True)]
    return {"median": rounded(statistics.median(values)), "min": rounded(min(values)), "max": rounded(max(values))}


def rounded(value: float) -> float:
    """Four digits, which is more than a clock on a shared machine is good for."""
    return float(f"{value:.4g}")
