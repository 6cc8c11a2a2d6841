"""Dose and response: is the effect monotone in the strength, where has it come half of its way, and what does it come to at equal side effect.

Owns the statistics of a curve. A curve is an array [resample, dose]: row 0 is the value, the others bootstrap draws, so that every number here comes with
an interval from `statistics.Resamples`. Strength 0, the first dose, is no edit. Refuses nothing: what is not defined is nan, and the reader is told why.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from sparselight.evaluate.statistics import Resampled

Wants = Literal["more", "less"]
MIN_DOSES = 3  # with the one without an edit; below it nothing can be said of a curve


@dataclass(frozen=True)
class Curve:
    """The effect and the side effect of one method over its doses."""

    strengths: Float[np.ndarray, " dose"]
    effect: Float[np.ndarray, "resample dose"]
    kl: Float[np.ndarray, "resample dose"] | None = None

    def change(self) -> Float[np.ndarray, "resample dose"]:
        """Effect less that without an edit."""
        return self.effect - self.effect[:, :1]


def spearman(strengths: Sequence[float] | np.ndarray, effect: Float[np.ndarray, "resample dose"]) -> Resampled:
    """Rank correlation of strength and effect over the doses (Spearman 1904); nan where the effect is the same at all doses."""
    from scipy.stats import rankdata

    x, y = rankdata(strengths) * np.ones_like(effect), rankdata(effect, axis=1)
    x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    bottom = np.sqrt((x * x).sum(1) * (y * y).sum(1))
    return np.divide((x * y).sum(1), bottom, out=np.full(len(effect), np.nan), where=bottom > 0)


def isotonic(effect: Float[np.ndarray, "resample dose"], wants: Wants) -> Float[np.ndarray, "resample dose"]:
    """The monotone curve with the least squared distance (Barlow et al. 1972), rising where more is wanted and falling where less is."""
    from sklearn.isotonic import isotonic_regression

    return np.stack([isotonic_regression(row, increasing=wants == "more") for row in effect])


def isotonic_r2(effect: Float[np.ndarray, "resample dose"], wants: Wants) -> Resampled:
    """1 - sum (effect - monotone)^2 / sum (effect - mean)^2 over the doses: 1 for a monotone curve, 0 for one that goes the other way."""
    left = np.square(effect - isotonic(effect, wants)).sum(1)
    whole = np.square(effect - effect.mean(1, keepdims=True)).sum(1)
    return 1 - np.divide(left, whole, out=np.full(len(effect), np.nan), where=whole > 0)


def half_dose(strengths: Sequence[float] | np.ndarray, effect: Float[np.ndarray, "resample dose"], wants: Wants) -> Resampled:
    """Strength at which the monotone curve, straight between doses, has come half of the way from no edit to its last dose (an ED50 over the range swept).

    nan where the curve does not rise (fall, where less is wanted).
    """
    x = np.asarray(strengths, dtype=np.float64)
    fit = isotonic(effect, wants) * (1.0 if wants == "more" else -1.0)
    result = np.full(len(fit), np.nan)
    for index, row in enumerate(fit):
        half = (row[0] + row[-1]) / 2
        if row[-1] > row[0]:
            at = int(np.argmax(row >= half))
            low, high = row[at - 1], row[at]
            result[index] = x[at - 1] + (x[at] - x[at - 1]) * (half - low) / (high - low)
    return result


def change_at_kl(curve: Curve, kl: Resampled) -> Resampled:
    """Change of the effect where the method's own curve first reaches a divergence, straight between doses; nan where it never does.

    The divergence of a curve is made to rise with the dose (its running maximum): a stronger edit that moves predictions less is no cheaper one.
    """
    assert curve.kl is not None
    change, own = curve.change(), np.maximum.accumulate(curve.kl, axis=1)
    result = np.full(len(change), np.nan)
    for index, target in enumerate(kl):
        if np.isfinite(target) and own[index, -1] >= target:
            at = int(np.argmax(own[index] >= target))
            if at == 0:
                result[index] = change[index, 0]
                continue
            low, high = own[index, at - 1], own[index, at]
            share = (target - low) / (high - low)
            result[index] = change[index, at - 1] + share * (change[index, at] - change[index, at - 1])
    return result


def mean_of(values: Sequence[Resampled]) -> Resampled:
    """Mean over several baselines of one kind; nan where any is undefined, so that no resample compares another set of them."""
    return np.mean(np.stack(values), axis=0)
