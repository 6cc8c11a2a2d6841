"""What was measured of each layer of a subject before an SAE is trained at one of them."""

from typing import ClassVar, Literal

from sparselight.records.base import Part, Record


class LayerDimension(Part):
    """Intrinsic dimension of the activations at one site."""

    site: str
    points: Literal["examples", "tokens"]
    """Whether a point is the mean activation of an example, or the activation of a token."""
    n_points: int
    n_duplicates: int
    """Points left out because another one lies at the same place."""
    dimension: float
    """TwoNN, maximum likelihood."""
    low: float
    """Lower end of its 95 % interval, if neighborhoods were independent."""
    high: float
    slope: float
    """TwoNN, slope through the origin without the largest tenth of the ratios."""


class LayersRecord(Record):
    """Intrinsic dimension over the layers of a subject."""

    KIND: ClassVar[str] = "layers"
    subject: str
    subject_fingerprint: str
    corpus: str
    corpus_fingerprint: str
    seed: int
    layers: list[LayerDimension]
    plateau: list[str]
    """Sites of the longest run of like dimensions."""
    suggestion: str
    """The middle of it: a place to begin, not a proof."""
