"""The rows of a comparison: values of every column, means over seeds, and the difference between the best SAE and the next best.

Owns how a difference gets its interval, in this order: over training seeds where both have several (Welch); over the same resamples of the same
tokens (paired bootstrap); as the evaluation itself recorded it; from the two intervals (MOVER). Refuses nothing: what has no interval has none.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from sparselight.evaluate.findings import Cell
from sparselight.evaluate.statistics import Resampled, Resamples, over_seeds, paired
from sparselight.pipeline.comparison_columns import Built, RowKey, Trained
from sparselight.pipeline.comparison_sources import Source
from sparselight.records import EvalRow, MetricValue
from sparselight.report.compare_data import Pairing, Row

Found = dict[RowKey, tuple[Source, EvalRow]]


@dataclass(frozen=True)
class Difference:
    """best - rival, as far as it is known."""

    value: MetricValue | None = None
    pairing: Pairing = ""
    p: float | None = None


def make_rows(columns: Sequence[Built], sources: Sequence[Source], can_pair: bool) -> list[Row]:
    """All rows, family by family in the order of the evaluations, the datasets and settings of a metric next to each other.

    Args:
        can_pair: whether the evaluations were measured on the same tokens; inside one evaluation coders always were.
    """
    values = {built.column.name: [part.rows() for part in built.parts] for built in columns}
    lacks = {built.column.name: [part.undefined() for part in built.parts] for built in columns}
    families = _families(values, lacks)
    order = list(dict.fromkeys([*(name for source in sources for name in source.record.families), *families.values()]))
    metrics = list(dict.fromkeys(key[0] for key in families))
    keys = sorted(families, key=lambda key: (order.index(families[key]), metrics.index(key[0])))
    rows = [_row(key, families[key], values, lacks) for key in keys]
    return [_with_difference(row, {built.column.name: built for built in columns}, can_pair) for row in rows]


def _families(values: Mapping[str, list[Found]], lacks: Mapping[str, list[dict[RowKey, tuple[str, str]]]]) -> dict[RowKey, str]:
    """Every row's family; older records do not say it, so that of another evaluation counts."""
    found: dict[RowKey, str] = {}
    named = [(key, row.family) for parts in values.values() for part in parts for key, (_, row) in part.items()]
    named += [(key, family) for parts in lacks.values() for part in parts for key, (family, _) in part.items()]
    for key, family in named:
        found[key] = found.get(key) or family
    return found


def _row(key: RowKey, family: str, values: Mapping[str, list[Found]], lacks: Mapping[str, list[dict[RowKey, tuple[str, str]]]]) -> Row:
    metric, dataset, setting = key
    shown: dict[str, MetricValue] = {}
    seeds: dict[str, list[float]] = {}
    undefined: dict[str, str] = {}
    for name, parts in values.items():
        own = [part[key][1].value for part in parts if key in part]
        missing = [part[key][1] for part in lacks[name] if key in part]
        if own:
            shown[name] = own[0] if len(own) == 1 else over_seeds([one.value for one in own], list(range(len(own))))[0]
            if len(parts) > 1:
                seeds[name] = [one.value for one in own]
        elif missing:
            undefined[name] = missing[0]
    return Row(family=family, metric=metric, dataset=dataset, setting=setting, values=shown, seeds=seeds, undefined=undefined)


def _with_difference(row: Row, columns: Mapping[str, Built], can_pair: bool) -> Row:
    saes = [name for name in row.values if not columns[name].column.is_control]
    if row.better == "neither" or len(saes) < 2:
        return row
    best, rival = sorted(saes, key=lambda name: row.values[name].value * (1 if row.better == "lower" else -1))[:2]
    found = difference(row, columns[best], columns[rival], can_pair)
    return row.model_copy(update={"best": best, "rival": rival, "difference": found.value, "pairing": found.pairing, "p": found.p})


def difference(row: Row, first: Built, second: Built, can_pair: bool) -> Difference:
    """first - second in one row, by the first way that gives an interval."""
    seeds = [row.seeds.get(built.column.name, []) for built in (first, second)]
    if all(len(own) > 1 for own in seeds):
        return Difference(welch(*seeds), "seeds")
    return _from_resamples(row, first, second, can_pair) or _recorded(row, first, second) or _separate(row, first, second)


def _from_resamples(row: Row, first: Built, second: Built, can_pair: bool) -> Difference | None:
    """Of several seeds the mean of their arrays: it then says how other tokens would come out, not how other seeds would."""
    arrays = [_arrays(row, part) for built in (first, second) for part in built.parts]
    found = [array for _, array in arrays if array is not None]
    same_source = len({id(source) for source, _ in arrays}) == 1
    if len(found) < len(arrays) or not found or len({len(array) for array in found}) > 1 or not (can_pair or same_source):
        return None
    own, other = np.mean(found[: len(first.parts)], axis=0), np.mean(found[len(first.parts) :], axis=0)
    record = arrays[0][0].record
    result = paired(own, other, Resamples(np.ones((1, record.datasets[row.dataset].n_groups)), record.seed))
    return Difference(result.value, "tokens" if result.value is not None and result.value.low is not None else "", result.p)


def _arrays(row: Row, part: Trained) -> tuple[Source, Resampled | None]:
    """From the first evaluation that kept them."""
    for source, name in part.places:
        array = source.resampled.get((row.family, Cell(name, row.metric, row.dataset, row.setting)))
        if array is not None and row.dataset in source.record.datasets:
            return source, array
    return part.places[0][0], None


def _recorded(row: Row, first: Built, second: Built) -> Difference | None:
    """As an evaluation recorded it: of two coders in the same one, in either direction."""
    if len(first.parts) > 1 or len(second.parts) > 1:
        return None
    for source, own, other in _together(first.parts[0], second.parts[0]):
        for entry in source.record.differences:
            if (entry.metric, entry.dataset, entry.setting) != (row.metric, row.dataset, row.setting) or entry.value.low is None or entry.value.high is None:
                continue
            reference = entry.reference or source.record.base or "base"
            if (entry.coder, reference) == (own, other):
                return Difference(entry.value, "tokens")
            if (entry.coder, reference) == (other, own):
                turned = {"value": -entry.value.value, "low": -entry.value.high, "high": -entry.value.low}
                return Difference(entry.value.model_copy(update=turned), "tokens")
    return None


def _together(first: Trained, second: Trained) -> Iterator[tuple[Source, str, str]]:
    for source, own in first.places:
        for place, other in second.places:
            if source is place:
                yield source, own, other


def _separate(row: Row, first: Built, second: Built) -> Difference:
    """MOVER: low = d - sqrt((a - a_low)^2 + (b_high - b)^2), high with the other ends (Zou and Donner 2008, Statistics in Medicine 27)."""
    own, other = (row.values[built.column.name] for built in (first, second))
    value = own.value - other.value
    if own.low is None or own.high is None or other.low is None or other.high is None:
        return Difference(MetricValue(value=value, n=min(own.n, other.n), unit=own.unit))
    low = value - float(np.hypot(own.value - own.low, other.high - other.value))
    high = value + float(np.hypot(own.high - own.value, other.value - other.low))
    return Difference(MetricValue(value=value, low=low, high=high, n=min(own.n, other.n), unit=own.unit), "separate")


def welch(first: Sequence[float], second: Sequence[float]) -> MetricValue:
    """mean(first) - mean(second) with the interval of Welch's t, degrees of freedom by Welch and Satterthwaite."""
    means = [float(np.mean(values)) for values in (first, second)]
    parts = [float(np.var(values, ddof=1)) / len(values) for values in (first, second)]
    value, variance = means[0] - means[1], sum(parts)
    result = MetricValue(value=value, low=value, high=value, n=min(len(first), len(second)), unit="seeds")
    if variance == 0:
        return result
    degrees = variance**2 / sum(part**2 / (len(values) - 1) for part, values in zip(parts, (first, second), strict=True))
    half = float(stdtrit(degrees, 0.975) * np.sqrt(variance))
    return result.model_copy(update={"low": value - half, "high": value + half})
