"""Time of the penalty against the number of latents as one small SVG, both axes in powers of ten, beside a straight line through the origin."""

import math
from typing import Any

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 380, 70, 70, 20


def penalty_svg(penalty: dict[str, Any]) -> str:
    """Medians with the range of repetitions; the dashed line grows with m, the dotted one with m squared, both through the widest chunk that is not divided."""
    rows = penalty["rows"]
    widths, times = [row["n_latents"] for row in rows], [row["penalty_s"] for row in rows]
    low, high = min(row["low"] for row in rows) / 2, max(max(row["high"] for row in rows), times[0] * widths[-1] / widths[0]) * 2
    x_of = lambda m: LEFT + (WIDTH - LEFT - 20) * math.log(m / widths[0]) / math.log(widths[-1] / widths[0])  # noqa: E731
    y_of = lambda s: HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * math.log(s / low) / math.log(high / low)  # noqa: E731
    anchor = max((row for row in rows if row["n_latents"] <= penalty["chunk"]), key=lambda row: row["n_latents"])

    def guide(power: int) -> str:
        points = [(m, anchor["penalty_s"] * (m / anchor["n_latents"]) ** power) for m in widths if m >= anchor["n_latents"]]
        return " ".join(f"{x_of(m):.1f},{y_of(min(s, high)):.1f}" for m, s in points if s <= high)

    marks = "".join(
        f'<line x1="{x_of(row["n_latents"]):.1f}" x2="{x_of(row["n_latents"]):.1f}" y1="{y_of(row["low"]):.1f}" y2="{y_of(row["high"]):.1f}" stroke="#c50"/>'
        f'<circle cx="{x_of(row["n_latents"]):.1f}" cy="{y_of(row["penalty_s"]):.1f}" r="4" fill="#c50"/>'
        f'<text x="{x_of(row["n_latents"]):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{row["n_latents"]:,}</text>' for row in rows)
    powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    ticks = "".join(f'<text x="{LEFT - 8}" y="{y_of(10.0**power) + 4:.1f}" text-anchor="end">{10.0**power:g} s</text>'
                    f'<line x1="{LEFT}" x2="{WIDTH - 20}" y1="{y_of(10.0**power):.1f}" y2="{y_of(10.0**power):.1f}" stroke="#ddd"/>' for power in powers)
    line = " ".join(f"{x_of(m):.1f},{y_of(s):.1f}" for m, s in zip(widths, times, strict=True))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12" fill="#444">'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>{ticks}'
        f'<polyline points="{guide(1)}" fill="none" stroke="#333" stroke-dasharray="6 4"/>'
        f'<polyline points="{guide(2)}" fill="none" stroke="#999" stroke-dasharray="2 3"/>'
        f'<polyline points="{line}" fill="none" stroke="#c50" stroke-width="2"/>{marks}'
        f'<text x="{LEFT}" y="{HEIGHT - 26}">Seconds of one orthogonality penalty with its gradient over latents m; d = {penalty["d_in"]}, chunks of '
        f'{penalty["chunk"]:,},</text><text x="{LEFT}" y="{HEIGHT - 10}">{penalty["threads"]} threads, {penalty["device"]}; bars: all repetitions. '
        'Dashed: proportional to m; dotted: '
        'to its square.</text></svg>\n'
    )
