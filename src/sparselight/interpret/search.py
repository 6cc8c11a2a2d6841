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

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse

BLOCK_ENTRIES = 4_000_000  # of a latent x hypothesis product held at once: about 200 MB with what is computed of it
COUNT_BITS = 63  # of a signed 64-bit integer, into which the counts at several thresholds are packed
TIE = 0.01  # an F1 within this of the best counts as equal, and the simpler family wins
TIE_FRAC = 0.1  # but never more than this fraction of the best, or any label would tie for a latent that none fits


@dataclass(frozen=True, slots=True)
class Columns:
    """Which hypotheses hold for which tokens. A family fills one row of `values`, or several where a token can have several of its values."""

    values: Int[np.ndarray, "slot token"]
    """Number of a hypothesis, or -1; no hypothesis twice at one token."""
    first_slot: Int[np.ndarray, " hypothesis"]
    """Where the rows of the hypothesis's family begin."""
    n_slots: Int[np.ndarray, " hypothesis"]
    rank: Int[np.ndarray, " hypothesis"]
    """Of its family: 0 is the simplest."""

    @property
    def n_hypotheses(self) -> int:
        return len(self.rank)

    def part(self, tokens: slice) -> "Columns":
        """The same hypotheses over some of the tokens."""
        return Columns(self.values[:, tokens], self.first_slot, self.n_slots, self.rank)

    def n_labelled(self) -> Int[np.ndarray, " hypothesis"]:
        """Tokens that each hypothesis labels."""
        return np.bincount(self.values[self.values >= 0], minlength=self.n_hypotheses)

    def matrix(self) -> sparse.csr_matrix:
        """H [token, hypothesis]: 1 where the hypothesis labels the token."""
        by_token = self.values.T
        present = by_token >= 0
        indptr = np.concatenate([[0], np.cumsum(present.sum(axis=1))])
        indices = by_token[present]
        return sparse.csr_matrix((np.ones(len(indices), dtype=np.int64), indices, indptr), shape=(len(by_token), self.n_hypotheses))

    def holds(self, hypothesis: Int[np.ndarray, " entry"], token: Int[np.ndarray, " entry"]) -> Bool[np.ndarray, " entry"]:
        """For each pair: does the hypothesis label the token? Never where the hypothesis is -1."""
        first, count = self.first_slot[hypothesis], self.n_slots[hypothesis]  # of some family for -1, whose slots then do not count
        found = self.values[first, token] == hypothesis
        for number in range(1, int(count.max(initial=0))):
            more = np.flatnonzero(count > number)
            found[more] |= self.values[first[more] + number, token[more]] == hypothesis[more]
        return found & (hypothesis >= 0)


@dataclass(frozen=True, slots=True)
class Choice:
    """The best hypothesis for each latent."""

    hypothesis: Int[np.ndarray, " latent"]  # -1 where no hypothesis meets a firing
    threshold: Float[np.ndarray, " latent"]  # activation above which the latent counts as firing
    f1: Float[np.ndarray, " latent"]  # on the tokens of the search


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


def search(activations: sparse.csc_matrix, thresholds: Sequence[Float[np.ndarray, " latent"]], labels: sparse.csr_matrix,
           rank: Int[np.ndarray, " hypothesis"]) -> Choice:
    """Choose hypothesis and threshold by F1; among ties (see `TIE`) the simplest family, then the highest F1, then the lowest threshold.

    Args:
        activations: positive activations [token, latent].
        thresholds: activations above which a latent may count as firing, the lowest first.
        labels: the hypotheses of the same tokens.
        rank: of each hypothesis's family, 0 the simplest.
    """
    n_latents, n_hypotheses = activations.shape[1], len(rank)
    n_labelled = np.bincount(labels.indices, minlength=n_hypotheses)
    hypothesis = np.full(n_latents, -1, dtype=np.int64)
    threshold, best_f1 = np.array(thresholds[0], dtype=np.float64), np.zeros(n_latents)
    block = max(1, BLOCK_ENTRIES // max(1, n_hypotheses))
    for start in range(0, n_latents, block):
        part = slice(start, min(start + block, n_latents))
        latent, level, chosen, f1 = _best_in_block(activations[:, part], [values[part] for values in thresholds], labels, n_labelled, rank)
        hypothesis[latent + start], best_f1[latent + start] = chosen, f1
        threshold[latent + start] = np.stack(thresholds)[level, latent + start]
    return Choice(hypothesis, threshold, best_f1)


def _best_in_block(activations: sparse.csc_matrix, thresholds: Sequence[np.ndarray], labels: sparse.csr_matrix, n_labelled: np.ndarray,
                   rank: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Latent, threshold number, hypothesis and F1 of each latent of a block that meets any hypothesis."""
    bits = int(activations.shape[0]).bit_length()
    levels_of, found = [], []
    for first in range(0, len(thresholds), COUNT_BITS // bits):
        levels = thresholds[first : first + COUNT_BITS // bits]
        fires, n_fires = _packed(activations, levels, bits)
        hits = fires @ labels
        owner = np.repeat(np.arange(hits.shape[0]), np.diff(hits.indptr))
        for number in range(len(levels)):
            counts = (hits.data >> (bits * number)) & ((1 << bits) - 1)
            found.append(_near_best(owner, hits.indices, counts, n_fires[number], n_labelled))
            levels_of.append(np.full(len(found[-1][0]), first + number))
    level, (latent, hypothesis, f1) = np.concatenate(levels_of), (np.concatenate(column) for column in zip(*found, strict=True))
    best = np.zeros(activations.shape[1])
    np.maximum.at(best, latent, f1)
    near = f1 >= _tie_floor(best)[latent]
    latent, level, hypothesis, f1 = latent[near], level[near], hypothesis[near], f1[near]
    order = np.lexsort((hypothesis, level, -f1, rank[hypothesis], latent))
    first_of = order[np.unique(latent[order], return_index=True)[1]]
    return latent[first_of], level[first_of], hypothesis[first_of], f1[first_of]


def _packed(activations: sparse.csc_matrix, levels: Sequence[np.ndarray], bits: int) -> tuple[sparse.csr_matrix, Int[np.ndarray, "level latent"]]:
    """Firings [latent, token] at all levels in one matrix, so that one product counts the hits of all: an entry has a 1 in the bits of each level that
    it is above. And how often each latent fires at each level."""
    count = np.diff(activations.indptr)
    above = np.zeros(len(activations.data), dtype=np.int64)
    n_fires = []
    for number, level in enumerate(levels):
        fires = activations.data > np.repeat(level, count).astype(np.float32)
        above |= fires.astype(np.int64) << (bits * number)
        n_fires.append(np.diff(np.concatenate([[0], np.cumsum(fires)])[activations.indptr]))
    return sparse.csr_matrix((above, activations.indices, activations.indptr), shape=activations.shape[::-1]), np.stack(n_fires)


def _near_best(owner: np.ndarray, hypothesis: np.ndarray, hits: np.ndarray, n_fires: np.ndarray, n_labelled: np.ndarray) -> tuple[np.ndarray, ...]:
    """Entries of the product whose F1 is within the tie of their latent's best."""
    some = np.flatnonzero(hits > 0)
    owner, hypothesis = owner[some], hypothesis[some]
    f1 = 2 * hits[some] / (n_fires[owner] + n_labelled[hypothesis])
    best = np.zeros(len(n_fires))
    if len(owner):
        starts = np.flatnonzero(np.concatenate([[True], owner[1:] != owner[:-1]]))
        best[owner[starts]] = np.maximum.reduceat(f1, starts)
    near = f1 >= _tie_floor(best)[owner]
    return owner[near], hypothesis[near].astype(np.int64), f1[near]


def _tie_floor(best: np.ndarray) -> np.ndarray:
    return best - np.minimum(TIE, TIE_FRAC * best)


def roll_offsets(parts: Sequence[slice], rng: np.random.Generator) -> list[int]:
    """How far each token set is shifted for one shuffle of the labels against the tokens: a circular shift inside each set.

    Labels come in runs (a docstring, a file of a package), and so do firings. Moving single labels about would break the runs
    and make a chance agreement of two runs look impossible, a control too easy to beat. A shift keeps every run, every base
    rate and every co-occurrence of labels, and breaks only where they lie against the activations. Offsets stay a tenth of
    the set away from no shift, and each set is shifted in itself, so that an association that is only "somewhere in the
    domain set" survives in the control.
    """
    offsets = []
    for part in parts:
        n_tokens = part.stop - part.start
        low = max(1, n_tokens // 10)
        offsets.append(int(rng.integers(low, n_tokens - low + 1)) if n_tokens > 1 else 0)
    return offsets


def rolled(activations: sparse.csc_matrix, parts: Sequence[slice], offsets: Sequence[int]) -> sparse.csc_matrix:
    """Activations shifted back by these offsets: they meet the labels as they stand as the activations would meet labels that are shifted forth."""
    token = activations.indices.copy()
    for part, offset in zip(parts, offsets, strict=True):
        inside = (activations.indices >= part.start) & (activations.indices < part.stop)
        token[inside] = (activations.indices[inside] - part.start - offset) % (part.stop - part.start) + part.start
    return sparse.csc_matrix((activations.data, token, activations.indptr), shape=activations.shape)
