"""Scores of all items for many users, a block of users at a time: top lists and ranks in memory that does not grow with the number of users.

Items that a user already has are masked by a number that no score reaches, and not by minus infinity: differences and softmaxes of masked scores stay
finite. Owns: `SeenItems`, blocks of scores, `top_items`, `target_ranks`. Refuses: scores that are nan.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparselight.errors import SubjectError
from sparselight.subjects.recommender.module import Recommender

MASKED = -1e30
BLOCK_VALUES = 1 << 24  # of scores held at once: 64 MB
ITEM_BLOCK = 1 << 14  # items scored at once where there are many


@dataclass(frozen=True, slots=True)
class SeenItems:
    """What each row's user already has: row r has items[start[r]:stop[r]]; rows may share stretches."""

    items: Int[Tensor, " entry"]
    start: Int[Tensor, " row"]
    stop: Int[Tensor, " row"]

    @classmethod
    def of(cls, lists: "list[Int[Tensor, ' item']]") -> "SeenItems":
        """One list a row."""
        sizes = torch.tensor([0, *(len(one) for one in lists)])
        ends = sizes.cumsum(0)
        return cls(torch.cat(lists) if lists else torch.zeros(0, dtype=torch.int64), ends[:-1], ends[1:])

    def __getitem__(self, rows: "slice | Tensor") -> "SeenItems":
        return SeenItems(self.items, self.start[rows], self.stop[rows])

    def mask(self, n_vocabulary: int) -> Bool[Tensor, "row vocabulary"]:
        """True at padding and at the items that the user has."""
        result = torch.zeros(len(self.start), n_vocabulary, dtype=torch.bool)
        result[:, 0] = True
        result[self.entries()] = True
        return result

    def entries(self) -> tuple[Int[Tensor, " entry"], Int[Tensor, " entry"]]:
        """Row and item of everything that somebody has."""
        sizes = self.stop - self.start
        row = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        first = sizes.cumsum(0) - sizes
        return row, self.items[torch.arange(len(row)) - first[row] + self.start[row]]


@dataclass(frozen=True, slots=True)
class TopItems:
    """Recommendations: the best items of each row, best first, and their scores."""

    items: Int[Tensor, "row k"]
    scores: Float[Tensor, "row k"]


def score_blocks(
    module: Recommender, vectors: Float[Tensor, "row d"], seen: SeenItems | None, block_values: int = BLOCK_VALUES,
) -> Iterator[tuple[slice, Float[Tensor, "block vocabulary"]]]:
    """Masked scores of all items, a block of rows at a time.

    Raises:
        SubjectError: when a score is nan.
    """
    with torch.no_grad():
        table, bias = (module.item_vectors(), module.item_bias()) if module.is_product else (None, None)
        size = max(1, block_values // (module.n_items + 1))
        for start in range(0, len(vectors), size):
            rows = slice(start, min(start + size, len(vectors)))
            scores = (vectors[rows] @ table.T + (0 if bias is None else bias)) if table is not None else module.score(vectors[rows])
            _check(scores, module)
            yield rows, masked(scores.float(), None if seen is None else seen[rows])


def masked(scores: Float[Tensor, "row vocabulary"], seen: SeenItems | None) -> Float[Tensor, "row vocabulary"]:
    """Scores with padding, and what each user has, at MASKED."""
    if seen is None:
        scores = scores.clone()
        scores[:, 0] = MASKED
        return scores
    return scores.masked_fill(seen.mask(scores.shape[1]).to(scores.device), MASKED)


def top_items(
    module: Recommender, vectors: Float[Tensor, "row d"], k: int, seen: SeenItems | None = None, block_values: int = BLOCK_VALUES,
) -> TopItems:
    """The k best items of each row that its user does not have yet.

    Many items are scored a stretch at a time where the score is a product: then memory does not grow with their number either.

    Raises:
        SubjectError: when a score is nan.
    """
    k = min(k, module.n_items)
    if module.is_product and module.n_items >= 2 * ITEM_BLOCK:
        return _top_by_stretches(module, vectors, k, seen, block_values)
    found = [scores.topk(k, dim=1) for _, scores in score_blocks(module, vectors, seen, block_values)]
    if not found:
        return TopItems(torch.zeros(0, k, dtype=torch.int64), torch.zeros(0, k))
    return TopItems(torch.cat([one.indices for one in found]), torch.cat([one.values for one in found]))


@torch.no_grad()
def _top_by_stretches(module: Recommender, vectors: Float[Tensor, "row d"], k: int, seen: SeenItems | None, block_values: int) -> TopItems:
    """The k best of each stretch of items are merged into the k best so far; padding and what a user has are masked in their stretch."""
    table, bias = module.item_vectors(), module.item_bias()
    size = max(1, block_values // (ITEM_BLOCK + k))
    items, best = torch.zeros(len(vectors), k, dtype=torch.int64), torch.full((len(vectors), k), MASKED)
    for start in range(0, len(vectors), size):
        rows = slice(start, min(start + size, len(vectors)))
        own = None if seen is None else seen[rows].entries()
        top = torch.full((rows.stop - rows.start, 0), MASKED, device=table.device)
        place = torch.zeros_like(top, dtype=torch.int64)
        for first in range(0, len(table), ITEM_BLOCK):
            stretch = slice(first, min(first + ITEM_BLOCK, len(table)))
            scores = (vectors[rows] @ table[stretch].T + (0 if bias is None else bias[stretch])).float()
            _check(scores, module)
            if first == 0:
                scores[:, 0] = MASKED
            if own is not None:
                inside = (own[1] >= stretch.start) & (own[1] < stretch.stop)
                scores[own[0][inside].to(scores.device), (own[1][inside] - first).to(scores.device)] = MASKED
            some = scores.topk(min(k, scores.shape[1]), dim=1)
            top, place = torch.cat([top, some.values], 1), torch.cat([place, some.indices + first], 1)
            kept = top.topk(min(k, top.shape[1]), dim=1)
            top, place = kept.values, place.gather(1, kept.indices)
        items[rows], best[rows] = place.cpu(), top.cpu()
    return TopItems(items, best)


def _check(scores: Float[Tensor, "row item"], module: Recommender) -> None:
    if scores.isnan().any():
        raise SubjectError(asked=f"score {module.n_items} items for {len(scores)} users", why="some scores are nan",
                           instead="check the weights of the model, and use a smaller amount where an edit is applied")


def target_ranks(
    module: Recommender, vectors: Float[Tensor, "row d"], targets: Int[Tensor, " row"], seen: SeenItems | None = None, block_values: int = BLOCK_VALUES,
) -> Float[Tensor, " row"]:
    """Rank of each target among all items: #{j : s_j >= s_target}, the target included and ties against it, over items that the user does not have.

    RecSAE's rule (ReChorus): a target is never masked. It agrees with `evaluate.ranking.ranks(..., ties="worst")`.
    """
    result = torch.zeros(len(vectors))
    for rows, scores in score_blocks(module, vectors, None, block_values):
        own = scores.gather(1, targets[rows, None].to(scores.device))
        beats = scores >= own
        if seen is not None:
            beats &= ~seen[rows].mask(scores.shape[1]).to(scores.device)
        beats.scatter_(1, targets[rows, None].to(scores.device), True)
        result[rows] = beats.sum(1).float().cpu()
    return result
