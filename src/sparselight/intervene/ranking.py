"""Ranking lists before and after an edit: what moves up, what moves down, and how much of the list stays.

For recommenders the candidates are items, for language models the vocabulary. Whatever gives scores [list, candidate] can be compared; `subject.predict` at
the last token of each example is the usual source. Ties go to the lower candidate number. Refuses: scores that are nan, lists longer than there are candidates.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparselight.errors import ConfigError, SubjectError
from sparselight.evaluate.ranking import list_tau, overlap
from sparselight.protocols import EditFunction, Example, Subject


@dataclass(frozen=True, slots=True)
class RankingChange:
    """Ranking lists of the same examples, before and after."""

    before: Int[Tensor, "list k"]
    """The k first candidates, best first."""
    after: Int[Tensor, "list k"]
    rank_before: Int[Tensor, "list candidate"]
    """Rank of every candidate, from 1."""
    rank_after: Int[Tensor, "list candidate"]

    @property
    def k(self) -> int:
        return self.before.shape[1]

    def overlap(self) -> Float[Tensor, " list"]:
        """Share of the first k candidates that stay: |before ∩ after| / k."""
        return overlap(self.before, self.after)

    def kendall(self) -> Float[Tensor, " list"]:
        """Kendall's tau over the first k of before, by their ranks afterwards: (concordant - discordant pairs) / (k (k - 1) / 2) (Kendall 1938)."""
        place = torch.arange(self.k, dtype=torch.float32).expand(len(self.before), -1)
        return list_tau(-place, -self.rank_after.gather(1, self.before).float()) if self.k > 1 else torch.ones(len(self.before))

    def shares(self, candidates: Collection[int]) -> tuple[Float[Tensor, " list"], Float[Tensor, " list"]]:
        """Share of a set of candidates among the first k, before and after."""
        chosen = torch.tensor(sorted(candidates), dtype=torch.int64)
        return torch.isin(self.before, chosen).float().mean(1), torch.isin(self.after, chosen).float().mean(1)

    def rank_shift(self, candidates: Collection[int]) -> Float[Tensor, " list"]:
        """Mean over a set of candidates of (rank after - rank before); negative is upwards."""
        chosen = torch.tensor(sorted(candidates), dtype=torch.int64)
        return (self.rank_after[:, chosen] - self.rank_before[:, chosen]).float().mean(1)


def last_scores(subject: Subject, examples: Sequence[Example], edits: Mapping[str, EditFunction] | None = None) -> Float[Tensor, "example candidate"]:
    """What the subject predicts behind the last token of each example.

    Raises:
        SubjectError: when an example has no token.
    """
    batch = subject.prepare(examples)
    sizes = torch.bincount(batch.example, minlength=len(examples))
    if not len(sizes) or int(sizes.min()) < 1:
        raise SubjectError(asked=f"rank candidates for {len(examples)} examples", why="one of them has no token", instead="leave empty examples out")
    return subject.predict(batch, edits)[(sizes.cumsum(0) - 1).to(subject.device)].cpu()


def ranking_change(
    before: Float[Tensor, "list candidate"], after: Float[Tensor, "list candidate"], k: int, seen: Bool[Tensor, "list candidate"] | None = None,
) -> RankingChange:
    """Lists from scores.

    Args:
        seen: candidates that are in no list, such as items that a user has; they get the last ranks.

    Raises:
        ConfigError: when k is no length of a list.
        SubjectError: when scores are nan.
    """
    if not 1 <= k <= before.shape[1]:
        raise ConfigError(asked=f"compare lists of the first {k} candidates", why=f"there are {before.shape[1]}", instead="give k from 1 to their number")
    if before.isnan().any() or after.isnan().any():
        raise SubjectError(asked=f"rank {before.shape[1]} candidates", why="some scores are nan", instead="use a smaller amount, or subject.dtype = 'float32'")
    orders = [(scores if seen is None else scores.masked_fill(seen, -torch.inf)).argsort(dim=1, descending=True, stable=True) for scores in (before, after)]
    ranks = [order.argsort(1) + 1 for order in orders]
    return RankingChange(orders[0][:, :k], orders[1][:, :k], ranks[0], ranks[1])


def compare_rankings(subject: Subject, examples: Sequence[Example], edits: Mapping[str, EditFunction], k: int = 10) -> RankingChange:
    """Ranking lists of a subject without and with edits."""
    return ranking_change(last_scores(subject, examples), last_scores(subject, examples, edits), k)
