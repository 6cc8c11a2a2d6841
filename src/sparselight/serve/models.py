"""What the explorer's read-only API answers: one model an answer, which is also its OpenAPI schema.

Pages, scripts and the frozen file read these and nothing else of a run. Names and units are those of the records, which stand inside where they fit.
Everything that is called `html` or `svg` is markup of ours with the given text escaped in it; every other string is plain text. Refuses nothing.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sparselight.records import Association, Explanation, MetricValue
from sparselight.records.cards import Grade

Sort = Literal["grade", "f1", "domain_ratio", "fire_rate", "domain_fire_rate", "n_fires", "max_activation", "latent"]


class Answer(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, ser_json_inf_nan="null")


class Refusal(Answer):
    """Why something was not answered: the one form of every error."""

    asked: str
    why: str
    instead: str


class Figure(Answer):
    """A picture made on the server."""

    name: str
    title: str
    svg: str


class RunSummary(Answer):
    """A run as the list of runs shows it."""

    id: str
    """Its name in addresses: letters, digits, `.`, `_` and `-`."""
    name: str
    modality: str
    """`text`, `residues`, `items` or `image`."""
    subject: str
    site: str
    n_features: int
    """Latents with a card."""
    n_supported: int
    """Those of grade A or B."""
    finished: list[str]
    """Stages, in their order."""
    missing: list[str]
    problem: str = ""
    """Why it cannot be shown; empty where it can."""


class Abilities(Answer):
    """What this server allows."""

    version: str
    is_shared: bool
    may_try: bool
    """Whether edits may be tried (they change nothing on disk)."""
    may_write: bool
    """Whether notes and labels may be saved."""


class RunList(Answer):
    """All runs that are served."""

    runs: list[RunSummary]
    abilities: Abilities


class StageView(Answer):
    """A stage of a run."""

    name: str
    title: str
    is_finished: bool
    wall_s: float | None = None
    words: list[str] = Field(default_factory=list)
    """What went through it, a few words a line."""


class SourceView(Answer):
    """An SAE of a run."""

    source: str
    architecture: str = ""
    n_latents: int | None = None
    d_in: int | None = None
    l0: float | None = None
    n_dead: int | None = None
    n_tokens_seen: int | None = None
    n_cards: int = 0
    n_supported: int = 0
    n_domain_supported: int = 0
    """Supported ones that fire at least three times as often in the domain as in general."""
    grades: dict[str, int] = Field(default_factory=dict)


class KeyNumberView(Answer):
    """A number set large."""

    title: str
    value: str
    note: str


class MetricCell(Answer):
    """A value as it is shown, with its interval."""

    value: str
    interval: str = ""


class HeadlineRow(Answer):
    """A coder of the headline table."""

    coder: str
    is_control: bool
    cells: list[MetricCell]


class HeadlineColumn(Answer):
    """A column of the headline table."""

    dataset: str
    metric: str
    title: str


class MetricView(Answer):
    """One measurement, or one paired difference."""

    family: str
    coder: str
    is_control: bool
    dataset: str
    metric: str
    title: str
    setting: str
    value: MetricValue
    text: str
    """Value as shown."""
    interval: str
    """Interval as shown, empty where there is none."""
    reference: str | None = None
    """For a difference: the coder that it is taken to."""


class Overview(Answer):
    """A run at a glance."""

    id: str
    name: str
    modality: str
    subject: str
    site: str
    corpus: str
    created_with: str
    """Version of sparselight."""
    machine: str
    stages: list[StageView]
    sources: list[SourceView]
    headline: list[str]
    """Sentences."""
    key_numbers: list[KeyNumberView]
    columns: list[HeadlineColumn]
    rows: list[HeadlineRow]
    interval_sentence: str
    subject_sentence: str
    metrics: list[MetricView]
    differences: list[MetricView]
    notes: list[str]
    n_features: int
    n_explained: int
    n_supported: int
    n_domain_supported: int
    figures: dict[str, list[Figure]]
    """`run` (wide and narrow), `fvu`, `ce`, `training`, `evidence`, `fire_rates`; a name without anything to draw is missing."""
    selection: dict[str, Any]
    """How the domain was chosen: n_examples, n_tokens, terms, seeds, where known."""
    problem: str = ""
    """What of it cannot be shown, and why; empty where all can."""


class Curve(Answer):
    """A column of a training log over tokens."""

    source: str
    name: str
    tokens: list[float]
    values: list[float | None]


class Curves(Answer):
    """Training logs, thinned to at most 400 points a curve."""

    curves: list[Curve]


class FeatureQuery(BaseModel):
    """Which features are listed, and in what order. All conditions that are given must hold."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    text: str = Field("", max_length=500)
    """Must occur in an explanation, its label, a promoted or suppressed token, or an associated annotation; case is ignored."""
    label: str = Field("", max_length=500)
    """Label of the best explanation, whole (`word=x`) or its kind (`word`)."""
    grade: Grade | None = None
    """This grade or a better one."""
    source: str = Field("", max_length=100)
    explainer: str = Field("", max_length=100)
    """Of the best explanation."""
    domain_only: bool = False
    """Fires at least three times as often in the domain as in general."""
    supported: bool = False
    """Grade A or B."""
    min_fire_rate: float | None = Field(None, ge=0, le=1)
    """On general held-out tokens, 0 to 1."""
    max_fire_rate: float | None = Field(None, ge=0, le=1)
    sort: Sort = "grade"
    descending: bool | None = None
    """Largest first; if not given, best first."""
    offset: int = Field(0, ge=0, le=10_000_000)
    limit: int = Field(100, ge=1, le=500)


class FeatureRow(Answer):
    """A card as the list shows it."""

    source: str
    latent: int
    grade: Grade
    text: str
    """Of the best explanation; empty where there is none."""
    label: str
    explainer: str
    f1: float | None
    f1_low: float | None
    f1_high: float | None
    control_f1_high: float | None
    fire_rate: float
    domain_fire_rate: float
    domain_ratio: float
    max_activation: float
    n_fires: int
    supported: bool
    peak_tokens: list[str]
    """The tokens on which it fires most, as shown; empty while a large catalogue is still being read."""


class FeatureList(Answer):
    """A part of the features that were asked for."""

    total: int
    offset: int
    rows: list[FeatureRow]


class Counted(Answer):
    """A value with how many features have it."""

    name: str
    n: int


class Facets(Answer):
    """What features can be filtered and sorted by."""

    n_features: int
    sources: list[Counted]
    grades: list[Counted]
    label_kinds: list[Counted]
    explainers: list[Counted]
    sorts: list[str]
    min_fire_rate: float
    """Lowest one above 0."""
    max_fire_rate: float
    has_domain: bool


class ContextView(Answer):
    """A context, rendered."""

    example: str
    group: str
    kind: str
    quantile: int | None
    peak_token: str
    max_activation: float
    start: int
    n_tokens: int
    """Of the whole window; long ones are cut around the peak."""
    html: str
    media: str | None
    """Address of its picture."""


class ContextGroup(Answer):
    """Contexts chosen alike."""

    kind: str
    quantile: int | None
    title: str
    contexts: list[ContextView]


class NeighbourView(Answer):
    """A latent of similar direction."""

    source: str
    latent: int
    cosine: float
    text: str
    grade: str
    fire_rate: float | None


class NextTokenView(Answer):
    """A candidate of a prediction."""

    text: str
    before: float
    after: float
    is_actual: bool


class EditTried(Answer):
    """An edit of the latent that a stage or a study tried, at one place."""

    what: str
    operation: str
    amount: float | None
    unit: str
    site: str
    context: ContextView
    next_actual: str
    next_tokens: list[NextTokenView]
    kl_nats: float
    side_effect_kl_nats: MetricValue
    control_kl_nats: MetricValue
    verdict: str


class StudyView(Answer):
    """A steering study of the run in which the latent was turned."""

    name: str
    title: str
    operation: str
    sentences: list[str]
    figures: list[Figure]


class NoteView(Answer):
    """A note or a label that somebody gave a feature."""

    id: str
    when: str
    who: str
    label: str
    text: str


class FeatureKey(Answer):
    """Names a feature."""

    source: str
    latent: int


class ExplanationView(Answer):
    """An explanation with its grade."""

    explanation: Explanation
    grade: Grade
    grade_why: str
    is_best: bool


class FeatureCard(Answer):
    """All that is known of one latent."""

    run: str
    source: str
    latent: int
    modality: str
    grade: Grade
    grade_why: str
    text: str
    """Of the best explanation; empty where there is none."""
    label: str
    supported: bool
    fire_rate: float
    domain_fire_rate: float
    domain_ratio: float
    max_activation: float
    n_fires: int
    n_tokens: int
    quantiles: list[float]
    """Of its positive activations, at 0, 0.1, ... 1."""
    explanations: list[ExplanationView]
    contexts: list[ContextGroup]
    associations: list[Association]
    promotes: list[str]
    suppresses: list[str]
    neighbours: list[NeighbourView]
    parents: list[NeighbourView]
    edits: list[EditTried]
    studies: list[StudyView]
    notes: list[NoteView]
    figures: dict[str, Figure]
    """`evidence` (F1 beside its control), `quantiles`, where there is something to draw."""
    previous: FeatureKey | None
    next: FeatureKey | None


class LogStage(Answer):
    """The record of a stage."""

    stage: str
    folder: str
    hash: str
    wall_s: float
    machine: str
    version: str
    inputs: dict[str, str]
    summary: dict[str, Any]
    n_files: int
    n_bytes: int


class TrainingTail(Answer):
    """The last lines of a training log."""

    source: str
    lines: list[dict[str, Any]]


class RunLog(Answer):
    """How a run was made."""

    name: str
    recipe_toml: str
    stages: list[LogStage]
    training: list[TrainingTail]
    llm: dict[str, Any] | None = None
    """Of the last naming by a language model: model, counts, costs; null where there was none."""
