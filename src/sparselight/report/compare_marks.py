"""How columns of a comparison look, everywhere on its page: a color and a shape a series, a letter a control.

Owns the palette's size (the style sheet holds the colors) and the legend. Color is never the only difference: shapes repeat after five,
colors after eight, so that forty series differ. Controls are gray and hollow; where they are reference lines they carry their letter.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from sparselight.records import MetricValue
from sparselight.report.compare_data import Comparison
from sparselight.report.numbers import fixed
from sparselight.report.svg import Scale, escape, line, mark, nice_step, path, tick_decimals

N_COLORS = 8
SHAPES = ("circle", "square", "diamond", "up", "down")
DASHES = ("", "dash-1", "dash-2", "dash-3")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Look:
    """Of one column."""

    color: str
    """Class suffix: `s0` .. `s7`, `control`."""
    shape: str
    letter: str = ""
    """Of a control."""
    dash: str = ""
    """Class of its lines: those of one color take turns."""

    @property
    def fill(self) -> str:
        return "stroke-control hollow" if self.letter else f"fill-{self.color}"

    @property
    def stroke(self) -> str:
        return f"stroke-{self.color}"


def looks(comparison: Comparison) -> dict[str, Look]:
    """Every column's look, by name."""
    series = list(dict.fromkeys(column.series for column in comparison.saes))
    number = {name: index for index, name in enumerate(series)}
    found: dict[str, Look] = {}
    for column in comparison.saes:
        color = f"s{number[column.series] % N_COLORS}"
        n_before = sum(other.color == color for other in found.values())
        found[column.name] = Look(color, SHAPES[number[column.series] % len(SHAPES)], dash=DASHES[n_before % len(DASHES)])
    return found | {column.name: Look("control", "circle", _letter(index)) for index, column in enumerate(comparison.controls)}


def _letter(index: int) -> str:
    more, own = divmod(index, len(LETTERS))
    return LETTERS[own] + (str(more) if more else "")


def shape(x: float, y: float, look: Look, size: float = 5, tip: str = "") -> str:
    """A column's mark, with a tip that browsers show while the pointer rests on it."""
    far = 1.2 * size
    if look.shape in ("up", "down"):
        side = 1 if look.shape == "up" else -1
        drawn = path([(x, y - side * far), (x + far, y + side * 0.8 * far), (x - far, y + side * 0.8 * far)], look.fill, close=True)
    else:
        drawn = mark(x, y, look.shape, look.fill, size * (0.9 if look.shape == "square" else 1))
    return f"<g><title>{escape(tip)}</title>{drawn}</g>" if tip else drawn


def whisker(at: float, ends: tuple[float, float], css: str, upright: bool) -> list[str]:
    """An interval through a mark, with caps."""
    low, high = ends
    if upright:
        return [line(at, low, at, high, css), *(line(at - 3.5, end, at + 3.5, end, css) for end in ends)]
    return [line(low, at, high, at, css), *(line(end, at - 3.5, end, at + 3.5, css) for end in ends)]


def key(look: Look) -> Markup:
    """A column's mark for the legend and the head of the table."""
    drawn = shape(8, 8, look, 5)
    return Markup(f'<svg class="swatch" viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">{drawn}</svg>')


def line_key(look: Look) -> Markup:
    """A column's line for the legend of curves."""
    drawn = line(1, 8, 31, 8, f"{look.stroke} curve {look.dash}")
    return Markup(f'<svg class="swatch" viewBox="0 0 32 16" width="32" height="16" aria-hidden="true">{drawn}</svg>')


def bounds(value: MetricValue) -> tuple[float, float]:
    """The interval, or the value twice where there is none."""
    low = value.value if value.low is None else min(value.low, value.value)
    high = value.value if value.high is None else max(value.high, value.value)
    return low, high


def axis_range(shown: Sequence[MetricValue], near: Sequence[float]) -> tuple[float, float]:
    """The range of what must be seen, widened to further values that are not far away."""
    low, high = min(bounds(value)[0] for value in shown), max(bounds(value)[1] for value in shown)
    reach = 1.5 * max(high - low, 0.02 * abs(high), 1e-9)
    inside = [value for value in near if low - reach <= value <= high + reach]
    low, high = min([low, *inside]), max([high, *inside])
    pad = 0.08 * (high - low) if high - low > 1e-6 * abs(high) else 0.1 * abs(high) or 0.5
    return low - pad, high + pad


def labelled_ticks(scale: Scale, n_ticks: int, room: float = math.inf) -> list[tuple[float, str]]:
    """Round numbers inside a linear range, with as many decimals as tell them apart; fewer where labels side by side would not fit into `room`."""
    places = tick_decimals([0.0, nice_step((scale.high - scale.low) / n_ticks)])
    found = [(tick, fixed(tick, places)) for tick in scale.ticks(n_ticks)]
    while len(found) > 1 and sum(9 * len(label) for _, label in found) > room:
        found = found[::2]
    return found
