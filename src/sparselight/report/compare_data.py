"""What the comparison page shows: columns (SAEs, their seeds, controls), rows (one metric each), curves, and what was checked.

Owns the record `comparison.json` and its flat table. Every number and name on the page that is not a fixed sentence comes from it. A
value that is not there has its reason in `undefined`; nothing is filled in. Refuses nothing: checks belong to `pipeline.comparison`.
"""

import re
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from sparselight.records import MetricValue, Part, Record
from sparselight.vocab import METRICS

Pairing = Literal["tokens", "seeds", "separate", ""]
"""How a difference got its interval: the same resamples of the same tokens; over training seeds; two intervals put together; none."""


class Member(Part):
    """One evaluated coder behind a column."""

    source: str
    """The evaluation that it comes from."""
    coder: str
    """Its name there."""
    seed: int | None = None
    """Of its training."""
    sae: str | None = None
    """Its folder, as the evaluation recorded it."""


class Column(Part):
    """An SAE, all seeds of one, or a control."""

    name: str
    is_control: bool
    members: list[Member]
    series: str
    """Columns of one series differ in how sparse they are and nothing else: they share a color, and their points make a curve over l0."""
    kind: str = ""
    """In words: architecture, latents, k."""


class Row(Part):
    """One metric on one dataset, for every column that has it."""

    family: str
    metric: str
    """A row of vocab.METRICS."""
    dataset: str
    """Empty for what depends on weights alone."""
    setting: str
    values: dict[str, MetricValue]
    """By column; for several seeds the mean, with a t interval over seeds."""
    seeds: dict[str, list[float]] = Field(default_factory=dict)
    """What each seed came to, for columns of several."""
    undefined: dict[str, str] = Field(default_factory=dict)
    """Column to why it has no value."""
    best: str | None = None
    """The SAE with the best value, where the metric has a better direction and two SAEs have one."""
    rival: str | None = None
    """The next best."""
    difference: MetricValue | None = None
    """best - rival."""
    pairing: Pairing = ""
    p: float | None = None
    """Two-sided, of no difference; of differences over the same tokens."""

    @property
    def title(self) -> str:
        return METRICS[self.metric].title if self.metric in METRICS else self.metric

    @property
    def where(self) -> str:
        return ", ".join(part for part in (self.dataset, self.setting) if part)

    @property
    def better(self) -> str:
        return METRICS[self.metric].better if self.metric in METRICS else "neither"

    @property
    def is_clear(self) -> bool:
        """Whether the interval of best - rival leaves out 0."""
        difference = self.difference
        return difference is not None and difference.low is not None and difference.high is not None and (difference.low > 0 or difference.high < 0)

    @property
    def identifier(self) -> str:
        """For ids on the page, unique among rows."""
        plain = "--".join((self.metric, self.dataset, self.setting))
        return re.sub(r"[^a-zA-Z0-9_-]", lambda found: f"-{ord(found[0]):x}-", plain)


class Histogram(Part):
    """Latents of one column by how often they fire: shares of latents in bins of equal width in log10."""

    column: str
    dataset: str
    edges: list[float]
    """log10 of the firing rate, one more than there are bins; lower rates count in the first bin."""
    shares: list[float]
    never: float
    """Share of latents that fire on no token."""


class Curve(Part):
    """A metric of one column over a parameter; the axis is logarithmic where it spans much."""

    column: str
    metric: str
    x_title: str
    x: list[float]
    y: list[float]


class Comparison(Record):
    """SAEs side by side, on the same tokens."""

    KIND: ClassVar[str] = "comparison"
    subject: str
    site: str
    n_tokens: dict[str, int]
    """Held-out tokens a dataset."""
    columns: list[Column]
    rows: list[Row]
    families: dict[str, str] = Field(default_factory=dict)
    """Name to title, in the order in which they are shown."""
    histograms: list[Histogram] = Field(default_factory=list)
    curves: list[Curve] = Field(default_factory=list)
    mismatches: list[str] = Field(default_factory=list)
    """What was not the same for all; not empty only where the comparison was asked for all the same."""
    notes: list[str] = Field(default_factory=list)
    sources: dict[str, str] = Field(default_factory=dict)
    """Name of an evaluation to its file."""
    facts: dict[str, str] = Field(default_factory=dict)
    """Further provenance, name to value."""
    sparselight_version: str
    created: str

    @property
    def saes(self) -> list[Column]:
        return [column for column in self.columns if not column.is_control]

    @property
    def controls(self) -> list[Column]:
        return [column for column in self.columns if column.is_control]

    def row(self, metric: str, dataset: str) -> Row | None:
        """The first row of a metric on a dataset."""
        return next((row for row in self.rows if row.metric == metric and row.dataset == dataset), None)


def to_table(comparison: Comparison) -> pa.Table:
    """One line a row and column: values, intervals, reasons, and on the best one its difference to the next best."""
    lines: list[dict[str, Any]] = []
    for row in comparison.rows:
        for column in comparison.columns:
            value = row.values.get(column.name)
            if value is None and column.name not in row.undefined:
                continue
            is_best = column.name == row.best
            difference = row.difference if is_best else None
            lines.append({
                "family": row.family, "metric": row.metric, "dataset": row.dataset, "setting": row.setting, "column": column.name,
                "is_control": column.is_control, "series": column.series, "value": value and value.value, "low": value and value.low,
                "high": value and value.high, "n": value and value.n, "unit": value and value.unit, "undefined": row.undefined.get(column.name),
                "better": row.better, "is_best": is_best, "rival": row.rival if is_best else None, "difference": difference and difference.value,
                "difference_low": difference and difference.low, "difference_high": difference and difference.high, "p": row.p if is_best else None,
                "pairing": row.pairing if is_best else None, "is_clear": row.is_clear if is_best else None,
            })
    return pa.Table.from_pylist(lines, SCHEMA)


SCHEMA = pa.schema([
    ("family", pa.string()), ("metric", pa.string()), ("dataset", pa.string()), ("setting", pa.string()), ("column", pa.string()),
    ("is_control", pa.bool_()), ("series", pa.string()), ("value", pa.float64()), ("low", pa.float64()), ("high", pa.float64()), ("n", pa.int64()),
    ("unit", pa.string()), ("undefined", pa.string()), ("better", pa.string()), ("is_best", pa.bool_()), ("rival", pa.string()),
    ("difference", pa.float64()), ("difference_low", pa.float64()), ("difference_high", pa.float64()), ("p", pa.float64()),
    ("pairing", pa.string()), ("is_clear", pa.bool_()),
])
