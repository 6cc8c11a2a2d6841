"""Edits and what they did."""

from typing import Any, ClassVar

from sparselight.records.base import MetricValue, Part, Record
from sparselight.records.cards import Context


class Edit(Record):
    """What an intervention does: an operation on latents at a site."""

    KIND: ClassVar[str] = "edit"
    site: str
    latents: list[int]
    operation: str
    """ablate (to 0), clamp (to `amount`), scale (by `amount`), add (`amount`)."""
    amount: float = 0.0


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
