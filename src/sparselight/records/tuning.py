"""What turning a recommender's latents up or down did: to the concept's items, to the lists, to quality; beside random latents of like frequency."""

from typing import ClassVar

from sparselight.records.base import MetricValue, Part, Record


class TuningDose(Part):
    """All users at one strength."""

    strength: float
    """scale: the latents are multiplied by this (1 leaves them). add: so many of their means are added (0 leaves them)."""
    share: MetricValue
    """Of the concept's items in the first k."""
    rank_gain: MetricValue
    """Places that the concept's items rise, mean over them, divided by the number of items."""
    overlap: MetricValue
    """Share of the first k that stays."""
    tau: MetricValue
    """Kendall's tau-a over the first k of the unedited list."""
    hr: MetricValue
    ndcg: MetricValue
    """Of the held-out interactions at k."""
    hr_change: MetricValue
    ndcg_change: MetricValue
    """Paired with the unedited list."""
    ndcg_change_others: MetricValue | None
    """The same over users on whom none of the latents is active; null where there are none."""


class TuningRecord(Record):
    """A concept that was tuned."""

    KIND: ClassVar[str] = "tuning"
    concept: str
    site: str
    operation: str
    """`scale` or `add`."""
    latents: list[int]
    k: int
    n_items: int
    """That the concept names."""
    n_users: int
    active_frac: float
    """Users on whom one of the latents is active."""
    doses: list[TuningDose]
    controls: list[list[TuningDose]]
    """One list of doses for each draw of random latents with like firing rates."""
    control_latents: list[list[int]]
    monotonicity: float | None
    """Spearman's correlation of strength and share; null where the share never changes."""
    control_monotonicity: list[float | None]


class BalanceDose(Part):
    """How popular the recommendations are, how they are spread, and how good they are, at one strength."""

    strength: float
    popularity: MetricValue
    """Mean training interactions of a recommended item (average recommendation popularity)."""
    coverage: float
    """Items recommended to anybody / items."""
    gini: float
    """Of how often items are recommended: 0 is all alike."""
    hr: MetricValue
    ndcg: MetricValue
    gap: MetricValue | None
    """NDCG of the first segment of users minus that of the second."""


class BalanceRecord(Record):
    """A curve from what is recommended to what it costs, beside two ways to do the same."""

    KIND: ClassVar[str] = "balance"
    site: str
    latents: list[int]
    k: int
    n_users: int
    segments: list[str]
    """Names of the two segments of the gap; empty without one."""
    doses: list[BalanceDose]
    """Strength: what the latents are multiplied by."""
    control: list[BalanceDose]
    """Random latents of like firing rates, as many."""
    penalty: list[BalanceDose]
    """Strength: w in score - w * standard deviation of the scores * standardized log popularity, the plain way to the same end."""
