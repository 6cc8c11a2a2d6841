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
from sparselight.sae import Sae, initialize

CONTROL_ROWS = 40_000  # training activations on which controls and the mean are fitted
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


@torch.no_grad()
def untrained(sae: Sae, x: Float[Tensor, "token d_in"], seed: int = 0) -> Sae:
    """A random SAE of the same shape that is as sparse as the trained one.

    Its weights are those that a training starts from: decoder rows are random unit vectors, W_enc = W_dec^T, b_enc = 0, and b_dec is
    the mean of `x`. One threshold for all latents is chosen so that the mean l0 on evenly spaced rows of `x` is that of the trained SAE
    on the same rows.

    Args:
        x: training activations.

    Raises:
        SaeError: when `x` is empty or of another width, or the trained one is a transcoder.
    """
    if not len(x):
        raise SaeError(asked="make an untrained SAE", why="there are no activations to set its threshold on", instead="give training activations")
    sae.check_width(x)
    if sae.is_transcoder:
        raise SaeError(asked="make an untrained SAE beside a transcoder", why="it gives back other activations than it reads",
                       instead="evaluate an SAE that was trained without train.target_site")
    x = x.to(getattr(sae, "W_dec", x).device, torch.float32)  # a wrapped coder may have no directions
    rows = torch.linspace(0, len(x) - 1, min(len(x), CALIBRATION_TOKENS), device=x.device, dtype=torch.float64).round().long()
    result = initialize(Sae(sae.d_in, sae.n_latents), x.mean(0, dtype=torch.float64), torch.Generator().manual_seed(seed)).to(x.device)
    n_active = sum(int((sae.encode(chunk).values != 0).sum()) for chunk in x[rows].split(CHUNK_TOKENS))
    result.threshold.fill_(_threshold(result, x[rows], n_active))
    return result


def _threshold(sae: Sae, x: Float[Tensor, "token d_in"], n_active: int) -> float:
    """The value that `n_active` of all positive pre-activations exceed; 0 where there are not that many."""
    largest = torch.zeros(0, device=x.device)
    for chunk in x.split(CHUNK_TOKENS):
        found = sae.pre_activations(chunk).flatten()
        least = float(largest.min()) if len(largest) > n_active else 0.0
        largest = torch.cat([largest, found[found > least]])
        if len(largest) > n_active + 1:
            largest = largest.topk(n_active + 1, sorted=False).values
    if len(largest) <= n_active:
        return 0.0
    lowest = largest.sort().values[:2]  # the first that must not fire, and the last that must
    return float(lowest.double().mean()) if n_active else float(lowest[0])


def standard_controls(sae: Sae, x: Float[Tensor, "token d_in"]) -> dict[str, Sae | PcaCoder]:
    """What every evaluation of an SAE stands beside, by name: its untrained twin, and PCA with as many components as it has active latents.

    Args:
        x: training activations, on which both are fitted.
    """
    l0 = sae.record.l0 if sae.record else len(sae.encode(x).values) / len(x)
    k = min(max(1, round(l0)), sae.d_in)
    return {"untrained SAE": untrained(sae, x, seed=0), f"PCA, {k} components": pca(x, k)}
