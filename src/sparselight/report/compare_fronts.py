"""Metrics over l0: one panel a metric, with intervals both ways and the Pareto front of all SAEs as steps.

Owns which rows get a panel and what is left outside a picture. A point is on the front when no other SAE has an equal or better value at
an equal or smaller l0 (one of the two better). Controls take no part in the front; those without an l0 are dashed lines with their letter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from sparselight.records import MetricValue
from sparselight.report.compare_data import Column, Comparison, Row
from sparselight.report.compare_marks import Look, axis_range, bounds, labelled_ticks, shape, whisker
from sparselight.report.numbers import number, with_interval
from sparselight.report.svg import Scale, frame, line, path, text

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 460.0, 62.0, 436.0, 46.0, 262.0
MAX_PANELS = 12
SPREAD = 6  # from this ratio of largest to smallest l0 on, its axis is in powers
FIRST = ("fvu", "ce_recovered_mean", "kl_nats")
"""Shown on every dataset before what other families measured."""
SAME = {
    "explained_variance": ("fvu",), "ce_recovered_zero": ("ce_recovered_mean",), "ce_increase_nats": ("ce_recovered_mean",),
    "ce_nats": ("ce_recovered_mean", "ce_increase_nats"), "perplexity": ("ce_recovered_mean", "ce_increase_nats"), "kl_recovered_mean": ("kl_nats",),
    "kl_recovered_zero": ("kl_nats", "kl_recovered_mean"), "n_dead": ("dead_frac",), "mean_max_abs_cosine": ("mean_max_cosine",),
}
"""Metrics that say the same as another: where that one was measured, only the table shows both."""


@dataclass(frozen=True, slots=True)
class Panel:
    """A figure, with what does not fit into it in words."""

    figure: Markup
    caption: str


def front(points: Mapping[str, tuple[float, float]], better: str) -> list[str]:
    """Names of the points on the Pareto front, by l0.

    Args:
        points: l0 (lower is better) and value.
        better: `lower` or `higher` values.
    """
    sign = 1 if better == "lower" else -1
    found: list[str] = []
    least = float("inf")
    for name, (_, value) in sorted(points.items(), key=lambda item: (item[1][0], sign * item[1][1])):
        if sign * value < least:
            found.append(name)
            least = sign * value
    return found


def panels(comparison: Comparison, look: Mapping[str, Look]) -> list[Panel]:
    """Panels of the usual metrics on every dataset, then of the first form of every other one, families taking turns until there are enough."""
    made = []
    for row in _chosen(comparison):
        sparsity = l0_row(comparison, row.dataset)
        panel = sparsity and front_panel(comparison, row, sparsity, look)
        if panel:
            made.append(panel)
    return made[:MAX_PANELS]


def _chosen(comparison: Comparison) -> list[Row]:
    names = {column.name for column in comparison.saes}
    rows = [row for row in comparison.rows if row.better != "neither" and len(names & row.values.keys()) > 1]
    rows = without_same(rows)
    first = sorted((row for row in rows if row.metric in FIRST), key=lambda row: FIRST.index(row.metric))
    rest: dict[str, Row] = {}
    for row in rows:
        if row.metric not in FIRST:
            rest.setdefault(row.metric, row)
    place: dict[str, int] = {}
    for name, row in rest.items():
        place[name] = sum(other.family == row.family for other in list(rest.values())[: len(place)])
    return [*first, *sorted(rest.values(), key=lambda row: place[row.metric])]


def without_same(rows: Sequence[Row]) -> list[Row]:
    """Rows whose metric says something that no other one says."""
    measured = {row.metric for row in rows}
    return [row for row in rows if not measured & {*SAME.get(row.metric, ())}]


def first_forms(rows: Sequence[Row]) -> list[Row]:
    """Of metrics that say the same the usual one, and of each metric and dataset the first setting."""
    first: dict[tuple[str, str], Row] = {}
    for row in without_same(rows):
        first.setdefault((row.metric, row.dataset), row)
    return list(first.values())


def l0_row(comparison: Comparison, dataset: str) -> Row | None:
    """l0 on the same dataset, else on the first one where it was measured."""
    found = [row for row in comparison.rows if row.metric == "l0" and not row.setting]
    return next((row for row in found if row.dataset == dataset), found[0] if found else None)


def front_panel(comparison: Comparison, row: Row, sparsity: Row, look: Mapping[str, Look]) -> Panel | None:
    """One metric over l0; None where fewer than two SAEs have both, or all have the same value."""
    placed = [column for column in comparison.columns if column.name in row.values and column.name in sparsity.values]
    saes, controls = [column for column in placed if not column.is_control], [column for column in placed if column.is_control]
    if len({row.values[column.name].value for column in saes}) < 2:
        return None
    x = _x_scale([sparsity.values[column.name] for column in saes], [sparsity.values[column.name].value for column in controls])
    lines = {column.name: row.values[column.name] for column in comparison.controls if column.name in row.values and column not in placed}
    low, high = axis_range([row.values[column.name] for column in saes], [row.values[name].value for name in (*lines, *(column.name for column in controls))])
    y = Scale(low, high, BOTTOM, TOP)
    body = [*_axes(x, y, row, sparsity), *_reference_lines(lines, y, look), *_front(saes, row, sparsity, x, y)]
    outside = [name for name, value in lines.items() if not low <= value.value <= high]
    for column in [*controls, *saes]:
        at, value = sparsity.values[column.name], row.values[column.name]
        if x.low <= at.value <= x.high and low <= value.value <= high:
            body += _point(column, at, value, row.seeds.get(column.name, []), sparsity.seeds.get(column.name, []), x, y, look[column.name])
        else:
            outside.append(column.name)
    on_front = front({column.name: (sparsity.values[column.name].value, row.values[column.name].value) for column in saes}, row.better)
    description = f"On the front: {', '.join(on_front)}. " + "; ".join(
        f"{column.name}: {number(row.values[column.name].value)} at l0 {number(sparsity.values[column.name].value)}" for column in saes)
    figure = frame(f"front-{row.identifier}", f"{row.title} over l0", description, (WIDTH, BOTTOM + 44), body)
    return Panel(figure, _caption(row, on_front, outside))


def _caption(row: Row, on_front: Sequence[str], outside: Sequence[str]) -> str:
    words = f"On the front: {', '.join(on_front)}."
    if outside:
        words += " Outside the picture: " + ", ".join(f"{name} ({number(row.values[name].value)})" for name in outside) + "."
    return words


def _x_scale(saes: Sequence[MetricValue], controls: Sequence[float]) -> Scale:
    low, high = min(bounds(value)[0] for value in saes), max(bounds(value)[1] for value in saes)
    if low > 0 and high / low >= SPREAD:
        inside = [value for value in controls if low / 2 <= value <= 2 * high]
        return Scale(min([low, *inside]) / 1.3, max([high, *inside]) * 1.3, LEFT, RIGHT, log=True)
    return Scale(*axis_range(saes, controls), LEFT, RIGHT)


def _x_ticks(x: Scale) -> list[float]:
    """Of a logarithmic axis 1, 2 and 5 times the powers of ten: l0 seldom spans two of them."""
    if not x.log:
        return x.ticks(5)
    powers = range(-3, 8)
    return [size * 10.0**power for power in powers for size in (1, 2, 5) if x.low <= size * 10.0**power <= x.high]


def _axes(x: Scale, y: Scale, row: Row, sparsity: Row) -> list[str]:
    body = [text(8, 14, row.title, "strong small"), text(8, 32, row.where, "tiny muted"),
            text(RIGHT, 32, f"{row.better} is better", "tiny muted", "end")]
    for tick, label in labelled_ticks(y, 5):
        body += [line(LEFT, y(tick), RIGHT, y(tick), "grid"), text(LEFT - 7, y(tick) + 4, label, "tiny muted", "end")]
    for tick in _x_ticks(x):
        body += [line(x(tick), TOP, x(tick), BOTTOM, "grid"), text(x(tick), BOTTOM + 16, f"{tick:g}", "tiny muted", "middle")]
    on = f" on {sparsity.dataset}" if sparsity.dataset != row.dataset else ""
    return [*body, text((LEFT + RIGHT) / 2, BOTTOM + 36, f"l0, active latents a token{on}", "small", "middle")]


def _reference_lines(values: Mapping[str, MetricValue], y: Scale, look: Mapping[str, Look]) -> list[str]:
    """Controls without an l0, their letters at the right; letters of lines that lie close stand together."""
    inside = sorted((y(value.value), look[name].letter) for name, value in values.items() if y.low <= value.value <= y.high)
    body = [line(LEFT, at, RIGHT, at, "stroke-control dashed") for at, _ in inside]
    groups: list[tuple[float, list[str]]] = []
    for at, letter in inside:
        if groups and at - groups[-1][0] < 12:
            groups[-1][1].append(letter)
        else:
            groups.append((at, [letter]))
    return body + [text(RIGHT + 5, at + 4, "".join(letters), "tiny muted") for at, letters in groups]


def _front(saes: Sequence[Column], row: Row, sparsity: Row, x: Scale, y: Scale) -> list[str]:
    points = {column.name: (sparsity.values[column.name].value, row.values[column.name].value) for column in saes}
    corners: list[tuple[float, float]] = []
    for name in front(points, row.better):
        at, value = points[name]
        if corners:
            corners.append((x(at), corners[-1][1]))
        corners.append((x(at), y(value)))
    return [path([*corners, (RIGHT, corners[-1][1])], "front")]


def _point(
    column: Column, at: MetricValue, value: MetricValue, seeds: Sequence[float], seeds_at: Sequence[float], x: Scale, y: Scale, look: Look,
) -> list[str]:
    """A mark with its two intervals, cut at the edges, and a dot for each seed."""
    ends_x, ends_y = ([scale(min(max(end, scale.low), scale.high)) for end in bounds(item)] for scale, item in ((x, at), (y, value)))
    css = f"{look.stroke} thin"
    body = [*whisker(x(at.value), (ends_y[0], ends_y[1]), css, True), *whisker(y(value.value), (ends_x[0], ends_x[1]), css, False)]
    if len(seeds) == len(seeds_at):
        body += [f'<circle cx="{x(one):.1f}" cy="{y(other):.1f}" r="2" class="{look.stroke} thin"/>'
                 for one, other in zip(seeds_at, seeds, strict=True) if x.low <= one <= x.high and y.low <= other <= y.high]
    body.append(shape(x(at.value), y(value.value), look, 5, f"{column.name}: {with_interval(value)} at l0 {with_interval(at)}"))
    if look.letter:
        body.append(text(x(at.value) + 8, y(value.value) + 4, look.letter, "tiny muted"))
    return body
