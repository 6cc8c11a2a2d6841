"""What a study of steered sequences found: sequences that a language model writes with a latent held up and beside it, judged and counted by arm."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from sparselight.records.base import MetricValue, Part
from sparselight.records.steering import EditStudy

ArmKind = Literal["no edit", "latent", "random latent", "random direction", "other concept"]


class WrittenSequence(Part):
    """One sequence."""

    text: str
    seed: int
    is_hit: bool
    """Whether it has what the goal asks for and is not of low complexity."""
    marked: list[tuple[int, int]] = Field(default_factory=list)
    """Where: residues [start, end), from 0."""


class SequenceArm(Part):
    """All sequences of one way to write them, at one strength."""

    kind: ArmKind
    strength: float
    """In units of each latent's own reference, or as long as the latent's edit; 0 without an edit."""
    what: str
    success: MetricValue
    """Share of the sequences that are hits, with Wilson's interval."""
    chance: MetricValue
    """The same of sequences of the same letters in random order: what composition alone yields."""
    low_complexity: float
    """Share of the sequences below the entropy floor, which never count as hits."""
    entropy_bits: float
    """Of the composition of a sequence, mean."""
    composition_distance: float
    """Total variation distance of the arm's composition from that of natural sequences, 0 to 1."""
    hydropathy: float
    """Largest mean Kyte-Doolittle index over a window of 19 residues, mean over sequences."""
    identity: float | None
    """Mean share of equal residues over pairs of sequences: 1 where all are copies."""
    distinct_frac: float
    pseudo_perplexity: float
    """Under the unedited subject, mean."""
    p: float | None = None
    """Of no difference from the latent's arm at this strength: Fisher's exact test, two-sided; null for the latent's own."""
    sequences: list[WrittenSequence] = Field(default_factory=list)
    """The first of them; those of all arms with one seed go together."""


class SequenceJudge(Part):
    """Who says that a sequence has what the goal asks for, and how good that is on natural sequences of the same length."""

    what: str
    natural: MetricValue
    """Share of natural held-out stretches that are judged to have it, where a pattern judges; of those that carry the label, where a probe does."""
    natural_without: MetricValue | None = None
    """Share of natural held-out stretches without the label that a probe judges to have it: its false alarms."""
    auroc: float | None = None
    """Of a probe, over held-out residues."""
    precision: float | None = None
    recall: float | None = None


class SequenceSteeringRecord(EditStudy):
    """A study of one edit on written sequences."""

    KIND: ClassVar[str] = "sequence steering study"
    judge: SequenceJudge
    arms: list[SequenceArm]
    """Without an edit first, then by strength."""
    beats: dict[str, bool | None]
    """Kind of arm, or `its letters shuffled`, to whether the latent's share of hits is clearly larger at one of its strengths and clearly smaller at none;
    None where it was not measured."""
    notes: list[str] = Field(default_factory=list)
    settings: dict[str, Any]
    seeds: list[int]
    created: str = ""
    sparselight_version: str = ""

    @property
    def card(self) -> str:
        return f"{self.source}/{self.latent}"

    def of_kind(self, kind: ArmKind) -> list[SequenceArm]:
        return [arm for arm in self.arms if arm.kind == kind]
