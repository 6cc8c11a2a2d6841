"""The learning rate of each step: a linear rise, a plateau, a linear fall to 0."""

from sparselight.train.config import TrainConfig


def lr_at(step: int, config: TrainConfig) -> float:
    """Learning rate of a step, counted from 0."""
    rise = (step + 1) / max(1.0, config.warmup_frac * config.n_steps)
    fall = (config.n_steps - step) / max(1.0, config.decay_frac * config.n_steps)
    return config.lr * min(1.0, rise, fall)
