"""A study as a layout reads it, before images are opened: where its pictures lie, what its report says, whose it is.

Owns: `Study`, `Picture`, the index of image files by name, the names of views. Layouts make studies; `reading.py` makes examples of them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sparselight.corpus.annotations import READERS
from sparselight.corpus.config import kind_of_name
from sparselight.corpus.image_text.pixels import SUFFIXES
from sparselight.corpus.sources import Source
from sparselight.corpus.tables import Row
from sparselight.errors import CorpusError

PRIOR = "prior"
VIEWS = {"pa": "frontal", "ap": "frontal", "frontal": "frontal", "lateral": "lateral", "ll": "lateral", "lat": "lateral"}
LABEL_PREFIX = "problem."  # of labels that come with the data, beside the labeller's `finding.`


@dataclass(frozen=True, slots=True)
class Picture:
    """An image file of a study, not opened yet."""

    path: Path
    name: str = ""


@dataclass(frozen=True, slots=True)
class Study:
    """One study. `sections` is None where the data have no reports at all; `order` sorts the studies of a patient, None where nothing says it."""

    where: str
    id: str
    patient: str
    pictures: tuple[Picture, ...] = ()
    sections: Mapping[str, str] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    order: tuple[str, ...] | None = None
    split: str = ""
    fault: str = ""
    headed: bool = True  # whether the report had headings, or was taken as findings
    files: tuple[Path, ...] = ()  # read for this study, beside its pictures and the tables


class ImageIndex:
    """Image files under a folder by name, and by name without its ending."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.by_name: dict[str, Path] = {}
        for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
            if path.suffix.lower() in SUFFIXES:
                self.by_name.setdefault(path.name, path)
                self.by_name.setdefault(path.stem, path)

    def find(self, name: str) -> Path:
        """The file of that name; where there is none, the path at which it would be expected."""
        return self.by_name.get(name) or self.by_name.get(Path(name).stem) or self.folder / name


def view_name(word: str) -> str:
    """The name of a view: `frontal` for PA and AP, `lateral`, any other word in lower case."""
    plain = " ".join(word.lower().split())
    return VIEWS.get(plain, plain)


def problem_label(term: str) -> str:
    """The name of a label that a source gives."""
    return LABEL_PREFIX + " ".join(term.lower().replace("_", " ").split())


def table_rows(source: Source, columns: tuple[str, ...] = ()) -> Iterator[Row]:
    """Rows of a CSV, TSV, JSONL or Parquet file, packed or not.

    Raises:
        CorpusError: for another ending, or a missing column.
    """
    return _reader(source)([source], columns)


def _reader(source: Source) -> Callable[..., Iterator[Row]]:
    kind = kind_of_name(source.name)
    if kind not in READERS:
        raise CorpusError(asked=f"read the table {source.path}", why="its ending is none of .csv, .tsv, .jsonl, .parquet", instead="give such a table")
    return READERS[kind]
