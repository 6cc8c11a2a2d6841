"""Activations by latent: where each latent fires at every threshold of a grid, pooled over examples, and ranked.

Rows are latents and columns are units (tokens, or examples once pooled), so that a block of latents is a slice. Only non-zero activations are
stored; all else follows for the zeros, which are ties. Owns: these matrices. Refuses nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from sparselight.protocols import Codes

Pooling = Literal["max", "mean"]


def by_latent(codes: Codes) -> sparse.csr_matrix:
    """[latent, unit]: activations, explicit zeros left out."""
    shape = (codes.n_tokens, codes.n_latents)
    matrix = sparse.csr_matrix((codes.values.numpy(), codes.latents.numpy().astype(np.int32), codes.indptr.numpy()), shape=shape)
    result = matrix.T.tocsr()
    result.eliminate_zeros()
    return result


def pooled(activations: sparse.csr_matrix, example: Int[np.ndarray, " token"], how: Pooling) -> sparse.csr_matrix:
    """[latent, example]: the largest or the mean activation over the tokens of each example.

    Args:
        activations: [latent, token].
        example: of each token, ascending.
    """
    n_tokens = np.bincount(example)
    latent, unit = _rows(activations), example[activations.indices]
    starts = np.flatnonzero(np.diff(latent * len(n_tokens) + unit, prepend=-1))
    shape = (activations.shape[0], len(n_tokens))
    if not len(starts):
        return sparse.csr_matrix(shape)
    size = n_tokens[unit[starts]]
    if how == "mean":
        values = np.add.reduceat(activations.data, starts, dtype=np.float64) / size
    else:
        values = np.maximum.reduceat(activations.data, starts)
        with_zeros = np.diff(np.append(starts, len(unit))) < size
        values = np.where(with_zeros, np.maximum(values, 0), values)
    result = sparse.csr_matrix((values, (latent[starts], unit[starts])), shape=shape)
    result.eliminate_zeros()
    return result


def largest(activations: sparse.csr_matrix) -> Float[np.ndarray, " latent"]:
    """The largest activation of each latent, 0 where it is never above 0."""
    result = np.zeros(activations.shape[0])
    some = np.diff(activations.indptr) > 0
    if some.any():
        result[some] = np.maximum.reduceat(activations.data, activations.indptr[:-1][some])
    return np.maximum(result, 0)


@dataclass(frozen=True, slots=True)
class Firing:
    """Where latents fire on one side: `levels[t]` [latent, unit] holds 1 where an activation lies above threshold t and not above t + 1."""

    levels: list[sparse.csr_matrix]
    n_fires: Int[np.ndarray, "threshold latent"]
    n_units: int

    @classmethod
    def of(cls, activations: sparse.csr_matrix, thresholds: Float[np.ndarray, "threshold latent"]) -> "Firing":
        """Firings above thresholds that ascend."""
        latent = _rows(activations)
        level = np.full(len(latent), -1, dtype=np.int8)
        for row in thresholds:
            level += activations.data > row[latent]
        levels = []
        for number in range(len(thresholds)):
            here = level == number
            indptr = np.concatenate([[0], np.cumsum(here)])[activations.indptr]
            levels.append(sparse.csr_matrix((np.ones(int(indptr[-1]), dtype=np.int32), activations.indices[here], indptr), shape=activations.shape))
        exact = np.stack([np.diff(matrix.indptr) for matrix in levels]).astype(np.int64)
        return cls(levels, np.cumsum(exact[::-1], axis=0)[::-1], activations.shape[1])

    @property
    def n_latents(self) -> int:
        return int(self.levels[0].shape[0])

    def hits(self, part: slice, ones: sparse.csr_matrix) -> Iterator[Int[np.ndarray, "latent concept"]]:
        """Units that carry a concept and on which a latent fires, for a block of latents, from the highest threshold down to the lowest.

        One product a threshold, each firing in one of them. The array is the same each time, with more in it.
        """
        found = np.zeros((part.stop - part.start, ones.shape[1]), dtype=np.int32)
        for matrix in reversed(self.levels):
            found += (matrix[part] @ ones).toarray()
            yield found

    def spans_found(self, part: slice, spans: sparse.csr_matrix, of_span: sparse.csr_matrix) -> Iterator[Int[np.ndarray, "latent concept"]]:
        """Spans of which at least one unit makes a latent fire, from the highest threshold down to the lowest."""
        touched = sparse.csr_matrix((part.stop - part.start, spans.shape[1]), dtype=np.int32)
        for matrix in reversed(self.levels):
            touched = touched + matrix[part] @ spans
            touched.data = np.ones_like(touched.data)
            yield (touched @ of_span).toarray()


@dataclass(frozen=True, slots=True)
class Ranks:
    """Mid-ranks of each row's values among all its units: ties share the mean of their ranks, and all units that are not stored are one tie at 0."""

    above_zeros: sparse.csr_matrix
    """[row, unit]: rank of a stored value minus the rank that the zeros share."""
    zeros: Float[np.ndarray, " row"]

    @classmethod
    def of(cls, values: sparse.csr_matrix, n_units: Int[np.ndarray, " row"] | int) -> "Ranks":
        """Rank the stored values of each row among `n_units` units, of which the rest are 0."""
        row = _rows(values)
        stored, below = np.diff(values.indptr), np.bincount(row[values.data < 0], minlength=values.shape[0])
        n_zeros = n_units - stored
        order = np.lexsort((values.data, row))
        sorted_row, sorted_data = row[order], values.data[order]
        new = np.ones(len(order), dtype=bool)
        new[1:] = (sorted_row[1:] != sorted_row[:-1]) | (sorted_data[1:] != sorted_data[:-1])
        first = np.flatnonzero(new)
        last = np.append(first[1:], len(order))
        tie = np.cumsum(new) - 1
        rank = (first[tie] + last[tie] + 1) / 2 - values.indptr[:-1][sorted_row]
        rank += np.where(sorted_data > 0, n_zeros[sorted_row], 0)
        zeros = below + (n_zeros + 1) / 2
        data = np.empty(len(order))
        data[order] = rank - zeros[sorted_row]
        return cls(sparse.csr_matrix((data, values.indices, values.indptr), shape=values.shape), zeros)

    def auroc(self, part: slice, ones: sparse.csr_matrix, n_labelled: Int[np.ndarray, " concept"]) -> Float[np.ndarray, "latent concept"]:
        """AUROC of a block of latents for every concept: (R - P (P + 1) / 2) / (P N), R the sum of the ranks of its P units, N the other units."""
        n_others = ones.shape[0] - n_labelled
        rank_sum = (self.above_zeros[part] @ ones).toarray() + n_labelled * self.zeros[part][:, None]
        return np.divide(rank_sum - n_labelled * (n_labelled + 1) / 2, n_labelled * n_others, out=np.full(rank_sum.shape, np.nan),
                         where=(n_labelled > 0) & (n_others > 0))


def _rows(matrix: sparse.csr_matrix) -> Int[np.ndarray, " entry"]:
    return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
