"""Linear probes: exact L2 logistic regression of many classes at once, and how well a score separates two classes.

Owns: one solver for every probe of the evaluation, deterministic and without a random start, so that a probe's value never depends on an
optimizer; and accuracy, F1 and AUROC as arrays over resamples. Refuses: a class without a positive or without a negative unit, and features
that are not finite.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import sparse
from scipy.special import expit

from sparselight.errors import CorpusError, SaeError
from sparselight.evaluate.statistics import Resamples

Features = Any  # np.ndarray or scipy.sparse.csr_matrix: SciPy has no types
DIRECT_FEATURES = 512  # up to here a Hessian is formed and factored, which no bad scaling of the features can slow down
DECREMENT = 1e-11  # of the loss: half the squared Newton decrement, an estimate of what is left to gain
CG_STEPS = 500  # of conjugate gradients inside one Newton step
MAX_HALVINGS = 40


class Probe(NamedTuple):
    """Linear scores, one a class: x @ weights.T + bias; above 0 means the class."""

    weights: Float[np.ndarray, "class feature"]
    bias: Float[np.ndarray, " class"]
    converged: Bool[np.ndarray, " class"]

    def scores(self, x: Features) -> Float[np.ndarray, "unit class"]:
        """Log odds of every class for every unit (of features [class, unit, feature]: each class for its own)."""
        return _products(x, self.weights) + self.bias


def fit_logistic(
    x: Features, y: Bool[np.ndarray, "unit *class"], C: float = 1.0, balanced: bool = False, max_iter: int = 1000,
    weight: Float[np.ndarray, "unit class"] | None = None,
) -> Probe:
    """The minimum of ||w||^2 / 2 + C sum_i s_i log(1 + exp(-t_i (<w, x_i> + b))), t_i = +-1, the bias not penalized, for every class.

    scikit-learn's LogisticRegression has the same objective, and so the same minimum; its default solver stops earlier. Here Newton steps
    with halving, each solved by a factorization, or by preconditioned conjugate gradients where there are many features or x is sparse.

    Args:
        x: features [unit, feature], dense or CSR, shared by all classes; or dense [class, unit, feature].
        y: which units are of the class; one column is one probe, a vector is one probe.
        C: inverse strength of the penalty.
        balanced: weigh units by n / (2 n_class), so that both sides of each probe weigh the same.
        max_iter: Newton steps; few data need more than 30.
        weight: of units in each probe; 0 leaves a unit out.

    Raises:
        CorpusError: when a probe has only one class to learn from.
        SaeError: when a feature is not finite.
    """
    y = np.asarray(y, dtype=bool).reshape(len(y), -1)
    s = np.ones(y.shape) if weight is None else np.array(weight, dtype=np.float64).reshape(y.shape)
    n_positive, n_negative = (s * y).sum(0), (s * ~y).sum(0)
    if (n_positive <= 0).any() or (n_negative <= 0).any():
        raise CorpusError(asked="fit a probe", why="all of its units are of one class", instead="give examples of both, or leave this label out")
    if balanced:
        s = s * np.where(y, (n_positive + n_negative) / (2 * n_positive), (n_positive + n_negative) / (2 * n_negative))
    x = _float64(x)
    if not np.isfinite(x.data if sparse.issparse(x) else x).all():
        raise SaeError(asked="fit a probe", why="a feature is not finite", instead="check the activations and the codes, or use float32 activations")
    # The bias takes up any shift of the features, so centering changes no minimum; it keeps the Hessian from being nearly singular.
    center = np.zeros(x.shape[-1]) if sparse.issparse(x) else x.mean(axis=-2)
    solver = _Newton(x if sparse.issparse(x) else x - np.expand_dims(center, -2), y, s * C)
    solver.run(max_iter)
    return Probe(solver.w, solver.b - (solver.w * center).sum(-1), solver.done)


class _Newton:
    """All probes at once; those that have converged are not moved any more."""

    def __init__(self, x: Features, y: np.ndarray, s: np.ndarray):
        self.x, self.y, self.s = x, y, s
        n_classes, n_features = y.shape[1], x.shape[-1]
        self.w, self.b = np.zeros((n_classes, n_features)), np.log((s * y).sum(0) / (s * ~y).sum(0))
        self.margin = np.tile(self.b, (len(y), 1))
        self.loss = self._loss(self.margin, self.w)
        self.done = np.zeros(n_classes, dtype=bool)
        self.direct = not sparse.issparse(x) and n_features <= DIRECT_FEATURES
        self.squares = None if self.direct else (x.multiply(x).tocsr() if sparse.issparse(x) else np.square(x))

    def run(self, max_iter: int) -> None:
        for _ in range(max_iter):
            p = expit(self.margin)
            residual, curve = self.s * (p - self.y), self.s * p * (1 - p)
            gradient = np.concatenate([_transposed(self.x, residual) + self.w, residual.sum(0)[:, None]], axis=1)
            step = -(self._solve_direct(curve, gradient) if self.direct else self._solve_cg(curve, gradient))
            slope = (gradient * step).sum(1)  # minus the squared Newton decrement
            small = -slope / 2 <= DECREMENT * (1 + np.abs(self.loss))
            self._move(np.where(self.done[:, None], 0, step), np.where(self.done, 0, slope))
            self.done |= small
            if self.done.all():
                return

    def _move(self, step: np.ndarray, slope: np.ndarray) -> None:
        """Halve each probe's step until its loss falls as a Newton step's should (Armijo); a step that rounding hides ends that probe."""
        along = _products(self.x, step[:, :-1]) + step[:, -1]
        size = np.ones(len(step))
        for _ in range(MAX_HALVINGS):
            margin, w = self.margin + size * along, self.w + size[:, None] * step[:, :-1]
            loss = self._loss(margin, w)
            high = loss > self.loss + 1e-4 * size * slope + 1e-15 * np.abs(self.loss)
            if not high.any():
                break
            size[high] /= 2
        else:
            self.done |= high
            size[high] = 0
            margin, w = self.margin + size * along, self.w + size[:, None] * step[:, :-1]
            loss = self._loss(margin, w)
        self.margin, self.w, self.b, self.loss = margin, w, self.b + size * step[:, -1], loss

    def _loss(self, margin: np.ndarray, w: np.ndarray) -> np.ndarray:
        return np.square(w).sum(1) / 2 + (self.s * np.logaddexp(0, np.where(self.y, -margin, margin))).sum(0)

    def _solve_direct(self, curve: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        n_classes, n = gradient.shape
        hessian = np.empty((n_classes, n, n))
        for number in range(n_classes):
            x = self.x if self.x.ndim == 2 else self.x[number]
            scaled = x * curve[:, number, None]
            hessian[number, :-1, :-1] = scaled.T @ x
            hessian[number, -1, :-1] = hessian[number, :-1, -1] = scaled.sum(0)
        hessian[:, -1, -1] = curve.sum(0)
        hessian[:, np.arange(n), np.arange(n)] += np.append(np.ones(n - 1), 1e-12)  # the bias has no penalty, and no curvature once all units are certain
        return np.linalg.solve(hessian, gradient[..., None])[..., 0]

    def _solve_cg(self, curve: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """Conjugate gradients with the Hessian's diagonal as preconditioner (Nocedal and Wright 2006, algorithms 5.3 and 7.1)."""
        def product(v: np.ndarray) -> np.ndarray:
            inner = curve * (_products(self.x, v[:, :-1]) + v[:, -1])
            return np.concatenate([_transposed(self.x, inner) + v[:, :-1], inner.sum(0)[:, None]], axis=1)

        diagonal = np.concatenate([_transposed(self.squares, curve) + 1, np.maximum(curve.sum(0), 1e-12)[:, None]], axis=1)
        size = np.linalg.norm(gradient, axis=1)
        target = size * np.minimum(0.1, np.sqrt(size / (1 + np.abs(self.loss))))
        solution, r = np.zeros_like(gradient), gradient.copy()
        z = r / diagonal
        direction, rz = z, (r * z).sum(1)
        for _ in range(CG_STEPS):
            active = (np.linalg.norm(r, axis=1) > target) & ~self.done
            if not active.any():
                break
            hd = product(direction)
            length = np.where(active, rz / np.maximum((direction * hd).sum(1), 1e-300), 0)[:, None]
            solution, r = solution + length * direction, r - length * hd
            z = r / diagonal
            rz, before = (r * z).sum(1), rz
            direction = z + np.where(active, rz / np.maximum(before, 1e-300), 0)[:, None] * direction
        return solution


def accuracy(predicted: Bool[np.ndarray, "unit *class"], y: Bool[np.ndarray, "unit *class"],
             weight: Float[np.ndarray, "resample unit"]) -> Float[np.ndarray, "resample *class"]:
    """Weight of the units that are predicted right / weight of all; nan where a resample holds none."""
    return _divide(weight @ (predicted == y), weight.sum(1).reshape(-1, *[1] * (predicted.ndim - 1)))


def f1(predicted: Bool[np.ndarray, "unit *class"], y: Bool[np.ndarray, "unit *class"],
       weight: Float[np.ndarray, "resample unit"]) -> Float[np.ndarray, "resample *class"]:
    """2 TP / (2 TP + FP + FN); nan where a resample holds no positive."""
    true, found, hit = (weight @ part.astype(np.float64) for part in (y, predicted, predicted & y))
    return np.where(true > 0, _divide(2 * hit, true + found), np.nan)


def auroc(score: Float[np.ndarray, " unit"], y: Bool[np.ndarray, " unit"], weight: Float[np.ndarray, "resample unit"]) -> Float[np.ndarray, " resample"]:
    """P(score of a positive > score of a negative) + P(equal) / 2 (Mann and Whitney 1947); nan where a resample lacks one of the two."""
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf) != 0) if len(score) else np.zeros(0, dtype=np.int64)
    if not len(starts):
        return np.full(len(weight), np.nan)
    positive, negative = (np.add.reduceat(weight[:, order] * side[order], starts, axis=1) for side in (y, ~y))
    below = negative.cumsum(1) - negative / 2
    return _divide((positive * below).sum(1), positive.sum(1) * negative.sum(1))


def unit_weights(resamples: Resamples, group: np.ndarray) -> Float[np.ndarray, "resample unit"]:
    """How often each unit counts in each resample: as often as its group."""
    return resamples.weights[:, group]


def _divide(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    top, bottom = np.broadcast_arrays(np.asarray(top, dtype=np.float64), bottom)
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)


def _products(x: Features, w: np.ndarray) -> np.ndarray:
    """<x_i, w_c> as [unit, class]."""
    return np.matmul(x, w[:, :, None])[:, :, 0].T if x.ndim == 3 else np.asarray(x @ w.T)


def _transposed(x: Features, v: np.ndarray) -> np.ndarray:
    """sum_i v_ic x_i as [class, feature]."""
    return np.matmul(v.T[:, None, :], x)[:, 0] if x.ndim == 3 else np.asarray(x.T @ v).T


def _float64(x: Features) -> Features:
    return x.astype(np.float64).tocsr() if sparse.issparse(x) else np.asarray(x, dtype=np.float64)
