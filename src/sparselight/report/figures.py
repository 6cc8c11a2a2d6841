"""The figures with axes: metrics by coder, training curves, evidence of every latent, firing rates.

Each function returns the SVG of one figure, or None where the data has nothing to draw; the page then says so in a sentence.
Domain and residual share one color and one shape, general and base the other; controls are drawn hollow.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from sparselight.interpret.evidence import MIN_F1
from sparselight.records import Card, EvalRecord, MetricValue
from sparselight.report.headline import REFERENCES
from sparselight.report.numbers import Format, compact, fixed, number, percent
from sparselight.report.svg import Scale, dots, escape, frame, line, mark, path, rect, shorten, text, tick_decimals
from sparselight.vocab import METRICS

WIDTH = 460.0
SIDES = {"domain": ("domain", "diamond", -9.0), "general": ("general", "circle", 9.0)}
MAX_POINTS = 400
LOWEST_RATE = 1e-5  # lower rates count in the first bin


def metric_by_coder(evaluation: EvalRecord, metric: str, form: Format = number) -> Markup | None:
    """One row a coder, one mark a dataset, a whisker for the 95 % interval; controls below a line, hollow.

    The axis covers the coders that are no controls; a control far outside it is drawn as an arrow at the edge.
    """
    rows = [row for row in evaluation.rows if row.metric == metric and row.dataset in SIDES and row.coder not in REFERENCES]
    if not rows:
        return None
    coders = sorted(dict.fromkeys((row.is_control, row.coder) for row in rows), key=lambda item: item[0])
    values = {(row.coder, row.dataset): row.value for row in rows}
    axis = Scale(*_axis_range([row.value for row in rows if not row.is_control] or [row.value for row in rows], [row.value for row in rows]), 176, 394)
    top, height = 40.0, 46.0
    bottom = top + height * len(coders) + 4
    body = _metric_legend() + _x_axis(axis, bottom, top - 8, METRICS[metric].title, form)
    for index, (is_control, coder) in enumerate(coders):
        y = top + height * (index + 0.5)
        if is_control and (index == 0 or not coders[index - 1][0]):
            body.append(line(8, y - height / 2, WIDTH - 8, y - height / 2, "divider"))
        body.append(text(166, y + (0 if is_control else 4), shorten(coder, 22), "small" if is_control else "strong small", "end"))
        if is_control:
            body.append(text(166, y + 14, "control", "tiny muted", "end"))
        for dataset, (css, shape, offset) in SIDES.items():
            if (coder, dataset) in values:
                body += _metric_mark(axis, y + offset, values[coder, dataset], css, shape, is_control, form)
    summary = "; ".join(f"{row.coder}{' (control)' if row.is_control else ''}, {row.dataset}: {form(row.value.value)}" for row in rows)
    return frame(f"by-coder-{metric.replace('_', '-')}", f"{METRICS[metric].title} by coder", summary, (WIDTH, bottom + 44), body)


def _axis_range(shown: Sequence[MetricValue], everything: Sequence[MetricValue]) -> tuple[float, float]:
    """The range of what must be seen, widened to any other value that is not far away."""
    low, high = min(_low(value) for value in shown), max(_high(value) for value in shown)
    reach = 1.5 * max(high - low, 0.02 * abs(high), 1e-9)
    near = [value for value in everything if low - reach <= value.value <= high + reach]
    low, high = min([low, *map(_low, near)]), max([high, *map(_high, near)])
    pad = 0.08 * max(high - low, 0.02 * abs(high), 1e-9)
    return low - pad, high + pad


def _low(value: MetricValue) -> float:
    return value.value if value.low is None else min(value.low, value.value)


def _high(value: MetricValue) -> float:
    return value.value if value.high is None else max(value.high, value.value)


def _metric_mark(axis: Scale, y: float, value: MetricValue, css: str, shape: str, hollow: bool, form: Format) -> list[str]:
    fill = f"stroke-{css} hollow" if hollow else f"fill-{css}"
    label = text(402, y + 4, form(value.value), "tiny")
    if not axis.low <= value.value <= axis.high:
        edge, side = (axis.start, -1) if value.value < axis.low else (axis.stop, 1)
        arrow = path([(edge - 7 * side, y - 5), (edge, y), (edge - 7 * side, y + 5)], fill, close=True)
        return [line(edge - 22 * side, y, edge - 7 * side, y, f"stroke-{css} dashed"), arrow, label]
    x = axis(value.value)
    whisker: list[str] = []
    if value.low is not None and value.high is not None:
        ends = [axis(min(max(end, axis.low), axis.high)) for end in (value.low, value.high)]
        whisker = [line(*(ends[0], y, ends[1], y), f"stroke-{css}"), *(line(end, y - 4, end, y + 4, f"stroke-{css}") for end in ends)]
    return [*whisker, mark(x, y, shape, fill), label]


def _metric_legend() -> list[str]:
    body = []
    for x, (dataset, (css, shape, _)) in zip((166, 252), SIDES.items(), strict=True):
        body += [mark(x + 5, 14, shape, f"fill-{css}"), text(x + 16, 18, dataset, "small")]
    return [*body, mark(347, 14, "circle", "stroke-muted hollow"), text(358, 18, "hollow: control", "small muted")]


def _x_axis(axis: Scale, bottom: float, top: float, title: str, form: Format, n_ticks: int = 4) -> list[str]:
    body, ticks = [], axis.ticks(n_ticks)
    for tick, label in zip(ticks, _labels(ticks, form), strict=True):
        body += [line(axis(tick), top, axis(tick), bottom, "grid"), text(axis(tick), bottom + 16, label, "tiny muted", "middle")]
    return [*body, text((axis.start + axis.stop) / 2, bottom + 36, title, "small", "middle")]


def _y_axis(axis: Scale, left: float, right: float, form: Format, n_ticks: int = 4) -> list[str]:
    body, ticks = [], axis.ticks(n_ticks)
    for tick, label in zip(ticks, _labels(ticks, form), strict=True):
        body += [line(left, axis(tick), right, axis(tick), "grid"), text(left - 7, axis(tick) + 4, label, "tiny muted", "end")]
    return body


def _labels(ticks: Sequence[float], form: Format) -> list[str]:
    """Tick labels with no more decimals than tell them apart."""
    if form is percent:
        return [f"{fixed(100 * tick, tick_decimals([100 * item for item in ticks]))} %" for tick in ticks]
    return [fixed(tick, tick_decimals(ticks)) if form is number else form(tick) for tick in ticks]


def training_curve(source: str, log: Sequence[Mapping[str, Any]]) -> Markup | None:
    """fvu of the training batches' targets over the tokens seen; the first lines of the log may run out of the picture."""
    points = [(float(entry["tokens"]), float(entry["fvu"])) for entry in log if "tokens" in entry and "fvu" in entry and math.isfinite(entry["fvu"])]
    if len(points) < 2 or points[-1][0] <= points[0][0]:
        return None
    points = points[:: max(1, len(points) // MAX_POINTS)] + points[-1:]
    settled = [fvu for _, fvu in points[len(points) // 20:]]
    high, low = max(settled), min(settled)
    pad = 0.08 * max(high - low, 0.02 * abs(high), 1e-9)
    x, y = Scale(0, points[-1][0], 58, 444), Scale(low - pad, high + pad, 184, 28)
    css = _side(source)
    clip = f"training-{source}-clip"
    body = [
        text(58, 14, f"{source} SAE: fvu in training", "strong small"), *_y_axis(y, 58, 444, number), *_x_axis(x, 184, 184, "training tokens", compact),
        f'<clipPath id="{escape(clip)}"><rect x="58" y="26" width="386" height="158"/></clipPath>',
        f'<g clip-path="url(#{escape(clip)})">{path([(x(tokens), y(fvu)) for tokens, fvu in points], f"stroke-{css} curve")}</g>',
        mark(x(points[-1][0]), y(points[-1][1]), _shape(source), f"fill-{css}", 4),
        text(440, y(points[-1][1]) - 9, number(points[-1][1]), "small", "end"),
    ]
    description = f"fvu from {number(points[0][1])} at {compact(points[0][0])} tokens to {number(points[-1][1])} at {compact(points[-1][0])} tokens"
    return frame(f"training-{source}", f"Training of the {source} SAE: fvu over tokens", description, (WIDTH, 226), body)


def evidence_plot(cards: Sequence[Card]) -> Markup | None:
    """Held-out F1 of every explained latent against the largest F1 that the same search reached with shuffled labels."""
    points: dict[str, list[tuple[float, float]]] = {}
    x, y = Scale(0, 1, 52, 444), Scale(0, 1, 350, 30)
    for card in cards:
        if (evidence := card.evidence) is not None:
            points.setdefault(card.source, []).append((x(_high(evidence.control_f1)), y(evidence.f1.value)))
    if not points:
        return None
    body = [
        rect(x(0), y(1), x(1) - x(0), y(0) - y(1), "plot-area"), *_y_axis(y, 52, 444, number, 5),
        *_x_axis(x, 350, 30, "F1 with shuffled labels (largest)", number, 5), text(52, 14, "held-out F1", "small"),
        path([(x(0), y(0)), (x(1), y(1))], "divider"), line(x(0), y(MIN_F1), x(1), y(MIN_F1), "divider"),
    ]
    at = 214.0
    for source in sorted(points):
        css = f"dots-{_shape(source)} stroke-{_side(source)}"
        body += [dots(points[source], css), mark(at, 10, "circle" if source == "base" else "square", f"fill-{_side(source)}", 4)]
        body.append(text(at + 10, 14, f"{source} ({len(points[source]):,})", "small"))
        at += 118
    body += [text(x(1) - 4, y(0.585), "below: no better than chance", "tiny muted halo", "end"),
             text(x(1) - 4, y(MIN_F1) - 5, f"F1 {MIN_F1:g}: needed to count as supported", "tiny muted halo", "end")]
    counts = ", ".join(f"{len(points[source])} of the {source} SAE" for source in sorted(points))
    return frame("evidence-plot", "Evidence: held-out F1 against F1 with shuffled labels", f"One dot an explained latent: {counts}", (WIDTH, 396), body)


def fire_rate_histogram(source: str, cards: Sequence[Card]) -> Markup | None:
    """How many latents of one SAE fire how often, on general and on domain tokens; those that never fire stand at the left."""
    own = [card for card in cards if card.source == source]
    if not own:
        return None
    rates = {"general": [card.fire_rate for card in own], "domain": [card.domain_fire_rate for card in own]}
    lowest = min([rate for side in rates.values() for rate in side if rate > 0], default=1e-3)
    x = Scale(10.0 ** math.floor(math.log10(max(lowest, LOWEST_RATE))), 1, 130, 436, log=True)
    n_bins = 4 * round(-math.log10(x.low))
    counts = {side: _bins(values, x, n_bins) for side, values in rates.items()}
    never = {side: sum(rate <= 0 for rate in values) for side, values in rates.items()}
    y = Scale(0, 1.1 * max(max(max(counts[side]), never[side]) for side in rates), 184, 42)
    body = [
        text(52, 14, f"{source} SAE: latents by firing rate", "strong small"), *_y_axis(y, 52, 436, compact),
        *_x_axis(x, 184, 42, "share of tokens on which it fires", _power), text(74, 200, "never", "tiny muted", "middle"),
    ]
    for side, css, left in (("general", "general", 58.0), ("domain", "domain", 75.0)):
        corners = [(x.start, y(0))]
        for index, height in enumerate(counts[side]):
            edges = [x.start + (x.stop - x.start) * at / n_bins for at in (index, index + 1)]
            corners += [(edge, y(height)) for edge in edges]
        body += [path([*corners, (x.stop, y(0))], f"area-{css}"), rect(left, y(never[side]), 15, y(0) - y(never[side]), f"area-{css}")]
    for at, side in ((52.0, "general"), (130.0, "domain")):
        body += [rect(at, 22, 12, 12, f"area-{side}"), text(at + 17, 32, side, "small")]
    description = "; ".join(f"{side}: {never[side]} of {len(own)} latents never fire" for side in rates)
    return frame(f"fire-rates-{source}", f"Firing rates of the {source} SAE's latents", description, (WIDTH, 226), body)


def _bins(rates: Sequence[float], axis: Scale, n_bins: int) -> list[int]:
    """How many rates above 0 lie in each of equal parts of a logarithmic axis; as `axis` does it, for many thousands at once."""
    fires = np.asarray(rates, dtype=np.float64)
    low, high, at = math.log10(axis.low), math.log10(axis.high), np.log10(np.maximum(fires[fires > 0], axis.low))
    share = (axis.start + (at - low) / (high - low) * (axis.stop - axis.start) - axis.start) / (axis.stop - axis.start)
    return np.bincount(np.minimum(n_bins - 1, (share * n_bins).astype(np.int64)), minlength=n_bins).tolist()


def _power(value: float | None) -> str:
    assert value is not None
    return f"{100 * value:g} %"


def _side(source: str) -> str:
    return "general" if source == "base" else "domain"


def _shape(source: str) -> str:
    return "circle" if source == "base" else "diamond"


def f1_strip(card: Card) -> Markup | None:
    """A line from 0 to 1 with a card's held-out F1, its interval, and the F1 of shuffled labels: what the numbers beside it say."""
    if (evidence := card.evidence) is None:
        return None
    x, css = Scale(0, 1, 6, 194), _side(card.source)
    control = line(x(0), 9, x(_high(evidence.control_f1)), 9, "stroke-muted thick")
    span = line(x(_low(evidence.f1)), 9, x(min(1.0, _high(evidence.f1))), 9, f"stroke-{css} thick")
    body = [line(x(0), 9, x(1), 9, "axis"), line(x(MIN_F1), 4, x(MIN_F1), 14, "axis"), control, span,
            mark(x(evidence.f1.value), 9, _shape(card.source), f"fill-{css}", 4.5)]
    return Markup(f'<svg class="strip" viewBox="0 0 200 18" aria-hidden="true" focusable="false">{"".join(body)}</svg>')
