"""How often each latent of a dictionary fires, and how strongly: dead and dense latents, and the histogram of fire rates.

A latent fires on a token where its activation is not 0. Every count is in tokens and says of how many: a latent that is dead on 10,000 tokens
may fire on the next 10,000. Owns: the counts, what is derived of them, and the two tables in which they are reported. Refuses nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparselight.protocols import Codes


@dataclass(slots=True)
class LatentSums:
    """Of each latent: on how many tokens it fired, the sum and the largest of its activations there."""

    n_fired: Int[Tensor, " latent"]
    total: Float[Tensor, " latent"]
    largest: Float[Tensor, " latent"]
    n_tokens: int = 0

    @classmethod
    def empty(cls, n_latents: int) -> "LatentSums":
        none = torch.zeros(n_latents, dtype=torch.float64)
        return cls(torch.zeros(n_latents, dtype=torch.int64), none, torch.full_like(none, -torch.inf))

    def add(self, codes: Codes) -> None:
        """Add the tokens of these codes."""
        fires = codes.values != 0
        latents, values = codes.latents[fires].cpu(), codes.values[fires].cpu().double()
        self.n_fired += torch.bincount(latents, minlength=len(self.n_fired))
        self.total += torch.bincount(latents, weights=values, minlength=len(self.n_fired))
        self.largest.scatter_reduce_(0, latents, values, "amax")
        self.n_tokens += codes.n_tokens

    @property
    def fire_rate(self) -> Float[np.ndarray, " latent"]:
        """Tokens on which each latent fired / tokens."""
        return self.n_fired.numpy() / max(self.n_tokens, 1)

    @property
    def n_dead(self) -> int:
        """Latents that fired on no token."""
        return int((self.n_fired == 0).sum())

    def dense_frac(self, above: float) -> float:
        """Latents that fire on more than this share of the tokens / n_latents."""
        return float((self.fire_rate > above).mean())

    def table(self, coder: str, dataset: str) -> pa.Table:
        """One line a latent; strengths are taken over the tokens on which it fired, and missing for a dead one."""
        fired = self.n_fired.numpy()
        dead = fired == 0
        mean = np.divide(self.total.numpy(), fired, out=np.zeros(len(fired)), where=~dead)
        return pa.table({
            "coder": pa.array([coder] * len(fired)).dictionary_encode(), "dataset": pa.array([dataset] * len(fired)).dictionary_encode(),
            "latent": np.arange(len(fired)), "n_fired_tokens": fired, "n_tokens": np.full(len(fired), self.n_tokens), "fire_rate": self.fire_rate,
            "mean_activation": pa.array(mean, mask=dead), "max_activation": pa.array(self.largest.numpy(), mask=dead),
        })

    def histogram(self, coder: str, dataset: str, bins_per_decade: int) -> pa.Table:
        """Latents by fire rate: bins [low, high) of equal width in log10, from the rate of one token up to 1; dead latents have a line with high = 0."""
        decades = int(np.ceil(np.log10(max(self.n_tokens, 2))))
        edges = 10.0 ** (np.arange(-decades * bins_per_decade, 1) / bins_per_decade)
        counts = np.histogram(self.fire_rate[self.fire_rate > 0], edges)[0]  # the last bin includes 1
        low, high, n = np.append(0.0, edges[:-1]), np.append(0.0, edges[1:]), np.append(self.n_dead, counts)
        return pa.table({"coder": [coder] * len(n), "dataset": [dataset] * len(n), "low": low, "high": high, "n_latents": n})


def stacked(tables: Sequence[pa.Table]) -> pa.Table:
    """Tables of one form under each other."""
    return pa.concat_tables(tables).unify_dictionaries()
