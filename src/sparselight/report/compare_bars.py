"""One small figure a metric: a bar with its interval for every SAE, and the controls as reference lines with their letters.

Owns when a bar may stand: it begins at 0, so where all values lie far from 0 and close together there are marks on a cut axis instead, and
the figure says so. Seeds are dots. What was not measured of an SAE is said in its line.
"""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from sparselight.records import MetricValue
from sparselight.report.compare_data import Comparison, Row
from sparselight.report.compare_marks import Look, axis_range, bounds, labelled_ticks, shape, whisker
from sparselight.report.numbers import DASH, number, with_interval
from sparselight.report.svg import Scale, escape, frame, line, rect, shorten, text

WIDTH, LEFT, RIGHT, LINE = 460.0, 146.0, 376.0, 24.0
CLOSE = 0.3  # bars of one sign whose spread is a smaller share of the largest would all look alike: marks on a cut axis instead
NAME_CHARS = 20


def bars(comparison: Comparison, row: Row, look: Mapping[str, Look]) -> Markup | None:
    """The figure of one row; None where no SAE has a value."""
    saes = [column for column in comparison.saes if column.name in row.values or column.name in row.undefined]
    shown = [row.values[column.name] for column in saes if column.name in row.values]
    if not shown:
        return None
    controls = {column.name: row.values[column.name].value for column in comparison.controls if column.name in row.values}
    axis, from_zero = _axis(shown, list(controls.values()), [value for column in saes for value in row.seeds.get(column.name, [])])
    top, bottom = 62.0, 62.0 + LINE * len(saes)
    body = [*_head(row, from_zero), *_grid(axis, top - 4, bottom), *_reference_lines(controls, axis, top - 4, bottom, look)]
    for index, column in enumerate(saes):
        y = top + LINE * (index + 0.5)
        body.append(text(LEFT - 10, y + 4, shorten(column.name, NAME_CHARS), "strong tiny" if column.name == row.best and row.is_clear else "tiny", "end"))
        if column.name in row.values:
            body += _bar(row.values[column.name], row.seeds.get(column.name, []), axis, y, look[column.name], from_zero, column.name)
        else:
            body.append(text(LEFT + 4, y + 4, "not defined", "tiny muted"))
    words = "; ".join(f"{name}: {with_interval(value)}" for name, value in row.values.items())
    return frame(f"bars-{row.identifier}", f"{row.title}, {row.where}" if row.where else row.title, words, (WIDTH, bottom + 24), body)


def _axis(shown: Sequence[MetricValue], controls: Sequence[float], seeds: Sequence[float]) -> tuple[Scale, bool]:
    """The range, and whether bars may begin at 0. Controls far outside are named at the edge and do not widen it."""
    ends = [end for value in shown for end in bounds(value)] + list(seeds)
    low, high = min(ends), max(ends)
    one_sign = low > 0 or high < 0
    from_zero = not one_sign or high - low >= CLOSE * max(abs(low), abs(high))
    low, high = axis_range(shown, [*controls, *seeds])
    if from_zero:
        inside = [value for value in (*ends, *controls) if low <= value <= high]
        low, high = low if min(inside) < 0 else 0.0, high if max(inside) > 0 else 0.0
    return Scale(low, high if high > low else low + 1, LEFT, RIGHT), from_zero


def _head(row: Row, from_zero: bool) -> list[str]:
    better = "" if row.better == "neither" else f"{row.better} is better"
    cut = "" if from_zero else "axis cut"
    return [text(8, 14, shorten(row.title, 46), "strong small"), text(8, 32, shorten(row.where, 44), "tiny muted"),
            text(WIDTH - 8, 32, ", ".join(part for part in (better, cut) if part), "tiny muted", "end")]


def _grid(axis: Scale, top: float, bottom: float) -> list[str]:
    body = []
    for tick, label in labelled_ticks(axis, 4, RIGHT - LEFT):
        body += [line(axis(tick), top, axis(tick), bottom, "axis" if tick == 0 else "grid"), text(axis(tick), bottom + 16, label, "tiny muted", "middle")]
    return body


def _reference_lines(values: Mapping[str, float], axis: Scale, top: float, bottom: float, look: Mapping[str, Look]) -> list[str]:
    """A dashed line a control; letters of lines that lie close stand together, those outside at the edge with an arrow."""
    body, groups = [], list[tuple[float, list[str]]]()
    low, high = ([look[name].letter for name, value in values.items() if outside(value)] for outside in (lambda v: v < axis.low, lambda v: v > axis.high))
    for value, name in sorted((value, name) for name, value in values.items() if axis.low <= value <= axis.high):
        at = axis(value)
        body.append(line(at, top, at, bottom, "stroke-control dashed"))
        if groups and at - groups[-1][0] < 9 * (1 + len(groups[-1][1])):
            groups[-1][1].append(look[name].letter)
        else:
            groups.append((at, [look[name].letter]))
    body += [text(at, top - 4, " ".join(letters), "tiny muted", "middle") for at, letters in groups]
    if low:
        body.append(text(axis.start - 10, top - 4, f"\u2190 {' '.join(low)}", "tiny muted", "end"))
    if high:
        body.append(text(WIDTH - 6, top - 4, f"{' '.join(high)} \u2192", "tiny muted", "end"))
    return body


def _bar(value: MetricValue, seeds: Sequence[float], axis: Scale, y: float, look: Look, from_zero: bool, name: str) -> list[str]:
    body = []
    at = axis(value.value)
    if from_zero:
        start = axis(0)
        body.append(rect(min(start, at), y - 7, abs(at - start), 14, f"bar-{look.color}", 1))
    if value.low is not None and value.high is not None:
        ends = [axis(min(max(end, axis.low), axis.high)) for end in (value.low, value.high)]
        body += whisker(y, (ends[0], ends[1]), "whisker" if from_zero else look.stroke, False)
    body += [f'<circle cx="{axis(seed):.1f}" cy="{y:.1f}" r="2.2" class="seed"/>' for seed in seeds if axis.low <= seed <= axis.high]
    tip = f"{name}: {with_interval(value)}"
    body.append(f"<g><title>{escape(tip)}</title>{rect(LEFT, y - 10, RIGHT - LEFT, 20, 'hit')}</g>" if from_zero else shape(at, y, look, 4.5, tip))
    return [*body, text(RIGHT + 8, y + 4, number(value.value) or DASH, "tiny")]
