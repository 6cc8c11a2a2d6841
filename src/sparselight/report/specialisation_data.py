"""What the page of a specialization shows, and how values are looked up in the evaluations that stand behind it.

Every number and word on the page that is not a fixed sentence comes from a SpecialisationData. Refuses nothing: a value that is not there
becomes a dash, a part that is not there a sentence that says so.
"""

from dataclasses import dataclass, field

import pyarrow as pa

from sparselight.records import Card, EvalRecord, MetricValue, SpecialisationRecord, VariantRecord
from sparselight.report.compare_marks import N_COLORS, SHAPES, Look

BASE = "base"
DATASETS = ("domain", "general")


@dataclass(frozen=True, slots=True)
class SpecialisationData:
    """Everything that the page shows."""

    record: SpecialisationRecord
    evaluation: EvalRecord
    equal: EvalRecord | None
    """The variants at one l0."""
    budgets: EvalRecord | None
    """`boost` on several amounts of text."""
    cards: list[Card]
    coverage_bins: pa.Table | None
    next_command: str

    @property
    def main(self) -> str | None:
        """The variant that the page is about: `boost`, else the first that was trained and is no control."""
        names = [name for name, variant in self.record.variants.items() if name != BASE and not variant.is_control]
        return "boost" if "boost" in names else names[0] if names else None


@dataclass(frozen=True, slots=True)
class Values:
    """Look-up of one evaluation: values, and differences to the base or another coder, of metrics that have one form."""

    values: dict[tuple[str, str, str, str], MetricValue] = field(default_factory=dict)
    """By coder, dataset, metric, setting."""
    differences: dict[tuple[str, str, str, str], MetricValue] = field(default_factory=dict)
    """By coder, reference, dataset, metric."""

    @classmethod
    def of(cls, evaluation: EvalRecord | None) -> "Values":
        if evaluation is None:
            return cls()
        return cls({(row.coder, row.dataset, row.metric, row.setting): row.value for row in evaluation.rows},
                   {(row.coder, row.reference or BASE, row.dataset, row.metric): row.value for row in evaluation.differences if not row.setting})

    def value(self, coder: str, dataset: str, metric: str, setting: str = "") -> MetricValue | None:
        return self.values.get((coder, dataset, metric, setting))

    def change(self, coder: str, dataset: str, metric: str = "fvu_change_frac", reference: str = BASE) -> MetricValue | None:
        """The paired difference to another coder; by default the relative change of fvu."""
        return self.differences.get((coder, reference, dataset, metric))


def is_clear(difference: MetricValue | None) -> bool:
    """Whether the interval leaves out 0."""
    return difference is not None and difference.low is not None and difference.high is not None and (difference.low > 0 or difference.high < 0)


def looks(variants: dict[str, VariantRecord]) -> dict[str, Look]:
    """Color and shape of every variant on the whole page; controls are gray with a letter, the base is a gray square."""
    found, number = {BASE: Look("control", "square")}, 0
    for name, variant in variants.items():
        if name == BASE:
            continue
        if variant.is_control:
            found[name] = Look("control", "circle", "c")
        else:
            found[name] = Look(f"s{number % N_COLORS}", SHAPES[number % len(SHAPES)])
            number += 1
    return found
