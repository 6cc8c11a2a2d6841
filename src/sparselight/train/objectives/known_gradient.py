"""Terms whose weight gradients are found together with their value, and go straight into the buffers.

Nothing the size of a weight matrix passes through autograd: backward only notes the term's weight, and the forward pass's own backward adds
the gradient, times that weight, to what it has.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparselight.kernels import WeightGradients
from sparselight.train.objectives.objective import TermInputs

AddGradient = Callable[[WeightGradients, float], None]
"""Adds a term's gradient times a number to the buffers."""


def with_gradient(inputs: TermInputs, value: Float[Tensor, ""], add_gradient: AddGradient) -> Float[Tensor, ""]:
    """The value, as one that can be differentiated."""
    return _Known.apply(value, inputs.forward.known_gradients, add_gradient, inputs.sae.b_enc)


class _Known(torch.autograd.Function):
    """`anchor` is any parameter: its place in the graph is what makes backward come here."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, known: list[Callable[[WeightGradients], None]], add_gradient: AddGradient, anchor: Tensor) -> Tensor:  # noqa: ARG004
        ctx.known = known, add_gradient
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weight: Tensor) -> tuple[None, ...]:
        known, add_gradient = ctx.known
        known.append(partial(add_gradient, weight=float(weight)))
        return None, None, None, None
