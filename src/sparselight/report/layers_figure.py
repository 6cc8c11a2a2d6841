"""The picture of intrinsic dimension over layers, as an SVG file of its own: both estimates, the interval of one, and the plateau.

The colors stand in the file, because no page's style sheet does.
"""

from collections.abc import Sequence

from sparselight.records import LayersRecord
from sparselight.report.numbers import fixed
from sparselight.report.svg import Scale, frame, line, mark, path, rect, text, tick_decimals

WIDTH, HEIGHT = 560.0, 300.0
STYLE = """<style>.layers{font-family:system-ui,sans-serif;font-size:12px;fill:#222;background:#fff}.muted{fill:#666}.strong{font-weight:600}
.grid{stroke:#e3e3e3}.mle{stroke:#1f5fa8;stroke-width:2;fill:none}.dot{fill:#1f5fa8}.slope{stroke:#b8551d;stroke-width:2;fill:none;stroke-dasharray:5 4}
.square{fill:#b8551d}.flat{fill:#1f5fa8;fill-opacity:.1}</style>"""


def layers_figure(record: LayersRecord) -> str:
    """One mark a layer and estimate; the plateau is shaded."""
    layers = record.layers
    x = Scale(-0.5, len(layers) - 0.5, 56, WIDTH - 16)
    most = max(max(layer.high, layer.slope) for layer in layers)
    y = Scale(0, 1.08 * most, HEIGHT - 56, 56)
    flat = [index for index, layer in enumerate(layers) if layer.site in record.plateau]
    body = [STYLE, f'<rect width="{WIDTH:g}" height="{HEIGHT:g}" fill="#fff"/>', text(56, 20, "Intrinsic dimension over layers (TwoNN)", "strong")]
    if flat:
        body.append(rect(x(flat[0] - 0.5), 56, x(flat[-1] + 0.5) - x(flat[0] - 0.5), HEIGHT - 112, "flat"))
    ticks = y.ticks(4)
    for tick in ticks:
        body += [line(56, y(tick), WIDTH - 16, y(tick), "grid"), text(48, y(tick) + 4, fixed(tick, tick_decimals(ticks)), "muted", "end")]
    for index, layer in enumerate(layers):
        body.append(line(x(index), y(layer.low), x(index), y(layer.high), "mle"))
        body.append(text(x(index), HEIGHT - 38, _short(layer.site, index, len(layers)), "muted", "middle"))
    body += _curves(x, y, [layer.dimension for layer in layers], [layer.slope for layer in layers])
    body += [mark(60, 36, "circle", "dot", 4), text(70, 40, "maximum likelihood, 95 % interval"), mark(306, 36, "square", "square", 4), text(316, 40, "slope"),
             text(WIDTH / 2, HEIGHT - 14, f"layer ({layers[0].site} to {layers[-1].site}); shaded: plateau", "muted", "middle")]
    words = "; ".join(f"{layer.site}: {layer.dimension:.1f}" for layer in layers)
    svg = str(frame("layers", "Intrinsic dimension over layers", words, (WIDTH, HEIGHT), body))
    return svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + "\n"


def _curves(x: Scale, y: Scale, mle: Sequence[float], slope: Sequence[float]) -> list[str]:
    both = [(x(index), y(value)) for index, value in enumerate(mle)], [(x(index), y(value)) for index, value in enumerate(slope)]
    return [path(both[0], "mle"), path(both[1], "slope"), *(mark(*point, "circle", "dot", 4) for point in both[0]),
            *(mark(*point, "square", "square", 3.5) for point in both[1])]


def _short(site: str, index: int, n: int) -> str:
    """The layer's number; of many layers every few."""
    return site.rpartition(".")[2] if n <= 14 or index % (n // 12 + 1) == 0 else ""
