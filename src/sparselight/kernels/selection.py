"""Which entries of a [token latent] matrix are active: positions without values, in CSR order, and the same sorted by latent (CSC).

Both orders are needed by every sparse operation's gradients, so a selection is made once a batch and shared. Values that belong to
entries have shape [entry]. An SAE that is not sparse yet has a DenseSelection: every entry counts, values have shape [token latent].
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Selection:
    """Token t owns entries indptr[t] .. indptr[t+1]; latents ascend within a token."""

    latents: Int[Tensor, " entry"]
    """int32."""
    indptr: Int[Tensor, " token_plus_1"]
    n_latents: int

    @classmethod
    def from_flat(cls, positions: Int[Tensor, " entry"], n_tokens: int, n_latents: int) -> Self:
        """From ascending positions in the flattened [token latent] matrix."""
        row_starts = torch.arange(n_tokens + 1, device=positions.device) * n_latents
        return cls(positions.remainder(n_latents).int(), torch.searchsorted(positions, row_starts), n_latents)

    @property
    def n_tokens(self) -> int:
        return len(self.indptr) - 1

    @cached_property
    def tokens(self) -> Int[Tensor, " entry"]:
        """Token of every entry."""
        return torch.repeat_interleave(torch.arange(self.n_tokens, device=self.indptr.device), self.indptr.diff())

    @cached_property
    def by_latent(self) -> tuple[Int[Tensor, " entry"], Int[Tensor, " latent_plus_1"]]:
        """The order that sorts entries by latent, tokens ascending within one, and where each latent's entries begin in it."""
        keys = self.latents.to(torch.int16) if self.n_latents <= 2**15 else self.latents  # the sort's cost goes with the key's width
        latents, order = torch.sort(keys, stable=True)
        edges = torch.arange(self.n_latents + 1, device=latents.device, dtype=torch.int32)
        return order, torch.searchsorted(latents.int(), edges)

    def per_entry(self, per_latent: Float[Tensor, " latent"]) -> Float[Tensor, " entry"]:
        """A latent's number at each of its entries; differentiable."""
        return per_latent[self.latents]

    def sum_per_token(self, values: Float[Tensor, " entry"]) -> Float[Tensor, " token"]:
        """Sum of each token's entries; differentiable."""
        return values.new_zeros(self.n_tokens).index_add(0, self.tokens, values)

    def n_fires(self, values: Float[Tensor, " entry"]) -> Int[Tensor, " latent"]:
        """On how many tokens each latent's value is positive."""
        return torch.bincount(self.latents[values > 0], minlength=self.n_latents)


@dataclass(frozen=True)
class DenseSelection:
    """All entries: what belongs to entries has shape [token latent]."""

    n_tokens: int
    n_latents: int

    def per_entry(self, per_latent: Float[Tensor, " latent"]) -> Float[Tensor, " latent"]:
        return per_latent

    def sum_per_token(self, values: Float[Tensor, "token latent"]) -> Float[Tensor, " token"]:
        return values.sum(1)

    def n_fires(self, values: Float[Tensor, "token latent"]) -> Int[Tensor, " latent"]:
        return (values > 0).sum(0)


AnySelection = Selection | DenseSelection


class Selected(NamedTuple):
    """A selection with the pre-activations at its entries."""

    selection: AnySelection
    values: Float[Tensor, " entry"]

    @property
    def sparse(self) -> Selection:
        """The selection, which is known to be no DenseSelection."""
        assert isinstance(self.selection, Selection)
        return self.selection

    @property
    def cutoff(self) -> float:
        """The smallest value kept; 0 when nothing was."""
        return float(self.values.detach().min()) if self.values.numel() else 0.0


@dataclass
class WeightGradients:
    """Where a batch's weight gradients go."""

    W_enc: Float[Tensor, "latent d_in"]
    b_enc: Float[Tensor, " latent"]
    W_dec: Float[Tensor, "latent d_out"]
    fresh: bool = True
    """The buffers hold nothing yet and are overwritten; else they are added to."""
    unit_rows: Float[Tensor, "latent d_out"] | None = None
    """The decoder, where its rows keep their norm: a gradient along its own row does not count in `squares`."""
    squares: dict[str, float] | None = None
    """Sums of squares of the gradients in W_enc and W_dec, where a kernel finds them on its way; whoever changes the buffers afterwards drops them."""
