"""Small pieces of SVG: scales, axes, marks, and the frame that gives every figure its title, description and unique ids.

Owns the escaping inside figures. Colors are classes that the page's style sheet fills in, for light and dark; no figure needs a
script or anything from outside. Coordinates are in user units; the page scales a figure to its column.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps [low, high] to [start, stop], linearly or in powers of ten."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (math.log10(item) for item in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return self.start + (at - low) / (high - low) * (self.stop - self.start)

    def ticks(self, n_ticks: int = 5) -> list[float]:
        """Round numbers inside the range, about `n_ticks` of them."""
        if self.log:
            powers = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            return [10.0**power for power in powers]
        step = nice_step((self.high - self.low) / max(1, n_ticks))
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


def tick_decimals(ticks: Sequence[float]) -> int:
    """The decimals that tell evenly spaced ticks apart."""
    step = ticks[1] - ticks[0] if len(ticks) > 1 else ticks[0] if ticks else 1.0
    return max(0, -math.floor(math.log10(abs(step)) + 1e-9)) if step else 0


def nice_step(step: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(size * power for size in (1, 2, 5, 10) if size * power >= step * (1 - 1e-9))


def escape(value: object) -> str:
    return html.escape(str(value), quote=True)


def frame(name: str, title: str, description: str, size: tuple[float, float], body: Sequence[str]) -> Markup:
    """A whole figure.

    Args:
        name: unique on the page; the ids derive from it.
        size: width and height in user units.
    """
    width, height = size
    return Markup(
        f'<svg class="figure {escape(name)}" viewBox="0 0 {width:g} {height:g}" role="img" aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(description)}</desc>{"".join(body)}</svg>'
    )


def text(x: float, y: float, words: object, css: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}">{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{css}"/>'


def rect(x: float, y: float, width: float, height: float, css: str, radius: float = 0) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(0.0, width):.1f}" height="{max(0.0, height):.1f}" rx="{radius:g}" class="{css}"/>'


def path(points: Sequence[tuple[float, float]], css: str, close: bool = False) -> str:
    """A line through points."""
    steps = " ".join(f"{'M' if index == 0 else 'L'}{x:.1f} {y:.1f}" for index, (x, y) in enumerate(points))
    return f'<path d="{steps}{"Z" if close else ""}" class="{css}"/>'


def dots(points: Sequence[tuple[float, float]], css: str) -> str:
    """Many equal dots as one path of points: the shape is the line cap that the style sheet gives the class."""
    return f'<path d="{"".join(f"M{x:.1f} {y:.1f}h0" for x, y in points)}" class="dots {css}"/>'


def mark(x: float, y: float, shape: str, css: str, size: float = 5) -> str:
    """One marker: a `circle`, `square` or `diamond`, so that color is never the only difference."""
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:g}" class="{css}"/>'
    if shape == "square":
        return rect(x - size, y - size, 2 * size, 2 * size, css)
    far = size * 1.25
    return path([(x, y - far), (x + far, y), (x, y + far), (x - far, y)], css, close=True)


def shorten(words: str, n_chars: int) -> str:
    return words if len(words) <= n_chars else words[: n_chars - 1] + "\u2026"
