"""The comparison in words and as a table: what is best and how sure that is, what the controls reach, what is not defined.

Owns the wording, which follows the intervals: a best value is called so only where the interval of its difference to the next best leaves
out 0, and a control that does better than every SAE is named. At different l0 better reconstruction proves nothing, and the page says so.
"""

from dataclasses import dataclass

import numpy as np

from sparselight.evaluate.statistics import benjamini_hochberg
from sparselight.report.compare_data import Column, Comparison, Row
from sparselight.report.compare_fronts import FIRST, first_forms, l0_row, without_same
from sparselight.report.headline import REFERENCES
from sparselight.report.numbers import DASH, count, interval, number, with_interval

MAX_SENTENCES = 12
FALSE_RATE = 0.05
PAIRINGS = {"tokens": "paired over the same tokens", "seeds": "over training seeds", "separate": "not paired: from the two intervals", "": "no interval"}
BETTER = {"lower": "\u2193 lower", "higher": "\u2191 higher", "neither": ""}


@dataclass(frozen=True, slots=True)
class Cell:
    """One value of the table as shown."""

    value: str
    interval: str = ""
    is_best: bool = False
    """Best of the SAEs, and clearly so."""
    why: str = ""
    """Why there is no value."""
    is_control: bool = False
    starts_controls: bool = False


@dataclass(frozen=True, slots=True)
class TableRow:
    """One metric of the table."""

    title: str
    where: str
    better: str
    cells: list[Cell]
    difference: str
    """Best minus next best, with how its interval was made."""


@dataclass(frozen=True, slots=True)
class FamilyTable:
    """The rows of one family."""

    anchor: str
    title: str
    rows: list[TableRow]


def lead(comparison: Comparison) -> str:
    """What is compared, where, on what."""
    n_saes = sum(len(column.members) for column in comparison.saes)
    grouped = f" ({n_saes} with their seeds)" if n_saes > len(comparison.saes) else ""
    controls = f" and {_many(len(comparison.controls), 'control')}" if comparison.controls else ""
    tokens = ", ".join(f"{count(n)} of {dataset}" for dataset, n in comparison.n_tokens.items())
    same = "held-out tokens" if comparison.mismatches else "the same held-out tokens"
    return f"{_many(len(comparison.saes), 'SAE')}{grouped}{controls} at {comparison.site} of {comparison.subject}, measured on {same}: {tokens}."


def _many(n: int, word: str) -> str:
    return f"{n:,} {word}{'' if n == 1 else 's'}"


def verdicts(comparison: Comparison) -> list[tuple[str, str]]:
    """Metric and sentence: the usual metrics on every dataset, then the first row of each other family."""
    rows = without_same([row for row in comparison.rows if row.best is not None and row.rival is not None])
    first = sorted((row for row in rows if row.metric in FIRST), key=lambda row: FIRST.index(row.metric))
    seen = {row.family for row in first}
    rest = [row for row in rows if row.metric not in FIRST and row.family not in seen]
    rest = [row for index, row in enumerate(rest) if row.family not in {other.family for other in rest[:index]}]
    sparsity = bool(l0_sentence(comparison))
    return [(_titled(row), _verdict(row, l0_row(comparison, row.dataset) if sparsity else None)) for row in [*first, *rest][:MAX_SENTENCES]]


def _verdict(row: Row, sparsity: Row | None) -> str:
    """The two best SAEs, with their l0 where SAEs differ in it."""
    assert row.best is not None and row.rival is not None
    best, rival = (
        f"{number(row.values[name].value)}{f' at l0 {number(sparsity.values[name].value)}' if sparsity is not None and name in sparsity.values else ''}"
        for name in (row.best, row.rival))
    if row.difference is None or row.difference.low is None:
        return f"{row.best} {best}, {row.rival} {rival}; without an interval of their difference neither is called better."
    words = f"difference {with_interval(row.difference)}, {PAIRINGS[row.pairing]}"
    if row.is_clear:
        return f"{row.best} is best with {best}, then {row.rival} with {rival} ({words})."
    return f"no clear difference between {row.best}, {best}, and {row.rival}, {rival} ({words})."


def l0_sentence(comparison: Comparison) -> str:
    """A warning where the SAEs are not equally sparse; empty where they are or l0 was not measured."""
    found = [row.values[column.name].value for row in comparison.rows if row.metric == "l0" for column in comparison.saes if column.name in row.values]
    if not found or min(found) <= 0 or max(found) / min(found) < 1.05:
        return ""
    return (f"The SAEs differ in how many latents they use, l0 {number(min(found))} to {number(max(found))}: with more of them reconstruction is better "
            "by itself. Compare SAEs of like l0, or by the fronts below.")


def better_controls(comparison: Comparison) -> list[tuple[str, str]]:
    """Metric and the controls that do better there than every SAE; the reference points of other metrics are no rivals."""
    found = []
    for row in first_forms(comparison.rows):
        saes = [row.values[column.name].value for column in comparison.saes if column.name in row.values]
        if row.better == "neither" or not saes:
            continue
        sign = 1 if row.better == "lower" else -1
        best = min(sign * value for value in saes)
        names = [column.name for column in comparison.controls
                 if column.name in row.values and sign * row.values[column.name].value < best and not _is_reference(column)]
        if names:
            words = "; ".join(f"{name} {number(row.values[name].value)}" for name in names)
            found.append((_titled(row), f"{words}; best SAE {number(sign * best)}"))
    return found


def _is_reference(column: Column) -> bool:
    return any(member.coder in REFERENCES for member in column.members)


def chance_sentence(comparison: Comparison) -> str:
    """How many of the clear differences remain when the number of looks is counted; empty where nothing was tested."""
    tested = [row for row in comparison.rows if row.p is not None]
    clear = [row for row in tested if row.is_clear]
    if not clear:
        return ""
    adjusted = benjamini_hochberg(np.array([row.p for row in tested], dtype=np.float64))
    n_left = sum(row.is_clear and p <= FALSE_RATE for row, p in zip(tested, adjusted, strict=True))
    return (f"Of {len(tested)} paired differences {len(clear)} leave out 0; {n_left} of these remain when the number of tests is counted "
            f"(false discovery rate {FALSE_RATE:.0%}, Benjamini and Hochberg).")


def tables(comparison: Comparison) -> list[FamilyTable]:
    """All rows with a value, a table a family."""
    names = list(dict.fromkeys([*comparison.families, *(row.family for row in comparison.rows)]))
    found = []
    for name in names:
        rows = [table_row(comparison, row) for row in comparison.rows if row.family == name and row.values]
        if rows:
            found.append(FamilyTable(f"family-{name}" if name else "family", comparison.families.get(name, name) or "Measurements", rows))
    return found


def table_row(comparison: Comparison, row: Row) -> TableRow:
    """A row as shown."""
    cells, controls = [], False
    for column in comparison.columns:
        starts, controls = column.is_control and not controls, column.is_control
        value = row.values.get(column.name)
        if value is None:
            cells.append(Cell(DASH, why=row.undefined.get(column.name, ""), is_control=column.is_control, starts_controls=starts))
            continue
        cells.append(Cell(number(value.value), interval(value), row.is_clear and column.name == row.best, "", column.is_control, starts))
    difference = "" if row.difference is None else f"{with_interval(row.difference)}, {PAIRINGS[row.pairing]}"
    return TableRow(row.title, row.where, BETTER[row.better], cells, difference)


def _titled(row: Row) -> str:
    return f"{row.title} ({row.where})" if row.where else row.title


def undefined_reasons(comparison: Comparison) -> list[tuple[str, str, str, str]]:
    """(metric, where, columns, why) of what has no value; datasets and settings of a metric that lack it for the same reason stand together."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for row in comparison.rows:
        reasons: dict[str, list[str]] = {}
        for column, why in row.undefined.items():
            reasons.setdefault(why, []).append(column)
        for why, columns in reasons.items():
            found.setdefault((row.title, ", ".join(columns), why), []).append(row.where)
    return [(title, "; ".join(part for part in where if part), columns, why) for (title, columns, why), where in found.items()]


def units_sentence(comparison: Comparison) -> str:
    """How the intervals were made."""
    sizes: dict[tuple[str, str], int] = {}
    for row in comparison.rows:
        for column in comparison.saes:
            value = row.values.get(column.name)
            if value is not None and value.low is not None and len(column.members) == 1:
                sizes.setdefault((row.dataset, value.unit), value.n)
    if not sizes:
        return "No interval was measured."
    parts = ", ".join(f"{n:,} {unit}{f' ({dataset})' if dataset else ''}" for (dataset, unit), n in sizes.items())
    return f"Brackets are 95 % intervals, of single SAEs over {parts}."
