"""Reading the activations of a few latents.

Where a latent does not depend on the others (all architectures but those that keep the k largest of a token), only the encoder rows of the latents in
question are read, so that an edit costs next to nothing beside a forward pass. Any other coder encodes everything.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparselight.protocols import Codes, SparseCoder
from sparselight.sae import Sae

FEW_VALUES = 2**20  # pre-activations that may be held at once
Reader = Callable[[Float[Tensor, "token d_in"]], Float[Tensor, "token chosen"]]


class Dictionary(SparseCoder, Protocol):
    """A sparse coder with one decoder direction a latent."""

    @property
    def W_dec(self) -> Tensor: ...  # [latent, d_in]  # noqa: N802


def activation_reader(coder: Dictionary, latents: Int[Tensor, " chosen"]) -> Reader:
    """The function that finds the activations of a few latents (ascending indices), in the numbers that `coder.encode` gives up to rounding."""
    if isinstance(coder, Sae):
        return _row_reader(coder, latents.to(coder.W_dec.device)) if coder.k is None else _topk_reader(coder, latents)
    return lambda x: gather_latents(coder.encode(x), latents)


def _row_reader(sae: Sae, latents: Int[Tensor, " chosen"]) -> Reader:
    """z = pre where pre > threshold and 0 elsewhere, of the latents' own encoder rows."""
    weights, threshold = sae.W_enc.detach()[:, latents].contiguous(), sae.threshold[latents].clamp(min=0)
    bias = sae.b_enc.detach()[latents]
    if sae.subtract_b_dec:
        bias = (bias.double() - sae.b_dec.detach().double() @ weights.double()).to(bias)

    def read(x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token chosen"]:
        sae.check_width(x)
        pre = torch.addmm(bias, x, weights)
        return pre.masked_fill_(pre <= threshold, 0.0)

    return read


def _topk_reader(sae: Sae, latents: Int[Tensor, " chosen"]) -> Reader:
    """z = pre where it is positive and among the k largest of its token; of few tokens without making sparse codes of all latents."""
    assert sae.k is not None
    k, chosen = sae.k, latents.to(sae.W_dec.device)

    def read(x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token chosen"]:
        if len(x) * sae.n_latents > FEW_VALUES:
            return gather_latents(sae.encode(x), latents)
        sae.check_width(x)
        pre = sae.pre_activations(x)
        least = pre.topk(k, dim=1, sorted=False).values.amin(1, keepdim=True).clamp_(min=0)
        own = pre[:, chosen]
        return own.masked_fill_((own < least) | (own <= 0), 0.0)

    return read


def gather_latents(codes: Codes, latents: Int[Tensor, " chosen"]) -> Float[Tensor, "token chosen"]:
    """Activations of a few latents (ascending indices) as a dense matrix."""
    latents = latents.to(codes.latents.device)
    if not len(latents):
        return codes.values.new_zeros(codes.n_tokens, 0)
    column = torch.searchsorted(latents, codes.latents.to(latents.dtype)).clamp(max=len(latents) - 1)
    wanted = latents[column] == codes.latents
    dense = codes.values.new_zeros(codes.n_tokens, len(latents))
    return dense.index_put((codes.tokens()[wanted], column[wanted]), codes.values[wanted])
