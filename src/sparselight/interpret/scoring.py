"""Scoring: how well chosen hypotheses predict firing on held-out tokens, with intervals over groups of examples.

Precision, recall and F1 are those of `search`. The interval is the percentile bootstrap over groups (files, patients, homology
clusters): groups are drawn with replacement, the counts of the drawn groups are summed, and the ratio is taken of the sums
(Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13). Tokens of one group are not independent, so they are
never resampled alone. A ratio whose denominator is 0 counts as 0; the counts beside it say so.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse

from sparselight.interpret.search import Choice, Columns

BLOCK_COUNTS = 4_000_000  # of a latent x group table, and of a resample x latent table, held at once


@dataclass(frozen=True, slots=True)
class Scores:
    """Held-out scores, one a latent; `low` and `high` hold the bounds of precision, recall and F1 in that order."""

    precision: Float[np.ndarray, " latent"]
    recall: Float[np.ndarray, " latent"]
    f1: Float[np.ndarray, " latent"]
    low: Float[np.ndarray, "3 latent"]
    high: Float[np.ndarray, "3 latent"]
    n_fires: Int[np.ndarray, " latent"]
    n_labelled: Int[np.ndarray, " latent"]


def entry_hits(firing: sparse.csc_matrix, hypothesis: Int[np.ndarray, " latent"], columns: Columns) -> Bool[np.ndarray, " entry"]:
    """For each firing (entry of the matrix): does the latent's hypothesis label that token?"""
    return columns.holds(np.repeat(hypothesis, np.diff(firing.indptr)), firing.indices)


def held_out_f1(firing: sparse.csc_matrix, hypothesis: Int[np.ndarray, " latent"], columns: Columns,
                n_labelled: Int[np.ndarray, " hypothesis"]) -> Float[np.ndarray, " latent"]:
    """F1 = 2 TP / (n_fires + n_labelled) of one hypothesis a latent, without intervals: what controls yield. 0 where the hypothesis is -1."""
    n_fires = np.diff(firing.indptr)
    latent = np.repeat(np.arange(len(n_fires)), n_fires)
    hits = np.bincount(latent[entry_hits(firing, hypothesis, columns)], minlength=len(n_fires))
    return _ratio(2 * hits, n_fires + n_labelled[hypothesis])


def score(
    firing: sparse.csc_matrix,
    choice: Choice,
    columns: Columns,
    group: Int[np.ndarray, " token"],
    n_bootstrap: int,
    seed: int,
    labelled: sparse.csr_matrix | None = None,
) -> Scores:
    """Score each latent's chosen hypothesis, with 95 % intervals over groups.

    Args:
        firing: held-out firings above the chosen thresholds.
        columns: hypotheses of the same tokens.
        group: of the same tokens, numbered from 0 without gaps.
        labelled: what `labelled_by_group` gives for these, where it is at hand.
    """
    n_latents, n_groups = firing.shape[1], int(group.max()) + 1
    draws = np.random.default_rng(seed).multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=n_bootstrap).astype(np.float32)
    labelled = labelled_by_group(columns, group) if labelled is None else labelled
    hits = entry_hits(firing, choice.hypothesis, columns)
    parts = []
    block = max(1, BLOCK_COUNTS // max(n_groups, n_bootstrap))
    for start in range(0, n_latents, block):
        stop = min(start + block, n_latents)
        entries = slice(firing.indptr[start], firing.indptr[stop])
        latent = np.repeat(np.arange(stop - start), np.diff(firing.indptr[start : stop + 1]))
        cell = latent * n_groups + group[firing.indices[entries]]
        size, shape = (stop - start) * n_groups, (stop - start, n_groups)
        tp = np.bincount(cell[hits[entries]], minlength=size).reshape(shape)
        fires = np.bincount(cell, minlength=size).reshape(shape)
        parts.append(_interval(tp, fires, labelled[choice.hypothesis[start:stop]].toarray(), draws))
    return Scores(*(np.concatenate(column, axis=-1) for column in zip(*parts, strict=True)))


def _interval(tp: np.ndarray, fires: np.ndarray, labelled: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, ...]:
    """Scores of one block of latents from its [latent, group] counts."""
    sums = [counts.sum(axis=1) for counts in (tp, fires, labelled)]
    drawn = [draws @ counts.T.astype(np.float32) for counts in (tp, fires, labelled)]
    low, high = [], []
    for values in _scores(*drawn):
        bounds = np.quantile(values, [0.025, 0.975], axis=0)
        low.append(bounds[0])
        high.append(bounds[1])
    return (*_scores(*sums), np.stack(low), np.stack(high), sums[1], sums[2])


def _scores(tp: np.ndarray, fires: np.ndarray, labelled: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return _ratio(tp, fires), _ratio(tp, labelled), _ratio(2 * tp, fires + labelled)


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.zeros(np.shape(top), dtype=np.float64), where=bottom > 0)


def labelled_by_group(columns: Columns, group: Int[np.ndarray, " token"]) -> sparse.csr_matrix:
    """[hypothesis, group]: how many tokens of the group carry the label."""
    slot, token = np.nonzero(columns.values >= 0)
    entries = (np.ones(len(token), dtype=np.int64), (columns.values[slot, token], group[token]))
    return sparse.coo_matrix(entries, shape=(columns.n_hypotheses, int(group.max()) + 1)).tocsr()
