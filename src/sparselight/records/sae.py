"""sparselight.json: what is known of an SAE beside its weights."""

from typing import Any, ClassVar

from pydantic import Field

from sparselight.records.base import Record
from sparselight.records.subject import SubjectRef


class SaeRecord(Record):
    """sparselight.json: what the SAELens files beside it do not say."""

    KIND: ClassVar[str] = "sae"
    architecture: str
    """Of the training (batch_topk, ...); cfg.json holds the inference form."""
    role: str
    """base, residual, stitched or grafted."""
    site: str
    subject: SubjectRef
    store_fingerprint: str
    """Hash of the training activations' manifest."""
    d_in: int
    n_latents: int
    k: float | None
    """Mean active latents a token that training aimed at; None for an architecture that aims at none."""
    l0: float
    """Mean active latents a token at the end of training, in the inference form."""
    n_dead: int
    """Latents that did not fire in the last dead_after_tokens training tokens."""
    dead_after_tokens: int
    n_tokens_seen: int
    normalization: str
    """How inputs were scaled while training; always folded into the stored weights."""
    loss_scale: str
    """What the logged loss is divided by."""
    config: dict[str, Any]
    parents: list[str] = Field(default_factory=list)
    """Hashes of weights. For a residual SAE: the base SAE. For one that was trained on from another (fine-tuned, extended): that one, last.
    For a stitched or grafted one: one entry a part."""
    part_sizes: list[int] = Field(default_factory=list)
    """For a stitched or grafted SAE: how many latents each parent contributes, in order."""
    target_site: str | None = None
    """For a transcoder: the site whose activations it gives back."""
    topk_threshold: float | None = None
    """For an SAE that keeps the k largest of each token: the threshold that k a token exceed on average, in the units of the stored weights."""
    notes: list[str] = Field(default_factory=list)
    """What a reader must know beside the numbers, in sentences."""
