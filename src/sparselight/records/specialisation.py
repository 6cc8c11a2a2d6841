"""What a specialization came to: its variants, what changed in them, and where their measurements lie."""

from typing import Any, ClassVar

from pydantic import Field

from sparselight.records.base import MetricValue, Part, Record
from sparselight.records.subject import SubjectRef


class Drift(Part):
    """How far the base's own latents moved in one variant. Latents are compared number by number."""

    n_latents: int
    """The base's latents, which all are compared."""
    mean_cosine: float
    """Of a latent's decoder rows before and after, averaged over latents: 1 where nothing moved."""
    low_cosine: float
    """The 5 % point of those cosines: of the latents that moved most."""
    turned_frac: float
    """Latents whose cosine is below 0.9 / n_latents."""
    fire_rate_change: dict[str, float] = Field(default_factory=dict)
    """By dataset: sum over latents of |fire rate after - before| / sum of fire rates before; 0 where every latent fires as often as it did."""


class NewLatents(Part):
    """What the added latents of one variant do on held-out text of one dataset."""

    dataset: str
    active: MetricValue
    """Added latents that fire a token, on average: their part of l0."""
    token_frac: MetricValue
    """Tokens on which at least one of them fires / tokens."""
    n_dead: int
    """Added latents that fire on no token measured."""


class VariantRecord(Part):
    """One way of making an SAE that knows the domain, and what it cost."""

    what: str
    """In words."""
    trained_on: str
    is_control: bool
    n_latents: int
    n_new: int
    """Latents beyond the base's, at the end of the dictionary; of one from scratch all are its own."""
    weights: str
    """Hash of the weights."""
    folder: str | None = None
    """Of the SAE, relative to this record; null for the base."""
    n_tokens_seen: int = 0
    """Training tokens after the base's own."""
    seconds: float | None = None
    """Of its training steps, by its log; null where nothing was trained."""
    drift: Drift | None = None
    """Null where the base's latents are not at the beginning of its dictionary."""
    new_latents: list[NewLatents] = Field(default_factory=list)
    equal_l0: str = ""
    """What was done so that it has the common l0, or why it could not be, in words; empty where that was not measured."""
    has_equal_l0: bool = False
    notes: list[str] = Field(default_factory=list)
    """What its record says beside the numbers."""


class SpecialisationRecord(Record):
    """A base SAE specialized to a domain: all variants on equal terms. The measurements stand in the evaluation records that are named here."""

    KIND: ClassVar[str] = "specialisation"
    name: str
    subject: SubjectRef
    site: str
    d_in: int
    base: str
    """Where the base SAE was read from."""
    variants: dict[str, VariantRecord]
    """By name, `base` first."""
    n_tokens: dict[str, int]
    """Of each store: general_train, general_held_out, domain_train, domain_held_out."""
    advised_tokens: int
    """Of the domain, for so many new latents (24 for each weight of their encoder, scaled from arXiv 2507.12990)."""
    k: float
    """Active latents a token that every variant was trained for."""
    l0: float | None = None
    """The common l0 on training text of the domain, where variants were measured at equal l0."""
    budgets: dict[str, int] = Field(default_factory=dict)
    """Coder of the evaluation of budgets to the tokens of the domain that it was trained on."""
    evaluation: str
    """evaluation.json of the variants as trained, relative to this record; so the next two."""
    equal_l0_evaluation: str | None = None
    budget_evaluation: str | None = None
    cards: str | None = None
    """catalogue.duckdb of the new latents of `explained`."""
    explained: str | None = None
    """The variant whose new latents have cards."""
    config: dict[str, Any]
    """The tables `specialise`, `select`, `evaluate` and `explain` as resolved."""
    selection: dict[str, Any] = Field(default_factory=dict)
    corpus: dict[str, Any] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)
    wall_s: dict[str, float] = Field(default_factory=dict)
    """Seconds of each part of the work in the call that wrote this; what was found finished took none."""
    machine: str = ""
    sparselight_version: str = ""
    created: str = ""
    report: str | None = None
