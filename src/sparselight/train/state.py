"""All that changes while training: weights, Adam's moments, dead-latent counters, the step. It goes to tensors and back exactly."""

from collections.abc import Mapping

import torch
from torch import Tensor

from sparselight.kernels import WeightGradients
from sparselight.sae import ARCHITECTURES, Sae, TrainingForward
from sparselight.train.best import BestLoss
from sparselight.train.config import TrainConfig
from sparselight.train.dead_latents import DeadLatents
from sparselight.train.optimizer import Adam


class TrainState:
    """The state after `step` steps."""

    def __init__(self, sae: Sae, config: TrainConfig):
        self.sae, self.step, self.n_dead, self.best = sae, 0, 0, BestLoss()
        self.forward: TrainingForward = ARCHITECTURES[config.architecture].make(sae, config)
        device, self.n_frozen = sae.W_dec.device, 0
        if config.finetune.train_only == "new":
            self.n_frozen = sae.n_latents - config.finetune.n_new
            for rest in (sae.b_dec, sae.W_skip):
                if rest is not None:
                    rest.requires_grad_(False)
        self.dead = DeadLatents(sae.n_latents, config.dead_after_tokens, device)
        self.parameters = {name: parameter for name, parameter in sae.named_parameters() if parameter.requires_grad} | dict(self.forward.parameters())
        self.optimizer = Adam(self.parameters, config.optimizer, config.decoder_norm == "unit", {"W_enc": sae.cache}, self.n_frozen)
        self.buffers = WeightGradients(torch.zeros_like(sae.W_enc.T), torch.zeros_like(sae.b_enc), torch.zeros_like(sae.W_dec),
                                       unit_rows=sae.W_dec.detach() if config.decoder_norm == "unit" else None)

    def tensors(self) -> dict[str, Tensor]:
        """Everything but the step, by name."""
        found = {f"sae.{name}": tensor for name, tensor in self.sae.tensors().items()}
        found |= {f"forward.{name}": tensor for name, tensor in self._forward_tensors().items()}
        found |= {f"adam.{name}": tensor.contiguous() for name, tensor in self.optimizer.tensors().items()}
        return found | {"dead.silent_tokens": self.dead.silent_tokens, "best.loss": self.best.values}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Go on from what tensors() gave. What it did not give yet when an older version wrote it keeps its first value."""
        own = {f"sae.{name}": getattr(self.sae, name) for name in self.sae.tensors()}
        own |= {f"forward.{name}": tensor for name, tensor in self._forward_tensors().items()}
        own |= {f"adam.{name}": tensor for name, tensor in self.optimizer.tensors().items()}
        own |= {"dead.silent_tokens": self.dead.silent_tokens, "best.loss": self.best.values}
        for name, tensor in own.items():
            if name in tensors:
                tensor.copy_(tensors[name])
        self.step = self.optimizer.n_steps = step

    def _forward_tensors(self) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in self.forward.parameters().items()} | dict(self.forward.state())
