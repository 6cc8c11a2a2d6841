"""The learning rate of each step: a linear rise, a plateau, a fall."""

import math

from sparselight.train.config import TrainConfig


def lr_at(step: int, config: TrainConfig) -> float:
    """Learning rate of a step, counted from 0."""
    schedule, n_steps = config.schedule, config.n_steps
    rise = (step + 1) / max(1.0, length(schedule.warmup_frac, schedule.warmup_steps, schedule.warmup_tokens, config))
    left = (n_steps - step) / max(1.0, length(schedule.decay_frac, schedule.decay_steps, schedule.decay_tokens, config))
    fall = 1.0 if schedule.decay == "none" else min(1.0, left)
    if schedule.decay == "cosine":
        fall = (1 - math.cos(math.pi * fall)) / 2
    return config.lr * min(1.0, rise, schedule.final_frac + (1 - schedule.final_frac) * fall)


def length(frac: float, steps: int | None, tokens: int | None, config: TrainConfig) -> float:
    """A part of the schedule in steps."""
    if steps is not None:
        return steps
    return frac * config.n_steps if tokens is None else tokens / config.batch_tokens
