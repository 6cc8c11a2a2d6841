"""How far the reconstruction is from the target: the mean over tokens, or a mean tilted towards the worst of them."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparselight.train.objectives.objective import TermInputs

NO_WEIGHT = 1e-30  # a token's share of the gradient under this is lost in float32; kept, it would become denormal numbers, which cost a fifth of a step


def mse(inputs: TermInputs) -> Float[Tensor, ""]:
    """mean over tokens, and over nested groups, of ||t - x_hat||^2 / d, or without the division (objective.mse = "sum").

    arXiv 2412.06410, section 2 (sum), whose published code takes the mean; with nested groups arXiv 2503.17547, section 3, divided by their number.
    """
    return squared_errors(inputs).mean()


def tilted(inputs: TermInputs) -> Float[Tensor, ""]:
    """TERM: (1/t) log mean exp(t l), t = objective.tilt, l the squared error of a token, or its mean over an example's tokens in the batch.

    Li et al. 2021, "Tilted empirical risk minimization", as arXiv 2411.00743 uses it for SAEs. Which loss stands inside exp is not known from
    there; ours is what `mse` averages, in the convention of objective.mse. All other terms stay outside.
    """
    losses = squared_errors(inputs)
    if inputs.config.objective.tilt_unit == "example":
        assert inputs.example is not None
        losses = mean_per_example(losses, inputs.example)
    return tilted_mean(losses, inputs.config.objective.tilt)


def tilted_mean(losses: Float[Tensor, " loss"], t: float) -> Float[Tensor, ""]:
    """(1/t) log mean exp(t l) for t > 0; its gradient is softmax(t l).

    Exact from the mean (t -> 0) to the maximum: with M = max l it is M + log1p(mean expm1(t (l - M))) / t, in float64.
    """
    found = losses.detach().double()
    top = found.max()
    gaps = (found - top) * t
    value = top + gaps.expm1().mean().log1p() / t
    weights = gaps.softmax(0)
    first_order = weights.masked_fill(weights < NO_WEIGHT, 0).to(losses.dtype) @ losses
    return first_order + (value.to(losses.dtype) - first_order.detach())


def mean_per_example(losses: Float[Tensor, " token"], example: Int[Tensor, " token"]) -> Float[Tensor, " example"]:
    order = example.argsort(stable=True)
    counts = example[order].unique_consecutive(return_counts=True)[1]
    return torch.segment_reduce(losses[order], "mean", lengths=counts)  # sums in one order on every device


def squared_errors(inputs: TermInputs) -> Float[Tensor, " token"]:
    """Each token's squared error, averaged over nested groups, averaged or summed over dimensions."""
    n_groups, _, d_out = inputs.forward.x_hats.shape
    scale = 1 / (n_groups * d_out) if inputs.config.objective.mse == "mean" else 1 / n_groups
    return _SquaredErrors.apply(inputs.forward.x_hats, inputs.errors, scale)


class _SquaredErrors(torch.autograd.Function):
    """scale * sum over groups of ||e||^2. The errors' memory becomes the gradient's: a step of this size is bound by passes over memory."""

    @staticmethod
    def forward(ctx: Any, x_hats: Float[Tensor, "group token d_out"], errors: Float[Tensor, "group token d_out"], scale: float) -> Tensor:  # noqa: ARG004
        ctx.save_for_backward(errors)
        ctx.scale = scale
        return torch.linalg.vector_norm(errors, dim=2).square().sum(0) * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Float[Tensor, " token"]) -> tuple[Tensor, None, None]:
        (errors,) = ctx.saved_tensors
        return errors.mul_((-2 * ctx.scale * grad).unsqueeze(1)), None, None
