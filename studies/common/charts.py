"""Figures of the studies as SVG files, of the pieces and colors that the reports are made of (`sparselight.report.svg`).

A file stands alone: it carries the colors, for light and dark pages. Marks are means over seeds with 95 % t-intervals; shapes differ with colors.
"""

from collections.abc import Mapping, Sequence

from studies.common.results import BySeed, mean_interval

from sparselight.records import MetricValue
from sparselight.report.compare_marks import Look, axis_range, bounds, labelled_ticks, shape, whisker
from sparselight.report.svg import Scale, frame, line, path, text

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 700, 400, 74, 440, 50, 340
LIGHT = ("#0068a8", "#c24e00", "#0a7d54", "#7b4fb8", "#b8325f", "#756400", "#007a86", "#6b5344")
DARK = ("#5cb6ee", "#f0a03c", "#4fc79a", "#b99af0", "#f285a8", "#d3c04a", "#4fcfdc", "#c4a48f")
SHAPES = ("circle", "square", "diamond", "up", "down")
Point = tuple[MetricValue, MetricValue]


def looks(names: Sequence[str], hollow: Sequence[str] = ()) -> dict[str, Look]:
    """Color and shape of each name; hollow ones are controls."""
    return {name: Look("control" if name in hollow else f"s{number % len(LIGHT)}", SHAPES[number % len(SHAPES)], "x" if name in hollow else "")
            for number, name in enumerate(names)}


def scatter(name: str, title: str, axes: tuple[str, str], points: Mapping[str, tuple[BySeed, BySeed]], hollow: Sequence[str] = ()) -> str:
    """One mark a name, with its interval both ways; lines through 0."""
    found = {label: (x, y) for label, own in points.items() for x, y in [(mean_interval(own[0]), mean_interval(own[1]))] if x is not None and y is not None}
    x, y = (Scale(*axis_range([point[side] for point in found.values()], [0.0]), *ends) for side, ends in ((0, (LEFT, RIGHT)), (1, (BOTTOM, TOP))))
    look = looks(list(found), hollow)
    body = [*axes_of(x, y, title, axes), *zero_lines(x, y)]
    for label, (own_x, own_y) in found.items():
        css = f"{look[label].stroke} thin"
        (left, right), (low, high) = bounds(own_x), bounds(own_y)
        body += whisker(y(own_y.value), (x(left), x(right)), css, False) + whisker(x(own_x.value), (y(low), y(high)), css, True)
        body.append(shape(x(own_x.value), y(own_y.value), look[label], 5))
    return alone(name, title, [*body, *legend(look)], look)


def lines(name: str, title: str, axes: tuple[str, str], series: Mapping[str, Mapping[str, BySeed]], with_zero: bool = True) -> str:
    """One line a name over labelled places, evenly spaced."""
    places = list(dict.fromkeys(place for own in series.values() for place in own))
    found = {label: {place: value for place, values in own.items() if (value := mean_interval(values)) is not None} for label, own in series.items()}
    y = Scale(*axis_range([value for own in found.values() for value in own.values()], [0.0] if with_zero else []), BOTTOM, TOP)
    at = {place: LEFT + (RIGHT - LEFT) * (number + 0.5) / len(places) for number, place in enumerate(places)}
    look = looks(list(found))
    body = axes_of(None, y, title, axes) + [text(middle, BOTTOM + 18, place, "tiny muted", "middle") for place, middle in at.items()]
    for number, (label, own) in enumerate(found.items()):
        aside = (number - (len(found) - 1) / 2) * 5
        points = [(at[place] + aside, y(value.value)) for place, value in own.items()]
        body.append(path(points, f"{look[label].stroke} curve"))
        for (middle, height), value in zip(points, own.values(), strict=True):
            low, high = bounds(value)
            body += [*whisker(middle, (y(low), y(high)), f"{look[label].stroke} thin", True), shape(middle, height, look[label], 4.5)]
    return alone(name, title, [*body, *legend(look)], look)


def axes_of(x: Scale | None, y: Scale, title: str, names: tuple[str, str]) -> list[str]:
    body = [text(12, 20, title, "strong")]
    for tick, label in labelled_ticks(y, 5):
        body += [line(LEFT, y(tick), RIGHT, y(tick), "grid"), text(LEFT - 8, y(tick) + 4, label, "tiny muted", "end")]
    for tick, label in labelled_ticks(x, 5, RIGHT - LEFT) if x is not None else []:
        body += [line(x(tick), TOP, x(tick), BOTTOM, "grid"), text(x(tick), BOTTOM + 18, label, "tiny muted", "middle")]
    return [*body, text((LEFT + RIGHT) / 2, BOTTOM + 42, names[0], "", "middle"), text(12, TOP - 8, names[1], "tiny muted")]


def zero_lines(x: Scale, y: Scale) -> list[str]:
    body = [line(x(0), TOP, x(0), BOTTOM, "divider")] if x.low < 0 < x.high else []
    return body + ([line(LEFT, y(0), RIGHT, y(0), "divider")] if y.low < 0 < y.high else [])


def legend(look: Mapping[str, Look]) -> list[str]:
    return [part for number, (label, own) in enumerate(look.items())
            for part in (shape(RIGHT + 26, TOP + 8 + 22 * number, own, 5), text(RIGHT + 40, TOP + 12 + 22 * number, label, "small"))]


def alone(name: str, title: str, body: Sequence[str], look: Mapping[str, Look]) -> str:
    """The figure as a file of its own."""
    def theme(colors: Sequence[str], ink: str, muted: str, grid: str, back: str) -> str:
        series = "".join(f".fill-s{number}{{fill:{color};stroke:{color}}}.stroke-s{number}{{stroke:{color}}}" for number, color in enumerate(colors))
        return (f"{series}.back{{fill:{back}}}text{{fill:{ink}}}.muted{{fill:{muted}}}.grid{{stroke:{grid}}}.divider{{stroke:{muted};stroke-dasharray:4 4}}"
                f".stroke-control{{stroke:{muted}}}.hollow{{fill:{back};stroke-width:2}}")

    style = ("text{font:12.5px system-ui,sans-serif}.strong{font-weight:650;font-size:14px}.tiny{font-size:12px}line,.curve,.thin{stroke-width:1.3}"
             ".curve{fill:none;stroke-width:2}" + theme(LIGHT, "#1b1f24", "#57606a", "#d5dae0", "#ffffff")
             + f"@media (prefers-color-scheme:dark){{{theme(DARK, '#e6e9ed', '#a2acb8', '#363d46', '#14171b')}}}")
    back = f'<style>{style}</style><rect class="back" width="{WIDTH}" height="{HEIGHT}"/>'
    svg = frame(name, title, f"{title}. Shown: {', '.join(look)}.", (WIDTH, HEIGHT), [back, *body])
    return str(svg).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + "\n"
