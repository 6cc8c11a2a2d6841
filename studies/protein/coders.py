"""The coders of the study: SAEs of four architectures, and directions that no dictionary was trained for: neurons, principal components.

A direction is given the form of a latent, so that all coders go through the same search. Refuses nothing: what does not fit, the package refuses.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

import sparselight as sl
from sparselight.evaluate.linear_coders import pca
from sparselight.protocols import Codes
from sparselight.sae import Sae
from sparselight.store import FolderStore

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "topk": {"architecture": "topk"}, "matryoshka": {"architecture": "matryoshka"},
    "ortsae": {"architecture": "batch_topk", "objective": {"orthogonal": 0.25}},
    "relu": {"architecture": "relu", "objective": {"l1": 0.01}},
}
WHITENED = {"normalize": "whiten"}  # a few directions hold nearly all variance of this subject: without it three of four latents die
FIRES_ABOVE = 1.5  # standard deviations: about as many directions then fire on a token as an SAE has latents
FIT_ROWS = 40_000


@dataclass(frozen=True, slots=True)
class Directions:
    """y_j = <x - mean, a_j> / sd_j as two latents, one a sign; it fires where it lies above FIRES_ABOVE."""

    mean: Float[Tensor, " d_in"]
    directions: Float[Tensor, "d_in direction"]
    """Orthonormal."""
    scale: Float[Tensor, " direction"]

    @property
    def d_in(self) -> int:
        return len(self.mean)

    @property
    def n_latents(self) -> int:
        return 2 * len(self.scale)

    def encode(self, x: Float[Tensor, "token d_in"]) -> Codes:
        y = (x - self.mean) @ self.directions / self.scale
        both = torch.cat([y, -y], 1)
        there = both > FIRES_ABOVE
        return Codes(both[there], there.nonzero()[:, 1], torch.cat([torch.zeros(1, dtype=torch.int64), there.sum(1).cumsum(0)]), self.n_latents)

    def decode(self, codes: Codes) -> Float[Tensor, "token d_in"]:
        dense, n = codes.to_dense(), len(self.scale)
        return self.mean + (dense[:, :n] - dense[:, n:]) * self.scale @ self.directions.T

    def reconstruct(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        return self.decode(self.encode(x))


def neurons(x: Float[Tensor, "token d_in"]) -> Directions:
    """The site's own dimensions."""
    return Directions(x.mean(0), torch.eye(x.shape[1]), x.std(0).clamp(min=1e-6))


def components(x: Float[Tensor, "token d_in"]) -> Directions:
    """All principal components."""
    found = pca(x, x.shape[1])
    return Directions(found.mean, found.analysis, ((x - found.mean) @ found.analysis).std(0).clamp(min=1e-6))


def trained(store: FolderStore, site: str, folder: Path, name: str, seed: int, n_latents: int, k: int, n_tokens: int) -> Sae:
    """The SAE in the folder, trained if it is not there yet."""
    if (folder / "sae" / "sparselight.json").is_file():
        return sl.load_sae(folder / "sae")
    own = {**ARCHITECTURES[name], **({} if name == "relu" else {"k": k})}
    return sl.train(store, folder, site=site, n_latents=n_latents, n_tokens=n_tokens, seed=seed, **WHITENED, **own)
