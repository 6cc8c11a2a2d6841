"""The headline: what the residual SAE changed, in one sentence, a few key numbers and one table, controls included.

Owns the wording, which follows the intervals: a difference whose interval holds zero is not called a change, a control that does
as well as the residual SAE is named as such, and a figure that a control reaches too is called no achievement. Differences are the evaluation's own
paired ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sparselight.records import EvalRecord, MetricValue
from sparselight.report.numbers import DASH, Format, interval, number, percent, with_interval
from sparselight.report.words import TEXT, Words

BASE, STITCHED, GENERAL = "base", "base+residual", "base+general residual"
REFERENCES = ("subject", "zero ablation", "mean ablation")
"""Rows that the evaluation adds as reference points: they fix the scale of other metrics and are no rivals of an SAE."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the headline table."""

    dataset: str
    metric: str
    title: str
    form: Format


COLUMNS: tuple[Column, ...] = (
    Column("domain", "fvu", "fvu", number),
    Column("domain", "explained_variance", "explained variance", percent),
    Column("domain", "ce_increase_nats", "CE added, nats", number),
    Column("domain", "ce_recovered_mean", "CE recovered", percent),
    Column("domain", "l0", "l0", number),
    Column("general", "fvu", "fvu", number),
    Column("general", "ce_increase_nats", "CE added, nats", number),
    Column("general", "ce_recovered_mean", "CE recovered", percent),
    Column("general", "l0", "l0", number),
    Column("general", "dead_frac", "dead", percent),
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One value of the table, with its interval as shown beneath."""

    value: str
    interval: str = ""


@dataclass(frozen=True, slots=True)
class TableRow:
    """One coder of the table."""

    coder: str
    is_control: bool
    cells: list[Cell]


@dataclass(frozen=True, slots=True)
class KeyNumber:
    """A number set large at the top of the page."""

    title: str
    value: str
    note: str


class Measured:
    """Look-up of an evaluation by coder, dataset and metric."""

    def __init__(self, evaluation: EvalRecord):
        rows, differences = ([row for row in part if not row.setting] for part in (evaluation.rows, evaluation.differences))  # metrics of one form
        self.values = {(row.coder, row.dataset, row.metric): row.value for row in rows}
        self.differences = {(row.coder, row.dataset, row.metric): row.value for row in differences if row.reference in (None, BASE)}
        self.between = {(row.coder, row.reference, row.dataset, row.metric): row.value for row in differences if row.reference != BASE}
        self.controls = {row.coder: row.is_control for row in rows}

    def coders(self, controls: bool) -> list[str]:
        return [coder for coder, is_control in self.controls.items() if is_control == controls]


def headline_sentences(evaluation: EvalRecord, words: Words = TEXT) -> list[str]:
    """The result in words: domain, general text, controls."""
    found = Measured(evaluation)
    base, both = (found.values.get((coder, "domain", "fvu")) for coder in (BASE, STITCHED))
    warnings = loss_warnings(evaluation, words)
    if base is None or both is None:
        return ["This run has no residual SAE measured on the domain, so there is no before and after to compare.", *warnings]
    return [_domain_sentence(base, both, found.differences.get((STITCHED, "domain", "fvu"))), *warnings, *_general_sentence(found, words),
            *_control_sentences(found, both, words)]


def loss_warnings(evaluation: EvalRecord, words: Words = TEXT) -> list[str]:
    """Where a control recovers as much of the model's loss as a trained SAE, so that the SAE's figure is no achievement: one sentence a dataset."""
    found = evaluation.matched_by_controls("ce_recovered_mean")
    sentences = []
    for dataset in dict.fromkeys(one.dataset for one in found):
        here = [one for one in found if one.dataset == dataset]
        controls, coders = ({name: with_interval(value, percent) for name, value in pairs} for pairs in (
            [(one.control, one.control_value) for one in here], [(one.coder, one.value) for one in here]))
        sentences.append(f"CE recovered says nothing here: on {dataset} {words.texts} {_listed(controls)} of the model's loss, not clearly less than "
                         f"{', '.join(f'{name} {value}' for name, value in coders.items())}. Go by the other figures, and by the features' evidence.")
    return sentences


def _listed(values: Mapping[str, str]) -> str:
    return " and ".join(f"{name} recovers {value}" for name, value in values.items())


def _domain_sentence(base: MetricValue, both: MetricValue, difference: MetricValue | None) -> str:
    start, end = number(base.value), number(both.value)
    if difference is None:
        return f"With the residual SAE the domain fvu goes from {start} to {end} (no paired interval was measured)."
    words = f"(difference {with_interval(difference)})"
    if _is_clear(difference):
        return f"The residual SAE {'lowers' if difference.value < 0 else 'raises'} the domain fvu from {start} to {end} {words}."
    return f"The residual SAE does not clearly change the domain fvu: {start} before, {end} after {words}."


def _general_sentence(found: Measured, words: Words) -> list[str]:
    change = _relative_change(found, "general")
    if change is None:
        return []
    verb = "changes by" if _is_clear(change) else "does not clearly change:"
    return [f"On general {words.texts} the fvu {verb} {_signed(change.value)} {interval(change, percent)}".strip() + "."]


def _control_sentences(found: Measured, both: MetricValue, words: Words) -> list[str]:
    parts, better = [], []
    for coder in found.coders(controls=True):
        value, difference = found.values.get((coder, "domain", "fvu")), found.differences.get((coder, "domain", "fvu"))
        if value is None or coder in REFERENCES:
            continue
        added = f" (difference from base {with_interval(difference)})" if difference is not None and coder.startswith(BASE) else ""
        parts.append(f"{coder} {number(value.value)}{added}")
        if value.value <= both.value:
            better.append(coder)
    if not parts:
        return ["No control was measured."]
    verdict = f" {' and '.join(better)} leaves no more of the domain unexplained than {STITCHED}." if better else ""
    return [f"Domain fvu of the controls: {'; '.join(parts)}.{verdict}", *_training_sentence(found, words)]


def _training_sentence(found: Measured, words: Words) -> list[str]:
    """What training on the domain brought beyond more latents: the residual SAE against one of its shape trained on general text."""
    gap = found.between.get((STITCHED, GENERAL, "domain", "fvu_change_frac"))
    if gap is None:
        return []
    against = f"the same residual SAE trained on general {words.texts}"
    change = f"{_signed(gap.value)} {interval(gap, percent)}".strip()
    if _is_clear(gap) and gap.value < 0:
        return [f"Training on the domain is worth {change} of domain fvu against {against}."]
    return [f"Against {against} the domain fvu changes by {change}: the gain cannot be put down to training on the domain."]


def key_numbers(evaluation: EvalRecord, n_supported: int, n_added: int) -> list[KeyNumber]:
    """Up to four numbers for the top of the page."""
    found, result = Measured(evaluation), []
    for dataset in ("domain", "general"):
        change = _relative_change(found, dataset)
        if change is not None:
            result.append(KeyNumber(f"{dataset} fvu", _signed(change.value), f"{interval(change, percent) or 'no interval'} relative to the base SAE"))
    result.append(KeyNumber("features with evidence", f"{n_supported:,}", "held-out F1 above shuffled labels"))
    result.append(KeyNumber("domain features added", f"{n_added:,}", "by the residual SAE, with evidence"))
    return result


def table_rows(evaluation: EvalRecord) -> list[TableRow]:
    """The headline table, controls last."""
    found = Measured(evaluation)
    rows = []
    for coder in [*found.coders(controls=False), *found.coders(controls=True)]:
        cells = []
        for column in COLUMNS:
            value = found.values.get((coder, column.dataset, column.metric))
            cells.append(Cell(DASH) if value is None else Cell(column.form(value.value), interval(value, column.form).removesuffix("\u00a0%")))
        if all(cell.value == DASH for cell in cells):
            continue
        rows.append(TableRow(coder, found.controls[coder], cells))
    return rows


def interval_sentence(evaluation: EvalRecord, n_bootstrap: int | None, words: Words = TEXT) -> str:
    """How the intervals of the evaluation were made."""
    sizes: dict[str, MetricValue] = {}
    for row in evaluation.rows:
        if row.value.low is not None:
            sizes.setdefault(row.dataset, row.value)
    if not sizes:
        return "No interval was measured."
    over = ", ".join(f"{value.n:,} {words.groups if value.unit == 'groups' else value.unit} ({dataset})" for dataset, value in sorted(sizes.items()))
    draws = f", {n_bootstrap:,} draws" if n_bootstrap else ""
    tokens = ", ".join(f"{n_tokens:,} {dataset}" for dataset, n_tokens in sorted(evaluation.n_tokens.items()))
    return (f"Brackets are 95 % intervals from a bootstrap over whole {words.groups}{draws}: {over}; held-out tokens: {tokens}. "
            f"Differences resample the same {words.groups} for both coders.")


def _is_clear(difference: MetricValue) -> bool:
    return difference.low is not None and difference.high is not None and (difference.low > 0 or difference.high < 0)


def _relative_change(found: Measured, dataset: str) -> MetricValue | None:
    """fvu with the residual SAE over fvu of the base SAE, less one: as measured, else the difference over the base value taken as exact."""
    measured, base = found.differences.get((STITCHED, dataset, "fvu_change_frac")), found.values.get((BASE, dataset, "fvu"))
    difference = found.differences.get((STITCHED, dataset, "fvu"))
    if measured is not None or base is None or difference is None or base.value == 0:
        return measured
    ends = [None if end is None else end / base.value for end in (difference.low, difference.high)]
    return difference.model_copy(update={"value": difference.value / base.value, "low": ends[0], "high": ends[1]})


def subject_sentence(evaluation: EvalRecord) -> str:
    """The cross entropy of the model itself, which the added cross entropy is added to."""
    found = {row.dataset: row.value for row in evaluation.rows if row.coder == REFERENCES[0] and row.metric == "ce_nats"}
    parts = [f"{with_interval(value)} nats ({dataset})" for dataset, value in sorted(found.items())]
    return f"Cross entropy of the unedited model: {', '.join(parts)}." if parts else ""


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + percent(value)
