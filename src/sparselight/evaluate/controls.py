"""Coders that a trained SAE is set beside: what untrained weights, plain PCA, the mean and zero achieve.

A metric says something of training only where it beats an untrained SAE of the same shape and sparsity; it says something of sparsity
only beside a dense linear code with as many numbers a token (PCA with l0 components). Refuses: fitting on activations of another width,
on too few of them, and more components than there are dimensions.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sparselight.errors import SaeError
from sparselight.sae import Sae

CALIBRATION_TOKENS = 8192  # evenly spaced tokens on which l0 is matched: sets it to well under 1 % and keeps the work to seconds
CHUNK_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class MeanCoder:
    """Replaces every activation by one vector: fvu is 1 where that is the mean of the evaluated tokens, more elsewhere."""

    mean: Float[Tensor, " d_in"]

    def reconstruct(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        return self.mean.to(x).expand_as(x)


@dataclass(frozen=True, slots=True)
class ZeroCoder:
    """Replaces every activation by 0."""

    def reconstruct(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        return torch.zeros_like(x)


@dataclass(frozen=True, slots=True)
class PcaCoder:
    """Projection on principal components: x_hat = mean + C C^T (x - mean), the best linear code of that many dense numbers a token."""

    mean: Float[Tensor, " d_in"]
    components: Float[Tensor, "d_in component"]

    def reconstruct(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        mean, components = self.mean.to(x), self.components.to(x)
        return mean + ((x - mean) @ components) @ components.T


def mean_only(x: Float[Tensor, "token d_in"]) -> MeanCoder:
    """The coder that answers with the mean of `x`, taken in float64."""
    return MeanCoder(x.mean(0, dtype=torch.float64).float())


def pca(x: Float[Tensor, "token d_in"], n_components: int) -> PcaCoder:
    """Fit PCA by the eigenvectors of the covariance of `x` in float64.

    Args:
        n_components: 0 (the mean alone) to d_in.

    Raises:
        SaeError: when there are not that many dimensions, or fewer than two tokens.
    """
    n, d_in = x.shape
    asked = f"fit PCA with {n_components} components on {n} activations of width {d_in}"
    if not 0 <= n_components <= d_in:
        raise SaeError(asked=asked, why=f"there are {d_in} dimensions", instead=f"ask for 0 to {d_in} components")
    if n < 2:
        raise SaeError(asked=asked, why="a covariance needs two tokens or more", instead="give more training activations")
    mean = x.mean(0, dtype=torch.float64)
    covariance = torch.zeros(d_in, d_in, dtype=torch.float64, device=x.device)
    for chunk in x.split(CHUNK_TOKENS):
        centered = chunk.double() - mean
        covariance.addmm_(centered.T, centered)
    vectors = torch.linalg.eigh(covariance / (n - 1)).eigenvectors.flip(1)
    return PcaCoder(mean.float(), vectors[:, :n_components].float().contiguous())
