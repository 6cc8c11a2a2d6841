"""Cards: what is known of one latent."""

from sparselight.records.base import MetricValue, Part


class Context(Part):
    """A window of tokens around a firing, for a page or a prompt."""

    example: str
    group: str
    tokens: list[str]
    activations: list[float]
    """Of the card's latent, one a token of the window."""
    peak: int
    """Index of the token that the window is about."""


class Evidence(Part):
    """How well an explanation predicts where a latent fires, on held-out examples, beside the shuffled-label control."""

    precision: MetricValue
    recall: MetricValue
    f1: MetricValue
    control_f1: MetricValue
    """Best F1 of the same search after the labels are shuffled against the tokens; high = its largest value over the shuffles."""
    threshold: float
    """The latent counts as firing above this activation; chosen on the explain split."""
    n_fires: int
    """Held-out tokens on which the latent fires."""
    n_labelled: int
    """Held-out tokens that carry the label."""


class Explanation(Part):
    """What a latent is said to stand for: a label of tokens, with its evidence."""

    text: str
    """In words, as shown."""
    label: str
    """Machine form, `kind=value`."""
    explainer: str
    evidence: Evidence


class Card(Part):
    """All that is known of one latent."""

    latent: int
    source: str
    """`base` or `residual`: the SAE that it belongs to."""
    fire_rate: float
    """Fraction of general held-out tokens on which it fires."""
    domain_fire_rate: float
    """The same on domain tokens."""
    max_activation: float
    explanation: Explanation | None
    contexts: list[Context]
    promotes: list[str]
    """Next tokens whose logits the decoder direction raises most."""
    suppresses: list[str]

    @property
    def key(self) -> str:
        return f"{self.source}/{self.latent}"
