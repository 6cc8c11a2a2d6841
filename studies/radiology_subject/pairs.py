"""The pairs that the small radiology subject is trained on: PneumoniaMNIST pictures with Open-i reports, joined by label, never by patient.

A picture of class `opacity` (PneumoniaMNIST: pneumonia) gets a report whose Open-i problems name a lung opacity, a picture of class `normal` a report
without problems. The pictures are of children in Guangzhou, the reports of adults in Indiana: a model of these pairs can know nothing but what the label says.
All other reports stand without a picture. Both data sets are read in place; what is written (pictures, table) goes under the runs folder, never into a commit.
"""

import csv
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from sparselight.files import atomic_path, write_bytes

OPACITY_PROBLEMS = frozenset({"Opacity", "Pneumonia", "Consolidation", "Infiltrate", "Airspace Disease"})
SECTIONS = ("indication", "comparison", "findings", "impression")
SPLITS = ("train", "val", "test")
Kind = Literal["normal", "opacity", "other"]


class Report(NamedTuple):
    """One Open-i report."""

    uid: str
    kind: Kind
    split: str
    sections: dict[str, str]

    @property
    def text(self) -> str:
        """The sections in order, each behind its heading: what sparselight's image-text corpus makes of the same columns."""
        return "\n".join(f"{name.upper()}: {text}" for name, text in self.sections.items())


class Pictures(NamedTuple):
    """PneumoniaMNIST, one split."""

    pixels: np.ndarray  # [picture, 28, 28] uint8
    is_opacity: np.ndarray

    def of(self, kind: str) -> np.ndarray:
        """Numbers of the pictures of a class."""
        return np.flatnonzero(self.is_opacity == (kind == "opacity"))


def read_reports(folder: Path) -> list[Report]:
    """Reports with findings or impression. Split by a hash of the uid: 80 % train, 10 % val, 10 % test."""
    with (folder / "indiana_reports.csv").open(newline="", encoding="utf-8") as handle:
        return [report for row in csv.DictReader(handle) if (report := _report(row)).sections.keys() & {"findings", "impression"}]


def _report(row: dict[str, str]) -> Report:
    problems = {problem.strip() for problem in row["Problems"].split(";")}
    kind: Kind = "opacity" if problems & OPACITY_PROBLEMS else "normal" if problems == {"normal"} else "other"
    digit = int(hashlib.sha256(f"openi/{row['uid']}".encode()).hexdigest(), 16) % 10
    sections = {name: text for name in SECTIONS if (text := " ".join(row[name].split()))}
    return Report(row["uid"], kind, {0: "test", 1: "val"}.get(digit, "train"), sections)


def read_pictures(path: Path) -> dict[str, Pictures]:
    """The three official splits."""
    with np.load(path, allow_pickle=False) as arrays:
        return {split: Pictures(arrays[f"{split}_images"], arrays[f"{split}_labels"].ravel() == 1) for split in SPLITS}


def picture_path(out: Path, split: str, number: int) -> Path:
    return out / "pictures" / split / f"{number:05d}.png"


def write_pictures(out: Path, pictures: dict[str, Pictures]) -> None:
    """Every picture as a PNG file; those that stand are left."""
    for split, own in pictures.items():
        for number, pixels in enumerate(own.pixels):
            path = picture_path(out, split, number)
            if not path.exists():
                content = io.BytesIO()
                Image.fromarray(pixels, mode="L").save(content, "PNG")
                write_bytes(path, content.getvalue())


def write_table(path: Path, reports: list[Report], pictures: dict[str, Pictures], out: Path, per_opacity_report: int = 3, seed: int = 0) -> int:
    """The pairs as a table for the corpus layout `table`: each normal report once, each opacity report with a few pictures; splits never mix. Returns rows."""
    rows = list(_pairs(reports, pictures, out, path.parent, per_opacity_report, seed))
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, ["id", "patient", "image", *SECTIONS, "picture_class", "split"])
        writer.writeheader()
        writer.writerows(rows)
    return len(rows)


def _pairs(reports: list[Report], pictures: dict[str, Pictures], out: Path, base: Path, per_opacity_report: int, seed: int) -> Iterator[dict[str, str]]:
    rng = np.random.default_rng(seed)
    decks = {(split, kind): rng.permutation(own.of(kind)).tolist() for split, own in pictures.items() for kind in ("normal", "opacity")}
    for report in reports:
        if report.kind == "other":
            continue
        deck = decks[report.split, report.kind]
        for copy in range(per_opacity_report if report.kind == "opacity" else 1):
            number = deck.pop()  # a picture is used again only when all of its class have been
            deck.insert(0, number)
            image = picture_path(out, report.split, number).relative_to(base)
            yield {"id": f"{report.uid}-{copy}", "patient": report.uid, "image": str(image), "picture_class": report.kind, "split": report.split,
                   **{name: report.sections.get(name, "") for name in SECTIONS}}
