"""From what the families found to the rows of a record: values with intervals, paired differences, what is not defined, notes.

Owns: which differences are taken (every coder to the base coder, and given pairs, always over the same resamples), fvu_change_frac, and the
words about missing intervals. A value without resamples gives differences without interval. Refuses nothing.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from sparselight.evaluate.findings import Cell, Findings
from sparselight.evaluate.statistics import Resampled, Resamples, ratio
from sparselight.records import EvalRecord, EvalRow, MetricValue, UndefinedValue

RELATIVE = {"fvu": "fvu_change_frac"}  # metric -> the name of its relative change to the reference


@dataclass
class Sheet:
    """The rows of a record as they are filled in.

    `resamples` stand by dataset; `compared` are the differences, each (coder, reference).
    """

    resamples: Mapping[str, Resamples]
    is_control: Mapping[str, bool]
    compared: Sequence[tuple[str, str]] = ()
    rows: list[EvalRow] = field(default_factory=list)
    differences: list[EvalRow] = field(default_factory=list)
    undefined: list[UndefinedValue] = field(default_factory=list)
    _notes: list[str] = field(default_factory=list)
    _bare: dict[tuple[str, str, str], list[str]] = field(default_factory=dict)

    def add(self, family: str, findings: Findings) -> None:
        """All values of one family, and their differences."""
        self._notes += findings.notes
        for cell, values in findings.resampled.items():
            self._measured(self.rows, family, cell, values)
        for cell, value in findings.values.items():
            if math.isfinite(value.value):
                self.rows.append(self._row(family, cell, value))
            else:
                self._undefined(family, cell, f"it came out as {value.value}")
        for cell, why in findings.undefined.items():
            self._undefined(family, cell, why)
        for coder, reference in self.compared:
            self._compare(family, findings, coder, reference)

    def _compare(self, family: str, findings: Findings, coder: str, reference: str) -> None:
        for cell, values in findings.resampled.items():
            other = findings.resampled.get(_of(cell, reference))
            if cell.coder == coder and other is not None:
                self._measured(self.differences, family, cell, values - other, reference)
                if cell.metric in RELATIVE:
                    change = Cell(coder, RELATIVE[cell.metric], cell.dataset, cell.setting)
                    self._measured(self.differences, family, change, ratio(values, other) - 1, reference)
        for cell, value in findings.values.items():
            beside = findings.values.get(_of(cell, reference))
            if cell.coder == coder and beside is not None and beside.unit == value.unit and math.isfinite(value.value - beside.value):
                seeds = sorted({*value.seeds, *beside.seeds})
                change_value = MetricValue(value=value.value - beside.value, n=min(value.n, beside.n), unit=value.unit, seeds=seeds)
                self.differences.append(self._row(family, cell, change_value, reference))

    def _measured(self, rows: list[EvalRow], family: str, cell: Cell, values: Resampled, reference: str | None = None) -> None:
        value, lacks = self.resamples[cell.dataset].summarize(values)
        if value is None:
            self._undefined(family, cell, lacks, reference)
            return
        rows.append(self._row(family, cell, value, reference))
        if lacks:
            self._bare.setdefault((cell.dataset, cell.metric, lacks), []).append(_who(cell.coder, reference))

    def _row(self, family: str, cell: Cell, value: MetricValue, reference: str | None = None) -> EvalRow:
        return EvalRow(coder=cell.coder, is_control=self.is_control.get(cell.coder, True), dataset=cell.dataset, metric=cell.metric, value=value,
                       reference=reference, setting=cell.setting, family=family)

    def _undefined(self, family: str, cell: Cell, why: str, reference: str | None = None) -> None:
        self.undefined.append(UndefinedValue(coder=cell.coder, dataset=cell.dataset, metric=cell.metric, setting=cell.setting, family=family, why=why,
                                             reference=reference))

    def notes(self) -> Iterator[str]:
        """What a reader must know beside the numbers."""
        for name, resamples in self.resamples.items():
            if resamples.note():
                yield f"{name}: {resamples.note()}"
        yield from dict.fromkeys(self._notes)
        for (dataset, metric, lacks), coders in self._bare.items():
            yield f"{dataset}, {metric} of {', '.join(dict.fromkeys(coders))}: {lacks}"


def undefined_lines(record: EvalRecord, families: Sequence[str] = ()) -> list[str]:
    """What is not defined, in sentences: one for each dataset, metric and reason.

    Args:
        families: only of these; of all where left out.
    """
    grouped: dict[tuple[str, str, str], list[str]] = {}
    for entry in (one for one in record.undefined if not families or one.family in families):
        metric = f"{entry.metric} ({entry.setting})" if entry.setting else entry.metric
        grouped.setdefault((entry.dataset, metric, entry.why), []).append(_who(entry.coder, entry.reference))
    return [f"{f'{dataset}, ' if dataset else ''}{metric} of {', '.join(coders)} is not defined: {why}" for (dataset, metric, why), coders in grouped.items()]


def flat_table(record: EvalRecord) -> pa.Table:
    """Rows, differences and undefined values of a record as one table, one a line."""
    def line(row: EvalRow | UndefinedValue) -> dict[str, Any]:
        keys = {"family": row.family, "coder": row.coder, "dataset": row.dataset, "metric": row.metric, "setting": row.setting, "reference": row.reference}
        if isinstance(row, UndefinedValue):
            return {**keys, "undefined": row.why}
        return {**keys, "is_control": row.is_control, **row.value.model_dump(), "undefined": None}

    schema = pa.schema([
        ("family", pa.string()), ("coder", pa.string()), ("is_control", pa.bool_()), ("dataset", pa.string()), ("metric", pa.string()),
        ("setting", pa.string()), ("reference", pa.string()), ("value", pa.float64()), ("low", pa.float64()), ("high", pa.float64()), ("n", pa.int64()),
        ("unit", pa.string()), ("seeds", pa.list_(pa.int64())), ("undefined", pa.string()),
    ])
    rows: list[EvalRow | UndefinedValue] = [*record.rows, *record.differences, *record.undefined]
    return pa.Table.from_pylist([line(row) for row in rows], schema=schema)


def _of(cell: Cell, coder: str) -> Cell:
    return Cell(coder, cell.metric, cell.dataset, cell.setting)


def _who(coder: str, reference: str | None) -> str:
    return f"{coder} minus {reference}" if reference else coder
