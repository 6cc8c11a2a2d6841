"""What a steering study found: dose-response curves of a latent and its baselines, side effects, and both compared at equal side effect."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from sparselight.records.base import MetricValue, Part, Record

MethodKind = Literal["latent", "difference of means", "random direction", "random latent", "other concept", "prompt"]


class TextQuality(Part):
    """How generated text reads to a counter: means over texts, intervals over prompts."""

    distinct_1: MetricValue
    """Different tokens / tokens of a text."""
    distinct_2: MetricValue
    """Different pairs of neighboring tokens / pairs."""
    repeated_4: MetricValue
    """1 - different runs of four tokens / runs: 0 where none comes twice."""
    entropy_bits: MetricValue
    """Of the distribution of tokens within a text."""
    ce_nats: MetricValue
    """Cross entropy a token of the generated text under the unedited subject; its exponential is the perplexity."""


class Dose(Part):
    """One strength of one method."""

    strength: float
    """In units of the method's own reference; 0 stands for no edit."""
    amount: float | None = None
    """What the edit was given: activation for add and clamp, factor for scale, length of the vector for a direction."""
    effect: MetricValue
    """The goal's value."""
    change: MetricValue
    """The goal's value less that without an edit, on the same text or prompts."""
    kl_nats: MetricValue | None
    """Mean KL(before || after) a token on general text."""
    ce_change_nats: MetricValue | None
    """Mean cross entropy a token on general text, less that without an edit."""
    text: TextQuality | None = None


class Response(Part):
    """The dose-response curve of one method."""

    method: str
    """Its name, unique in the study."""
    kind: MethodKind
    what: str
    """In words, with what strength 1 is."""
    edit: dict[str, Any] | None = None
    """Of latents: the edit at strength 1."""
    doses: list[Dose]
    """By rising strength, the first without an edit."""
    spearman: MetricValue | None = None
    """Rank correlation of strength and effect over the doses."""
    isotonic_r2: MetricValue | None = None
    """Share of the variance of the effect over the doses that a monotone curve explains."""
    half_dose: MetricValue | None = None
    """Strength at which the monotone curve has come half of its way."""
    lacks: list[str] = Field(default_factory=list)
    """Which of these are not defined, and why."""


class MatchedEffect(Part):
    """The latent at one strength beside a baseline that changes general text as much."""

    strength: float
    """Of the latent."""
    kl_nats: MetricValue
    """Of the latent at that strength; the baseline is taken where its own curve reaches it."""
    baseline: str
    """Kind of the baseline; where there are several of a kind, their mean."""
    n_baselines: int
    latent_change: MetricValue
    baseline_change: MetricValue | None
    difference: MetricValue | None
    """latent_change - baseline_change, paired, in the direction of the goal: above 0 the latent does more."""
    p: float | None
    """Two-sided, of no difference."""
    lacks: str = ""


class SteeredText(Part):
    """One prompt continued without and with the edit."""

    prompt: str
    seed: int
    strength: float
    before: str
    after: str
    before_value: float | None = None
    """Of the goal, where it is a goal on text."""
    after_value: float | None = None
    example: str = ""
    """Whose images were given with the prompt."""


class FindingRate(Part):
    """In how many reports of one method and strength a finding is present, as the labeller reads them."""

    method: str
    strength: float
    """0: without an edit, the same for all methods."""
    finding: str
    family: str
    """`pathology` or `device`."""
    rate: MetricValue
    """Share of the reports, with Wilson's interval."""


class OffTarget(Part):
    """Something else that the edit changed in generated text, as the unedited subject reads it."""

    name: str
    """A latent (`base/12`) or an annotation (`kind=value`)."""
    title: str
    """What it stands for, where that is known."""
    before: float
    """Share of the generated tokens."""
    after: float
    p_adjusted: float
    """Two-sided paired t-test over prompts, adjusted over all that were tested (Benjamini and Hochberg)."""


class OffTargets(Part):
    """All off-target changes at one strength."""

    strength: float
    kind: Literal["latents", "annotations"]
    n_tested: int
    n_changed: int
    """With p_adjusted at or below 0.05."""
    largest: list[OffTarget]


class EditStudy(Record):
    """What every study of one latent's edit says of it."""

    name: str
    """Of its folder."""
    subject: str
    site: str
    source: str
    """SAE that the latent belongs to."""
    latent: int
    title: str
    """The latent's explanation; empty where it has none."""
    operation: str
    reference: float
    """Activation of the latent that strength 1 stands for."""
    reference_what: str
    goal: str


class SteeringRecord(EditStudy):
    """A study of one edit."""

    KIND: ClassVar[str] = "steering study"
    goal_on: Literal["predictions", "text"]
    goal_unit: str
    wants: Literal["more", "less"]
    """Whether the edit is to raise or to lower the goal's value."""
    responses: list[Response]
    """The latent's first."""
    matched: list[MatchedEffect]
    beats: dict[str, bool | None]
    """Kind of baseline to whether the latent does more at equal side effect; None where that cannot be told."""
    texts: list[SteeredText] = Field(default_factory=list)
    off_targets: list[OffTargets] = Field(default_factory=list)
    findings: list[FindingRate] = Field(default_factory=list)
    """Of a goal that is a finding: all findings, of every method and strength."""
    notes: list[str] = Field(default_factory=list)
    """What a reader must know: what was not measured and why."""
    settings: dict[str, Any]
    n_tokens: dict[str, int]
    """Tokens of general text, and generated tokens a dose."""
    seeds: list[int]
    created: str = ""
    sparselight_version: str = ""

    @property
    def card(self) -> str:
        return f"{self.source}/{self.latent}"
