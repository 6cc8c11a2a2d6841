"""One SAE in training: everything that a step changes, in one place.

Refuses to take a step with a loss or gradient that is not finite: the weights before it stay, the last good checkpoint too.
"""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparselight.errors import TrainingError
from sparselight.train.checkpoint import BEST, Checkpoints, write_checkpoint
from sparselight.train.config import TrainConfig
from sparselight.train.data import RowBatch, TrainingData
from sparselight.train.log import TrainingLog
from sparselight.train.objectives import TERMS, Objective, TermInputs, make_objective
from sparselight.train.schedule import lr_at
from sparselight.train.state import TrainState


class Training:
    """State, data, objective, log and checkpoints of one SAE."""

    def __init__(self, name: str, config: TrainConfig, state: TrainState, data: TrainingData, checkpoints: Checkpoints, log: TrainingLog):
        self.name, self.config, self.state, self.data, self.checkpoints, self.log = name, config, state, data, checkpoints, log
        self.n_steps = config.n_steps
        self.objective = make_objective(config, TERMS)
        self.stopped: TrainingError | None = None
        """Why no further step can be taken; its last good checkpoint stays."""

    def step(self, batch: RowBatch) -> str:
        """Take one step, log it where one is due, and say in a few words how it went."""
        state, config = self.state, self.config
        x, target = self.data.scaled(batch)
        example = batch.example if self.objective.needs_examples else None
        line = take_step(state, self.objective, config, x, target, example, want_line=self._is_logged(state.step + 1))
        if line is not None:
            self.log.write(line)
        if self._asks_for_best(state.step) and state.best.is_lowest():
            write_checkpoint(self.checkpoints.folder.parent / BEST, state)
        self.checkpoints.save_if_due(state)
        return f"{state.n_dead} dead" if line is None else f"fvu {line['fvu']:.4f}, {state.n_dead} dead"

    def _is_logged(self, step: int) -> bool:
        return step % self.config.log_every_steps == 0 or step == self.n_steps

    def _asks_for_best(self, step: int) -> bool:
        return self.config.best_every_steps > 0 and (step % self.config.best_every_steps == 0 or step == self.n_steps)


def take_step(
    state: TrainState, objective: Objective, config: TrainConfig, x: Float[Tensor, "token d_in"], target: Float[Tensor, "token d_out"],
    example: Int[Tensor, " token"] | None = None, want_line: bool = False,
) -> dict[str, Any] | None:
    """Forward, objective, backward, optimizer, counters. What is logged belongs to the step that the line names, counted from 1.

    Raises:
        TrainingError: before the weights are touched, when a loss or the gradient is not finite.
    """
    sae = state.sae
    forward = state.forward(sae, x)
    dead = state.dead.indices()
    state.n_dead = len(dead)
    revivable = dead[dead >= state.n_frozen] if state.n_frozen else dead
    loss, terms = objective(TermInputs(sae, state.forward, forward, target, revivable, config, state.step, example))
    loss.backward()
    forward.backward(sae, state.buffers)
    norm = state.optimizer.grad_norm(state.buffers.squares)
    if not math.isfinite(norm) or not loss.isfinite():
        raise_not_finite(state.step, {name: float(value) for name, value in terms.items()} | {"gradient norm": norm})
    lr = lr_at(state.step, config)
    state.optimizer.step(lr, norm)
    state.dead.update(forward.n_fires, len(x))
    state.step += 1
    if state.step > config.objective.sparsity_warmup_frac * config.n_steps:
        state.best.update(float(loss.detach()))
    if not want_line:
        return None
    return {
        "step": state.step, "tokens": state.step * len(x), **{name: float(value) for name, value in terms.items()},
        "fvu": fvu(target, forward.x_hat.detach()), "l0": float((forward.values.detach() > 0).sum()) / len(x), "n_dead": len(dead), "lr": lr,
        "threshold": forward.cutoff, "grad_norm": norm,
    }


def raise_not_finite(step: int, values: dict[str, float]) -> None:
    name, value = next(((name, value) for name, value in values.items() if not math.isfinite(value)), ("loss", math.nan))
    raise TrainingError(asked=f"take training step {step}", why=f"its {name} is {value}",
                        instead="make train.lr smaller; the last good checkpoint is kept, another config needs another folder")


@torch.no_grad()
def fvu(target: Float[Tensor, "token d_out"], x_hat: Float[Tensor, "token d_out"]) -> float:
    """sum ||t - x_hat||^2 / sum ||t - mean(t)||^2 over one batch."""
    return float((target - x_hat).square().sum() / (target - target.mean(0)).square().sum())
