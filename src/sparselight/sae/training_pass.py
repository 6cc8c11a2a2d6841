"""What a training-time forward pass leaves, and how gradients go back through it.

The large steps, encoding and decoding, are kernels with explicit gradients. Between them lies a small graph of autograd on the entries of
the selection only, and after them the objective, which sees leaves: `z` and `x_hats`. So any term can be written in plain PyTorch:
    loss.backward()                    gradients of z, x_hats, and of parameters that a term reads directly
    forward.backward(sae, gradients)   from there to the weights
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparselight.kernels import AnySelection, Selection, WeightGradients, kernels
from sparselight.sae.base import Sae


@dataclass
class SideDecoding:
    """A second reconstruction from the same entries, through W_dec, b_dec and W_skip held constant (the gate of a gated SAE)."""

    values: Float[Tensor, " entry"]
    x_hat: Float[Tensor, "token d_out"]
    """A leaf."""


@dataclass
class TrainingPass:
    """One forward pass. Entry tensors belong to `selection`."""

    x: Float[Tensor, "token d_in"]
    """As the encoder reads it: b_dec subtracted where the SAE does that."""
    selection: AnySelection
    pre: Float[Tensor, " entry"]
    """Pre-activations; a leaf."""
    values: Float[Tensor, " entry"]
    """Latent activations, computed from `pre` with autograd; `pre` itself where the two are the same."""
    z: Float[Tensor, " entry"]
    """The same as a leaf, for terms that read activations."""
    x_hats: Float[Tensor, "group token d_out"]
    """Reconstructions of the nested groups, the last one whole; a leaf."""
    ends: tuple[int, ...]
    cutoff: float | None = None
    """The smallest value selected, where selection is by rank."""
    side: SideDecoding | None = None
    known_gradients: list[Callable[[WeightGradients], None]] = field(default_factory=list)
    """Weight gradients that terms found by themselves; each call adds one's to the buffers."""

    @property
    def x_hat(self) -> Float[Tensor, "token d_out"]:
        return self.x_hats[-1]

    @property
    def n_fires(self) -> Int[Tensor, " latent"]:
        """On how many tokens each latent is active."""
        if self.values is self.pre and isinstance(self.selection, Selection):  # all entries are: the order that gradients needed tells
            return self.selection.by_latent[1].diff()
        return self.selection.n_fires(self.values.detach())

    @torch.no_grad()
    def backward(self, sae: Sae, buffers: WeightGradients) -> None:
        """Fill the .grad of the SAE's weights and of all that `values` depends on; `buffers` is where weight gradients are kept between steps."""
        grad = torch.zeros_like(self.x_hats) if self.x_hats.grad is None else self.x_hats.grad
        ops = kernels(self.x)
        grad_values = ops.decode_gradient(grad, self.selection, sae.W_dec.detach(), self.ends)
        if self.z.grad is not None:
            grad_values += self.z.grad
        outputs, gradients = [self.values], [grad_values]
        if self.side is not None and self.side.x_hat.grad is not None:
            outputs.append(self.side.values)
            gradients.append(ops.decode_gradient(self.side.x_hat.grad.unsqueeze(0), self.selection, sae.W_dec.detach(), (sae.n_latents,)))
        grad_pre = grad_values
        if len(outputs) > 1 or self.values is not self.pre:
            torch.autograd.backward(outputs, gradients)
            grad_pre = torch.zeros_like(self.pre) if self.pre.grad is None else self.pre.grad
        elif self.pre.grad is not None:
            grad_pre = grad_values + self.pre.grad
        buffers.fresh = True
        ops.weight_gradients(self.x, grad, self.values, grad_pre, self.selection, self.ends, buffers)
        grad_b_dec = grad.sum((0, 1))
        if sae.subtract_b_dec:
            grad_b_dec -= sae.W_enc @ buffers.b_enc
        for add_to in self.known_gradients:
            add_to(buffers)
        if self.known_gradients or any(weight.grad is not None for weight in (sae.W_enc, sae.W_dec)):
            buffers.squares = None
        give(sae.W_enc, buffers.W_enc.T)
        give(sae.b_enc, buffers.b_enc)
        give(sae.W_dec, buffers.W_dec)
        give(sae.b_dec, grad_b_dec)
        if sae.W_skip is not None:
            give(sae.W_skip, self.x.T @ grad.sum(0))


def give(parameter: Tensor, grad: Tensor) -> None:
    """Set a parameter's gradient, or add to what a term left there."""
    if not parameter.requires_grad:
        return
    if parameter.grad is not None:
        grad.add_(parameter.grad)
    parameter.grad = grad


@torch.no_grad()
def encoder_operands(sae: Sae, x: Float[Tensor, "token d_in"]) -> tuple[Float[Tensor, "token d_in"], tuple[Tensor, Tensor, Tensor]]:
    """What the encoder reads, and what its product is computed from: that again and W_enc, both in sae.product_dtype, and b_enc."""
    rows, W_enc = sae.encoder_input(x), sae.W_enc.detach()
    dtype = sae.product_dtype or rows.dtype
    return rows, (rows.to(dtype), W_enc.to(dtype), sae.b_enc.detach())


@torch.no_grad()
def reconstructions(sae: Sae, x: Tensor, selection: AnySelection, values: Tensor, ends: tuple[int, ...]) -> Float[Tensor, "group token d_out"]:
    """The nested groups' reconstructions as a leaf."""
    x_hats = kernels(x).decode(values, selection, sae.W_dec.detach(), ends).add_(sae.b_dec)
    if sae.W_skip is not None:
        x_hats += x @ sae.W_skip
    return x_hats.requires_grad_()


def decoded(sae: Sae, x: Tensor, selection: AnySelection, pre: Tensor, values: Tensor, ends: tuple[int, ...], cutoff: float | None = None) -> TrainingPass:
    """Finish a forward pass: decode, and set the leaves."""
    x_hats = reconstructions(sae, x, selection, values, ends)
    return TrainingPass(x, selection, pre, values, values.detach().requires_grad_(), x_hats, ends, cutoff)


class TrainingForward(Protocol):
    """A training-time forward pass, and how its inference form is found. Architectures inherit what they do not change."""

    def __call__(self, sae: Sae, x: Float[Tensor, "token d_in"]) -> TrainingPass: ...

    def calibrate(self, sae: Sae, batches: Iterable[Float[Tensor, "token d_in"]]) -> None:
        """Turn `sae` into its inference form, at the end of training."""
        ...

    def take_over(self, sae: Sae) -> None:  # noqa: ARG002
        """Begin with the thresholds of `sae`, which stands in its inference form in the units of training, instead of first ones."""
        return

    def parameters(self) -> Mapping[str, torch.nn.Parameter]:
        """Weights beside the SAE's own, trained with them."""
        return {}

    def state(self) -> Mapping[str, Tensor]:
        """What a checkpoint keeps beside parameters; updated in place."""
        return {}

    def l1_values(self, forward: TrainingPass) -> Float[Tensor, " entry"]:
        """What an L1 penalty sums; differentiable."""
        return forward.z

    def n_active(self, forward: TrainingPass) -> Float[Tensor, " token"]:
        """Each token's number of active latents; differentiable in what the architecture learns thresholds by, where it does (jump_relu)."""
        return forward.selection.sum_per_token((forward.z.detach() > 0).to(forward.z.dtype))
