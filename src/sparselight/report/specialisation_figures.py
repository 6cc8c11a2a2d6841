"""The figures of the page of a specialization: gain against forgetting, coverage by frequency, more text of the domain.

Each returns the SVG, or None where there is nothing to draw. Marks are those of `compare_marks`: a color and a shape a variant, controls hollow.
"""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from sparselight.records import MetricValue
from sparselight.report.compare_marks import Look, bounds, labelled_ticks, shape, whisker
from sparselight.report.numbers import compact, percent, with_interval
from sparselight.report.specialisation_data import BASE, SpecialisationData, Values
from sparselight.report.svg import Scale, frame, line, path, rect, text

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 460.0, 62.0, 440.0, 40.0, 300.0
LABEL_HEIGHT = 14.0
Changes = dict[str, tuple[MetricValue, MetricValue]]


def trade_off(found: Values, names: Sequence[str], look: Mapping[str, Look], identifier: str, title: str) -> Markup | None:
    """Relative change of fvu to the base: general text across, the domain upwards, with interval crosses; the base is where the lines meet.

    What lies far to the right of all others (an SAE that lost general text) stands at the edge with an arrow, so that the others can be told apart.
    """
    changes: Changes = {name: (general, domain) for name in names if (general := found.change(name, "general")) and (domain := found.change(name, "domain"))}
    if not changes:
        return None
    x, y = _axis([general for general, _ in changes.values()], LEFT, RIGHT), _axis([domain for _, domain in changes.values()], BOTTOM, TOP)
    body = [rect(LEFT, TOP, RIGHT - LEFT, BOTTOM - TOP, "plot-area"), text(8, 14, title, "strong small")]
    for tick, label in labelled_ticks(Scale(100 * y.low, 100 * y.high, BOTTOM, TOP), 5):
        body += [line(LEFT, y(tick / 100), RIGHT, y(tick / 100), "grid"), text(LEFT - 7, y(tick / 100) + 4, f"{label} %", "tiny muted", "end")]
    for tick, label in labelled_ticks(Scale(100 * x.low, 100 * x.high, LEFT, RIGHT), 5, 260):
        body += [line(x(tick / 100), TOP, x(tick / 100), BOTTOM, "grid"), text(x(tick / 100), BOTTOM + 16, f"{label} %", "tiny muted", "middle")]
    body += [line(x(0), TOP, x(0), BOTTOM, "divider"), line(LEFT, y(0), RIGHT, y(0), "divider"),
             text(8, 31, "change of domain fvu: lower is a gain", "tiny muted"),
             text((LEFT + RIGHT) / 2, BOTTOM + 36, "change of general fvu: to the right is forgetting", "small", "middle")]
    taken: list[float] = []
    for name, (general, domain) in sorted(changes.items(), key=lambda item: item[1][1].value):
        body += _cross(name, general, domain, x, y, look[name], taken)
    words = "; ".join(f"{name}: domain {percent(domain.value)}, general {percent(general.value)}" for name, (general, domain) in changes.items())
    return frame(f"trade-off-{identifier}", title, words, (WIDTH, BOTTOM + 44), body)


def _axis(values: Sequence[MetricValue], start: float, stop: float) -> Scale:
    """From the smallest to the largest interval end, 0 included; values beyond three times the middle of all (by size) are left to the edge."""
    ends = [end for value in values for end in bounds(value)]
    sizes = sorted(abs(value.value) for value in values)
    reach = max(4 * sizes[len(sizes) // 2], 0.02)
    inside = [end for end in ends if abs(end) <= reach] or ends
    low, high = min([0.0, *inside]), max([0.0, *inside])
    pad = 0.1 * max(high - low, 1e-6)
    return Scale(low - pad, high + pad, start, stop)


def _cross(name: str, general: MetricValue, domain: MetricValue, x: Scale, y: Scale, look: Look, taken: list[float]) -> list[str]:
    """A mark with its intervals, or with its name where it stands at the edge; `taken` are the heights of such names so far, from below."""
    at, up = (min(max(value.value, axis.low), axis.high) for value, axis in ((general, x), (domain, y)))
    is_far = (at, up) != (general.value, domain.value)
    ends_x, ends_y = ([min(max(end, axis.low), axis.high) for end in bounds(value)] for value, axis in ((general, x), (domain, y)))
    body = [] if is_far else [*whisker(y(up), (x(ends_x[0]), x(ends_x[1])), "whisker", False), *whisker(x(at), (y(ends_y[0]), y(ends_y[1])), "whisker", True)]
    near = max(LEFT + 8, min(RIGHT - 8, x(at))), max(TOP + 8, min(BOTTOM - 8, y(up)))
    tip = f"{name}: domain {with_interval(domain, percent)}, general {with_interval(general, percent)}"
    body.append(shape(near[0], near[1], look, 5.5, tip))
    if is_far:
        words = f"{name}: {percent(general.value)} general" if general.value != at else f"{name}: {percent(domain.value)} domain"
        taken.append(min([near[1] + 4, *(height - LABEL_HEIGHT for height in taken)]))
        body.append(text(near[0] - 12, taken[-1], words, "tiny halo", "end"))
    return body


def coverage_by_frequency(data: SpecialisationData, level: str, names: Sequence[str], look: Mapping[str, Look]) -> Markup | None:
    """Recall of concepts by how often they occur in the held-out text of the domain: bins in powers of 2, only those with concepts that were measured."""
    if data.coverage_bins is None:
        return None
    rows = [row for row in data.coverage_bins.to_pylist()
            if row["dataset"] == "domain" and row["level"] == level and row["n_measured"] and row["mean_recall"] is not None]
    starts = sorted({row["from_count"] for row in rows})
    if len(starts) < 2:
        return None
    at = {start: LEFT + (RIGHT - LEFT) * (number + 0.5) / len(starts) for number, start in enumerate(starts)}
    highest = max(row["mean_recall"] for row in rows)
    y = Scale(0, max(1.08 * highest, 0.05), 220, TOP)
    body = [text(8, 14, f"{level}: mean recall by frequency", "strong small")]
    for tick, label in labelled_ticks(y, 4):
        body += [line(LEFT, y(tick), RIGHT, y(tick), "grid"), text(LEFT - 7, y(tick) + 4, label, "tiny muted", "end")]
    counts = {row["from_count"]: row["n_measured"] for row in rows}
    for start in starts:
        body += [text(at[start], 236, compact(start), "tiny muted", "middle"), text(at[start], 250, f"({counts[start]})", "tiny muted", "middle")]
    body.append(text((LEFT + RIGHT) / 2, 270, "occurrences in the held-out text, from (concepts measured)", "small", "middle"))
    for name in names:
        own = sorted((row["from_count"], row["mean_recall"]) for row in rows if row["coder"] == name)
        points = [(at[start], y(recall)) for start, recall in own]
        if points:
            body += [path(points, f"{look[name].stroke} curve {look[name].dash}"), *(shape(one, other, look[name], 3.5) for one, other in points)]
    words = "; ".join(f"{name}: {percent(next((row['mean_recall'] for row in rows if row['coder'] == name), None))} of the rarest bin" for name in names)
    return frame(f"coverage-{level.replace(' ', '-')}", f"Recall of concepts by frequency, {level}", words, (WIDTH, 280), body)


def more_text(data: SpecialisationData) -> Markup | None:
    """Relative change of fvu to the base by the tokens of the domain that boost was trained on, for both datasets."""
    found, budgets = Values.of(data.budgets), sorted(data.record.budgets.items(), key=lambda item: item[1])
    points = {dataset: [(n_tokens, change) for name, n_tokens in budgets if (change := found.change(name, dataset))] for dataset in ("domain", "general")}
    if len(points["domain"]) < 2:
        return None
    sizes = [n_tokens for _, n_tokens in budgets]
    ends = [end for side in points.values() for _, value in side for end in bounds(value)]
    pad = 0.1 * max(max([0.0, *ends]) - min([0.0, *ends]), 1e-6)
    x, y = Scale(sizes[0] / 1.25, sizes[-1] * 1.25, LEFT, RIGHT, log=True), Scale(min([0.0, *ends]) - pad, max([0.0, *ends]) + pad, 220, TOP)
    body = [text(8, 14, "boost: change of fvu by text of the domain", "strong small")]
    for tick, label in labelled_ticks(Scale(100 * y.low, 100 * y.high, 220, TOP), 4):
        body += [line(LEFT, y(tick / 100), RIGHT, y(tick / 100), "grid"), text(LEFT - 7, y(tick / 100) + 4, f"{label} %", "tiny muted", "end")]
    body += [text(x(size), 236, compact(size), "tiny muted", "middle") for size in sizes]
    body += [line(LEFT, y(0), RIGHT, y(0), "divider"), text((LEFT + RIGHT) / 2, 256, "training tokens of the domain", "small", "middle")]
    for dataset, mark_shape in (("domain", "diamond"), ("general", "circle")):
        own = points[dataset]
        body.append(path([(x(size), y(value.value)) for size, value in own], f"stroke-{dataset} curve"))
        for size, value in own:
            low, high = bounds(value)
            body += [*whisker(x(size), (y(low), y(high)), f"stroke-{dataset}", True),
                     shape(x(size), y(value.value), Look(dataset, mark_shape), 4.5, f"{dataset}, {compact(size)} tokens: {with_interval(value, percent)}")]
        size, value = own[-1]
        low, high = bounds(value)
        body.append(text(x(size) + 4, y(low) + 14 if dataset == "domain" else y(high) - 6, dataset, "tiny halo", "middle"))
    words = "; ".join(f"{compact(size)} tokens: domain {percent(value.value)}" for size, value in points["domain"])
    return frame("more-text", "Change of fvu by the amount of domain text", words, (WIDTH, 266), body)


def shown_coders(data: SpecialisationData, most: int = 5) -> list[str]:
    """Variants whose curves are told apart in one figure: the base, the control, and the first few others."""
    variants = data.record.variants
    others = [name for name, variant in variants.items() if name != BASE and not variant.is_control]
    first = [name for name in ("boost", "finetune", "finetune_tilted", "extended_random", "scratch_domain") if name in others]
    chosen = {BASE, *[name for name, variant in variants.items() if variant.is_control], *[*first, *others][:most]}
    return [name for name in variants if name in chosen]
