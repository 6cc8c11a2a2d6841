"""Which latents stand for a class: an L1 probe on the codes ranks them, k-sparse probes tell how many of them it takes.

The L1 problem is solved to its minimum and not by a number of epochs: FISTA on a working set that grows until no latent outside of it
breaks the optimality conditions, so that the ranking depends on no optimizer and on no seed.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse
from scipy.special import expit

from sparselight.evaluate.absorption.config import AbsorptionConfig
from sparselight.evaluate.probes import fit_logistic

GROW = 128  # latents that join the working set at once
TOLERANCE = 1e-3  # of l1, by which the optimality conditions may be broken
MAX_ROUNDS = 50
MAX_STEPS = 20_000
CHECK_EVERY = 20


class Columns(NamedTuple):
    """What FISTA works on: columns of unit length in the metric of the loss; the last one is the bias, which has no penalty."""

    x: sparse.csr_matrix
    scale: Float[np.ndarray, " column"]
    penalty: Float[np.ndarray, " column"]
    step: float


def l1_probe(by_latent: sparse.csc_matrix, y: Bool[np.ndarray, " unit"], l1: float) -> tuple[Float[np.ndarray, " latent"], Float[np.ndarray, " latent"]]:
    """The minimum of mean_i s_i log(1 + exp(-t_i (<w, z_i> + b))) + l1 ||w||_1, with s_i = n_negative / n_positive for positives and 1 else.

    Args:
        by_latent: the codes z [unit, latent], by column.

    Returns:
        w, and minus the gradient of the mean at w, which tells how near latents with weight 0 are to getting one.
    """
    s = np.where(y, (~y).sum() / y.sum(), 1.0) / len(y)
    w, bias = np.zeros(by_latent.shape[1]), 0.0
    chosen = np.zeros(0, dtype=np.int64)
    for _ in range(MAX_ROUNDS):
        margin = by_latent[:, chosen] @ w[chosen] + bias if len(chosen) else np.full(len(y), bias)
        pull = by_latent.T @ (s * (y - expit(margin)))
        outside = np.abs(pull) - l1 * (1 + TOLERANCE)
        outside[chosen] = -1
        joining = np.flatnonzero(outside > 0)
        joining = joining[np.argsort(-outside[joining], kind="stable")[:GROW]]
        if not len(joining):
            break
        chosen = np.concatenate([chosen, joining])
        solution = _fista(_columns(by_latent[:, chosen], s, l1), s, y, np.append(w[chosen], bias), l1)
        w[chosen], bias = solution[:-1], float(solution[-1])
    return w, pull


def ranked_latents(w: Float[np.ndarray, " latent"], pull: Float[np.ndarray, " latent"], n: int) -> Int[np.ndarray, " k"]:
    """The `n` latents with the largest signed weight; among equal ones, those that would get a weight first. Never one that speaks against the class."""
    order = np.lexsort((-pull, -w))[:n]
    return order[(w[order] > 0) | ((w[order] == 0) & (pull[order] > 0))]


def main_latents(
    ranked: list[Int[np.ndarray, " k"]], train: sparse.csr_matrix, y_train: Bool[np.ndarray, "unit class"], choose: sparse.csr_matrix,
    y_choose: Bool[np.ndarray, "unit class"], config: AbsorptionConfig,
) -> list[list[int]]:
    """The main latents of each class: the first k of its ranking, k growing while the F1 of a k-sparse probe rises by more than split_f1_gain.

    Each k-sparse probe is a class-balanced logistic regression (L2, C = 1) on its k latents, fitted on `train` and measured on `choose`.
    """
    main: list[list[int]] = [[] for _ in ranked]
    best = np.full(len(ranked), -np.inf)
    growing = np.arange(len(ranked))
    columns = [(train[:, latents].toarray(), choose[:, latents].toarray()) for latents in ranked]
    for k in range(1, config.max_k + 1):
        growing = growing[[len(ranked[index]) >= k for index in growing]]
        if not len(growing):
            break
        features, tests = (np.stack([columns[index][side][:, :k] for index in growing]) for side in (0, 1))
        probe = fit_logistic(features, y_train[:, growing], balanced=True, max_iter=500)
        found = f1_scores(probe.scores(tests) > 0, y_choose[:, growing])
        rises = found > best[growing] + config.split_f1_gain
        growing, found = growing[rises], found[rises]
        best[growing] = found
        for index in growing.tolist():
            main[index] = ranked[index][:k].tolist()
    return main


def f1_scores(predicted: Bool[np.ndarray, "unit class"], y: Bool[np.ndarray, "unit class"]) -> Float[np.ndarray, " class"]:
    """2 TP / (2 TP + FP + FN) of every class, which has a positive."""
    return 2 * (predicted & y).sum(0) / (predicted.sum(0) + y.sum(0))


def _columns(x: sparse.csc_matrix, s: Float[np.ndarray, " unit"], l1: float) -> Columns:
    whole = sparse.hstack([x.astype(np.float64), np.ones((x.shape[0], 1))]).tocsr()
    scale = np.sqrt(np.asarray(whole.multiply(whole).T @ s).ravel())
    scaled = whole @ sparse.diags(1 / scale)
    gram = (scaled.T @ scaled.multiply(s[:, None])).toarray()
    curvature = np.linalg.eigvalsh(gram)[-1] / 4  # of the logistic loss, at most
    return Columns(scaled.tocsr(), scale, np.append(l1 / scale[:-1], 0), 1 / curvature)


def _fista(columns: Columns, s: Float[np.ndarray, " unit"], y: Bool[np.ndarray, " unit"], start: Float[np.ndarray, " column"],
           l1: float) -> Float[np.ndarray, " column"]:
    """Beck and Teboulle 2009, restarted where momentum points uphill (O'Donoghue and Candes 2015)."""
    across = columns.x.T.tocsr()
    u = start * columns.scale
    point, pace = u, 1.0
    for number in range(MAX_STEPS):
        gradient = across @ (s * (expit(columns.x @ point) - y))
        moved = point - columns.step * gradient
        new = np.sign(moved) * np.maximum(np.abs(moved) - columns.step * columns.penalty, 0)
        if number % CHECK_EVERY == 0 and _breach(columns, across @ (s * (expit(columns.x @ new) - y)), new) <= TOLERANCE * l1:
            return new / columns.scale
        if (point - new) @ (new - u) > 0:
            pace = 1.0
        following = (1 + np.sqrt(1 + 4 * pace**2)) / 2
        point, u, pace = new + (pace - 1) / following * (new - u), new, following
    return u / columns.scale


def _breach(columns: Columns, gradient: Float[np.ndarray, " column"], u: Float[np.ndarray, " column"]) -> float:
    """By how much the optimality conditions are broken, in the units of l1."""
    off = np.where(u == 0, np.maximum(np.abs(gradient) - columns.penalty, 0), np.abs(gradient + np.sign(u) * columns.penalty))
    return float((off * columns.scale).max())
