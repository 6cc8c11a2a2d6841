"""All that changes while training: weights, Adam's moments, dead-latent counters, the step. It goes to tensors and back exactly."""

from collections.abc import Mapping

import torch
from torch import Tensor

from sparselight.sae import ARCHITECTURES, Sae
from sparselight.train.config import TrainConfig
from sparselight.train.dead_latents import DeadLatents

ADAM_BETAS = (0.9, 0.999)
ADAM_EPS = 1e-10  # a rare latent's gradient is a mean over all elements of a batch, well below Adam's usual 1e-8


class TrainState:
    """The state after `step` steps."""

    def __init__(self, sae: Sae, config: TrainConfig):
        self.sae, self.step = sae, 0
        self.forward = ARCHITECTURES[config.architecture].make(config.k)
        self.dead = DeadLatents(sae.n_latents, config.dead_after_tokens)
        self.parameters = {name: parameter for name, parameter in sae.named_parameters() if parameter.requires_grad}
        self.optimizer = torch.optim.Adam(self.parameters.values(), lr=config.lr, betas=ADAM_BETAS, eps=ADAM_EPS, fused=True)
        for parameter in self.parameters.values():  # made now, in the parameter's own memory order, so that a restored state is the same in every way
            self.optimizer.state[parameter] = {
                "step": torch.zeros(()), "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter),
            }

    def tensors(self) -> dict[str, Tensor]:
        """Everything but the step, by name."""
        found = {f"sae.{name}": tensor for name, tensor in self.sae.tensors().items()}
        for name, parameter in self.parameters.items():
            found |= {f"adam.{name}.{key}": value.contiguous() for key, value in self.optimizer.state[parameter].items()}
        return found | {"dead.silent_tokens": self.dead.silent_tokens}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Go on from what tensors() gave."""
        for name in self.sae.tensors():
            getattr(self.sae, name).copy_(tensors[f"sae.{name}"])
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state[parameter].items():
                value.copy_(tensors[f"adam.{name}.{key}"])
        self.dead.silent_tokens.copy_(tensors["dead.silent_tokens"])
        self.step = step
