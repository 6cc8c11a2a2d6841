"""A chain of a protein in space, colored by the activation of a latent: two views of its C-alpha trace as one SVG file that stands alone.

The first view looks along the direction in which the chain is flattest, the second is turned by 90 degrees about the long axis. What lies behind is drawn first
and fainter. No script, no viewer: turning it needs another program, for which the file with the structure is there.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from sparselight.report.svg import escape, text

VIEW, GAP, TOP, BOTTOM = 330.0, 20.0, 64.0, 44.0
MAX_STEP = 4.3  # Angstrom between neighbors; more, and residues are missing
COLD, HOT = (150, 160, 172), (224, 92, 0)  # no activation, the largest of the chain: the orange of all contexts
STYLE = ("svg{background:#fff}text{font:13px system-ui,sans-serif;fill:#1b1f24}.muted{fill:#57606a;font-size:12px}"
         "@media (prefers-color-scheme:dark){svg{background:#14171b}text{fill:#e6e9ed}.muted{fill:#a2acb8}}")


def structure_figure(title: str, subtitle: str, sequence: str, places: Float[np.ndarray, "residue xyz"], activations: Sequence[float]) -> str:
    """The SVG file."""
    width, height = 2 * VIEW + 3 * GAP, TOP + VIEW + BOTTOM
    most = max(activations, default=0.0)
    turned = principal(places)
    body = [text(GAP, 26, title, ""), text(GAP, 46, subtitle, "muted")]
    for number, axes in enumerate(((0, 1, 2), (0, 2, 1))):
        body += view(turned[:, axes], sequence, activations, most, GAP + number * (VIEW + GAP), TOP)
        words = ("view 1", "view 2: turned by 90\u00b0 about the long axis")[number]
        body.append(text(GAP + number * (VIEW + GAP) + VIEW / 2, TOP + VIEW + 16, words, "muted", "middle"))
    body += scale_bar(most, GAP, height - 14)
    said = f"{title}. {subtitle}"
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img" aria-label="{escape(said)}">'
            f"<title>{escape(said)}</title><style>{STYLE}</style>{''.join(body)}</svg>\n")


def principal(places: Float[np.ndarray, "residue xyz"]) -> Float[np.ndarray, "residue axis"]:
    """Places about their center, along the axes of largest, middle and smallest spread."""
    centered = places - places.mean(axis=0)
    _, _, axes = np.linalg.svd(centered, full_matrices=False)
    return np.asarray(centered @ axes.T)


def view(places: Float[np.ndarray, "residue axis"], sequence: str, activations: Sequence[float], most: float, left: float, top: float) -> list[str]:
    """One projection: pieces of the chain from back to front, active residues as dots with their name."""
    spread = max(float(np.ptp(places[:, 0])), float(np.ptp(places[:, 1])), 1e-9)
    x = left + VIEW / 2 + (places[:, 0] - (places[:, 0].max() + places[:, 0].min()) / 2) * (VIEW - 24) / spread
    y = top + VIEW / 2 - (places[:, 1] - (places[:, 1].max() + places[:, 1].min()) / 2) * (VIEW - 24) / spread
    depth = (places[:, 2] - places[:, 2].min()) / max(float(np.ptp(places[:, 2])), 1e-9)
    pieces: list[tuple[float, str]] = []
    for index in range(len(places) - 1):
        strength = max(activations[index], activations[index + 1]) / most if most > 0 else 0.0
        near = float(depth[index] + depth[index + 1]) / 2
        gap = ' stroke-dasharray="2 4"' if np.linalg.norm(places[index + 1] - places[index]) > MAX_STEP else ""
        pieces.append((near, f'<line x1="{x[index]:.1f}" y1="{y[index]:.1f}" x2="{x[index + 1]:.1f}" y2="{y[index + 1]:.1f}" stroke="{color(strength)}" '
                       f'stroke-width="{1.6 + 2.4 * near:.1f}" stroke-opacity="{0.35 + 0.65 * near:.2f}" stroke-linecap="round"{gap}/>'))
    for index, activation in enumerate(activations):
        if activation > 0 and most > 0:
            said = f"{sequence[index]}{index + 1}: {activation:.4g}"
            pieces.append((float(depth[index]) + 1e-6, f'<circle cx="{x[index]:.1f}" cy="{y[index]:.1f}" r="{3 + 2.5 * activation / most:.1f}" '
                           f'fill="{color(activation / most)}"><title>{escape(said)}</title></circle>'))
    ends = [text(float(x[index]) + 6, float(y[index]) - 6, name, "muted") for index, name in ((0, "N"), (len(places) - 1, "C"))]
    return [piece for _, piece in sorted(pieces, key=lambda one: one[0])] + ends


def color(share: float) -> str:
    """From gray to orange."""
    return "#" + "".join(f"{round(cold + (hot - cold) * share):02x}" for cold, hot in zip(COLD, HOT, strict=True))


def scale_bar(most: float, left: float, bottom: float) -> list[str]:
    steps = [f'<rect x="{left + 8 * step:.0f}" y="{bottom - 9:.0f}" width="8" height="9" fill="{color(step / 11)}"/>' for step in range(12)]
    return [*steps, text(left + 104, bottom, f"activation 0 to {most:.4g}" if most > 0 else "the latent fires on no residue of this chain", "muted")]
