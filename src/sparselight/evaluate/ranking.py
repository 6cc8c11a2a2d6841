"""Ranking metrics: where the right answer stands among all candidates by score, and how two top lists differ. Pure functions over scores.

For a recommender the candidates are the items and the target is the next one; for a language model they are the vocabulary, and the hit rate is
next-token recall. All candidates are ranked: against sampled ones the order of models can come out otherwise (Krichene and Rendle 2020). Ties
are resolved by a stated rule, because a model that gives every candidate one score must not come out first. Refuses: scores that are nan, cut-offs below 1.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparselight.errors import ConfigError, SubjectError

Ties = Literal["middle", "worst"]


def ranks(
    scores: Float[Tensor, "token candidate"], targets: Int[Tensor, " token"], ties: Ties = "middle", seen: Bool[Tensor, "token candidate"] | None = None,
) -> Float[Tensor, " token"]:
    """Rank of the target, from 1: 1 + (candidates with a higher score) + t (other candidates with the same score), t = 1/2 for `middle`, 1 for `worst`.

    Args:
        seen: candidates that are left out, as items that a user already has; a target is never left out.

    Raises:
        SubjectError: when a score is nan.
    """
    if scores.isnan().any():
        raise SubjectError(asked=f"rank {scores.shape[1]} candidates for {len(scores)} tokens", why="some scores are nan",
                           instead="run the subject with subject.dtype = 'float32'")
    target = targets.to(scores.device)[:, None]
    own = scores.gather(1, target)
    higher, same = scores > own, scores == own
    if seen is not None:
        higher, same = higher & ~seen.to(scores.device), same & ~seen.to(scores.device).scatter(1, target, False)
    return 1 + higher.sum(1) + (0.5 if ties == "middle" else 1.0) * (same.sum(1) - 1)


def hits(rank: Float[Tensor, " token"], k: int) -> Float[Tensor, " token"]:
    """HR@k of each token: 1[rank <= k]. With one target a token this is recall@k."""
    return (rank <= _checked(k)).float()


def gains(rank: Float[Tensor, " token"], k: int) -> Float[Tensor, " token"]:
    """NDCG@k of each token with one relevant candidate: 1[rank <= k] / log2(rank + 1) (Jarvelin and Kekalainen 2002; the ideal gain is 1)."""
    return hits(rank, k) / (rank + 1).log2()


def _checked(k: int) -> int:
    if k < 1:
        raise ConfigError(asked=f"count hits among the first {k} candidates", why="there is no such list", instead="give cut-offs of 1 or more")
    return k


def overlap(first: Int[Tensor, "row k"], second: Int[Tensor, "row k"]) -> Float[Tensor, " row"]:
    """Overlap@k of two top lists: the share of the k candidates of one that stand in the other, in any order."""
    return (first[:, :, None] == second[:, None, :]).any(2).float().mean(1)


def list_tau(before: Float[Tensor, "row k"], after: Float[Tensor, "row k"]) -> Float[Tensor, " row"]:
    """Kendall's tau-a of the scores of the same k candidates: mean over pairs i < j of sign(before_i - before_j) sign(after_i - after_j) (Kendall 1938).

    Taken over the list of the first ranking, so 1 says that its order stays, whatever else comes in between. nan for lists of one.
    """
    k = before.shape[1]
    i, j = torch.triu_indices(k, k, 1, device=before.device)
    return ((before[:, i] - before[:, j]).sign() * (after[:, i] - after[:, j]).sign()).mean(1)


def share_of(top: Int[Tensor, "row k"], members: Bool[Tensor, " candidate"]) -> Float[Tensor, " row"]:
    """Share of the members of a set (the items of a genre, say) in each top list."""
    return members.to(top.device)[top].float().mean(1)


def gini(counts: Float[Tensor, " candidate"]) -> float:
    """Gini coefficient of how often candidates are recommended: 0 is all alike, near 1 is one for everybody (Gini 1912).

    G = sum_i (2 i - n - 1) c_(i) / (n sum c), c ascending, i from 1.
    """
    ordered, n = counts.double().sort().values, len(counts)
    weights = 2 * torch.arange(1, n + 1, dtype=torch.float64, device=ordered.device) - n - 1
    return float((weights * ordered).sum() / (n * ordered.sum()).clamp(min=1e-30))
