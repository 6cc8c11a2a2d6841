"""The picture of a run: its stages as boxes, what went through each, and the seconds that each took.

Drawn twice from one description: wide, with a lane for general text and one for the domain, and narrow, top to bottom, for a
phone. The style sheet shows one of them.
"""

from collections.abc import Mapping

from markupsafe import Markup

from sparselight.report.data import ReportData
from sparselight.report.headline import REFERENCES
from sparselight.report.numbers import compact, seconds
from sparselight.report.select_cards import tally
from sparselight.report.svg import frame, path, rect, text
from sparselight.report.words import words_of
from sparselight.vocab import STAGES

Box = tuple[float, float, float, float]  # x, y, width, height

TITLES = {
    "corpus": "corpus", "select": "select domain", "harvest": "harvest", "train": "base SAE", "residual": "residual SAE",
    "evaluate": "evaluate", "explain": "explain", "intervene": "intervene", "report": "report",
}
ARROWS = (
    ("corpus", "harvest"), ("corpus", "select"), ("select", "harvest"), ("harvest", "train"), ("harvest", "residual"), ("train", "residual"),
    ("train", "evaluate"), ("residual", "evaluate"), ("evaluate", "explain"), ("explain", "intervene"), ("intervene", "report"),
)
W, H, TALL = 124.0, 84.0, 192.0
WIDE: dict[str, Box] = {
    "corpus": (4, 8, W, H), "select": (4, 116, W, H), "harvest": (156, 8, W, TALL), "train": (308, 8, W, H), "residual": (308, 116, W, H),
    "evaluate": (460, 8, W, TALL), "explain": (612, 8, W, TALL), "intervene": (764, 8, W, TALL), "report": (916, 8, W, TALL),
}
TALLER = 102.0
NARROW: dict[str, Box] = {
    "corpus": (4, 4, 152, TALLER), "select": (184, 4, 152, TALLER), "harvest": (4, 132, 332, TALLER),
    "train": (4, 260, 152, TALLER), "residual": (184, 260, 152, TALLER), "evaluate": (4, 388, 332, TALLER),
    "explain": (4, 516, 332, TALLER), "intervene": (4, 644, 152, TALLER), "report": (184, 644, 152, TALLER),
}


def run_picture(data: ReportData, wide: bool, words: Mapping[str, list[str]] | None = None) -> Markup:
    """Draw the run.

    Args:
        words: what to say of each stage, where the data holds no cards to count.
    """
    name, boxes, size = ("run-wide", WIDE, (1044.0, 208.0)) if wide else ("run-narrow", NARROW, (340.0, 750.0))
    here, wall_s = words is None, data.run.wall_s
    words = stage_words(data) if words is None else words
    longest = max(wall_s.values(), default=0.0) or 1.0
    body = [_arrow(boxes[start], boxes[end]) for start, end in ARROWS]
    for stage in STAGES:
        x, y, width, height = boxes[stage]
        css = "box-domain" if stage in ("select", "residual") else "box-general" if stage in ("corpus", "train") else "box"
        spent = wall_s.get(stage)
        body += [rect(x, y, width, height, css, 8), text(x + 10, y + 20, TITLES[stage], "strong small")]
        body += [text(x + 10, y + 37 + 15 * index, entry, "tiny") for index, entry in enumerate(words[stage])]
        body.append(text(x + 10, y + height - 12, "this page" if here and stage == "report" and spent is None else seconds(spent), "tiny muted"))
        body.append(rect(x + 1, y + height - 6, (width - 2) * (spent or 0) / longest, 4, "time", 2))
    parts = "; ".join(f"{TITLES[stage]}: {', '.join([*words[stage], seconds(wall_s.get(stage))])}" for stage in STAGES)
    return frame(name, "Picture of the run", parts, size, body)


def stage_words(data: ReportData) -> dict[str, list[str]]:
    """What went through each stage, in one to three short lines a stage; a number that is not known is left out."""
    harvest, counts = data.harvest, tally(data.cards)
    coders = {row.coder for row in data.evaluation.rows if row.coder not in REFERENCES}
    held_out = sum(data.evaluation.n_tokens.values())
    words = {
        "corpus": [_with(data.corpus.get("n_groups"), words_of(data.run.recipe).groups.split()[-1]), _with(data.corpus.get("n_examples"), "examples")],
        "select": [_with(data.selection.get("n_examples"), "examples"), _with(data.selection.get("n_tokens"), "tokens")],
        "harvest": _harvest_words(harvest),
        "evaluate": [_with(len(coders), "coders"), _with(held_out, "held-out"), "tokens"],
        "explain": [_with(len(data.cards), "latents"), _with(sum(item.n_explained for item in counts), "explained"),
                    _with(sum(item.n_supported for item in counts), "supported")],
        "intervene": [_with(len(data.edits), "edits" if len(data.edits) != 1 else "edit")],
        "report": ["one HTML file"],
    }
    for stage, role in (("train", "base"), ("residual", "residual")):
        record = data.sae_records.get(role)
        words[stage] = ["not trained"] if record is None else [_with(record.n_latents, "latents"), _with(record.n_tokens_seen, "tokens")]
    return {stage: [entry for entry in entries if entry] for stage, entries in words.items()}


def _harvest_words(harvest: dict[str, int]) -> list[str]:
    lines = []
    for name in ("general", "domain"):
        parts = [harvest.get(f"{name}_train_tokens"), harvest.get(f"{name}_held_out_tokens")]
        if any(parts):
            lines.append(f"{compact(sum(part or 0 for part in parts))} {name}")
    return [*lines, "tokens"] if lines else []


def _with(value: float | None, noun: str) -> str:
    return "" if value is None else f"{compact(value)} {noun}"


def _arrow(start: Box, end: Box) -> str:
    """A straight arrow from one box to the next: to the right where there is room between them, else downwards."""
    if end[0] >= start[0] + start[2]:
        low, high = max(start[1], end[1]), min(start[1] + start[3], end[1] + end[3])
        y = (low + high) / 2
        x1, x2 = start[0] + start[2] + 3, end[0] - 3
        return path([(x1, y), (x2, y)], "arrow") + path([(x2 - 6, y - 4), (x2, y), (x2 - 6, y + 4)], "arrow")
    x = (max(start[0], end[0]) + min(start[0] + start[2], end[0] + end[2])) / 2
    y1, y2 = start[1] + start[3] + 3, end[1] - 3
    return path([(x, y1), (x, y2)], "arrow") + path([(x - 4, y2 - 6), (x, y2), (x + 4, y2 - 6)], "arrow")
