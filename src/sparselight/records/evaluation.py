"""Measurements of coders on data, with intervals, controls, and what could not be measured."""

from typing import Any, ClassVar, NamedTuple

from pydantic import Field

from sparselight.records.base import MetricValue, Part, Record
from sparselight.records.subject import SubjectRef


class EvalRow(Part):
    """One metric of one coder on one set of held-out tokens."""

    coder: str
    """`base`, `base+residual`, or the name of a control."""
    is_control: bool
    dataset: str
    """`general` or `domain`; empty for what depends on weights alone."""
    metric: str
    """A row of vocab.METRICS."""
    value: MetricValue
    reference: str | None = None
    """For a difference: the coder that it is taken to."""
    setting: str = ""
    """Which form of the metric, where it has several: `k=5`, `n=20`, `alive`."""
    family: str = ""
    """The metric family that it comes from; empty in records of version 1."""


class UndefinedValue(Part):
    """A value that does not exist, and why; there is no row for it."""

    coder: str
    dataset: str
    metric: str
    setting: str = ""
    family: str = ""
    why: str
    """In words that go on from "is not defined: "."""
    reference: str | None = None
    """For a difference: the coder that it would be taken to."""


class FamilyRun(Part):
    """One family of metrics in an evaluation."""

    title: str
    not_measured: str = ""
    """Why there is nothing of it, where something that it needs was missing; else empty."""
    seconds: float = 0.0
    """Of its work, when it was done; one that was found finished keeps the time that it took then."""
    passed_tokens: int = 0
    """Tokens that went through the subject for it. Passes shared with an earlier family count there."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Its settings, defaults included."""
    hash: str = ""
    """Of coders, data, settings and source code: equal hashes, equal results."""
    folder: str | None = None
    """Where its resamples and tables lie, relative to the record; null where nothing was kept."""
    tables: list[str] = Field(default_factory=list)
    """Details as Parquet, relative to the record."""


class EvaluatedCoder(Part):
    """A coder of an evaluation."""

    is_control: bool
    n_latents: int | None = None
    """Null for one without latents."""
    weights: str | None = None
    """Hash of the weights; null where they have none."""
    source: str | None = None
    """The folder that it was read from."""
    site: str | None = None
    """Where it was trained, by its record."""


class EvaluatedData(Part):
    """One dataset of an evaluation."""

    n_tokens: int
    """Held-out tokens measured."""
    n_groups: int
    """Groups of the held-out tokens, which intervals resample."""
    held_out: str
    """Hash of the held-out examples offered (id, group, text, labels, spans), in any order."""
    fit: str
    """Hash of the examples that probes and thresholds are fitted on; of none where there are none."""
    held_out_store: str | None = None
    """Fingerprint of the store that the activations come from; null where the subject gave them."""
    fit_store: str | None = None
    held_out_ids: str = ""
    """Hash of the ids and groups of the held-out examples alone; empty in older records, as below."""
    fit_ids: str = ""


class Matched(NamedTuple):
    """A coder that was trained, and a control that reaches as much of a metric."""

    dataset: str
    coder: str
    value: MetricValue
    control: str
    control_value: MetricValue


class EvalRecord(Record):
    """All measurements of one evaluation, controls included."""

    KIND: ClassVar[str] = "evaluation"
    VERSION: ClassVar[int] = 2
    rows: list[EvalRow]
    differences: list[EvalRow]
    """Paired: coder minus reference, resampled over the same groups."""
    n_tokens: dict[str, int]
    """Held-out tokens a dataset."""
    notes: list[str] = Field(default_factory=list)
    site: str = ""
    """Where in the subject; this and all below are empty in records of version 1."""
    subject: SubjectRef | None = None
    suite: str = ""
    base: str = ""
    """The coder to which differences are taken where nothing else is said."""
    n_bootstrap: int = 0
    seed: int = 0
    """Of the choice of examples and of the resamples."""
    undefined: list[UndefinedValue] = Field(default_factory=list)
    families: dict[str, FamilyRun] = Field(default_factory=dict)
    """By name, in the order of the suite; also those that were not measured."""
    coders: dict[str, EvaluatedCoder] = Field(default_factory=dict)
    datasets: dict[str, EvaluatedData] = Field(default_factory=dict)

    def matched_by_controls(self, metric: str) -> list[Matched]:
        """Where a control reaches as much as a trained coder of a metric that is better when higher.

        As much: the paired difference does not lie below zero with its whole interval; without a paired one, the control's value reaches the interval of
        the trained coder. A control that has the trained coder in it (`base+...`) is a rival that was trained too, and left out.
        """
        rows, differences = ([row for row in part if row.metric == metric and not row.setting] for part in (self.rows, self.differences))
        values = {(row.dataset, row.coder): row for row in rows}
        paired = {(row.dataset, row.coder, row.reference or self.base or "base"): row.value for row in differences}
        found = []
        for (dataset, coder), trained in values.items():
            for (other, control), row in values.items():
                if trained.is_control or not row.is_control or other != dataset or control.startswith(f"{coder.partition('+')[0]}+"):
                    continue
                change = paired.get((dataset, control, coder))
                floor = trained.value.value if trained.value.low is None else trained.value.low
                if (row.value.value >= floor) if change is None or change.high is None else change.high >= 0:
                    found.append(Matched(dataset, coder, trained.value, control, row.value))
        return found
