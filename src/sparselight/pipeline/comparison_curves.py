"""Histograms and curves of a comparison, from the tables that evaluations keep beside their records.

Reads `fire_rates` of the family reconstruction (bins of firing rates) and the curves that CURVES lists. What an evaluation did not keep is left
out; the page says so where nothing is left. Refuses nothing.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from sparselight.pipeline.comparison_columns import Built, Trained
from sparselight.report.compare_data import Curve, Histogram


class CurveTable(NamedTuple):
    """A table that holds a curve a coder: lines whose column, for each of `only`, begins with that word."""

    family: str
    table: str
    only: dict[str, str]
    x: str
    y: str
    metric: str
    x_title: str


CURVES: tuple[CurveTable, ...] = (
    CurveTable("geometry", "similarity_graphs", {"latents": "all", "graph": "density"}, "density", "clustering",
               "clustering_coefficient", "share of all pairs of latents that are joined"),
)
FIRE_RATES = ("reconstruction", "fire_rates")


def make_histograms(columns: Sequence[Built]) -> list[Histogram]:
    """Firing rates of the SAEs, for every dataset; of several seeds the mean."""
    found: list[Histogram] = []
    for built in columns:
        if built.column.is_control:
            continue
        lines = [_lines(part, *FIRE_RATES) for part in built.parts]
        for dataset in dict.fromkeys(line["dataset"] for part in lines for line in part):
            parts = [[line for line in part if line["dataset"] == dataset] for part in lines]
            parts = [part for part in parts if part]
            found.append(_mean([_histogram(built.column.name, dataset, part) for part in parts]))
    return found


def _lines(part: Trained, family: str, name: str) -> list[dict[str, Any]]:
    """A coder's lines of a table, from the first evaluation that kept it."""
    for source, coder in part.places:
        table = source.table(family, name)
        if table is not None:
            lines = [line for line in table.to_pylist() if line["coder"] == coder]
            if lines:
                return lines
    return []


def _histogram(column: str, dataset: str, lines: Sequence[dict[str, Any]]) -> Histogram:
    total = max(1, sum(line["n_latents"] for line in lines))
    bins = sorted((line["low"], line["high"], line["n_latents"]) for line in lines if line["high"] > 0)
    edges = [math.log10(bins[0][0]), *(math.log10(high) for _, high, _ in bins)]
    never = sum(line["n_latents"] for line in lines if line["high"] <= 0)
    return Histogram(column=column, dataset=dataset, edges=edges, shares=[n / total for _, _, n in bins], never=never / total)


def _mean(parts: Sequence[Histogram]) -> Histogram:
    """Of seeds, whose bins are the same because their tokens are; else the first one."""
    if len({len(part.shares) for part in parts}) > 1:
        return parts[0]
    shares = np.mean([part.shares for part in parts], axis=0).tolist()
    return parts[0].model_copy(update={"shares": shares, "never": float(np.mean([part.never for part in parts]))})


def make_curves(columns: Sequence[Built]) -> list[Curve]:
    """All curves of SAEs; of several seeds the mean, where all have a point."""
    found = []
    for wanted in CURVES:
        for built in columns:
            if built.column.is_control:
                continue
            seeds = [_points(part, wanted) for part in built.parts]
            x = sorted(set.intersection(*(set(points) for points in seeds)))
            if len(x) > 1:
                y = [float(np.mean([points[at] for points in seeds])) for at in x]
                found.append(Curve(column=built.column.name, metric=wanted.metric, x_title=wanted.x_title, x=x, y=y))
    return found


def _points(part: Trained, wanted: CurveTable) -> dict[float, float]:
    lines = [line for line in _lines(part, wanted.family, wanted.table) if all(line[name].startswith(word) for name, word in wanted.only.items())]
    return {line[wanted.x]: line[wanted.y] for line in lines if line[wanted.y] is not None and line[wanted.x] > 0}
