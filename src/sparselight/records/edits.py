"""Edits and what they did."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from sparselight.records.base import MetricValue, Part, Record
from sparselight.records.cards import Context
from sparselight.records.subject import SubjectRef


class Where(Part):
    """Which tokens an edit acts on. All that is given must hold; with nothing given, every counted token."""

    tokens: Literal["counted", "prompt", "generated", "last"] = "counted"
    """counted: all that count by the token policy; prompt: those of the text that was given; generated: those that the subject wrote; last: the last
    token of the text that was given."""
    positions: list[int] | None = None
    """Running numbers of tokens in their example, from 0; -1 is the last token that was given, -2 the one before it."""
    chars: list[tuple[int, int]] | None = None
    """Tokens that share a character with one of these spans [start, end) of the example's text."""
    annotation: str | None = None
    """Tokens under an annotation of their example, `name` or `name=value`."""
    token_ids: list[int] | None = None
    """These tokens of the vocabulary only."""
    except_token_ids: list[int] = Field(default_factory=list)
    """Never these tokens of the vocabulary."""


class Condition(Part):
    """Act only at tokens at which another latent of the same site fires, or does not."""

    latent: int
    above: float = 0.0
    """It fires where its activation, before any edit, is larger than this."""
    fires: bool = True
    """False: act where it does not fire."""
    source: str = ""
    """Name of the dictionary that it belongs to; the edit's own where empty."""


class Edit(Record):
    """What an intervention does: an operation on latents at a site, where, and how strongly. Applied again it does the same."""

    KIND: ClassVar[str] = "edit"
    site: str
    latents: list[int]
    operation: str
    """ablate (to 0), ablate_mean (to the latent's mean), clamp (to `amount`), scale (by `amount`), add (`amount`), swap (to `values`)."""
    amount: float = 0.0
    unit: str = "absolute"
    """What `amount` is measured in: absolute, or a multiple of the latent's own max, mean, active_mean (over tokens at which it fires) or quantile
    of its firings (q50, q99, q99.9)."""
    scales: list[float] = Field(default_factory=list)
    """That reference value of each latent, in their order: measured once and kept, so that the edit can be replayed anywhere."""
    where: Where = Where()
    condition: Condition | None = None
    splice: Literal["keep_error", "replace"] = "keep_error"
    """keep_error: x + (z' - z) W_dec, what the dictionary misses stays; replace: decode(z')."""
    values: list[list[float]] = Field(default_factory=list)
    """For swap: activations of the latents, one row for all tokens, or a row for each token of an example in order."""
    donor: str = ""
    """For swap: the example that the values come from."""
    source: str = ""
    """Name of the dictionary: base, residual, stitched in a run; may be empty where there is one."""
    weights: str = ""
    """Hash of the dictionary's weights, where known: another dictionary is refused."""
    note: str = ""


class EditSet(Record):
    """Several edits that act together, at one site or more, with one dictionary or more."""

    KIND: ClassVar[str] = "edit_set"
    edits: list[Edit]
    subject: SubjectRef | None = None
    """The subject that they were made for."""
    title: str = ""


class NextToken(Part):
    """One candidate of a prediction."""

    text: str
    before: float
    """Probability without the edit."""
    after: float


class EditResult(Part):
    """One example of an edit: what the subject predicts at a position before and after, and what else changed."""

    card: str
    edit: dict[str, Any]
    context: Context
    next_tokens: list[NextToken]
    next_actual: str
    kl_nats: float
    """KL(before || after) at the shown position."""
    side_effect_kl_nats: MetricValue
    """Mean KL a token over general held-out text with the same edit."""
    control_kl_nats: MetricValue
    """The same for a random latent of the nearest firing rate."""


class InterventionRecord(Record):
    """The edits that a run tried."""

    KIND: ClassVar[str] = "interventions"
    results: list[EditResult]
