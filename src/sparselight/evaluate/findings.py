"""What a metric family reports: values with their resamples, what is not defined and why, tables of details, and notes.

Owns: the one shape in which every family hands over results, so that values, control columns, paired differences and files are made in one
place. A value comes either as an array over the case's resamples (entry 0 is the value; paired differences become possible) or as a
MetricValue where resampling groups makes no sense (weights alone, or seeds). Refuses: metrics that vocab.METRICS does not list.
"""

from dataclasses import dataclass, field

import pyarrow as pa

from sparselight.evaluate.statistics import Resampled
from sparselight.records import MetricValue
from sparselight.vocab import METRICS


@dataclass(frozen=True, slots=True)
class Cell:
    """What a value belongs to."""

    coder: str
    metric: str
    dataset: str = ""
    """Empty for what depends on weights alone."""
    setting: str = ""
    """`k=5`, `n=20`, `alive`: empty where the metric has one form."""


@dataclass(slots=True)
class Findings:
    """Results of one family, filled in as it works."""

    resampled: dict[Cell, Resampled] = field(default_factory=dict)
    values: dict[Cell, MetricValue] = field(default_factory=dict)
    undefined: dict[Cell, str] = field(default_factory=dict)
    """Why there is no value, in words that end a sentence beginning with the metric's name: `is not defined: ...`."""
    tables: dict[str, pa.Table] = field(default_factory=dict)
    """Details by name (per latent, per label, per letter), saved as Parquet beside the record."""
    notes: list[str] = field(default_factory=list)

    def add(self, cell: Cell, value: Resampled | MetricValue) -> None:
        """Report a value."""
        assert cell.metric in METRICS, f"{cell.metric} is not in vocab.METRICS"
        if isinstance(value, MetricValue):
            self.values[cell] = value
        else:
            self.resampled[cell] = value

    def lacks(self, cell: Cell, why: str) -> None:
        """Report that a value is not defined: never a silent 0 or nan."""
        assert cell.metric in METRICS, f"{cell.metric} is not in vocab.METRICS"
        self.undefined[cell] = why
