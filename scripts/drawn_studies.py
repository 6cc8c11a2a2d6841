"""Studies that nobody had: drawn pictures of a chest and sentences invented for them, for the pictures of the documentation.

    write_studies(Path("studies"), n=800)        # studies.csv, boxes.csv and pictures/*.png

Owns what can be seen and how it is said: each finding is drawn in the frontal view, and in the lateral one where there is one, and stands in the report in one
of several wordings; what is not there is sometimes denied. Nothing is taken from any data set, so that pictures of a run on them may be shown, and nothing is
said about medicine.
"""

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

SIDE, FINE = 256, 2  # pixels of a picture; drawn at twice that and made smaller
RATES = {"cardiomegaly": 0.28, "effusion": 0.3, "opacity": 0.34, "nodule": 0.16, "pacemaker": 0.18}
BODY, LUNG, SOFT, WHITE = 84, 30, 150, 205  # gray values
SIDES = ("left", "right")
TRAIN_FRAC = 0.8
VISIBLE = 25  # gray values by which a pixel must change to lie in a box
INDICATIONS = ("Cough for {n} days.", "Fever.", "Shortness of breath.", "Routine.", "Chest pain since {n} days.", "Before an operation.")
SAID = {
    "cardiomegaly": ("The heart is enlarged.", "There is cardiomegaly.", "The cardiac silhouette is enlarged."),
    "effusion": ("There is a {side} pleural effusion.", "Moderate {side} pleural effusion.", "A pleural effusion is seen on the {side}."),
    "opacity": ("There is an opacity in the {side} {zone} lung.", "Patchy opacity in the {side} {zone} zone.",
                "An airspace opacity is seen in the {side} {zone} lung."),
    "nodule": ("A small nodule lies in the {side} lung.", "There is a nodule in the {side} lung."),
    "pacemaker": ("A pacemaker is in place.", "There is a left pacemaker with one lead."),
}
DENIED = {
    "cardiomegaly": ("The heart is of normal size.", "Heart size is normal."), "effusion": ("No pleural effusion.", "There is no effusion."),
    "opacity": ("The lungs are clear.", "No focal opacity."), "nodule": (), "pacemaker": (),
}
SUMMED = {"cardiomegaly": "Cardiomegaly", "effusion": "pleural effusion", "opacity": "opacity", "nodule": "nodule", "pacemaker": "pacemaker"}


@dataclass(frozen=True, slots=True)
class Study:
    """What is there, and where."""

    number: int
    found: dict[str, str]
    """Finding to its side (of the person, who faces us)."""
    zone: str
    has_lateral: bool
    seed: int


def draw_study(number: int, seed: int) -> Study:
    """A study's findings at random."""
    rng = np.random.default_rng([seed, number])
    found = {name: str(rng.choice(SIDES)) for name, rate in RATES.items() if rng.random() < rate}
    return Study(number, found, str(rng.choice(("upper", "lower"))), bool(rng.random() < 0.4), seed)


def report(study: Study) -> dict[str, str]:
    """The sections of its report."""
    rng = np.random.default_rng([study.seed, study.number, 1])
    sentences = []
    for name in rng.permutation(list(RATES)).tolist():
        forms = SAID[name] if name in study.found else DENIED[name] if rng.random() < 0.6 else ()
        if forms:
            sentences.append(forms[rng.integers(len(forms))].format(side=study.found.get(name, ""), zone=study.zone))
    if "effusion" not in study.found and rng.random() < 0.4:
        sentences.append("No pneumothorax.")
    named = [SUMMED[name] for name in RATES if name in study.found]
    ended = ", ".join(named) + "." if named else "Normal chest."
    asked = str(rng.choice(INDICATIONS)).format(n=rng.integers(2, 9))
    return {"indication": asked, "findings": " ".join(sentences), "impression": ended[0].upper() + ended[1:]}


class Drawing:
    """A picture in fractions of its side."""

    def __init__(self, rng: np.random.Generator):
        self.rng, self.image = rng, Image.new("L", (SIDE * FINE, SIDE * FINE), 12)
        self.shift = rng.uniform(-0.015, 0.015, 2)
        self.boxes: list[tuple[str, int, int, int, int]] = []

    def points(self, places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        return [((x + self.shift[0]) * SIDE * FINE, (y + self.shift[1]) * SIDE * FINE) for x, y in places]

    def ellipse(self, x: float, y: float, width: float, height: float, gray: int, blur: float = 0.0, opacity: float = 1.0) -> None:
        """An ellipse about (x, y), soft where `blur` is above 0."""
        mask = Image.new("L", self.image.size, 0)
        ImageDraw.Draw(mask).ellipse(self.points([(x - width / 2, y - height / 2), (x + width / 2, y + height / 2)]), fill=round(255 * opacity))
        self._paint(mask, gray, blur)

    def polygon(self, places: Sequence[tuple[float, float]], gray: int, blur: float = 0.0, opacity: float = 1.0) -> None:
        mask = Image.new("L", self.image.size, 0)
        ImageDraw.Draw(mask).polygon(self.points(places), fill=round(255 * opacity))
        self._paint(mask, gray, blur)

    def line(self, places: Sequence[tuple[float, float]], gray: int, width: float, opacity: float = 1.0, blur: float = 0.0) -> None:
        mask = Image.new("L", self.image.size, 0)
        ImageDraw.Draw(mask).line(self.points(places), fill=round(255 * opacity), width=max(1, round(width * SIDE * FINE)), joint="curve")
        self._paint(mask, gray, blur)

    @contextmanager
    def boxed(self, name: str) -> Iterator[None]:
        """What is drawn inside gets a box of that name, about all that it changes: x, y, width, height in pixels."""
        before = self.image.copy()
        yield
        changed = ImageChops.difference(before, self.image).point(lambda value: 255 * (value > VISIBLE)).getbbox()
        if changed:
            left, top, right, bottom = (round(value / FINE) for value in changed)
            self.boxes.append((name, left, top, right - left, bottom - top))

    def _paint(self, mask: Image.Image, gray: int, blur: float) -> None:
        if blur:
            mask = mask.filter(ImageFilter.GaussianBlur(blur * SIDE * FINE))
        self.image.paste(gray, (0, 0), mask)

    def done(self) -> Image.Image:
        """At its size, with grain."""
        pixels = np.asarray(self.image.resize((SIDE, SIDE), Image.Resampling.LANCZOS), dtype=np.float64)
        return Image.fromarray(np.clip(pixels + self.rng.normal(0, 5, pixels.shape), 0, 255).astype(np.uint8))


def frontal(study: Study) -> Drawing:
    """The person faces us: the right side is on the left of the picture."""
    rng = np.random.default_rng([study.seed, study.number, 2])
    drawing = Drawing(rng)
    drawing.polygon([(0.08, 1), (0.06, 0.42), (0.2, 0.2), (0.42, 0.14), (0.44, 0), (0.56, 0), (0.58, 0.14), (0.8, 0.2), (0.94, 0.42), (0.92, 1)], BODY, 0.012)
    middle = {"right": 0.3, "left": 0.7}
    for x in middle.values():
        drawing.ellipse(x, 0.5, 0.3, 0.62, LUNG, 0.012)
    for side, sign in (("right", -1), ("left", 1)):
        for rib in range(6):
            y = 0.27 + 0.085 * rib
            drawing.line([(0.5 + sign * part, y + 0.5 * (part - 0.08) ** 2 + 0.03 * part) for part in np.linspace(0.06, 0.36, 9)], 120, 0.018, 0.22, 0.003)
        drawing.ellipse(middle[side], 0.87, 0.36, 0.22, 118, 0.012)  # the diaphragm
    drawing.line([(0.5, 0.05), (0.5, 0.95)], SOFT, 0.075, 0.75, 0.012)
    size = 0.42 if "cardiomegaly" in study.found else 0.27
    drawing.ellipse(0.53 + 0.2 * (size - 0.27), 0.66, size, 0.3 + 0.25 * (size - 0.27), SOFT + 12, 0.014)
    for name, side in study.found.items():
        with drawing.boxed(SUMMED[name].lower()):
            _frontal_finding(drawing, rng, name, middle[side], -1 if side == "right" else 1, study.zone)
    return drawing


def _frontal_finding(drawing: Drawing, rng: np.random.Generator, name: str, x: float, sign: int, zone: str) -> None:
    """One finding of the lung about x; an enlarged heart is drawn already."""
    if name == "effusion":
        top = 0.64 + rng.uniform(-0.02, 0.02)
        outline = [(0.16, top - 0.07), (0.04, top + 0.02), (-0.13, top + 0.08), (-0.13, 0.9), (0.16, 0.9)]
        drawing.polygon([(x + sign * across, y) for across, y in outline], WHITE - 20, 0.012, 0.95)
    elif name == "opacity":
        y = 0.34 if zone == "upper" else 0.6
        for _ in range(6):
            drawing.ellipse(x + rng.normal(0, 0.03), y + rng.normal(0, 0.03), rng.uniform(0.07, 0.13), rng.uniform(0.06, 0.11), WHITE - 10, 0.02, 0.55)
    elif name == "nodule":
        drawing.ellipse(x + rng.uniform(-0.06, 0.06), rng.uniform(0.38, 0.56), 0.062, 0.062, WHITE + 20, 0.004)
    elif name == "pacemaker":
        drawing.polygon([(0.72, 0.2), (0.83, 0.22), (0.82, 0.32), (0.71, 0.3)], 250)
        drawing.line([(0.72, 0.28), (0.6, 0.3), (0.53, 0.42), (0.54, 0.62), (0.58, 0.72)], 250, 0.011)


def lateral(study: Study) -> Drawing:
    """Seen from the side, the front to the left: no side can be told."""
    rng = np.random.default_rng([study.seed, study.number, 3])
    drawing = Drawing(rng)
    drawing.polygon([(0.2, 1), (0.14, 0.5), (0.28, 0.2), (0.42, 0.12), (0.44, 0), (0.64, 0), (0.66, 0.14), (0.84, 0.3), (0.86, 0.6), (0.8, 1)], BODY, 0.012)
    drawing.ellipse(0.48, 0.5, 0.46, 0.62, LUNG, 0.014)
    for part in range(9):
        y = 0.16 + 0.085 * part
        drawing.polygon([(0.72, y), (0.79, y + 0.01), (0.79, y + 0.065), (0.72, y + 0.055)], SOFT + 10, 0.004, 0.8)
    drawing.ellipse(0.48, 0.87, 0.56, 0.2, 118, 0.012)
    size = 0.32 if "cardiomegaly" in study.found else 0.2
    drawing.ellipse(0.36 + 0.2 * (size - 0.2), 0.64, size, size + 0.06, SOFT + 12, 0.014)
    for name in study.found:
        with drawing.boxed(SUMMED[name].lower()):
            _lateral_finding(drawing, rng, name, study.zone)
    return drawing


def _lateral_finding(drawing: Drawing, rng: np.random.Generator, name: str, zone: str) -> None:
    if name == "effusion":
        drawing.polygon([(0.69, 0.6), (0.6, 0.7), (0.5, 0.76), (0.5, 0.9), (0.72, 0.9)], WHITE - 20, 0.012, 0.95)
    elif name == "opacity":
        y = 0.34 if zone == "upper" else 0.62
        for _ in range(6):
            drawing.ellipse(0.56 + rng.normal(0, 0.03), y + rng.normal(0, 0.03), rng.uniform(0.07, 0.13), rng.uniform(0.06, 0.11), WHITE - 10, 0.02, 0.55)
    elif name == "nodule":
        drawing.ellipse(rng.uniform(0.44, 0.6), rng.uniform(0.36, 0.5), 0.062, 0.062, WHITE + 20, 0.004)
    elif name == "pacemaker":
        drawing.polygon([(0.26, 0.24), (0.34, 0.22), (0.36, 0.31), (0.27, 0.33)], 250)
        drawing.line([(0.35, 0.28), (0.46, 0.34), (0.44, 0.5), (0.38, 0.66)], 250, 0.011)


def write_studies(folder: Path, n: int, seed: int = 0) -> Path:
    """Pictures, the table of them, a row a picture, and that of the boxes about what is found; two studies are one person's."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[Any, ...]] = [("study", "patient", "path", "view", "split", "indication", "findings", "impression")]
    boxes: list[tuple[Any, ...]] = [("image", "label", "x", "y", "w", "h")]
    for number in range(n):
        study, split = draw_study(number, seed), "train" if number < TRAIN_FRAC * n else "test"
        views = {"frontal": frontal} | ({"lateral": lateral} if study.has_lateral else {})
        for view, draw in views.items():
            path, drawing = pictures / f"{number:04}-{view}.png", draw(study)
            drawing.done().save(path)
            rows.append((f"study {number:04}", f"person {number // 2:04}", f"pictures/{path.name}", view, split, *report(study).values()))
            boxes += [(path.name, *box) for box in drawing.boxes]
    for name, listed in (("boxes.csv", boxes), ("studies.csv", rows)):
        with (folder / name).open("w", newline="", encoding="utf-8") as handle:
            csv.writer(handle).writerows(listed)
    return folder / "studies.csv"
