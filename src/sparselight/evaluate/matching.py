"""One-to-one matching of two dictionaries' latents: the assignment with the largest sum of cosines (Hungarian matching).

Exact (scipy's linear_sum_assignment) up to a number of latents. Above it the assignment is exact on a sparse graph, each latent and its nearest
of the other dictionary, both ways (min_weight_full_bipartite_matching); latents that find no partner there are assigned among themselves.
Refuses: more such latents than can be assigned exactly.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparselight.evaluate.weight_directions import block_rows

# One matrix for the decoder, or two: the similarity of two latents is the mean of their cosines.
Sides = Sequence[Float[Tensor, "latent d"]]
LEFT_OUT_COST = 4.0  # above 2 - cosine of any pair: staying without a partner is the last resort


class Matches(NamedTuple):
    """Matched pairs: row of one dictionary, row of the other; as many as the smaller has latents."""

    row: Int[np.ndarray, " pair"]
    other: Int[np.ndarray, " pair"]


def match(rows: Sides, others: Sides, exact_latents: int, n_candidates: int) -> Matches | str:
    """The best one-to-one matching, or in words why there is none.

    Args:
        rows, others: unit rows; the same number of matrices in both.
        exact_latents: largest dictionary (of the two the smaller) that is solved over all pairs.
        n_candidates: of each latent, above that.
    """
    from scipy.optimize import linear_sum_assignment  # takes a third of a second to import

    if len(rows[0]) > len(others[0]):
        found = match(others, rows, exact_latents, n_candidates)
        return found if isinstance(found, str) else Matches(found.other, found.row)
    if len(rows[0]) <= exact_latents:
        return Matches(*linear_sum_assignment(_similarity(rows, others).cpu().numpy(), maximize=True))
    return _match_sparse(rows, others, exact_latents, n_candidates)


def _match_sparse(rows: Sides, others: Sides, exact_latents: int, n_candidates: int) -> Matches | str:
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    n, m = len(rows[0]), len(others[0])
    own, theirs = _candidates(rows, others, n_candidates), _candidates(others, rows, n_candidates)
    keys = np.concatenate([own.keys(m), theirs.flipped_keys(m)])
    keys, first = np.unique(keys, return_index=True)
    costs = 2 - np.concatenate([own.cosine.ravel(), theirs.cosine.ravel()])[first].astype(np.float64)
    alone = np.arange(n)
    graph = csr_matrix((np.concatenate([costs, np.full(n, LEFT_OUT_COST)]),
                        (np.concatenate([keys // m, alone]), np.concatenate([keys % m, m + alone]))), shape=(n, m + n))
    row, other = min_weight_full_bipartite_matching(graph)
    matched = other < m
    left, free = row[~matched], np.setdiff1d(np.arange(m), other[matched])
    if len(left) > exact_latents:
        return f"{len(left)} of its latents have no partner among the {n_candidates} nearest of each (stability.match_candidates)"
    if len(left):
        rest = match([side[torch.from_numpy(left)] for side in rows], [side[torch.from_numpy(free)] for side in others], exact_latents, n_candidates)
        assert isinstance(rest, Matches)
        row, other = np.concatenate([row[matched], left[rest.row]]), np.concatenate([other[matched], free[rest.other]])
        order = np.argsort(row)
        row, other = row[order], other[order]
    return Matches(row, other)


class _Candidates(NamedTuple):
    """Of each row its nearest others."""

    other: Int[np.ndarray, "latent candidate"]
    cosine: Float[np.ndarray, "latent candidate"]

    def keys(self, n_columns: int) -> Int[np.ndarray, " entry"]:
        return (np.arange(len(self.other))[:, None] * n_columns + self.other).ravel()

    def flipped_keys(self, n_columns: int) -> Int[np.ndarray, " entry"]:
        return (self.other * n_columns + np.arange(len(self.other))[:, None]).ravel()


def _candidates(rows: Sides, others: Sides, n: int) -> _Candidates:
    step = block_rows(others[0])
    found = [_similarity([side[first : first + step] for side in rows], others).topk(min(n, len(others[0])), dim=1, sorted=False)
             for first in range(0, len(rows[0]), step)]
    return _Candidates(torch.cat([part.indices for part in found]).cpu().numpy(), torch.cat([part.values for part in found]).cpu().numpy())


def _similarity(rows: Sides, others: Sides) -> Float[Tensor, "latent other"]:
    total = rows[0] @ others[0].T
    for row, other in zip(rows[1:], others[1:], strict=True):
        total.addmm_(row, other.T)
    return total / len(rows)
