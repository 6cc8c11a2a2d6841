"""Scores of yes-no judgments with intervals over groups.

    recall = TP / P     true_negative_rate = TN / N     balanced_accuracy = (recall + true_negative_rate) / 2
    precision = TP / (TP + FP)     f1 = 2 TP / (2 TP + FP + FN)

Intervals: percentile bootstrap over the groups of the examples, firing and silent ones apart, so that both keep their number of groups
(Efron and Tibshirani 1993, chapter 13). Near misses have a true-negative rate of their own and are in no other value. A value whose denominator is 0 is left
out; precision and F1 depend on how many silent examples are shown, balanced accuracy does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from sparselight.evaluate.statistics import Resampled, Resamples, ratio
from sparselight.records import MetricValue, Score


@dataclass(frozen=True, slots=True)
class Judgments:
    """What was judged of each example: 1, 0, or -1 where there is no answer."""

    judged: Int[np.ndarray, " example"]
    is_positive: Bool[np.ndarray, " example"]
    is_near_miss: Bool[np.ndarray, " example"]
    groups: Sequence[str]

    @property
    def is_answered(self) -> Bool[np.ndarray, " example"]:
        answered: Bool[np.ndarray, " example"] = self.judged >= 0
        return answered


@dataclass(frozen=True, slots=True)
class Side:
    """The examples of one kind, as sums over resamples of their groups."""

    yes: Resampled
    n: Resampled
    n_groups: int


def side(judgments: Judgments, wanted: Bool[np.ndarray, " example"], n_bootstrap: int, seed: int) -> Side | None:
    """Yes-answers among the wanted, answered examples; None without one."""
    chosen = np.flatnonzero(wanted & judgments.is_answered)
    if not len(chosen):
        return None
    names, group = np.unique([judgments.groups[index] for index in chosen.tolist()], return_inverse=True)
    resamples = Resamples.draw(len(names), n_bootstrap, seed)
    yes = np.bincount(group, weights=judgments.judged[chosen] == 1, minlength=len(names))
    return Side(resamples.totals(yes), resamples.totals(np.bincount(group, minlength=len(names)).astype(np.float64)), len(names))


def binary_values(judgments: Judgments, n_bootstrap: int, seed: int) -> dict[str, MetricValue]:
    """All values of the head of this file that exist."""
    firing = side(judgments, judgments.is_positive, n_bootstrap, seed)
    silent = side(judgments, ~judgments.is_positive & ~judgments.is_near_miss, n_bootstrap, seed + 1)
    near = side(judgments, judgments.is_near_miss, n_bootstrap, seed + 2)
    if firing is None or silent is None:
        return {}
    recall, specificity = ratio(firing.yes, firing.n), ratio(silent.n - silent.yes, silent.n)
    n_groups, one_group = firing.n_groups + silent.n_groups, min(firing.n_groups, silent.n_groups) == 1
    found = {
        "balanced_accuracy": value((recall + specificity) / 2, n_groups, seed, one_group),
        "f1": value(ratio(2 * firing.yes, firing.yes + silent.yes + firing.n), n_groups, seed, one_group),
        "precision": value(ratio(firing.yes, firing.yes + silent.yes), n_groups, seed, one_group),
        "recall": value(recall, firing.n_groups, seed, firing.n_groups == 1),
        "true_negative_rate": value(specificity, silent.n_groups, seed, silent.n_groups == 1),
    }
    if near is not None:
        found["near_miss_true_negative_rate"] = value(ratio(near.n - near.yes, near.n), near.n_groups, seed, near.n_groups == 1)
    return {name: metric for name, metric in found.items() if metric is not None}


def value(values: Resampled, n: int, seed: int, one_group: bool = False, unit: str = "groups") -> MetricValue | None:
    """A value with its 95 % interval; without one where a resample leaves it undefined or nothing can be resampled. None where it is undefined itself."""
    if not np.isfinite(values[0]):
        return None
    plain = MetricValue(value=float(values[0]), n=n, unit=unit, seeds=[seed])
    if one_group or not np.isfinite(values[1:]).all():
        return plain
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return plain.model_copy(update={"low": float(low), "high": float(high)})


def binary_score(scorer: str, judgments: Judgments, n_bootstrap: int, seed: int, note: str = "") -> Score:
    """The Score of judgments."""
    answered = judgments.is_answered
    return Score(
        scorer=scorer, values=binary_values(judgments, n_bootstrap, seed), n_positive=int((answered & judgments.is_positive).sum()),
        n_negative=int((answered & ~judgments.is_positive & ~judgments.is_near_miss).sum()), n_unanswered=int((~answered).sum()), note=note,
        why_not="" if _both_sides(judgments) else "no firing or no silent example was answered",
    )


def _both_sides(judgments: Judgments) -> bool:
    answered = judgments.is_answered
    return bool((answered & judgments.is_positive).any() and (answered & ~judgments.is_positive & ~judgments.is_near_miss).any())


def auroc(positive: Float[np.ndarray, " example"], negative: Float[np.ndarray, " example"], positive_groups: Sequence[str], negative_groups: Sequence[str],
          n_bootstrap: int, seed: int) -> MetricValue | None:
    """P(score of a firing example > of a silent one) + P(equal) / 2 (Mann and Whitney 1947), with an interval over groups as above."""
    greater = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    weights = []
    for number, groups in enumerate((positive_groups, negative_groups)):
        names, group = np.unique(groups, return_inverse=True)
        weights.append((Resamples.draw(len(names), n_bootstrap, seed + number).weights[:, group], len(names)))
    (first, n_first), (second, n_second) = weights
    values = ratio(np.einsum("rp,pn,rn->r", first, greater, second, optimize=True), first.sum(1) * second.sum(1))
    return value(values, n_first + n_second, seed, min(n_first, n_second) == 1)
