"""Intrinsic dimension of activations over the layers of a subject: a help in choosing where to train an SAE.

TwoNN (Facco, d'Errico, Rodriguez, Laio 2017, Scientific Reports 7, 12140): with r1, r2 the distances from a point to its two nearest neighbors and
mu = r2 / r1, F(mu) = 1 - mu^-d where density is constant on the scale of r2, whatever it is. Two estimates of d: maximum likelihood,
d = (n - 1) / sum_i ln mu_i (unbiased), with an interval from 2 d sum_i ln mu_i ~ chi2(2 n); and the slope through the origin of -ln(1 - F_emp(mu)) over
ln mu without the largest tenth of mu, as the paper does. The paper on steering protein models (arXiv 2502.09135) took a layer on the plateau that such
models show after an early peak. Owns: estimates, points of every layer, the plateau. Refuses: too few distinct points.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sparselight.errors import ConfigError
from sparselight.protocols import Example, Progress, no_progress
from sparselight.records import LayerDimension
from sparselight.subjects import HuggingFaceSubject
from sparselight.subjects.batching import batches_by_length

Points = Literal["examples", "tokens"]
MIN_POINTS = 20
DISCARDED_FRAC = 0.1  # the largest mu, where density varies most
BLOCK_ROWS = 512
BATCH_TOKENS = 8192


class NeighborRatios(NamedTuple):
    """r2 / r1 of every distinct point."""

    mu: Float[np.ndarray, " point"]
    n_duplicates: int
    """Points left out because another one lies at the same place."""


def neighbor_ratios(x: Float[Tensor, "point d_in"]) -> NeighborRatios:
    """Ratios of the distances to the second and the first neighbor, in float64, duplicates left out.

    Raises:
        ConfigError: with fewer than 20 distinct points.
    """
    distinct = torch.unique(x.double(), dim=0)
    if len(distinct) < MIN_POINTS:
        raise ConfigError(asked=f"estimate the intrinsic dimension of {len(x)} points", why=f"{len(distinct)} of them are distinct",
                          instead=f"give at least {MIN_POINTS} different examples")
    mu = []
    for start in range(0, len(distinct), BLOCK_ROWS):
        block = distinct[start:start + BLOCK_ROWS]
        distance = torch.cdist(block, distinct, compute_mode="donot_use_mm_for_euclid_dist")
        distance[torch.arange(len(block)), start + torch.arange(len(block))] = torch.inf
        nearest = distance.topk(2, largest=False).values
        mu.append((nearest[:, 1] / nearest[:, 0]).cpu().numpy())
    return NeighborRatios(np.concatenate(mu), len(x) - len(distinct))


def dimension_mle(mu: Float[np.ndarray, " point"]) -> tuple[float, float, float]:
    """(n - 1) / sum ln mu, and its 95 % interval if the ratios were independent."""
    from scipy import stats

    total, n = float(np.log(mu).sum()), len(mu)
    if not total > 0:
        raise ConfigError(asked="estimate an intrinsic dimension", why="every point has two neighbors at one distance, as points of a grid do",
                          instead="give activations of a corpus")
    low, high = stats.chi2.ppf([0.025, 0.975], 2 * n) / (2 * total)
    return (n - 1) / total, float(low), float(high)


def dimension_slope(mu: Float[np.ndarray, " point"], discarded_frac: float = DISCARDED_FRAC) -> float:
    """Least squares through the origin of -ln(1 - F_emp) over ln mu, F_emp(mu_(i)) = i / n, without the largest ratios."""
    ordered = np.sort(mu)
    n_kept = max(1, int(len(ordered) * (1 - discarded_frac)))
    x, y = np.log(ordered[:n_kept]), -np.log1p(-np.arange(1, n_kept + 1) / len(ordered))
    return float((x @ y) / (x @ x)) if n_kept < len(ordered) else float((x[:-1] @ y[:-1]) / (x[:-1] @ x[:-1]))


def layer_dimensions(
    subject: HuggingFaceSubject, examples: Sequence[Example], sites: Sequence[str], points: Points = "examples", n_points: int = 2000, seed: int = 0,
    progress: Progress = no_progress,
) -> list[LayerDimension]:
    """Intrinsic dimension at each site, from one pass of the subject.

    Args:
        points: `examples`: the mean activation of each example is a point; `tokens`: tokens drawn at random are.
        n_points: examples, or tokens, that are drawn.
    """
    found = layer_points(subject, examples, sites, points, n_points, seed, progress)
    return [_measured(site, found[site], points) for site in sites]


def layer_points(
    subject: HuggingFaceSubject, examples: Sequence[Example], sites: Sequence[str], points: Points, n_points: int, seed: int, progress: Progress = no_progress,
) -> dict[str, Float[Tensor, "point d_in"]]:
    """The points of every site; the same examples or tokens at each."""
    rng = np.random.default_rng(seed)
    drawn = rng.permutation(len(examples))[:n_points] if points == "examples" or len(examples) > n_points else np.arange(len(examples))
    chosen = [examples[index] for index in drawn.tolist()]
    counts = subject.n_tokens(chosen)
    share = min(1.0, n_points / max(sum(counts), 1))
    parts: dict[str, list[Tensor]] = {site: [] for site in sites}
    for group in batches_by_length(counts, BATCH_TOKENS, subject.ref().token_policy):
        batch = subject.prepare([chosen[index] for index in group])
        kept = torch.from_numpy(rng.random(batch.n_tokens) < share)
        for site, x in subject.capture(batch, list(sites)).items():
            parts[site].append(x[kept].cpu() if points == "tokens" else example_means(x.cpu(), batch.example.cpu()))
        progress(sum(len(part) for part in parts[sites[0]]), n_points if points == "tokens" else len(chosen))
    return {site: torch.cat(found) for site, found in parts.items()}


def example_means(x: Float[Tensor, "token d_in"], example: Tensor) -> Float[Tensor, "example d_in"]:
    """Mean over the tokens of each example that has any."""
    known, index = torch.unique(example, return_inverse=True)
    total = torch.zeros(len(known), x.shape[1], dtype=torch.float64).index_add_(0, index, x.double())
    return total / torch.bincount(index, minlength=len(known))[:, None]


def _measured(site: str, x: Float[Tensor, "point d_in"], points: Points) -> LayerDimension:
    ratios = neighbor_ratios(x)
    value, low, high = dimension_mle(ratios.mu)
    return LayerDimension(site=site, points=points, n_points=len(ratios.mu), n_duplicates=ratios.n_duplicates, dimension=value, low=low, high=high,
                          slope=dimension_slope(ratios.mu))


def plateau(values: Sequence[float], tolerance: float = 0.1) -> range:
    """The longest run of layers whose dimensions differ by at most this share of the largest among them; of equal runs the first."""
    best = range(1)
    for start in range(len(values)):
        for stop in range(start + 1, len(values) + 1):
            run = values[start:stop]
            if max(run) - min(run) <= tolerance * max(run) and stop - start > len(best):
                best = range(start, stop)
    return best
