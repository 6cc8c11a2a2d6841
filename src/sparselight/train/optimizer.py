"""Adam over an SAE's weights, its moments in float32; the arithmetic is a kernel.

Decoder rows of unit norm stay on the sphere: the gradient loses its part along the row before it is measured, clipped and used, and the row
is normalized after the step. Otherwise the loss could be lowered by small activations on long rows, which says nothing of features (Bricken
et al. 2023, "Towards Monosemanticity", appendix on training).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from sparselight.kernels import kernels
from sparselight.train.config import OptimizerConfig


class Adam:
    """Moments of some parameters; weight matrices are seen latent by latent. With `n_frozen` every parameter has a row a latent; the first
    n_frozen of them have no moments and are never written."""

    def __init__(
        self, parameters: Mapping[str, torch.nn.Parameter], config: OptimizerConfig, unit_rows: bool, caches: Mapping[str, dict], n_frozen: int = 0,
    ):
        self.parameters, self.config, self.unit_rows, self.n_frozen, self.n_steps = parameters, config, unit_rows, n_frozen, 0
        self.caches = {} if n_frozen else caches  # a kernel's copy of a whole matrix is not that of some of its rows
        shapes = {name: self._trained(parameter.detach()) if n_frozen else parameter for name, parameter in parameters.items()}
        self.moments = {name: (torch.zeros_like(shape), torch.zeros_like(shape)) for name, shape in shapes.items()}

    @torch.no_grad()
    def grad_norm(self, squares: Mapping[str, float] | None = None) -> float:
        """Norm of the gradient of all parameters together.

        Args:
            squares: sums of squares over whole parameters that are known already, by parameter.
        """
        known = {} if squares is None or self.n_frozen else squares
        found = [known[name] if name in known else kernels(p).grad_square(self._trained(p), self._trained(p.grad), self._is_unit(name))
                 for name, p in self.parameters.items() if p.grad is not None]
        return sum(found) ** 0.5

    @torch.no_grad()
    def step(self, lr: float, norm: float) -> None:
        """One step with the gradient clipped to config.clip_norm (0: not at all); gradients are dropped."""
        self.n_steps += 1
        config = self.config
        scale = min(1.0, config.clip_norm / (norm + 1e-6)) if config.clip_norm else 1.0
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                continue
            first, second = self.moments[name]
            kernels(parameter).adam_step(
                self._trained(parameter.detach()), self._trained(parameter.grad), rows(first), rows(second), lr=lr, betas=(config.beta1, config.beta2),
                eps=config.eps, weight_decay=config.weight_decay, step=self.n_steps, grad_scale=scale, unit_rows=self._is_unit(name),
                cache=self.caches.get(name))
            parameter.grad = None

    def tensors(self) -> dict[str, Tensor]:
        return {f"{name}.{key}": moment for name, pair in self.moments.items() for key, moment in zip(("exp_avg", "exp_avg_sq"), pair, strict=True)}

    def _trained(self, matrix: Tensor) -> Tensor:
        """The rows that a step changes."""
        return rows(matrix)[self.n_frozen:] if self.n_frozen else rows(matrix)

    def _is_unit(self, name: str) -> bool:
        return self.unit_rows and name == "W_dec"


def rows(matrix: Tensor) -> Tensor:
    """The same numbers in their memory order: W_enc lies latent by latent."""
    return matrix if matrix.is_contiguous() else matrix.T
