"""The layout `mimic_cxr`: p10/p10000032/s50414267 with images (MIMIC-CXR-JPG or DICOM) and reports, and tables of views, dates, splits and labels beside.

Tables that are not there are done without: then views have no names, and studies no order in time. `corpus.split = "split"` takes the published split.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sparselight.corpus.config import CorpusConfig
from sparselight.corpus.image_text.pixels import SUFFIXES
from sparselight.corpus.image_text.sections import parse_report
from sparselight.corpus.image_text.study import Picture, Study, problem_label, table_rows, view_name
from sparselight.corpus.sources import BadRows, Source
from sparselight.errors import CorpusError

SPLITS = {"validate": "validation"}  # their word -> the word that corpus.held_out_values has
STATUS = {"1": "present", "0": "absent", "-1": "uncertain"}
SHARD, PATIENT, STUDY = re.compile(r"p\d\d"), re.compile(r"p\d+"), re.compile(r"s\d+")
KEYS = ("subject_id", "study_id")


def mimic_sources(root: Path, _config: CorpusConfig) -> list[Source]:
    """The tables beside the folders, by a word of their name: one of metadata, one of splits, one of labels."""
    tables = sorted(path for path in root.iterdir() if path.name.endswith((".csv", ".csv.gz"))) if root.is_dir() else []
    found = [next((path for path in tables if word in path.name.lower()), None) for word in ("metadata", "split", "chexpert")]
    return [Source(path, path.name) for path in found if path]


@dataclass
class _Tables:
    """What the tables say, by image (dicom_id) or study."""

    views: dict[str, str] = field(default_factory=dict)
    dates: dict[str, tuple[str, ...]] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    labels: dict[str, dict[str, str]] = field(default_factory=dict)


def mimic_studies(root: Path, config: CorpusConfig, bad: BadRows, _notes: Counter[str]) -> Iterator[Study]:
    """Studies patient by patient; a study is there where its folder of images or its report is."""
    images = _base(root)
    reports = _base(Path(config.image_text.reports).expanduser()) if config.image_text.reports else images
    tables = _read_tables(mimic_sources(root, config), bad)
    shards = sorted({path.name for base in (images, reports) for path in base.iterdir() if SHARD.fullmatch(path.name)})
    for shard in shards:
        patients = {path.name for base in (images, reports) if (base / shard).is_dir() for path in (base / shard).iterdir() if PATIENT.fullmatch(path.name)}
        for patient in sorted(patients):
            folders = [base / shard / patient for base in (images, reports) if (base / shard / patient).is_dir()]
            studies = {path.stem for folder in folders for path in folder.iterdir() if STUDY.fullmatch(path.stem)}
            for study in sorted(studies):
                place = Path(shard, patient, study)
                yield _study(images / place, (reports / place).with_suffix(".txt"), place, tables)


def _base(root: Path) -> Path:
    """The folder that holds p10, p11, ...: the root, or `files` in it.

    Raises:
        CorpusError: when neither does.
    """
    for folder in (root, root / "files"):
        if folder.is_dir() and any(SHARD.fullmatch(path.name) for path in folder.iterdir()):
            return folder
    raise CorpusError(asked=f"read MIMIC-CXR from {root}", why="it has no folders p10, p11, ... nor has `files` in it",
                      instead="set corpus.root to the folder that has them, or corpus.image_text.layout to what it is")


def _study(folder: Path, report: Path, place: Path, tables: _Tables) -> Study:
    study, patient = place.name.removeprefix("s"), place.parent.name.removeprefix("p")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    views = [tables.views.get(path.stem, "") for path in paths]
    pictures = [Picture(path, view_name(view)) for path, view in zip(paths, views, strict=True)]
    pictures.sort(key=lambda picture: (picture.name != "frontal", picture.path))
    sections, headed, fault = dict[str, str](), True, ""
    if report.is_file():
        try:
            sections, headed = parse_report(Source(report, place.as_posix()).text())
        except CorpusError as err:
            fault = f"its report: {err.why}"
    labels = dict(tables.labels.get(study, {}))
    if first := next((tables.views.get(picture.path.stem) for picture in pictures), None):
        labels["view"] = first
    return Study(place.as_posix(), study, patient, tuple(pictures), sections, labels, tables.dates.get(study),
                 tables.splits.get(study, ""), fault, headed, files=(report,) if report.is_file() else ())


def _read_tables(sources: list[Source], bad: BadRows) -> _Tables:
    tables = _Tables()
    for source in sources:
        name = source.name.lower()
        needed = KEYS if "chexpert" in name else ("dicom_id", *KEYS)
        for row in table_rows(source, needed):
            if row.fault:
                bad.add(row.where, row.fault)
            elif "metadata" in name:
                tables.views[row.fields["dicom_id"]] = row.fields.get("ViewPosition", "")
                if row.fields.get("StudyDate"):
                    tables.dates[row.fields["study_id"]] = (row.fields["StudyDate"], row.fields.get("StudyTime", "").partition(".")[0].zfill(6))
            elif "split" in name:
                split = row.fields.get("split", "")
                tables.splits[row.fields["study_id"]] = SPLITS.get(split, split)
            else:
                tables.labels[row.fields["study_id"]] = _statuses(row.fields)
    return tables


def _statuses(fields: Mapping[str, str]) -> dict[str, str]:
    """CheXpert's columns 1, 0 and -1 as labels; blank means not mentioned."""
    values = {name: STATUS.get(value.partition(".")[0]) for name, value in fields.items() if name not in KEYS and name}
    return {problem_label(name): status for name, status in values.items() if status}
