"""Latents of two SAEs in pairs, by the cosine of their directions, and the same after one side was rotated at random: what chance gives.

Up to EXACT_SIDE latents a side the assignment has the largest sum of cosines (Hungarian matching, evaluate/matching.py). Above it pairs are taken nearest
first: of all candidates (each latent's nearest on the other side, both ways) the one with the largest cosine whose two latents are free, then the next. A pair
whose latents are each other's nearest is found by both. Products are made in blocks, so that memory grows with the latents and not with their square. Owns
how many latents a side may have. Refuses: sides so unlike that no exact assignment can be made.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import isqrt

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparselight.errors import SaeError
from sparselight.evaluate.matching import match

ALL_PAIRS, N_CANDIDATES = 2048, 32  # of the exact assignment: up to how many latents it goes over all pairs, and candidates of each above that
EXACT_SIDE = 16_384  # an exact assignment of more takes many minutes
NEAREST = 16  # candidates of each latent, above that
BLOCK_BYTES = 2**26  # of a block of cosines
MOST_PRODUCTS = 2**41  # multiplications of a matching, which are a few minutes of two cores
SEED = 0
Matched = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Matched pairs, by place among the features that fire, and the largest cosine of each with any of the other side."""

    row: Int[np.ndarray, " pair"]
    other: Int[np.ndarray, " pair"]
    cosine: Float[np.ndarray, " pair"]
    control: Float[np.ndarray, " pair"]
    best_a: Float[np.ndarray, " latent"]
    best_b: Float[np.ndarray, " latent"]
    is_exact: bool = True
    """Whether the sum of cosines is the largest there is."""


def most_latents(d_in: int) -> int:
    """How many latents a side may have in so many dimensions."""
    return max(EXACT_SIDE, isqrt(MOST_PRODUCTS // d_in))


def make_pairs(a: Float[np.ndarray, "latent d"], b: Float[np.ndarray, "other d"]) -> Pairs:
    """The pairs of two sides of unit rows, and the cosines of the pairs after a random rotation of the second.

    Raises:
        SaeError: when so many latents are without a near partner that no exact assignment can be made.
    """
    rows, others = torch.from_numpy(a), torch.from_numpy(b)
    if not len(a) or not len(b):
        nothing, none = np.zeros(0, dtype=np.int64), np.zeros(0)
        return Pairs(nothing, nothing, none, none, np.zeros(len(a)), np.zeros(len(b)))
    rotation, _ = np.linalg.qr(np.random.default_rng(SEED).normal(size=(a.shape[1], a.shape[1])))
    turned = others @ torch.from_numpy(rotation.astype(np.float32))
    is_exact = max(len(a), len(b)) <= EXACT_SIDE
    pair = assigned if is_exact else nearest_first
    (row, other, cosine), (_, _, control) = pair(rows, others), pair(rows, turned)
    return Pairs(row, other, cosine, control, *largest_cosines(rows, others), is_exact)


def assigned(rows: Float[Tensor, "latent d"], others: Float[Tensor, "other d"]) -> Matched:
    """The assignment with the largest sum of cosines: places of both sides, cosine.

    Raises:
        SaeError: when there is none.
    """
    matches = match([rows], [others], ALL_PAIRS, N_CANDIDATES)
    if isinstance(matches, str):
        raise SaeError(asked="match two SAEs latent by latent", why=matches, instead="compare SAEs that are more alike, or with fewer latents")
    cosine = (rows[torch.from_numpy(matches.row)] * others[torch.from_numpy(matches.other)]).sum(1).double().numpy()
    return matches.row, matches.other, cosine


def largest_cosines(rows: Float[Tensor, "latent d"], others: Float[Tensor, "other d"]) -> tuple[Float[np.ndarray, " latent"], Float[np.ndarray, " other"]]:
    """The largest cosine of each latent with any of the other side, of both sides."""
    best, best_other = np.full(len(rows), -1.0), np.full(len(others), -1.0)
    for first, block in _blocks(rows, others):
        best[first : first + len(block)] = block.amax(1).numpy()
        best_other = np.maximum(best_other, block.amax(0).numpy())
    return best, best_other


def nearest_first(rows: Float[Tensor, "latent d"], others: Float[Tensor, "other d"], n_candidates: int = NEAREST) -> Matched:
    """Pairs of free latents by falling cosine, out of the nearest `n_candidates` of each latent on the other side: places of both sides, cosine."""
    own, n = [], min(n_candidates, len(others))
    theirs, whose = torch.full((0, len(others)), -1.0), torch.zeros((0, len(others)), dtype=torch.long)
    for first, block in _blocks(rows, others):
        own.append(block.topk(n, dim=1))
        near, place = block.topk(min(n_candidates, len(block)), dim=0)
        theirs, whose = torch.cat([theirs, near]), torch.cat([whose, place + first])
        theirs, place = theirs.topk(min(n_candidates, len(theirs)), dim=0)
        whose = whose.gather(0, place)
    near, who = torch.cat([part.values for part in own]), torch.cat([part.indices for part in own])
    cosine = torch.cat([near.flatten(), theirs.flatten()]).numpy()
    row = torch.cat([torch.arange(len(rows)).repeat_interleave(n), whose.flatten()]).numpy()
    other = torch.cat([who.flatten(), torch.arange(len(others)).repeat(len(theirs))]).numpy()
    kept = _free_pairs(row, other, np.argsort(-cosine, kind="stable"), len(rows), len(others))
    return row[kept], other[kept], cosine[kept].astype(np.float64)


def _free_pairs(row: Int[np.ndarray, " edge"], other: Int[np.ndarray, " edge"], order: Int[np.ndarray, " edge"], n_rows: int,
                n_others: int) -> Int[np.ndarray, " pair"]:
    """Edges in an order, each as long as both of its ends are free."""
    free_row, free_other, kept = [True] * n_rows, [True] * n_others, []
    for edge, one, two in zip(order.tolist(), row[order].tolist(), other[order].tolist(), strict=True):
        if free_row[one] and free_other[two]:
            free_row[one] = free_other[two] = False
            kept.append(edge)
    return np.array(kept, dtype=np.int64)


def _blocks(rows: Float[Tensor, "latent d"], others: Float[Tensor, "other d"]) -> Iterator[tuple[int, Float[Tensor, "row other"]]]:
    """Cosines of some rows at a time with all others: the first row's place, the block."""
    step = max(1, BLOCK_BYTES // (4 * len(others)))
    for first in range(0, len(rows), step):
        yield first, rows[first : first + step] @ others.T
