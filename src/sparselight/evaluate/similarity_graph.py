"""The graph of similar latents: an edge where a cosine exceeds a threshold; its density, triangles and global clustering coefficient.

OrtSAE (arXiv 2509.22033, section 4) plots C = 3 triangles / connected triples against density 2E / (n (n-1)) over ten thresholds, whose values
it does not give. Ours: the thresholds that give chosen densities, at which dictionaries compare, and fixed cosines. Edges are found in one pass
over blocks of cosines and kept sparse; triangles are counted exactly, from bit sets of the latents that have two edges or more.
Refuses nothing: a graph with more edges than may be kept is reported as such.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

COUNT_WORDS = 1 << 20  # of 64 latents, intersected at once
FIRST_TRIM = 1 << 20  # pairs collected before the weakest are first let go


class Edges(NamedTuple):
    """Pairs of latents, each once, and their cosines."""

    row: Int[np.ndarray, " edge"]
    column: Int[np.ndarray, " edge"]
    cosine: Float[np.ndarray, " edge"]


class StrongestPairs:
    """Collects from blocks of cosines the pairs above a floor, and at any rate the `n_strongest` strongest; at most `max_edges` of them."""

    def __init__(self, n_latents: int, n_strongest: int, floor: float, max_edges: int):
        self.n_latents, self.n_strongest, self.floor, self.max_edges = n_latents, min(n_strongest, max_edges), floor, max_edges
        self.complete_above = -2.0
        """Every pair with a larger cosine is there."""
        self._reached, self._n, self._trim_at = -2.0, 0, max(FIRST_TRIM, 2 * self.n_strongest)
        self._keys: list[Int[np.ndarray, " edge"]] = []
        self._cosines: list[Float[np.ndarray, " edge"]] = []

    def add(self, first: int, cosines: Float[Tensor, "row latent"]) -> None:
        """Take one block: rows `first` and on, all columns. Each pair is taken where its column is the larger number."""
        found = (cosines >= max(self.complete_above, min(self.floor, self._reached))).triu_(first + 1).nonzero()
        self._keys.append(((found[:, 0] + first) * self.n_latents + found[:, 1]).cpu().numpy())
        self._cosines.append(cosines[found[:, 0], found[:, 1]].cpu().numpy())
        self._n += len(found)
        if self._n > self._trim_at:
            self._trim()

    def edges(self) -> Edges:
        """What was collected, strongest first."""
        keys, cosines = self._trim()
        order = np.argsort(-cosines, kind="stable")
        return Edges(keys[order] // self.n_latents, keys[order] % self.n_latents, cosines[order])

    def _trim(self) -> tuple[Int[np.ndarray, " edge"], Float[np.ndarray, " edge"]]:
        keys, cosines = np.concatenate(self._keys), np.concatenate(self._cosines)
        if len(cosines) > self.n_strongest:
            self._reached = max(self._reached, _kth_largest(cosines, self.n_strongest))
        keep = cosines >= min(self.floor, self._reached)
        keys, cosines = keys[keep], cosines[keep]
        if len(cosines) > self.max_edges:
            self.complete_above = _kth_largest(cosines, self.max_edges)
            keys, cosines = keys[cosines >= self.complete_above], cosines[cosines >= self.complete_above]
        self._keys, self._cosines, self._n = [keys], [cosines], len(keys)
        self._trim_at = max(FIRST_TRIM, 2 * self.n_strongest, 2 * self._n)
        return keys, cosines


def _kth_largest(values: Float[np.ndarray, " value"], k: int) -> float:
    return float(np.partition(values, len(values) - k)[len(values) - k])


@dataclass(frozen=True, slots=True)
class GraphPoint:
    """One threshold's graph."""

    setting: str
    """`cos > 0.3`, or `density 0.001`."""
    threshold: float
    n_edges: int
    density: float
    n_triangles: int
    n_triples: int
    """Pairs of edges that meet in a latent."""

    @property
    def clustering(self) -> float | None:
        """C = 3 triangles / connected triples; None where no two edges meet."""
        return 3 * self.n_triangles / self.n_triples if self.n_triples else None


def curve(
    pairs: StrongestPairs, cosines: Sequence[float], densities: Sequence[float],
) -> tuple[list[GraphPoint], dict[str, str]]:
    """The graphs of all thresholds, and by setting why one is left out."""
    edges, n = pairs.edges(), pairs.n_latents
    n_pairs = n * (n - 1) // 2
    points, lacking = [], {}
    for threshold in cosines:
        setting = f"cos > {threshold:g}"
        if threshold < pairs.complete_above:
            lacking[setting] = f"its graph has more than {pairs.max_edges} edges (geometry.max_edges)"
        else:
            points.append(_point(setting, threshold, edges, int(np.count_nonzero(edges.cosine > threshold)), n))
    for density in densities:
        setting, n_edges = f"density {density:g}", round(density * n_pairs)
        if n_edges < 1:
            lacking[setting] = f"that is less than one of the {n_pairs} pairs of latents"
        elif n_edges >= len(edges.cosine) and n_edges < n_pairs:
            lacking[setting] = f"its graph has more than {pairs.max_edges} edges (geometry.max_edges)"
        else:
            threshold = float(edges.cosine[n_edges]) if n_edges < n_pairs else -1.0
            points.append(_point(setting, threshold, edges, int(np.count_nonzero(edges.cosine > threshold)), n))
    return points, lacking


def _point(setting: str, threshold: float, edges: Edges, n_edges: int, n_latents: int) -> GraphPoint:
    row, column = edges.row[:n_edges], edges.column[:n_edges]
    degree = np.bincount(np.concatenate([row, column]), minlength=n_latents).astype(np.int64)
    return GraphPoint(setting, threshold, n_edges, 2 * n_edges / (n_latents * (n_latents - 1)), count_triangles(row, column, n_latents),
                      int((degree * (degree - 1) // 2).sum()))


def count_triangles(row: Int[np.ndarray, " edge"], column: Int[np.ndarray, " edge"], n_latents: int) -> int:
    """Triangles of a graph whose edges are each given once.

    Each edge's ends share as many neighbors as there are triangles over it, so that all edges together count every triangle three times.
    Memory: n^2 / 8 bytes for n latents with two edges or more. Work: edges * n / 64.
    """
    degree = np.bincount(np.concatenate([row, column]), minlength=n_latents)
    place = np.cumsum(degree > 1) - 1
    both = (degree[row] > 1) & (degree[column] > 1)
    row, column, n = place[row[both]], place[column[both]], int((degree > 1).sum())
    if not len(row):
        return 0
    neighbors = _bit_sets(row, column, n)
    total, step = 0, max(1, COUNT_WORDS // neighbors.shape[1])
    for first in range(0, len(row), step):
        total += _n_ones(neighbors[row[first : first + step]] & neighbors[column[first : first + step]])
    return total // 3


def _bit_sets(row: Int[np.ndarray, " edge"], column: Int[np.ndarray, " edge"], n: int) -> Int[np.ndarray, "latent word"]:
    """For each latent the set of its neighbors, 64 a word."""
    ends, others = np.concatenate([row, column]), np.concatenate([column, row])
    order = np.argsort(ends, kind="stable")
    ends, others = ends[order], others[order]
    words = -(-n // 64)
    sets = np.empty((n, words), dtype=np.uint64)
    step = max(1, (1 << 26) // n)
    for first in range(0, n, step):
        begin, end = np.searchsorted(ends, [first, first + step])
        dense = np.zeros((min(step, n - first), words * 64), dtype=bool)
        dense[ends[begin:end] - first, others[begin:end]] = True
        sets[first : first + step] = np.packbits(dense, axis=1).view(np.uint64)
    return sets


def _n_ones(words: Int[np.ndarray, "edge word"]) -> int:
    if hasattr(np, "bitwise_count"):  # numpy 2
        return int(np.bitwise_count(words).sum(dtype=np.int64))
    return int(np.unpackbits(words.view(np.uint8)).sum(dtype=np.int64))
