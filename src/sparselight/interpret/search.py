"""Search: for every latent the hypothesis and the firing threshold with the best F1 on the explain tokens.

Formulas, over tokens, for a latent that fires where its activation is above a threshold and a hypothesis that labels tokens:
    precision = P(label | fires) = TP / n_fires,  recall = P(fires | label) = TP / n_labelled,
    F1 = 2 TP / (n_fires + n_labelled), their harmonic mean.
Sources: InterPLM (arXiv 2412.12101, feature to concept association) for thresholds at fractions of a latent's maximum; RecSAE
(arXiv 2411.06112) for stating a concept's precision and recall, there P(quiet | other), which is not a precision and is not used
here. What differs: all scores are counted per token, and the threshold is chosen here, on the explain tokens, and carried over to
the held-out ones; InterPLM takes the best threshold again on its test split.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

BLOCK_ENTRIES = 8_000_000  # of a latent x hypothesis product held at once: about 100 MB with its indices
TIE = 0.01  # an F1 within this of the best counts as equal, and the simpler family wins
TIE_FRAC = 0.1  # but never more than this fraction of the best, or any label would tie for a latent that none fits


@dataclass(frozen=True, slots=True)
class Choice:
    """The best hypothesis for each latent."""

    hypothesis: Int[np.ndarray, " latent"]  # -1 where no hypothesis meets a firing
    threshold: Float[np.ndarray, " latent"]  # activation above which the latent counts as firing
    f1: Float[np.ndarray, " latent"]  # on the tokens of the search


def label_matrix(columns: Int[np.ndarray, "family token"], n_hypotheses: int) -> sparse.csr_matrix:
    """H [token, hypothesis]: 1 where the hypothesis labels the token."""
    by_token = columns.T
    present = by_token >= 0
    indptr = np.concatenate([[0], np.cumsum(present.sum(axis=1))])
    indices = by_token[present]
    return sparse.csr_matrix((np.ones(len(indices), dtype=np.int32), indices, indptr), shape=(len(by_token), n_hypotheses))


def firing_matrix(activations: sparse.csc_matrix, threshold: Float[np.ndarray, " latent"]) -> sparse.csc_matrix:
    """F [token, latent]: 1 where the activation is above the latent's threshold."""
    fires = activations.data > np.repeat(threshold, np.diff(activations.indptr)).astype(np.float32)
    indptr = np.concatenate([[0], np.cumsum(fires)])[activations.indptr]
    return sparse.csc_matrix((np.ones(int(fires.sum()), dtype=np.int32), activations.indices[fires], indptr), shape=activations.shape)


def maxima(activations: sparse.csc_matrix) -> Float[np.ndarray, " latent"]:
    """The largest activation of each latent, 0 where it never fires."""
    result = np.zeros(activations.shape[1])
    fires = np.diff(activations.indptr) > 0
    if fires.any():
        result[fires] = np.maximum.reduceat(activations.data, activations.indptr[:-1][fires])
    return result


def search(
    firings: Sequence[sparse.csc_matrix],
    thresholds: Sequence[Float[np.ndarray, " latent"]],
    columns: Int[np.ndarray, "family token"],
    rank: Int[np.ndarray, " hypothesis"],
) -> Choice:
    """Choose hypothesis and threshold by F1; among ties (see `TIE`) the simplest family, then the highest F1, then the lowest threshold.

    Args:
        firings: one firing matrix a threshold, the lowest threshold first.
        thresholds: the activations that made them.
        columns: the hypotheses of the same tokens.
        rank: of each hypothesis's family, 0 the simplest.
    """
    n_latents = firings[0].shape[1]
    labels = label_matrix(columns, len(rank))
    n_labelled = np.bincount(labels.indices, minlength=len(rank))
    hypothesis = np.full(n_latents, -1, dtype=np.int64)
    threshold, best_f1 = np.array(thresholds[0], dtype=np.float64), np.zeros(n_latents)
    block = max(1, BLOCK_ENTRIES // max(1, len(rank)))
    for start in range(0, n_latents, block):
        part = slice(start, min(start + block, n_latents))
        latent, level, chosen, f1 = _best_in_block(firings, part, labels, n_labelled, rank)
        hypothesis[latent], best_f1[latent] = chosen, f1
        threshold[latent] = np.stack(thresholds)[level, latent]
    return Choice(hypothesis, threshold, best_f1)


def _best_in_block(firings: Sequence[sparse.csc_matrix], part: slice, labels: sparse.csr_matrix, n_labelled: np.ndarray,
                   rank: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Latent, threshold number, hypothesis and F1 of each latent of a block that meets any hypothesis."""
    candidates = []
    for number, matrix in enumerate(firings):
        fires = matrix[:, part].T.tocsr()  # a view of the columns: [latent, token]
        near_best = _near_best(fires @ labels, np.diff(fires.indptr), n_labelled)
        candidates.append((np.full(len(near_best[0]), number), *near_best))
    level, latent, hypothesis, f1 = (np.concatenate(column) for column in zip(*candidates, strict=True))
    best = np.zeros(part.stop - part.start)
    np.maximum.at(best, latent, f1)
    near = f1 >= _tie_floor(best)[latent]
    latent, level, hypothesis, f1 = latent[near], level[near], hypothesis[near], f1[near]
    order = np.lexsort((hypothesis, level, -f1, rank[hypothesis], latent))
    first = order[np.unique(latent[order], return_index=True)[1]]
    return latent[first] + part.start, level[first], hypothesis[first], f1[first]


def _near_best(hits: Any, n_fires: np.ndarray, n_labelled: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Entries of the product whose F1 is within the tie of their latent's best."""
    counts = np.diff(hits.indptr)
    f1 = 2 * hits.data / (np.repeat(n_fires, counts) + n_labelled[hits.indices])
    some = counts > 0
    best = np.zeros(len(counts))
    if some.any():
        best[some] = np.maximum.reduceat(f1, hits.indptr[:-1][some])
    near = np.flatnonzero(f1 >= np.repeat(_tie_floor(best), counts))
    latent = np.searchsorted(hits.indptr, near, side="right") - 1
    return latent, hits.indices[near].astype(np.int64), f1[near]


def _tie_floor(best: np.ndarray) -> np.ndarray:
    return best - np.minimum(TIE, TIE_FRAC * best)


def rolled(columns: Int[np.ndarray, "family token"], parts: Sequence[slice], rng: np.random.Generator) -> Int[np.ndarray, "family token"]:
    """Labels shuffled against the tokens: a circular shift by a random offset inside each token set.

    Labels come in runs (a docstring, a file of a package), and so do firings. Moving single labels about would break the runs
    and make a chance agreement of two runs look impossible, a control too easy to beat. A shift keeps every run, every base
    rate and every co-occurrence of labels, and breaks only where they lie against the activations. Offsets stay a tenth of
    the set away from no shift, and each set is shifted in itself, so that an association that is only "somewhere in the
    domain set" survives in the control.
    """
    result = columns.copy()
    for part in parts:
        n_tokens = part.stop - part.start
        low = max(1, n_tokens // 10)
        offset = int(rng.integers(low, n_tokens - low + 1)) if n_tokens > 1 else 0
        result[:, part] = np.roll(columns[:, part], offset, axis=1)
    return result
