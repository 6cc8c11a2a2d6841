"""What the live endpoints read and answer: plain data, the source of their OpenAPI schema.

Every `html` comes from a renderer of `interpret`, which escapes what it is given; every other string is text and goes into a page as text.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from sparselight.vocab import EDIT_OPERATIONS

OPERATIONS: list[JsonValue] = [name for name in EDIT_OPERATIONS if name != "swap"]
MOST_CHARS = 1_000_000  # whatever the limits are set to


class Data(BaseModel):
    """Plain data of an answer or a request."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class LiveInput(Data):
    """What is given to the model: exactly one of the fields."""

    text: str | None = Field(default=None, max_length=MOST_CHARS)
    """For language models; of an image study, a report that takes the place of its own (together with `example`)."""
    sequence: str | None = Field(default=None, max_length=MOST_CHARS)
    """For proteins: residues in one-letter code; `_` or `<mask>` is one to be filled in."""
    history: list[str] | None = Field(default=None, max_length=10_000)
    """For recommenders: items by id or by title, the oldest first."""
    example: str | None = Field(default=None, max_length=10_000)
    """Any modality: an example of the run's corpus, by its id."""

    @model_validator(mode="after")
    def _is_one(self) -> "LiveInput":
        given = [name for name in ("text", "sequence", "history", "example") if getattr(self, name) is not None]
        if len(given) != 1 and given != ["text", "example"]:
            raise ValueError("give one of text, sequence, history and example (an image study may have its text beside it)")
        return self


class ActivationsRequest(Data):
    """Which features fire where."""

    input: LiveInput
    sources: list[str] = Field(default_factory=list, max_length=8)
    """SAEs; all that the run has cards of where empty."""
    features: list[str] = Field(default_factory=list, max_length=64)
    """Features that are wanted whether they fire or not, such as `base/12`."""
    top: int = Field(default=20, ge=1, le=10_000)
    """Features that are given back, the strongest first."""
    per_token: int = Field(default=5, ge=0, le=50)
    """Features named at each token."""
    rank_by: Literal["relative", "max", "sum"] = "relative"
    """relative: largest activation over the largest that the feature's card knows, so that features of different scale compare; max; sum over tokens."""


class TokenFeature(Data):
    """A feature at a token."""

    feature: str
    activation: float
    relative: float | None
    """Over the largest activation that the card knows; null without a card."""


class LiveToken(Data):
    """One token of the input."""

    text: str
    start: int
    """First character in the input's text; -1 for a patch of an image."""
    end: int
    top: list[TokenFeature]


class FiredFeature(Data):
    """A feature with what it does on the input."""

    feature: str
    source: str
    latent: int
    text: str
    """What it is said to stand for; empty without an explanation."""
    label: str
    grade: str
    """Empty without a card."""
    max_activation: float
    sum_activation: float
    relative: float | None
    n_tokens: int
    """Tokens at which it fires."""
    peak: int
    """Token at which it fires most."""
    activations: list[float]
    """One a token of the answer."""
    html: str
    """The input colored by this feature."""


class ActivationsAnswer(Data):
    """Which features fire where."""

    modality: str
    tokens: list[LiveToken]
    features: list[FiredFeature]
    n_firing: dict[str, int]
    """Of each SAE, how many of its latents fire anywhere in the input."""
    html: str
    """The input without colors."""
    text: str
    """The text that the tokens' characters count in."""
    notes: list[str]
    """What a reader must know, such as items that the model does not know."""
    took_ms: float


class LiveEdit(Data):
    """One feature turned."""

    feature: str = Field(max_length=200)
    operation: str = Field(default="clamp", json_schema_extra={"enum": OPERATIONS}, max_length=40)
    amount: float = 0.0
    unit: str = Field(default="absolute", max_length=40)
    """absolute, or a multiple of the feature's own max, mean, active_mean, q99."""


class EditRequest(Data):
    """The same input without and with edits."""

    input: LiveInput
    edits: list[LiveEdit] = Field(max_length=1000)
    where: Literal["counted", "prompt", "generated", "last"] = "counted"
    n_tokens: int | None = Field(default=None, ge=0, le=100_000)
    """Of what is written: the length of a continuation (40); of a sequence without gaps, how many tokens are hidden and written anew (8)."""
    temperature: float = Field(default=0.0, ge=0, le=10)
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    top: int = Field(default=10, ge=1, le=1000)
    """Length of ranking lists and of lists of candidates."""


class Piece(Data):
    """A stretch of what was written."""

    text: str
    changed: bool
    """Whether the other side has something else here."""


class Side(Data):
    """What the model writes, without or with the edits."""

    text: str
    pieces: list[Piece]
    html: str
    """The pieces, changed ones in `<mark>`."""


class Candidate(Data):
    """A candidate of a prediction."""

    text: str
    before: float
    """Probability without the edits."""
    after: float


class PlaceChange(Data):
    """A token of the input at which the prediction changes."""

    token: int
    """Number of the token."""
    text: str
    kl_nats: float
    before: str
    """Likeliest prediction without the edits."""
    after: str


class RankedItem(Data):
    """An item of a ranking list."""

    item: str
    title: str
    marks: list[str]
    """Genres, tags and the like."""
    rank_before: int
    rank_after: int
    score_before: float
    score_after: float


class Ranking(Data):
    """Recommendations without and with the edits; items that the history holds are in no list."""

    before: list[RankedItem]
    after: list[RankedItem]
    overlap: float
    """Share of the list that stays."""
    kendall: float
    """Kendall's tau of the list before, by the ranks after."""


class EditAnswer(Data):
    """The same input without and with edits."""

    modality: str
    kind: Literal["text", "sequence", "ranking", "predictions"]
    """What `before` and `after` are: a continuation, a filled-in sequence, none (see `ranking`), none (the subject writes nothing)."""
    prompt: str
    before: Side | None
    after: Side | None
    ranking: Ranking | None
    candidates: list[Candidate]
    """Predictions behind the last token; of a masked model, at the token whose prediction changes most."""
    places: list[PlaceChange]
    """Tokens of the input whose prediction changes most, strongest first."""
    kl_nats: list[float | None]
    """KL(before || after) of the prediction at each token of the input; empty where it was not measured."""
    mean_kl_nats: float | None
    kl_why_not: str
    """Why the divergence was not measured; empty where it was."""
    edits: list[str]
    """The edits in words, with the reference values that their units stand for."""
    record: dict[str, object]
    """The edits as an edit_set record: saved to a file, `run.edit(file)` does the same again."""
    notes: list[str]
    took_ms: float


class FoundItem(Data):
    """An item of a recommender."""

    item: str
    title: str
    marks: list[str]


class ItemsAnswer(Data):
    """Items whose title or id matches."""

    items: list[FoundItem]
    n_found: int


class FoundExample(Data):
    """An example of the run's corpus."""

    example: str
    group: str
    beginning: str
    """Of its text."""


class ExamplesAnswer(Data):
    """Examples to try."""

    examples: list[FoundExample]
    n_found: int


class LiveInfo(Data):
    """What the try-it page of a run offers."""

    modality: str
    input: Literal["text", "sequence", "history", "example"]
    """The field of LiveInput that fits."""
    writes: Literal["text", "sequence", "ranking", "predictions"]
    sources: list[str]
    operations: dict[str, str]
    """Operation to what it does."""
    units: list[str]
    edits_allowed: bool
    ready: bool
    """Whether the model is loaded already."""
    problem: str
    """Why it could not be loaded; empty where it could, or was not asked to be."""
    limits: dict[str, float]
    beginning: LiveInput | None
    """An input to begin with, from the held-out side of the run's corpus."""
