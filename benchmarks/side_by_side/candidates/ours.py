"""Ours: sparselight.train.step.take_step, the step of every training, on a state made from a TrainConfig; and an SAE's encode and decode."""

import os
from typing import Any

import torch
from torch import Tensor

from sparselight.kernels import DenseSelection, kernels
from sparselight.sae import Sae
from sparselight.train.config import TrainConfig
from sparselight.train.objectives import TERMS, make_objective
from sparselight.train.state import TrainState
from sparselight.train.step import take_step

from ..task import BANDWIDTH, MATRYOSHKA_PARTS, SPARSITY_WEIGHT, Task
from .base import Weights

DEAD_SCALE = 0.1  # of the encoder rows of latents that shall be dead: positive now and then, never among the largest
NEVER_TOKENS = 10_000_000  # a latent counts as dead after so many, as in the other libraries: none is, in a benchmark

SPECIFIC: dict[str, dict[str, Any]] = {
    "topk": {}, "batch_topk": {}, "matryoshka": {"group_fracs": MATRYOSHKA_PARTS}, "relu": {}, "jump_relu": {"bandwidth": BANDWIDTH},
}
OBJECTIVES: dict[str, dict[str, Any]] = {"relu": {"l1": SPARSITY_WEIGHT, "aux": 0.0}, "jump_relu": {"l0": SPARSITY_WEIGHT, "aux": 0.0}}


def config_for(task: Task) -> TrainConfig:
    settings = SPECIFIC[task.kind] | ({} if task.kind in OBJECTIVES else {"k": task.k})
    return TrainConfig(
        architecture=task.kind, n_latents=task.n_latents, n_tokens=task.batch * 10**6, batch_tokens=task.batch, lr=task.lr, normalize="none",
        autocast="bf16" if task.autocast else "none", device=task.device, seed=task.seed, schedule={"warmup_frac": 0.0, "decay": "none"},
        dead_after_tokens=task.batch if "dead_frac" in task.options else NEVER_TOKENS,
        objective=OBJECTIVES.get(task.kind, {}) | task.options.get("objective", {}), **settings,
    )


class Shared:
    """What training and inference have in common."""

    sae: Sae

    def __init__(self, task: Task, variant: str):
        os.environ["SPARSELIGHT_KERNELS"] = variant
        self.facts = {"kernels": kernels(torch.zeros(1, device=task.device)).name}

    def weights(self) -> Weights:
        return Weights(self.sae.W_enc.T, self.sae.b_enc, self.sae.W_dec, self.sae.b_dec, subtracts_b_dec=True)


class Trainer(Shared):
    def __init__(self, task: Task, variant: str):
        super().__init__(task, variant)
        self.task, self.config = task, config_for(task)
        self.sae = Sae(task.d_in, task.n_latents).to(task.device)
        self.state = TrainState(self.sae, self.config)
        self.objective = make_objective(self.config, TERMS)

    def set_threshold(self, value: float) -> None:
        set_all_thresholds(self.state.forward, value)

    @torch.no_grad()
    def make_dead(self, frac: float) -> None:
        """Make some latents too weak to fire, for what the dead latents' loss costs."""
        self.sae.W_enc[:, : round(frac * self.task.n_latents)] *= DEAD_SCALE

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        made = self.state.forward(self.sae, x)
        values, selection = made.values.detach(), made.selection
        if isinstance(selection, DenseSelection):
            return values, made.x_hat.detach()
        codes = torch.zeros(selection.n_tokens, selection.n_latents, device=x.device)
        return codes.index_put_((selection.tokens, selection.latents.long()), values), made.x_hat.detach()

    def run(self, x: Tensor) -> None:
        if self.state.step == 0 and "dead_frac" in self.task.options:
            self.make_dead(self.task.options["dead_frac"])
        take_step(self.state, self.objective, self.config, x, x)


class Inference(Shared):
    def __init__(self, task: Task, variant: str):
        super().__init__(task, variant)
        self.sae = Sae(task.d_in, task.n_latents, k=task.k if task.kind == "topk" else None).to(task.device)

    def set_threshold(self, value: float) -> None:
        self.sae.threshold.fill_(value)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        codes = self.sae.encode(x)
        return codes.to_dense(), self.sae.decode(codes)

    def run(self, x: Tensor) -> None:
        self.sae.decode(self.sae.encode(x))


@torch.no_grad()
def set_all_thresholds(forward: Any, value: float) -> None:
    """Of a jump_relu, whatever its parameter's form."""
    for name, parameter in forward.parameters().items():
        if name == "log_threshold":
            parameter.fill_(torch.tensor(value).log())
        elif name == "threshold":
            parameter.fill_(value)
