"""The training loop. It knows no architecture and no term of an objective by name."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from sparselight.errors import TrainingError
from sparselight.protocols import Progress
from sparselight.train.checkpoint import Checkpoints
from sparselight.train.config import TrainConfig
from sparselight.train.data import TrainingData
from sparselight.train.decoder_norm import normalize_rows, remove_parallel_gradient
from sparselight.train.log import TrainingLog
from sparselight.train.objectives import Objective
from sparselight.train.schedule import lr_at
from sparselight.train.state import TrainState


def train_loop(
    state: TrainState, data: TrainingData, objective: Objective, config: TrainConfig, checkpoints: Checkpoints, log: TrainingLog, progress: Progress,
) -> None:
    """Train from state.step to the last step; what is logged belongs to the step that the line names, counted from 1."""
    sae, n_steps = state.sae, config.n_steps
    while state.step < n_steps:
        x, target = data.batch(state.step)
        forward = state.forward(sae, x)
        dead = state.dead.indices()
        loss, terms = objective(sae, forward, target, dead)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(state.parameters.values(), config.clip_norm).item()
        check_finite(state.step, terms | {"gradient norm": norm})
        remove_parallel_gradient(sae.W_dec)
        lr = set_lr(state.optimizer, lr_at(state.step, config))
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        normalize_rows(sae.W_dec)
        state.dead.update(forward.selection)
        state.step += 1

        if state.step % config.log_every_steps == 0 or state.step == n_steps:
            log.write({
                "step": state.step, "tokens": state.step * len(x), **terms, "fvu": fvu(target, forward.x_hat.detach()),
                "l0": len(forward.values) / len(x), "n_dead": len(dead), "lr": lr, "threshold": state.forward.cutoff, "grad_norm": norm,
            })
        checkpoints.save_if_due(state)
        progress(state.step * len(x), n_steps * len(x), f"mse {terms['mse']:.4f}, {len(dead)} dead")


def check_finite(step: int, values: dict[str, float]) -> None:
    """Refuse to take a step that would spoil the weights."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise TrainingError(asked=f"take training step {step}", why=f"its {name} is {value}",
                                instead="make train.lr smaller; the last good checkpoint is kept, another config needs another folder")


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> float:
    for group in optimizer.param_groups:
        group["lr"] = lr
    return lr


def fvu(target: Float[Tensor, "token d_in"], x_hat: Float[Tensor, "token d_in"]) -> float:
    """sum ||t - x_hat||^2 / sum ||t - mean(t)||^2 over one batch."""
    return float((target - x_hat).square().sum() / (target - target.mean(0)).square().sum())
