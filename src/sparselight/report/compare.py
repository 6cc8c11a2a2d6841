"""Renders a `Comparison` as one HTML file: no script, nothing loaded from outside, readable in light, dark, small and in print.

The templates escape everything; the only ready markup are the figures of this package, which escape what they are given. When a page
would be too large, figures of single metrics are left out, those of the longest families first, and the page says so; the table stays whole.
"""

from pathlib import Path
from typing import Any

from markupsafe import Markup

from sparselight.files import write_bytes
from sparselight.report.compare_bars import bars
from sparselight.report.compare_curves import curve_titles, curves, fire_rates
from sparselight.report.compare_data import Comparison, Row
from sparselight.report.compare_fronts import panels
from sparselight.report.compare_marks import Look, key, line_key, looks
from sparselight.report.compare_words import (
    better_controls,
    chance_sentence,
    l0_sentence,
    lead,
    tables,
    undefined_reasons,
    units_sentence,
    verdicts,
)
from sparselight.report.html import page_that_fits
from sparselight.vocab import METRICS

MAX_BYTES = 3_000_000
MAX_BARS = (24, 8, 2)  # figures a family, fewer when the page would be too large


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Render the page and write it atomically.

    Raises:
        StoreError: when the disk is full or the folder cannot be written.
    """
    write_bytes(path, render_comparison(comparison).encode("utf-8", errors="replace"))


def render_comparison(comparison: Comparison) -> str:
    """The page as text."""
    return page_that_fits("compare.html.j2", lambda most: comparison_values(comparison, most), MAX_BARS, MAX_BYTES)


def comparison_values(comparison: Comparison, most_bars: int) -> dict[str, Any]:
    """All that the template refers to."""
    look = looks(comparison)
    used = dict.fromkeys(row.metric for row in comparison.rows if row.metric in METRICS)
    has_seeds = any(len(column.members) > 1 for column in comparison.columns)
    return {
        "comparison": comparison, "title": _title([column.name for column in comparison.saes]), "lead": lead(comparison),
        "verdicts": verdicts(comparison), "l0_sentence": l0_sentence(comparison), "better_controls": better_controls(comparison),
        "chance_sentence": chance_sentence(comparison), "units": units_sentence(comparison), "undefined": undefined_reasons(comparison),
        "columns": comparison.columns, "look": look, "keys": {name: key(own) for name, own in look.items()}, "has_seeds": has_seeds,
        "line_keys": {column.name: line_key(look[column.name]) for column in comparison.saes},
        "panels": panels(comparison, look), "tables": tables(comparison), "bars": _bars(comparison, look, most_bars),
        "rates": _drawn([fire_rates(comparison, dataset, look) for dataset in dict.fromkeys(item.dataset for item in comparison.histograms)]),
        "curves": _drawn([curves(comparison, metric, look) for metric in curve_titles(comparison)]), "metrics": [METRICS[name] for name in used],
    }


def _title(names: list[str], most: int = 4) -> str:
    """The SAEs, or the first few of them."""
    if len(names) > most:
        return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1] if names else "controls") if part)


def _drawn(figures: list[Markup | None]) -> list[Markup]:
    return [figure for figure in figures if figure is not None]


def _bars(comparison: Comparison, look: dict[str, Look], most: int) -> list[tuple[str, list[Markup], int]]:
    """(title, figures, how many were left out) of each family that has some; rows that show nothing new are left out first."""
    found = []
    for name in dict.fromkeys([*comparison.families, *(row.family for row in comparison.rows)]):
        rows = [row for row in comparison.rows if row.family == name and row.values]
        figures = _drawn([bars(comparison, row, look) for row in _telling(comparison, rows)])
        if figures:
            found.append((comparison.families.get(name, name) or "Measurements", figures[:most], len(rows) - len(figures[:most])))
    return found


def _telling(comparison: Comparison, rows: list[Row]) -> list[Row]:
    """Without rows where all SAEs have one value, and those whose values are all as in another form of the metric (all latents live, say)."""
    names = [column.name for column in comparison.saes]
    found: dict[tuple[object, ...], Row] = {}
    for row in rows:
        values = tuple(row.values[name].value if name in row.values else None for name in names)
        if len(set(values)) > 1 or len(names) == 1:
            found.setdefault((row.metric, row.dataset, values), row)
    return list(found.values())
