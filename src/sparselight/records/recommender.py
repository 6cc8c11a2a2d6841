"""A recommender that was trained here: how, on what, and how well it ranks."""

from typing import Any, ClassVar

from sparselight.records.base import CheckedRecord, Part


class RankingValue(Part):
    """Ranking of held-out interactions among all items."""

    part: str
    """`dev` or `test`."""
    n: int
    """Users with such an interaction."""
    hr: dict[str, float]
    """k to the share of users whose target is among the first k."""
    ndcg: dict[str, float]
    """k to the mean of 1[rank <= k] / log2(rank + 1)."""


class RecommenderRecord(CheckedRecord):
    """A recommender that was trained here."""

    KIND: ClassVar[str] = "recommender"
    name: str
    settings: dict[str, Any]
    """Of subject.recommender."""
    n_users: int
    n_items: int
    n_interactions: int
    """That it was trained on."""
    corpus: str
    """Fingerprint of the corpus."""
    epochs: int
    """That the kept state has seen."""
    results: list[RankingValue]
    """Of the model."""
    popularity: list[RankingValue]
    """The same of recommending everybody the most popular items."""
    wall_s: float
