"""Intervals: the percentile bootstrap over groups of examples, for ratios of sums and for paired differences of them.

Tokens of one group (a file, a patient, a homology cluster) are not independent, so groups are resampled and never tokens (Efron and
Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). Every metric is a function of sums over groups; it is taken
once of the whole sample and once of each resample, all at once: a metric is an array over resamples, whose entry 0 is the value.
Differences between coders use the same resamples, which removes what both share. Refuses: intervals from a single group.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from sparselight.records import MetricValue

FEW_GROUPS = 10  # with fewer, percentile intervals are known to be too narrow; the record says so

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
