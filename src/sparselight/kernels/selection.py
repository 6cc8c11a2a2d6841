"""Which entries of a [token latent] matrix are active: positions without values, in CSR order, and the same sorted by latent (CSC).

Both orders are needed by every sparse operation's gradients, so a selection is made once a batch and shared.
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
    indptr: Int[Tensor, " token_plus_1"]
    n_latents: int

    @classmethod
    def from_flat(cls, positions: Int[Tensor, " entry"], n_tokens: int, n_latents: int) -> Self:
        """From ascending positions in the flattened [token latent] matrix."""
        row_starts = torch.arange(n_tokens + 1, device=positions.device) * n_latents
        return cls(positions.remainder(n_latents), torch.searchsorted(positions, row_starts), n_latents)

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
        narrow = torch.int16 if self.n_latents <= 2**15 else torch.int32  # the sort's cost goes with the key's width
        latents, order = torch.sort(self.latents.to(narrow), stable=True)
        edges = torch.arange(self.n_latents + 1, device=latents.device, dtype=torch.int32)
        return order, torch.searchsorted(latents.int(), edges)

    def n_fires(self) -> Int[Tensor, " latent"]:
        """On how many tokens each latent is active."""
        return self.by_latent[1].diff()


class Selected(NamedTuple):
    """A selection with the pre-activations that won it."""

    selection: Selection
    values: Float[Tensor, " entry"]

    @property
    def cutoff(self) -> float:
        """The smallest value kept; 0 when nothing was."""
        return float(self.values.min()) if len(self.values) else 0.0
