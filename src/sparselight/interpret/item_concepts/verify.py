"""The test of concepts: RecSAE's confidence on instances that were not used to find them, with the concept itself as the predictor.

A concept is a set of items; it predicts that a latent is active (level above 5 in RecSAE's words) where the instance's item is in the set. Per latent:
    recall = positives predicted / positives          true-negative rate = silent ones not predicted / silent ones
    precision = positives predicted / predicted       confidence = (positives predicted + silent ones not predicted) / tested
RecSAE (arXiv 2411.06112) asks a language model for a level instead; its tables call the true-negative rate precision.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int
from scipy import sparse

from sparselight.evaluate.statistics import wilson
from sparselight.interpret.item_concepts.instances import Instances
from sparselight.records import MetricValue
from sparselight.records.item_concepts import ConceptRoute, ConceptSummary

N_BOOTSTRAP = 1000
CONFIDENT = 0.8


@dataclass(frozen=True, slots=True)
class Draw:
    """The instances of one latent that concepts are found on and tested on."""

    found_on: Int[np.ndarray, " instance"]
    positive: Int[np.ndarray, " instance"]
    negative: Int[np.ndarray, " instance"]
    overlaps: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a concept did on a latent's tested instances."""

    recall: float
    true_negative_rate: float
    precision: float | None
    confidence: float


def outcome_of(members: Bool[np.ndarray, " vocabulary"], draw: Draw, item: Int[np.ndarray, " instance"]) -> Outcome:
    """Recall, true-negative rate, precision and confidence of one concept."""
    hits, alarms = int(members[item[draw.positive]].sum()), int(members[item[draw.negative]].sum())
    n_positive, n_negative = len(draw.positive), len(draw.negative)
    quiet = n_negative - alarms
    return Outcome(hits / n_positive, quiet / n_negative, hits / (hits + alarms) if hits + alarms else None, (hits + quiet) / (n_positive + n_negative))


def strongest(values: sparse.csc_matrix, latent: int, n: int) -> Int[np.ndarray, " instance"]:
    """The instances with the largest activations of a latent, the largest first."""
    part = slice(values.indptr[latent], values.indptr[latent + 1])
    return values.indices[part][np.argsort(-values.data[part], kind="stable")[:n]]


def silent(values: sparse.csc_matrix, latent: int, n: int, rng: np.random.Generator) -> Int[np.ndarray, " instance"]:
    """`n` instances drawn among those on which a latent is 0."""
    part = slice(values.indptr[latent], values.indptr[latent + 1])
    quiet = np.ones(values.shape[0], dtype=bool)
    quiet[values.indices[part]] = False
    rows = np.flatnonzero(quiet)
    return rng.choice(rows, min(n, len(rows)), replace=False)


def summarize(
    coder: str, is_control: bool, route: ConceptRoute, n_latents: int, outcomes: Mapping[int, Outcome], coherence: tuple[float | None, float | None], seed: int,
) -> ConceptSummary:
    """Counts and means over the latents that were tested."""
    found = list(outcomes.values())
    confidence = np.array([one.confidence for one in found])
    precision = [one.precision for one in found if one.precision is not None]
    at = [int((confidence >= level - 1e-9).sum()) for level in (CONFIDENT, 0.9, 1.0)]
    return ConceptSummary(
        coder=coder, is_control=is_control, route=route, n_latents=n_latents, n_scored=len(found), n_unscored=n_latents - len(found),
        confidence=_mean(confidence, seed) if len(found) else None,
        recall=float(np.mean([one.recall for one in found])) if found else None,
        true_negative_rate=float(np.mean([one.true_negative_rate for one in found])) if found else None,
        precision=float(np.mean(precision)) if precision else None, n_at_80=at[0], n_at_90=at[1], n_at_100=at[2],
        share_at_80=wilson(at[0], len(found), "latents") if found else None, coherence_within=coherence[0], coherence_between=coherence[1],
    )


def _mean(values: np.ndarray, seed: int) -> MetricValue:
    """Mean over latents with a percentile bootstrap interval (Efron 1979)."""
    if len(values) < 2:
        return MetricValue(value=float(values.mean()), n=len(values), unit="latents")
    means = values[np.random.default_rng(seed).integers(0, len(values), (N_BOOTSTRAP, len(values)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return MetricValue(value=float(values.mean()), low=float(low), high=float(high), n=len(values), unit="latents", seeds=[seed])


def coherence(latents: Sequence[int], values: sparse.csc_matrix, instances: Instances) -> tuple[float | None, float | None]:
    """Within: mean cosine of the vectors of a latent's two strongest instances with different items. Between: mean cosine over pairs of latents of their
    strongest instances (RecSAE's published evaluation code; the second is commented out there)."""
    within, firsts = [], []
    for latent in latents:
        rows = strongest(values, latent, values.shape[0])
        if not len(rows):
            continue
        firsts.append(rows[0])
        other = np.flatnonzero(instances.item[rows] != instances.item[rows[0]])
        if len(other):
            within.append(float(np.dot(*(_unit(instances, int(row)) for row in (rows[0], rows[other[0]])))))
    if len(firsts) < 2:
        return (float(np.mean(within)) if within else None), None
    units = np.stack([_unit(instances, int(row)) for row in firsts])
    total = float((units.sum(0) ** 2).sum())  # all pairs and each with itself
    return (float(np.mean(within)) if within else None), (total - len(units)) / (len(units) * (len(units) - 1))


def _unit(instances: Instances, row: int) -> np.ndarray:
    vector = instances.vector[row].numpy().astype(np.float64)
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-30))
