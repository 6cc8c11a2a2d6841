"""How many latents reach which held-out F1: those of each SAE beside latents that nobody trained, as one SVG file.

A curve is the share of the latents that fire whose best explanation reaches at least that F1. Where the curve of an SAE does not lie above those of
its controls, its explanations say little of training; the sentence beside the picture says so either way. Refuses: a catalogue without controls.
"""

from collections.abc import Sequence
from pathlib import Path

from sparselight.errors import ConfigError
from sparselight.files import write_bytes
from sparselight.interpret import Catalogue
from sparselight.interpret.evidence import MIN_F1
from sparselight.report.numbers import percent
from sparselight.report.svg import Scale, line, path, rect, text

SIZE = (560, 330)
N_STEPS = 100
NAMES = {"random_latent": "untrained SAE", "raw_neuron": "raw channels"}
COLORS = ("#0068a8", "#c24e00", "#5a3d99", "#2d7d46")
DASHES = {"random_latent": "6 4", "raw_neuron": "2 3"}
STYLE = """
text { font: 12.5px system-ui, sans-serif; fill: #1b1f24; } .muted { fill: #57606a; } .page { fill: #ffffff; } .area { fill: #fbfcfd; }
.grid { stroke: #d5dae0; } .floor { stroke: #57606a; stroke-dasharray: 4 4; } path { fill: none; stroke-width: 2; }
@media (prefers-color-scheme: dark) {
text { fill: #e6e9ed; } .muted { fill: #a2acb8; } .page { fill: #14171b; } .area { fill: #181c21; } .grid { stroke: #363d46; } }
"""


def write_evidence_curves(catalogue: Catalogue, out: Path) -> str:
    """Draw the curves.

    Returns:
        One sentence: the share of latents that reach the floor, of each SAE and its controls.

    Raises:
        ConfigError: when the catalogue holds no controls.
    """
    controls = catalogue.control_f1()
    if not controls:
        raise ConfigError(asked=f"plot the evidence of {catalogue.path}", why="it holds no controls",
                          instead="explain with explain.controls = [\"random_latent\", \"raw_neuron\"]")
    rows = catalogue.sql("SELECT source, coalesce(f1, 0) AS f1 FROM cards WHERE n_fires > 0").to_pylist()
    trained = {source: [row["f1"] for row in rows if row["source"] == source] for source in catalogue.sources()}
    write_bytes(out, _draw(trained, controls).encode())
    parts = []
    for source, own in trained.items():
        beside = ", ".join(f"{percent(_share(f1, MIN_F1))} of {NAMES.get(name, name)}" for (whose, name), f1 in controls.items() if whose == source)
        parts.append(f"{percent(_share(own, MIN_F1))} of the {source} SAE's latents that fire reach a held-out F1 of {MIN_F1:g}, {beside}")
    return "; ".join(parts) + "."


def _draw(trained: dict[str, list[float]], controls: dict[tuple[str, str], list[float]]) -> str:
    x, y = Scale(0, 1, 56, 400), Scale(0, 1, 280, 24)
    body = [rect(0, 0, *SIZE, "page"), rect(x(0), y(1), x(1) - x(0), y(0) - y(1), "area")]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        body += [line(x(0), y(tick), x(1), y(tick), "grid"), text(x(0) - 8, y(tick) + 4, f"{tick:.0%}", "muted", "end"),
                 text(x(tick), y(0) + 18, f"{tick:g}", "muted", "middle")]
    body += [line(x(MIN_F1), y(0), x(MIN_F1), y(1), "floor"), text((x(0) + x(1)) / 2, y(0) + 40, "held-out F1", "", "middle"),
             text(x(0), 14, "share of latents that reach it")]
    row = 40
    for number, (source, own) in enumerate(trained.items()):
        color = COLORS[number % len(COLORS)]
        for name, f1 in [("", own), *((name, found) for (whose, name), found in controls.items() if whose == source)]:
            dash = f' stroke-dasharray="{DASHES[name]}"' if name in DASHES else ""
            body.append(f'<g stroke="{color}"{dash}>{path(_curve(f1, x, y), "")}{path([(412, row), (440, row)], "")}</g>')
            body.append(text(446, row + 4, source if not name else f"  {NAMES.get(name, name)}"))
            row += 20
    width, height = SIZE
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"><title>Latents by held-out F1, trained and control</title>'
            f'<style>{STYLE}</style>{"".join(body)}</svg>\n')


def _curve(f1: Sequence[float], x: Scale, y: Scale) -> list[tuple[float, float]]:
    return [(x(step / N_STEPS), y(_share(f1, step / N_STEPS))) for step in range(N_STEPS + 1)]


def _share(f1: Sequence[float], floor: float) -> float:
    return sum(value >= floor for value in f1) / max(1, len(f1))
