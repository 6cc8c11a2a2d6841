"""The layout `table`: paths of images, sections of reports and labels in the columns of one CSV, TSV, JSONL or Parquet file.

Several rows of one id are one study with several images; a column may also hold a list of paths. Refuses, by setting: a column that is not there, rows of one
study that contradict each other.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from sparselight.corpus.columns import MISSING, BadValue, check_text, label_text, look_up
from sparselight.corpus.config import CorpusConfig, kind_of_name
from sparselight.corpus.image_text.sections import HEADINGS, PRIOR_REPORT, parse_report
from sparselight.corpus.image_text.study import Picture, Study, table_rows, view_name
from sparselight.corpus.sources import BadRows, Source
from sparselight.corpus.tables import PSEUDO_COLUMNS, Row, arrow_errors
from sparselight.errors import CorpusError

ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet", ".csv.gz", ".tsv.gz", ".jsonl.gz")


def table_sources(root: Path, _config: CorpusConfig) -> list[Source]:
    """The one table of the root.

    Raises:
        CorpusError: when a folder holds none, or several.
    """
    if root.is_file():
        return [Source(root, root.name)]
    found = sorted(path for path in root.iterdir() if path.name.endswith(ENDINGS))
    if len(found) != 1:
        raise CorpusError(asked=f"read studies from corpus.root = {str(root)!r}",
                          why=f"it holds {len(found)} tables ({', '.join(path.name for path in found[:6]) or 'none'})",
                          instead="set corpus.root to the table, or corpus.image_text.layout to what the folder is")
    return [Source(found[0], found[0].name)]


def table_studies(root: Path, config: CorpusConfig, bad: BadRows, _notes: Counter[str]) -> Iterator[Study]:
    """Studies in order of their first row."""
    source = table_sources(root, config)[0]
    reader = _Reader(source, config)
    studies: dict[str, Study] = {}
    for row in table_rows(source, reader.asked()):
        try:
            study = reader.read(row)
            known = studies.get(study.id)
            studies[study.id] = study if known is None else _joined(known, study)
        except BadValue as err:
            bad.add(row.where, str(err))
    reader.check_labels_seen()
    yield from studies.values()


@dataclass
class _Reader:
    """Makes a study of each row, by the columns that the settings name."""

    source: Source
    config: CorpusConfig
    sections: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        settings = self.config.image_text
        self.image = [settings.image] if isinstance(settings.image, str) else list(settings.image)
        labels = self.config.labels
        self.labels = dict(labels) if isinstance(labels, dict) else {name: name for name in labels}
        self.unseen = dict(self.labels)
        self.base = Path(settings.images).expanduser() if settings.images else self.source.path.parent
        self.names = self._names()
        if not settings.report:
            like = {} if settings.section_columns else {name: name for name in HEADINGS if name != PRIOR_REPORT}
            here = {name.lower(): name for name in self.names or ()}
            guessed = {name: here.get(name, name) for name in like if self.names is None or name in here}
            self.sections = guessed | {str(name): column for name, column in settings.section_columns.items()}

    def _names(self) -> list[str] | None:
        """All columns; None where each row has its own."""
        kind = kind_of_name(self.source.name)
        if kind == "parquet":
            with arrow_errors(self.source):
                return list(pq.read_schema(self.source.path).names)
        first = next(iter(table_rows(self.source)), None)
        return None if kind == "jsonl" or first is None or first.fault else list(first.fields)

    def asked(self) -> tuple[str, ...]:
        """The columns that are read; each that a setting names is there."""
        settings, config = self.config.image_text, self.config
        named = [(f"image_text.{name}", getattr(settings, name)) for name in ("image_name", "date", "report")]
        named += [(name, getattr(config, name)) for name in ("id", "group", "split")]
        named += [("image_text.image", column) for column in self.image] + [("labels", column) for column in self.labels.values()]
        named += [(f"image_text.section_columns.{name}", column) for name, column in settings.section_columns.items()]
        for setting, column in named:
            if column and self.names is not None and column not in (*self.names, *PSEUDO_COLUMNS) and column.partition(".")[0] not in self.names:
                raise CorpusError(asked=f"read the column {column!r} of {self.source.path} (corpus.{setting})", why=f"its columns are {', '.join(self.names)}",
                                  instead=f"set corpus.{setting} to one of them")
        return tuple(dict.fromkeys([*(column for _, column in named if column), *self.sections.values()]))

    def read(self, row: Row) -> Study:
        """The study of a row.

        Raises:
            BadValue: when the row gives none.
        """
        if row.fault:
            raise BadValue(row.fault)
        config, settings = self.config, self.config.image_text
        identifier = self._text(row, config.id, "id") if config.id else f"{row.file}:{row.number}"
        patient = self._text(row, config.group, "group") if config.group else identifier
        sections, headed = self._sections(row)
        return Study(row.where, identifier, patient, tuple(self._pictures(row)), sections, self._labels(row),
                     (_sortable(self._text(row, settings.date, "image_text.date")),) if settings.date else None,
                     self._text(row, config.split, "split") if config.split else "", headed=headed)

    def check_labels_seen(self) -> None:
        for name, column in self.unseen.items():
            raise CorpusError(asked=f"read the label {name!r} (corpus.labels)", why=f"no row has the field {column!r}",
                              instead="name fields that the rows have")

    def _text(self, row: Row, column: str, setting: str) -> str:
        value = look_up(row, column)
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            raise BadValue(f"its {setting.rpartition('.')[2]} is {'missing' if value in (MISSING, None, '') else repr(value)} (corpus.{setting} = {column!r})")
        check_text(str(value))
        return str(value)

    def _sections(self, row: Row) -> tuple[dict[str, str] | None, bool]:
        report = self.config.image_text.report
        if report:
            return parse_report(_optional_text(row, report))
        if not self.sections:
            return None, True
        return {name: text for name, column in self.sections.items() if (text := _optional_text(row, column).strip())}, True

    def _labels(self, row: Row) -> dict[str, str]:
        found = {}
        for name, column in self.labels.items():
            value = look_up(row, column)
            if value is not MISSING:
                self.unseen.pop(name, None)
                if label := label_text(value, column):
                    found[name] = label
        return found

    def _pictures(self, row: Row) -> Iterator[Picture]:
        named = self.config.image_text.image_name
        for column in self.image:
            paths = _listed(row, column)
            names = [view_name(name) for name in _listed(row, named)] if named else [view_name(column) if len(self.image) > 1 else ""] * len(paths)
            if len(names) == 1:
                names *= len(paths)
            if len(names) != len(paths):
                raise BadValue(f"it has {len(paths)} images and {len(names)} names (corpus.image_text.image_name = {named!r})")
            yield from (Picture(self.base / Path(path).expanduser(), name) for path, name in zip(paths, names, strict=True))


def _optional_text(row: Row, column: str) -> str:
    value = look_up(row, column)
    if value is MISSING or value is None:
        return ""
    if not isinstance(value, str):
        raise BadValue(f"the field {column!r} is no text (corpus.image_text.section_columns)")
    check_text(value)
    return value


def _listed(row: Row, column: str) -> list[str]:
    value: Any = look_up(row, column)
    values = value if isinstance(value, list) else [value]
    found = [item for item in values if item is not MISSING and item is not None and item != ""]
    if wrong := next((item for item in found if not isinstance(item, str)), None):
        raise BadValue(f"the field {column!r} is {wrong!r}, not text (corpus.image_text.image)")
    return found


def _sortable(value: str) -> str:
    """Numbers padded so that text order is their order; dates as they are."""
    return value.rjust(20, "0") if value.isdecimal() else value


def _joined(known: Study, row: Study) -> Study:
    """Two rows of one study: images of both, and whatever only one of them says."""
    for name in ("patient", "split", "order"):
        if getattr(known, name) != getattr(row, name):
            raise BadValue(f"the study {row.id!r} has the {name} {getattr(known, name)!r} in an earlier row ({known.where}) and here {getattr(row, name)!r}")
    pictures: Sequence[Picture] = dict.fromkeys((*known.pictures, *row.pictures))  # type: ignore[assignment]
    sections = None if known.sections is None and row.sections is None else _agreeing(known, known.sections or {}, row.sections or {}, row)
    return replace(known, pictures=tuple(pictures), sections=sections, labels=_agreeing(known, known.labels, row.labels, row))


def _agreeing(known: Study, one: Mapping[str, str], other: Mapping[str, str], row: Study) -> dict[str, str]:
    for name in one.keys() & other.keys():
        if one[name] != other[name]:
            raise BadValue(f"the study {row.id!r} has another {name} in an earlier row ({known.where})")
    return {**one, **other}
