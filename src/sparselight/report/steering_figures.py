"""Figures of a steering study: effect over strength, effect over side effect, side effect over strength; one line a kind of method.

Owns what is drawn: the latent's intervals, baselines as thin lines. Numbers come from the record. Kinds differ in color, dash and shape, so that print shows
which is which; a kind with several methods is drawn as several lines of one look.
"""

from collections.abc import Callable, Sequence

from markupsafe import Markup

from sparselight.records import Dose, MetricValue, Response, SteeringRecord
from sparselight.report.compare_marks import Look, bounds, labelled_ticks, shape, whisker
from sparselight.report.numbers import number
from sparselight.report.svg import Scale, frame, line, path, text

WIDTH, HEIGHT = 460.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 66.0, 444.0, 40.0, 244.0
LOWEST_KL = 1e-4  # nats a token; what is smaller stands at the left edge
LOOKS: dict[str, Look] = {
    "latent": Look("s0", "circle"), "difference of means": Look("s1", "square", dash="dash-1"), "random latent": Look("s2", "diamond", dash="dash-2"),
    "random direction": Look("s7", "up", dash="dash-3"), "prompt": Look("s3", "down"), "other concept": Look("s4", "square", dash="dash-2"),
}
Point = tuple[float, MetricValue]


def effect_by_strength(study: SteeringRecord) -> Markup:
    """The goal's value over the strength, up to the latent's largest."""
    last = study.responses[0].doses[-1].strength
    return _figure("effect-strength", "Goal over strength", "strength", study.goal_unit, study.responses,
                   lambda dose: (dose.strength, dose.effect) if dose.strength <= last else None)


def effect_by_kl(study: SteeringRecord) -> Markup:
    """The change of the goal over the change of general text: further up at the same place is the better method."""
    return _figure("effect-kl", "Change of the goal over side effect", "KL a token on general text, nats", f"change of {study.goal_unit}", study.responses,
                   lambda dose: (max(LOWEST_KL, dose.kl_nats.value), dose.change) if dose.strength and dose.kl_nats else None, log=True)


def kl_by_strength(study: SteeringRecord) -> Markup:
    """The side effect over the strength."""
    last = study.responses[0].doses[-1].strength
    return _figure("kl-strength", "Side effect over strength", "strength", "KL a token on general text, nats", study.responses,
                   lambda dose: (dose.strength, dose.kl_nats) if dose.kl_nats and dose.strength <= last else None)


def _figure(name: str, title: str, x_title: str, y_title: str, responses: Sequence[Response], point: Callable[[Dose], Point | None],
            log: bool = False) -> Markup:
    lines = [(response, [found for found in map(point, response.doses) if found is not None]) for response in responses]
    points = [found for _, own in lines for found in own]
    if not points:
        return Markup()
    own = lines[0][1] or points
    xs = [x for x, _ in points]
    ys = [value for _, value in points]
    ends = [bounds(value) for _, value in own]
    y_low, y_high = min([*(value.value for value in ys), *(low for low, _ in ends)]), max([*(value.value for value in ys), *(high for _, high in ends)])
    pad = 0.06 * (y_high - y_low) or 0.05 * abs(y_high) or 0.5
    x_low, x_high = (min(xs) / 1.3, max(xs) * 1.3) if log else (0.0, max(xs) * 1.03 or 1.0)
    x, y = Scale(x_low, x_high, LEFT, RIGHT, log=log), Scale(y_low - pad, y_high + pad, BOTTOM, TOP)
    body = [text(8, 15, y_title, "small strong"), *_axes(x, y, x_title)]
    for response, found in reversed(lines):  # the latent on top
        body += _line(response, found, x, y)
    words = "; ".join(f"{response.method}: {number(found[0][1].value)} to {number(found[-1][1].value)}" for response, found in lines if found)
    return frame(name, title, words, (WIDTH, HEIGHT), body)


def _axes(x: Scale, y: Scale, x_title: str) -> list[str]:
    body = []
    for tick, label in labelled_ticks(y, 5):
        body += [line(LEFT, y(tick), RIGHT, y(tick), "grid"), text(LEFT - 8, y(tick) + 4, label, "tiny muted", "end")]
    ticks = x.ticks(5)
    for tick in ticks:
        body += [line(x(tick), TOP, x(tick), BOTTOM, "grid"), text(x(tick), BOTTOM + 18, f"{tick:g}", "tiny muted", "middle")]
    if y.low < 0 < y.high:
        body.append(line(LEFT, y(0), RIGHT, y(0), "axis"))
    return [*body, text((LEFT + RIGHT) / 2, BOTTOM + 42, x_title, "small", "middle")]


def _line(response: Response, found: Sequence[Point], x: Scale, y: Scale) -> list[str]:
    look, is_latent = LOOKS[response.kind], response.kind == "latent"
    at = [(x(where), y(value.value)) for where, value in found]
    body = [path(at, f"{look.stroke} {'curve' if is_latent else 'thin'} {look.dash}")] if len(at) > 1 else []
    for (where, value), (left, top) in zip(found, at, strict=True):
        if is_latent and value.low is not None and value.high is not None:
            body += whisker(left, (y(value.low), y(value.high)), f"{look.stroke} thin", upright=True)
        body.append(shape(left, top, look, 4.5 if is_latent else 3.5, f"{response.method}, {where:.3g}: {number(value.value)}"))
    return body
