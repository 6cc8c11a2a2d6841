"""A run folder and its stages."""

from typing import Any, ClassVar

from pydantic import Field

from sparselight.records.base import Record


class StageRecord(Record):
    """A finished stage of a run. The stage's folder is complete if and only if this file stands in it."""

    KIND: ClassVar[str] = "stage"
    stage: str
    hash: str
    """Of the stage's resolved config, its inputs' outputs, the record version and, for some stages, their code; names the folder."""
    output: str
    """Fingerprint of what the stage made where it has one (a corpus, a subject), else its hash: what later stages hash in."""
    inputs: dict[str, str]
    config: dict[str, Any]
    wall_s: float
    """Seconds of work, summed over interrupted attempts."""
    machine: str
    sparselight_version: str
    summary: dict[str, Any] = Field(default_factory=dict)
    """A few numbers for people: counts, sizes, headline metrics."""
    files: dict[str, int]
    """Every file of the folder with its size in bytes: the stage counts as finished while they are all there."""


class RunRecord(Record):
    """A run folder: the recipe as resolved and the stages in order."""

    KIND: ClassVar[str] = "run"
    name: str
    recipe: dict[str, Any]
    stages: dict[str, str]
    """Stage name to its folder."""
    wall_s: dict[str, float]
    report: str | None = None
