"""The picture of how strongly a latent fires: the density of its positive activations between their deciles.

Ten bars of equal area, each a tenth of the firings: narrow and high where activations crowd. Draws nothing for a latent that never fires.
"""

import math
from itertools import pairwise

from markupsafe import Markup

from sparselight.records import Card
from sparselight.report.numbers import number
from sparselight.report.svg import Scale, frame, line, rect, text

WIDTH, HEIGHT = 460.0, 150.0
LEFT, RIGHT, TOP, BOTTOM = 10.0, 450.0, 24.0, 112.0


def quantile_figure(card: Card) -> Markup | None:
    """The bars, with the median marked."""
    edges = card.quantiles
    if len(edges) < 2 or not all(map(math.isfinite, edges)) or edges[-1] <= 0 or edges[-1] <= edges[0]:
        return None
    x = Scale(0, edges[-1], LEFT, RIGHT)
    widths = [max(high - low, 1e-3 * edges[-1]) for low, high in pairwise(edges)]
    heights = [(BOTTOM - TOP) * min(widths) / width for width in widths]
    bars = [rect(x(low), BOTTOM - height, max(0.5, x(low + width) - x(low) - 0.6), height, "area-general")
            for low, width, height in zip(edges[:-1], widths, heights, strict=True)]
    middle = edges[len(edges) // 2]
    body = [text(LEFT, 14, f"{card.source}/{card.latent}: activation where it fires", "small strong"), *bars, line(LEFT, BOTTOM, RIGHT, BOTTOM, "axis"),
            line(x(middle), TOP, x(middle), BOTTOM, "divider")]
    for tick in x.ticks(5):
        body.append(text(x(tick), BOTTOM + 15, number(tick), "tiny muted", "middle"))
    body.append(text((LEFT + RIGHT) / 2, BOTTOM + 32, "activation; each bar holds an equal share of the firings", "tiny muted", "middle"))
    said = f"Activations from {number(edges[0])} to {number(edges[-1])}, half of them above {number(middle)}"
    return frame("quantiles", "How strongly the latent fires", said, (WIDTH, HEIGHT), body)
