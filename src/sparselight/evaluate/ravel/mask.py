"""A mask over the latents of a coder: trained to move one attribute from a source to a base and to leave the others.

Differentiable binary masking (De Cao et al. 2020; for SAEs, Chaudhary and Geiger 2024) as in SAEBench: z = (1 - m) z_base + m z_source,
m = sigmoid(logit / T) while training and 1[logit > 0] for the values; x' = decode(z) without the reconstruction error. Decoders are
linear, so x' = decode(z_base) + (m * (z_source - z_base)) @ W_dec, and only latents that differ in a pair cost anything.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import sparse
from torch import Tensor

from sparselight.evaluate.contender import Contender
from sparselight.evaluate.ravel.config import RavelConfig
from sparselight.evaluate.ravel.pairs import Pairs, Readout
from sparselight.evaluate.readout import code_matrix, decoder_bias, directions, lacks_directions
from sparselight.protocols import Codes

ENCODED_AT_ONCE = 4096
DENSE_FRAC = 1 / 8  # of entries that differ: above it one product is cheaper than single rows


class Basis(NamedTuple):
    """What a mask is over: directions whose sum with the offset is the activation."""

    directions: Float[Tensor, "latent d_in"]
    offset: Float[Tensor, " d_in"]
    codes: list[sparse.csr_matrix]
    """[unit, latent] of each side."""


def basis_of(contender: Contender, sides: list[Float[Tensor, "unit d_in"]]) -> tuple[Basis | None, str]:
    """The latents of a coder.

    Returns:
        The basis, None for a coder that has none, and why.
    """
    why = lacks_directions(contender)
    if why:
        return None, why
    codes = [sparse.vstack([_encoded(contender, part) for part in x.split(ENCODED_AT_ONCE)]).tocsr() for x in sides]
    if not codes[0].nnz:
        return None, "no latent fires on the units on which masks are trained"
    return Basis(directions(contender).float().cpu(), decoder_bias(contender).detach().float().cpu(), codes), ""


def channels(sides: list[Float[Tensor, "unit d_in"]]) -> Basis:
    """The raw channels of the activations, each a direction of its own."""
    d_in = sides[0].shape[1]
    return Basis(torch.eye(d_in), torch.zeros(d_in), [sparse.csr_matrix(x.numpy()) for x in sides])


@torch.enable_grad()
def train_mask(basis: Basis, side: int, pairs: Pairs, readout: Readout, config: RavelConfig) -> Bool[np.ndarray, " latent"]:
    """Train the mask's logits, from 0, by Adam on the cross entropy of what each pair should say. Latents that differ in no pair stay out."""
    moves = _Moves(basis, side, pairs)
    logits = torch.zeros(len(moves.latents), requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=config.lr)
    n_pairs = len(pairs.base)
    starts = [start for _ in range(config.epochs) for start in range(0, n_pairs, config.batch_pairs)]
    for step, start in enumerate(starts):
        part = slice(start, min(start + config.batch_pairs, n_pairs))
        mask = torch.sigmoid(logits / config.final_temperature ** (step / max(len(starts) - 1, 1)))
        optimizer.zero_grad()
        readout.loss(pairs.take(part), moves.edited(part, mask)).backward()
        optimizer.step()
    chosen = np.zeros(basis.directions.shape[0], dtype=bool)
    chosen[moves.latents[logits.detach().numpy() > 0]] = True
    return chosen


@torch.no_grad()
def exchanged(basis: Basis, side: int, pairs: Pairs, mask: Bool[np.ndarray, " latent"]) -> Float[Tensor, "pair d_in"]:
    """The activations of the bases with the masked latents of the sources."""
    moves = _Moves(basis, side, pairs)
    chosen = torch.from_numpy(mask[moves.latents]).float()
    size = ENCODED_AT_ONCE
    return torch.cat([moves.edited(slice(start, min(start + size, len(pairs.base))), chosen) for start in range(0, len(pairs.base), size)])


class _Moves:
    """Differences of codes for all pairs, over the latents that differ in any."""

    def __init__(self, basis: Basis, side: int, pairs: Pairs):
        codes = basis.codes[side]
        difference = (codes[pairs.source] - codes[pairs.base]).tocsr()
        difference.eliminate_zeros()
        self.latents = np.unique(difference.indices)
        self._difference = difference[:, self.latents].tocsr()
        self._dense = difference.nnz > DENSE_FRAC * len(self.latents) * difference.shape[0]
        self._directions = basis.directions[torch.from_numpy(self.latents.astype(np.int64))]
        used, which = np.unique(pairs.base, return_inverse=True)
        self._rebuilt = torch.from_numpy(np.asarray(codes[used] @ basis.directions.numpy(), dtype=np.float32)) + basis.offset
        self._which = torch.from_numpy(which)

    def edited(self, part: slice, mask: Float[Tensor, " latent"]) -> Float[Tensor, "pair d_in"]:
        rows, before = self._difference[part], self._rebuilt[self._which[part]]
        if self._dense:
            return before + (torch.from_numpy(rows.toarray()).float() * mask) @ self._directions
        latent = torch.from_numpy(rows.indices.astype(np.int64))
        pair = torch.from_numpy(np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr)))
        moved = (mask[latent] * torch.from_numpy(rows.data).float())[:, None] * self._directions[latent]
        return before.index_add(0, pair, moved)


@torch.no_grad()
def _encoded(contender: Contender, x: Float[Tensor, "unit d_in"]) -> sparse.csr_matrix:
    assert contender.sparse is not None
    codes = contender.sparse.encode(contender.there(x))
    return code_matrix(Codes(codes.values.float().cpu(), codes.latents.cpu(), codes.indptr.cpu(), codes.n_latents))
