"""Figures with a line a column: firing rates of all latents laid over each other, and metrics over a threshold.

Owns nothing of the numbers: histograms and curves come ready in the comparison. Lines differ in color and dash, so that print shows which is which.
"""

import math
from collections.abc import Mapping

from markupsafe import Markup

from sparselight.report.compare_data import Comparison, Curve, Histogram
from sparselight.report.compare_marks import Look, labelled_ticks
from sparselight.report.numbers import percent
from sparselight.report.svg import Scale, frame, line, path, rect, text, tick_decimals
from sparselight.vocab import METRICS

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 460.0, 62.0, 440.0, 46.0, 232.0
NEVER = 72.0  # room at the left for latents that never fire
BARS = 42.0  # of which their bars take


def fire_rates(comparison: Comparison, dataset: str, look: Mapping[str, Look]) -> Markup | None:
    """Shares of latents by firing rate, a line a column; those that never fire stand at the left."""
    found = [item for item in comparison.histograms if item.dataset == dataset and item.column in look]
    if not found:
        return None
    low, high = math.floor(min(_lowest(item) for item in found)), max(item.edges[-1] for item in found)
    x, y = Scale(low, high, LEFT + NEVER, RIGHT), Scale(0, 1.1 * max(max([*item.shares, item.never]) for item in found) or 1, BOTTOM, TOP)
    body = [text(8, 14, "Latents by firing rate", "strong small"), text(8, 32, dataset, "tiny muted"), *_shares_axis(y)]
    for power in range(low, int(high) + 1):
        body += [line(x(power), TOP, x(power), BOTTOM, "grid"), text(x(power), BOTTOM + 16, f"{100 * 10.0**power:g} %", "tiny muted", "middle")]
    body += [text(LEFT + BARS / 2, BOTTOM + 16, "never", "tiny muted", "middle"),
             text((x.start + RIGHT) / 2, BOTTOM + 36, "share of tokens on which it fires", "small", "middle")]
    width = BARS / len(found)
    for index, item in enumerate(found):
        shown = [step for step in zip(item.edges[:-1], item.edges[1:], item.shares, strict=True) if step[0] >= low - 1e-9]
        corners = [(x(shown[0][0]), y(0))]
        for left, right, share in shown:
            corners += [(x(left), y(share)), (x(right), y(share))]
        own = look[item.column]
        body += [path([*corners, (x(item.edges[-1]), y(0))], f"{own.stroke} curve {look[item.column].dash}"),
                 rect(LEFT + width * index, y(item.never), min(width - 1, 12), y(0) - y(item.never), f"bar-{own.color}")]
    words = "; ".join(f"{item.column}: {percent(item.never)} of latents never fire" for item in found)
    return frame(f"fire-rates-{dataset}", f"Latents by firing rate, {dataset}", words, (WIDTH, BOTTOM + 44), body)


def _lowest(item: Histogram) -> float:
    """Where its first bin with latents begins, at least one decade below 1."""
    return min([edge for edge, share in zip(item.edges[:-1], item.shares, strict=True) if share > 0], default=-1.0)


def _shares_axis(y: Scale) -> list[str]:
    ticks = y.ticks(4)
    places = tick_decimals([100 * tick for tick in ticks])
    return [part for tick in ticks for part in (line(LEFT, y(tick), RIGHT, y(tick), "grid"),
                                                text(LEFT - 7, y(tick) + 4, f"{100 * tick:.{places}f} %", "tiny muted", "end"))]


def curve_titles(comparison: Comparison) -> list[str]:
    """Metrics that have curves, in order."""
    return list(dict.fromkeys(item.metric for item in comparison.curves))


def curves(comparison: Comparison, metric: str, look: Mapping[str, Look]) -> Markup | None:
    """A metric over its parameter, a line a column."""
    found: list[Curve] = [item for item in comparison.curves if item.metric == metric and len(item.x) > 1 and item.column in look]
    if not found:
        return None
    xs, ys = [value for item in found for value in item.x], [value for item in found for value in item.y]
    pad = 0.08 * max(max(ys) - min(ys), 1e-9)
    log = min(xs) > 0 and max(xs) / min(xs) > 30
    x, y = Scale(min(xs), max(xs), LEFT, RIGHT, log=log), Scale(min(ys) - pad, max(ys) + pad, BOTTOM, TOP)
    title = METRICS[metric].title if metric in METRICS else metric
    body = [text(8, 14, title, "strong small")]
    for tick, label in labelled_ticks(y, 4):
        body += [line(LEFT, y(tick), RIGHT, y(tick), "grid"), text(LEFT - 7, y(tick) + 4, label, "tiny muted", "end")]
    for tick in x.ticks(5):
        body += [line(x(tick), TOP, x(tick), BOTTOM, "grid"), text(x(tick), BOTTOM + 16, f"{tick:g}", "tiny muted", "middle")]
    body.append(text((LEFT + RIGHT) / 2, BOTTOM + 36, found[0].x_title, "small", "middle"))
    for item in found:
        body.append(path([(x(one), y(other)) for one, other in zip(item.x, item.y, strict=True)], f"{look[item.column].stroke} curve {look[item.column].dash}"))
    words = "; ".join(f"{item.column}: {item.y[0]:.3g} to {item.y[-1]:.3g}" for item in found)
    return frame(f"curve-{metric.replace('_', '-')}", f"{title} over {found[0].x_title}", words, (WIDTH, BOTTOM + 44), body)
