"""The concepts of a recommender's latents with their confidence, and what controls reach."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from sparselight.records.base import MetricValue, Part, Record

ConceptRoute = Literal["label", "terms", "items"]


class LatentConcept(Part):
    """What one latent is said to stand for, and how far that predicts it on held-out sequences."""

    latent: int
    route: ConceptRoute
    """`label`: the one label (genre, decade, word, ...) that fits best. `terms`: words by TF-IDF. `items`: a list of items."""
    text: str
    label: str = ""
    """`kind=value`, of the route `label`."""
    terms: list[str] = Field(default_factory=list)
    """Of the route `terms`."""
    item_ids: list[str] = Field(default_factory=list)
    """Of the route `items`, and of a label that says how popular items are: that depends on whose interactions are counted."""
    top_items: list[str]
    """Titles of the items at its strongest instances."""
    n_found: int
    """Instances of the latent that the concept was found on."""
    n_positive: int
    """Tested instances of the latent."""
    n_negative: int
    """Tested instances on which it is silent."""
    recall: float
    """Positives that the concept predicts / positives."""
    true_negative_rate: float
    """Silent ones that it does not predict / silent ones; RecSAE's tables call it precision."""
    precision: float | None
    """Positives among those that it predicts; null where it predicts none."""
    confidence: float
    """(positives predicted + silent ones not predicted) / tested."""
    overlaps: bool
    """Whether tested instances were also used to find the concept (protocol recsae with few instances)."""


class ConceptSummary(Part):
    """All concepts of one route of one coder."""

    coder: str
    is_control: bool
    route: ConceptRoute
    n_latents: int
    n_scored: int
    n_unscored: int
    """Latents with too few instances to find or test a concept."""
    confidence: MetricValue | None
    """Mean over scored latents."""
    recall: float | None
    true_negative_rate: float | None
    precision: float | None
    """Means over scored latents, precision over those that predict something."""
    n_at_80: int
    """Latents with a confidence of 0.8 or more."""
    n_at_90: int
    n_at_100: int
    share_at_80: MetricValue | None
    """n_at_80 / n_scored with Wilson's interval over latents."""
    coherence_within: float | None
    """Mean cosine of the vectors of a latent's two strongest instances with different items, over latents at 0.8; higher is better."""
    coherence_between: float | None
    """Mean cosine between the strongest instances of different latents at 0.8; lower is better."""


class ConceptDictionaryRecord(Record):
    """The concept dictionary of one SAE of a recommender."""

    KIND: ClassVar[str] = "concept_dictionary"
    site: str
    settings: dict[str, Any]
    n_found_on: int
    """Instances on which concepts were searched."""
    n_tested_on: int
    n_candidates: int
    level_edges: list[float]
    """Deciles of positive activations: level = 1 + how many of them an activation reaches."""
    summaries: list[ConceptSummary]
    concepts: list[LatentConcept]
    """Of the SAE, all routes, those of scored latents."""
    notes: list[str] = Field(default_factory=list)
