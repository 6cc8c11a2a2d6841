"""Boxes of findings, in pixels in a table and as fractions of the image in an example.

Owns: reading NIH's BBox_List and plain CSVs (columns image, label, x, y, w, h), joined to images by file name. Refuses, by row: a box without area, or
outside its image; one that reaches over the edge is cut there and counted.
"""

import csv
from collections import Counter
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import NamedTuple

from sparselight.corpus.image_text.study import table_rows
from sparselight.corpus.sources import BadRows, Source
from sparselight.errors import CorpusError
from sparselight.protocols import Box

NIH_NAME = "BBox_List"
COLUMNS = ("image", "label", "x", "y", "w", "h")


class PixelBox(NamedTuple):
    """A box as the table has it, and the row that it comes from."""

    where: str
    label: str
    x: float
    y: float
    w: float
    h: float


class Boxes:
    """All boxes of a corpus by the file name of their image."""

    def __init__(self, source: Source | None, name: str, bad: BadRows, notes: "Counter[str]"):
        self.name, self.bad, self.notes = name, bad, notes
        self.by_image: dict[str, list[PixelBox]] = {}
        self.used: set[str] = set()
        for image, box in _read(source, bad) if source else ():
            self.by_image.setdefault(image, []).append(box)

    def of(self, path: Path, width: int, height: int) -> tuple[Box, ...]:
        """The boxes of an image as fractions of its size."""
        self.used.add(path.name)
        return tuple(box for pixels in self.by_image.get(path.name, ()) if (box := self._fraction(pixels, path.name, width, height)))

    def _fraction(self, box: PixelBox, image: str, width: int, height: int) -> Box | None:
        left, top, right, bottom = box.x / width, box.y / height, (box.x + box.w) / width, (box.y + box.h) / height
        if box.w <= 0 or box.h <= 0:
            self.bad.add(box.where, f"the box of {image} has no area ({box.w:g} x {box.h:g} pixels)")
            return None
        if left >= 1 or top >= 1 or right <= 0 or bottom <= 0:
            self.bad.add(box.where, f"the box of {image} lies outside it ({width} x {height} pixels)")
            return None
        if min(left, top) < 0 or max(right, bottom) > 1:
            self.notes["boxes cut at the edge of their image"] += 1
        return Box(max(left, 0.0), max(top, 0.0), min(right, 1.0), min(bottom, 1.0), self.name, box.label)

    def count_unused(self) -> None:
        """Note the boxes whose image no example has."""
        if n := sum(len(boxes) for image, boxes in self.by_image.items() if image not in self.used):
            self.notes["boxes of images that no example has"] += n


def _read(source: Source, bad: BadRows) -> Iterator[tuple[str, PixelBox]]:
    nih = Path(source.name).name.startswith(NIH_NAME)
    for where, cells in _nih_cells(source) if nih else _plain_cells(source, bad):
        numbers = [_number(cell) for cell in cells[2:6]]
        if len(cells) < 6 or None in numbers:
            bad.add(where, "its box is not four numbers")
            continue
        yield cells[0], PixelBox(where, cells[1], *numbers)  # type: ignore[arg-type]


def _nih_cells(source: Source) -> Iterator[tuple[str, list[str]]]:
    """Image, label, x, y, w, h of NIH's list by place: its header has commas in a name, and copies differ in the empty columns at the end."""
    for number, cells in enumerate(csv.reader(source.text().split("\n")), 1):
        if cells and number > 1:
            yield f"{source.name}, line {number}", cells


def _plain_cells(source: Source, bad: BadRows) -> Iterator[tuple[str, list[str]]]:
    for row in table_rows(source):
        if row.fault:
            bad.add(row.where, row.fault)
            continue
        if missing := next((column for column in COLUMNS if column not in row.fields), None):
            raise CorpusError(asked=f"read the boxes of {source.path} (corpus.image_text.boxes)", why=f"it has no column {missing!r}",
                              instead="give the columns image, label, x, y, w, h (pixels), or NIH's BBox_List")
        yield row.where, [str(row.fields[column]) for column in COLUMNS]


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if isfinite(value) else None
