"""What an association search finds by chance: p-values of all pairs as a screen, and permutations of groups as the honest test.

The screen takes units as independent, which tokens of one text are not: its p-values are far too small where labels and firings come in runs.
It orders many pairs cheaply and drops those that not even that optimistic test can tell from chance. For the few pairs that are reported as
found, labels are permuted over whole groups (`Marks.shuffled`). Owns both. Refuses nothing.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse, special

from sparselight.evaluate.concepts.marks import Marks
from sparselight.evaluate.statistics import ratio


@dataclass(frozen=True, slots=True)
class FisherBound:
    """Upper bound of the one-sided p-value of Fisher's exact test, in logarithms, for many pairs at once.

    For `hits` units with both, P(X >= hits) with X hypergeometric is at most pmf(hits) / (1 - r), r = pmf(hits + 1) / pmf(hits), because the
    ratios of successive terms only fall. The bound is exact in its first two terms and never below the p-value; 1 where hits do not exceed
    their expectation.
    """

    log_factorials: Float[np.ndarray, " number"]
    n_units: int

    @classmethod
    def of(cls, n_units: int) -> "FisherBound":
        return cls(special.gammaln(np.arange(n_units + 2) + 1.0), n_units)

    def log_p(self, hits: Int[np.ndarray, "*pair"], n_fires: Int[np.ndarray, "*pair"], n_labelled: Int[np.ndarray, "*pair"]) -> Float[np.ndarray, "*pair"]:
        """Natural logarithm of the bound.

        Args:
            hits: units that carry the label and on which the latent fires.
        """
        n, table = self.n_units, self.log_factorials
        only_label, only_fires = n_labelled - hits, n_fires - hits
        neither = n - n_labelled - only_fires
        log_pmf = (table[n_labelled] + table[n - n_labelled] + table[n_fires] + table[n - n_fires] - table[n]
                   - table[hits] - table[only_label] - table[only_fires] - table[neither])
        falling = only_label.astype(np.float64) * only_fires / ((hits + 1.0) * (neither + 1.0))
        above = (hits * float(n) > n_labelled.astype(np.float64) * n_fires) & (falling < 1)
        return np.where(above, np.minimum(log_pmf - np.log1p(-np.where(above, falling, 0.0)), 0.0), 0.0)


@dataclass(frozen=True, slots=True)
class Screen:
    """Benjamini-Hochberg over all pairs, from the p-values at or below the level alone: those above it cannot change what is at or below it."""

    log_p: Float[np.ndarray, " kept"]
    adjusted: Float[np.ndarray, " kept"]
    n_tests: int
    level: float

    @classmethod
    def of(cls, log_p: Float[np.ndarray, " kept"], n_tests: int, level: float) -> "Screen":
        """Sort and adjust the kept p-values: log q_(i) = min over j >= i of log(n_tests p_(j) / j)."""
        log_p = np.sort(log_p)
        scaled = log_p + np.log(max(n_tests, 1)) - np.log(np.arange(1, len(log_p) + 1))
        return cls(log_p, np.minimum.accumulate(scaled[::-1])[::-1], n_tests, level)

    def q(self, log_p: Float[np.ndarray, " pair"]) -> Float[np.ndarray, " pair"]:
        """Adjusted p-values of pairs among the tests; nan where they are above the level."""
        at = np.searchsorted(self.log_p, log_p, side="right") - 1
        result = np.full(len(log_p), np.nan)
        known = (at >= 0) & (log_p <= np.log(self.level))
        result[known] = np.exp(self.adjusted[at[known]])
        result[result > self.level] = np.nan
        return result


def permutation_p(fires: sparse.csr_matrix, marks: Marks, f1: Float[np.ndarray, " pair"], n_permutations: int, seed: int) -> Float[np.ndarray, " pair"]:
    """p-values of given pairs: (1 + permutations of groups with an F1 at least as high) / (1 + permutations); all nan for a single group.

    Latent and threshold stay fixed, because they were chosen on the fit side; only the held-out labels are permuted.

    Args:
        fires: [unit, pair]: 1 where the latent of the pair is above its threshold.
        marks: column i holds the concept of pair i.
        f1: of the pairs with the labels in place.
    """
    if marks.n_groups < 2:
        return np.full(len(f1), np.nan)
    rng, as_high = np.random.default_rng(seed), np.zeros(len(f1), dtype=np.int64)
    n_fires = np.bincount(fires.indices, minlength=fires.shape[1])
    for _ in range(n_permutations):
        shuffled = marks.shuffled(rng)
        hits = np.asarray(fires.multiply(shuffled.ones).sum(axis=0)).ravel()
        as_high += np.nan_to_num(ratio(2 * hits, n_fires + shuffled.n_labelled)) >= f1 - 1e-12
    return (1 + as_high) / (1 + n_permutations)
