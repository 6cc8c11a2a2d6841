"""What is to be explained and scored, and what came of it, as plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sparselight.interpret.contexts import LatentExamples
from sparselight.records import Explanation, MetricValue

BATCH_LATENTS = 64  # explained and scored at once
Controls = dict[str, dict[str, dict[str, dict[str, MetricValue]]]]
"""explainer -> scorer -> control -> metric -> value."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be explained and scored."""

    items: Sequence[LatentExamples]
    given: Mapping[str, Sequence[Explanation]] = field(default_factory=dict)
    """Explanations that exist, by key of the latent: scored as they are."""
    controls: Mapping[str, Sequence[LatentExamples]] = field(default_factory=dict)
    """Latents of other coders by name of the control."""


@dataclass(slots=True)
class Named:
    """What came of it."""

    explanations: dict[str, list[Explanation]] = field(default_factory=dict)
    """By key of the latent; every one carries its scores."""
    why_not: dict[str, str] = field(default_factory=dict)
    """Why a latent has no explanation."""
    controls: Controls = field(default_factory=dict)
    control_explanations: dict[str, list[Explanation]] = field(default_factory=dict)
    """By name of the control: what the explainer said of latents that are none."""
