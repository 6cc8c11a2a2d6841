"""Figures of a recommender's run: latents with a verified concept beside controls, concepts turned up and down, less popularity and what it costs.

Owns what is drawn; numbers come from the records. What the SAE does is a filled diamond, the plain way a circle, random latents and other controls are
hollow, so that color is never the only difference. Each function returns one SVG, or None where there is nothing to draw.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from sparselight.records import BalanceDose, BalanceRecord, ConceptDictionaryRecord, ConceptSummary, MetricValue, TuningDose, TuningRecord
from sparselight.report.compare_marks import bounds, labelled_ticks
from sparselight.report.numbers import Format, number, percent
from sparselight.report.svg import Scale, escape, frame, line, mark, path, shorten, text

WIDTH, HEIGHT = 460.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 60.0, 444.0, 56.0, 244.0
ROUTES = {"label": "diamond", "terms": "circle", "items": "square"}


@dataclass(frozen=True, slots=True)
class Way:
    """One line of a figure."""

    name: str
    shape: str
    fill: str
    stroke: str


OWN = Way("latents", "diamond", "fill-domain", "stroke-domain")
PLAIN = Way("penalty on popular items", "circle", "fill-general", "stroke-general")
RANDOM = Way("random latents", "square", "stroke-muted hollow", "stroke-muted dashed")
Point = tuple[float, MetricValue, str]


def verified_share(record: ConceptDictionaryRecord) -> Markup | None:
    """Of each coder's tested latents the share with a confidence of 0.8 or more, by route, with Wilson's intervals."""
    rows = [row for row in record.summaries if row.share_at_80 is not None]
    if not rows:
        return None
    coders = list(dict.fromkeys(row.coder for row in sorted(rows, key=lambda row: row.is_control)))
    values: dict[tuple[str, str], tuple[ConceptSummary, MetricValue | None]] = {(row.coder, row.route): (row, row.share_at_80) for row in rows}
    high = max(bounds(share)[1] for _, share in values.values() if share is not None)
    x, top, height = Scale(0.0, min(1.0, max(0.05, 1.05 * high)), 150, 440), 46.0, 54.0
    bottom = top + height * len(coders)
    body = _legend([(route, shape, "fill-domain") for route, shape in ROUTES.items()], 150)
    for tick, label in labelled_ticks(x, 5):
        body += [line(x(tick), top - 8, x(tick), bottom, "grid"), text(x(tick), bottom + 18, label, "tiny muted", "middle")]
    body.append(text(295, bottom + 38, "share of tested latents at 0.8 or more", "small", "middle"))
    for index, coder in enumerate(coders):
        middle = top + height * (index + 0.5)
        is_control = index > 0
        body.append(text(140, middle + 4, shorten(coder_name(coder), 20), "small" if is_control else "strong small", "end"))
        for offset, (route, shape) in zip((-14, 0, 14), ROUTES.items(), strict=True):
            if (coder, route) in values:
                row, share = values[coder, route]
                assert share is not None
                low, end = bounds(share)
                body.append(line(x(low), middle + offset, x(end), middle + offset, "stroke-muted" if is_control else "stroke-domain"))
                tip = f"{coder}, {route}: {row.n_at_80} of {row.n_scored}"
                body.append(_tipped(mark(x(share.value), middle + offset, shape, "stroke-muted hollow" if is_control else "fill-domain", 4.5), tip))
    words = "; ".join(f"{row.coder}, {row.route}: {row.n_at_80} of {row.n_scored}" for row in rows)
    return frame("verified-share", "Latents with a verified concept", words, (WIDTH, bottom + 48), body)


def coder_name(coder: str) -> str:
    return "the SAE" if coder == "sae" else coder


def share_by_strength(record: TuningRecord, number_of: int = 0) -> Markup | None:
    """Share of the concept's items in the first k over what its latents are multiplied by or get added, beside random latents."""
    def points(doses: Sequence[TuningDose]) -> list[Point]:
        return [(dose.strength, dose.share, f"{number(dose.strength)}: {percent(dose.share.value)}") for dose in sorted(doses, key=lambda dose: dose.strength)]

    lines = [(OWN, points(record.doses)), *((RANDOM, points(doses)) for doses in record.controls)]
    x_title = "latents multiplied by" if record.operation == "scale" else "added, in means of each latent"
    y_title = f"share of its items in the first {record.k}"
    return _curves(f"tuned-{number_of}", f"{record.concept}: {y_title}", (x_title, y_title), lines, percent)


def quality_by_popularity(record: BalanceRecord) -> Markup | None:
    """NDCG@k over the mean popularity of what is recommended: further left and higher is better."""
    def points(doses: Sequence[BalanceDose]) -> list[Point]:
        return [(dose.popularity.value, dose.ndcg, f"strength {number(dose.strength)}: NDCG@{record.k} {number(dose.ndcg.value)}") for dose in doses]

    lines = [(OWN, points(record.doses)), (PLAIN, points(record.penalty)), (RANDOM, points(record.control))]
    titles = ("mean training interactions of a recommended item", f"NDCG@{record.k}")
    return _curves("balance", "Quality over popularity", titles, lines, number, whiskers=False)


def _curves(name: str, title: str, titles: tuple[str, str], lines: Sequence[tuple[Way, Sequence[Point]]], form: Format,
            whiskers: bool = True) -> Markup | None:
    """Lines of points; an interval is drawn for the SAE's own latents alone, so that lines stay apart.

    Args:
        titles: of the axis below and of the one at the left.
        whiskers: False where points lie too close for them.
    """
    every = [point for _, points in lines for point in points]
    if not every:
        return None
    own = [bounds(value) for _, value, _ in lines[0][1]] if whiskers else []
    y_low = min([*(value.value for _, value, _ in every), *(low for low, _ in own)])
    y_high = max([*(value.value for _, value, _ in every), *(high for _, high in own)])
    xs = [at for at, _, _ in every]
    pads = [0.06 * (high - low) or 0.05 * abs(high) or 0.5 for low, high in ((y_low, y_high), (min(xs), max(xs)))]
    x, y = Scale(min(xs) - pads[1], max(xs) + pads[1], LEFT, RIGHT), Scale(y_low - pads[0], y_high + pads[0], BOTTOM, TOP)
    ways = list(dict.fromkeys(way for way, _ in lines))
    body = [text(8, 15, titles[1], "small strong"), *_legend([(way.name, way.shape, way.fill) for way in ways], 8, 36)]
    for tick, label in labelled_ticks(y, 5):
        body += [line(LEFT, y(tick), RIGHT, y(tick), "grid"), text(LEFT - 8, y(tick) + 4, label, "tiny muted", "end")]
    for tick, label in labelled_ticks(x, 5):
        body += [line(x(tick), TOP, x(tick), BOTTOM, "grid"), text(x(tick), BOTTOM + 18, label, "tiny muted", "middle")]
    body.append(text((LEFT + RIGHT) / 2, BOTTOM + 42, titles[0], "small", "middle"))
    for way, points in reversed(lines):  # the SAE's latents on top
        at = [(x(left), y(value.value)) for left, value, _ in points]
        body.append(path(at, f"{way.stroke} curve"))
        for (_, value, tip), (left, top) in zip(points, at, strict=True):
            if whiskers and way is OWN and value.low is not None and value.high is not None:
                body.append(line(left, y(value.low), left, y(value.high), way.stroke))
            body.append(_tipped(mark(left, top, way.shape, way.fill, 4.5 if way is OWN else 3.8), f"{way.name}, {tip}"))
    words = "; ".join(f"{way.name}: {form(points[0][1].value)} to {form(points[-1][1].value)}" for way, points in lines if points)
    return frame(name, title, words, (WIDTH, HEIGHT), body)


def _legend(entries: Sequence[tuple[str, str, str]], left: float, top: float = 18.0) -> list[str]:
    body = []
    for name, shape, css in entries:
        body += [mark(left + 6, top - 4, shape, css, 4.5), text(left + 16, top, name, "tiny muted")]
        left += 36 + 6.6 * len(name)
    return body


def _tipped(drawn: str, tip: str) -> str:
    return f"<g><title>{escape(tip)}</title>{drawn}</g>"
