"""JumpReLU SAE: each latent has a threshold of its own, learned by straight-through gradients.

Rajamanoharan et al. 2024, arXiv 2407.14435, section 3. With pre = W_enc (x - b_dec) + b_enc, theta = exp(log_threshold), H the step function:
    z = pre * H(pre - theta)        loss ||x - x_hat||^2 + l0 * sum_i H(pre_i - theta_i)
Both jumps have no gradient in theta; it is estimated in a window of width eps (config.bandwidth) with K(u) = 1[|u| < 1/2]:
    dz/dtheta = -(theta / eps) K((pre - theta) / eps)        dH/dtheta = -(1 / eps) K((pre - theta) / eps)
The gradient in pre is H(pre - theta) for z, none for the count. A selection therefore begins half a window below the thresholds.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sparselight.kernels import kernels
from sparselight.sae.base import Sae
from sparselight.sae.config import SaeConfig
from sparselight.sae.training_pass import TrainingForward, TrainingPass, decoded, encoder_operands

LEAST_THRESHOLD = 1e-6  # a logarithm has no 0; of an SAE that training goes on from, in scaled units


class JumpRelu(TrainingForward):
    """The training-time forward pass."""

    def __init__(self, sae: Sae, config: SaeConfig):
        self.bandwidth, self.ends = config.bandwidth, (sae.n_latents,)
        self.log_threshold = nn.Parameter(torch.full_like(sae.threshold, math.log(config.first_threshold)))

    def __call__(self, sae: Sae, x: Float[Tensor, "token d_in"]) -> TrainingPass:
        rows, operands = encoder_operands(sae, x)
        floor = self.log_threshold.detach().exp() - self.bandwidth / 2
        selection, pre = kernels(operands[0]).encode_above(*operands, floor, sae.cache, allow_dense=True)
        values = Jump.apply(pre.requires_grad_(), selection.per_entry(self.log_threshold.exp()), self.bandwidth)
        return decoded(sae, rows, selection, pre, values, self.ends)

    def n_active(self, forward: TrainingPass) -> Float[Tensor, " token"]:
        theta = forward.selection.per_entry(self.log_threshold.exp())
        return forward.selection.sum_per_token(Step.apply(forward.pre, theta, self.bandwidth))

    @torch.no_grad()
    def take_over(self, sae: Sae) -> None:
        self.log_threshold.copy_(sae.threshold.clamp(min=LEAST_THRESHOLD).log())

    def parameters(self) -> Mapping[str, nn.Parameter]:
        return {"log_threshold": self.log_threshold}

    @torch.no_grad()
    def calibrate(self, sae: Sae, batches: Iterable[Float[Tensor, "token d_in"]]) -> None:  # noqa: ARG002
        sae.threshold.copy_(self.log_threshold.exp())


class Jump(torch.autograd.Function):
    """pre * H(pre - theta); theta has one number an entry, or a latent where pre is [token latent]."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, theta: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(pre, theta)
        ctx.width = width
        return torch.where(pre > theta, pre, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        pre, theta = ctx.saved_tensors
        return torch.where(pre > theta, grad, 0), -theta / ctx.width * sum_in_window(grad, pre, theta, ctx.width), None


class Step(torch.autograd.Function):
    """H(pre - theta), whose gradient goes to theta only."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, theta: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(pre, theta)
        ctx.width = width
        return (pre > theta).to(pre.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        pre, theta = ctx.saved_tensors
        return None, -sum_in_window(grad, pre, theta, ctx.width) / ctx.width, None


def sum_in_window(grad: Tensor, pre: Tensor, theta: Tensor, width: float) -> Tensor:
    """grad * K((pre - theta) / width), summed over tokens where theta has one number a latent."""
    return torch.where((pre - theta).abs_() < width / 2, grad, 0).sum_to_size(theta.shape)
