"""Intervals, paired differences, many comparisons at once, and several seeds.

Tokens of one group (a file, a patient, a homology cluster) are not independent, so groups are resampled and never tokens (percentile
bootstrap: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). Every metric is a function of sums over groups; it is
taken once of the whole sample and once of each resample, all at once: a metric is an array over resamples, whose entry 0 is the value.
Differences between coders use the same resamples, which removes what both share. Refuses: intervals from a single group, p-values
outside 0 to 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import ndtri, stdtrit

from sparselight.errors import ConfigError
from sparselight.records import MetricValue

FEW_GROUPS = 10  # with fewer, percentile intervals are known to be too narrow; the record says so
FEW_SEEDS = 3  # with fewer, the spread between seeds is hardly known; the note says so
Z95 = float(ndtri(0.975))

Resampled = Float[np.ndarray, " resample"]


@dataclass(frozen=True, slots=True)
class Resamples:
    """How often each group counts: row 0 takes every group once, each further row is one bootstrap draw of as many groups."""

    weights: Float[np.ndarray, "resample group"]
    seed: int

    @classmethod
    def draw(cls, n_groups: int, n_bootstrap: int, seed: int) -> "Resamples":
        """Draw groups with replacement, equally likely: multinomial weights."""
        drawn = np.random.default_rng(seed).multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=n_bootstrap)
        return cls(np.concatenate([np.ones((1, n_groups)), drawn.astype(np.float64)]), seed)

    @property
    def n_groups(self) -> int:
        return self.weights.shape[1]

    def totals(self, per_group: Float[np.ndarray, "group *rest"]) -> Float[np.ndarray, "resample *rest"]:
        """Sums over the groups of every resample."""
        return np.tensordot(self.weights, per_group, axes=1)

    def summarize(self, values: Resampled) -> tuple[MetricValue | None, str]:
        """The value and its 95 % percentile interval.

        Returns:
            The measured value, None where it is undefined, and what is missing in words, empty where nothing is.
        """
        value = float(values[0])
        if not np.isfinite(value):
            return None, "it is undefined here (its denominator is not above 0), so it is left out"
        plain = MetricValue(value=value, n=self.n_groups, unit="groups", seeds=[self.seed])
        if self.n_groups == 1:
            return plain, ""
        undefined = int((~np.isfinite(values[1:])).sum())
        if undefined:
            return plain, f"no interval, because it is undefined in {undefined} of {len(values) - 1} resamples"
        low, high = np.quantile(values[1:], [0.025, 0.975])
        return plain.model_copy(update={"low": float(low), "high": float(high)}), ""

    def note(self) -> str:
        """What a reader must know of all intervals of these resamples; empty where nothing."""
        if self.n_groups == 1:
            return "all tokens come from one group, so there are no intervals"
        return f"only {self.n_groups} groups, so intervals are rough and rather too narrow" if self.n_groups < FEW_GROUPS else ""


def ratio(top: Resampled, bottom: Resampled, least: float = 0.0) -> Resampled:
    """top / bottom; nan where `bottom` is not above `least`."""
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom > least)


class Paired(NamedTuple):
    """How two coders differ in one metric, on the same groups."""

    value: MetricValue | None
    """first - second with its interval; None where one of them is undefined."""
    p: float | None
    """Two-sided, of no difference; None where the value has no interval."""
    lacks: str
    """What is missing, in words; empty where nothing is."""


def paired(first: Resampled, second: Resampled, resamples: Resamples) -> Paired:
    """first - second by the paired bootstrap: both are taken on the same draws of groups.

    p = 2 min(P(d <= 0), P(d >= 0)), each (1 + draws on that side) / (1 + draws), at most 1: the level at which the percentile interval would
    just touch 0 (Efron and Tibshirani 1993, section 15.4); the added 1 keeps it from being 0 (Davison and Hinkley 1997, section 4.2.5).
    """
    value, lacks = resamples.summarize(first - second)
    if value is None or value.low is None:
        return Paired(value, None, lacks or resamples.note())
    draws = (first - second)[1:]
    below, above = (1 + int((draws <= 0).sum())) / (1 + len(draws)), (1 + int((draws >= 0).sum())) / (1 + len(draws))
    return Paired(value, min(1.0, 2 * min(below, above)), lacks)


def benjamini_hochberg(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """Adjusted p-values that keep the false discovery rate: p_(i) <- min over j >= i of n p_(j) / j, in ascending order (Benjamini and Hochberg 1995).

    Rejecting all that are at or below q makes the expected share of false ones among them at most q, for tests that are independent or
    positively dependent.
    """
    p = _checked(p)
    order = np.argsort(p)
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    result = np.empty_like(p)
    result[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return result


def bonferroni(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """Adjusted p-values that keep the chance of even one false rejection: min(1, n p), under any dependence."""
    return np.minimum(_checked(p) * np.size(p), 1.0)


def wilson(n_hits: int, n: int, unit: str = "trials") -> MetricValue:
    """A share with its 95 % interval: (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n) (Wilson 1927); it holds for few trials too.

    Raises:
        ConfigError: when there are no trials.
    """
    if n < 1:
        raise ConfigError(asked="take a share", why="there is nothing to count", instead="give at least one case")
    p, z2 = n_hits / n, Z95**2
    middle, half = p + z2 / (2 * n), (z2 * (p * (1 - p) / n + z2 / (4 * n * n))) ** 0.5
    low, high = ((middle + sign * half) / (1 + z2 / n) for sign in (-1, 1))
    return MetricValue(value=p, low=max(0.0, low), high=min(1.0, high), n=n, unit=unit)


def over_seeds(values: Sequence[float], seeds: Sequence[int]) -> tuple[MetricValue, str]:
    """Mean over runs of different seeds with the interval of Student's t: mean +- t_(0.975, n - 1) s / sqrt(n).

    It answers how another seed would come out on the same data; the bootstrap over groups answers how other data would.

    Returns:
        The value (without an interval for one seed), and what a reader must know of it, empty where nothing.

    Raises:
        ConfigError: without a value, with another number of seeds, or with values that are not finite.
    """
    asked, found = f"sum up {len(values)} values of {len(seeds)} seeds", np.asarray(values, dtype=np.float64)
    if not len(found) or len(found) != len(set(seeds)):
        raise ConfigError(asked=asked, why="each seed needs one value", instead="give one value a seed, each seed once")
    if not np.isfinite(found).all():
        raise ConfigError(asked=asked, why=f"the values of the seeds {[seed for seed, value in zip(seeds, found, strict=True) if not np.isfinite(value)]} "
                          "are not finite", instead="leave those seeds out and say so")
    n, note = len(found), ""
    result = MetricValue(value=float(found.mean()), n=n, unit="seeds", seeds=list(seeds))
    if n < FEW_SEEDS:
        note = "one seed, so nothing is known of the spread between seeds" if n == 1 else f"only {n} seeds, so the spread between them is hardly known"
    if n > 1:
        half = float(stdtrit(n - 1, 0.975) * found.std(ddof=1) / np.sqrt(n))
        result = result.model_copy(update={"low": result.value - half, "high": result.value + half})
    return result, note


def _checked(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    p = np.asarray(p, dtype=np.float64)
    wrong = ~((p >= 0) & (p <= 1))  # nan as well
    if wrong.any():
        raise ConfigError(asked=f"adjust {len(p)} p-values", why=f"{int(wrong.sum())} of them are not between 0 and 1, for example {p[wrong][0]}",
                          instead="leave out tests that are not defined")
    return p
