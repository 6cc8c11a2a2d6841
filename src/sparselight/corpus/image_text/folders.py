"""The layout `folders`: images sorted into one folder a class. The folder is the label `class`; there are no reports.

Where the first folders are called train, test and the like, they are the split (`corpus.split = "split"` takes it) and the ones below are the classes.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from sparselight.corpus.config import CorpusConfig
from sparselight.corpus.image_text.pixels import SUFFIXES
from sparselight.corpus.image_text.study import Picture, Study
from sparselight.corpus.sources import BadRows, Source
from sparselight.errors import CorpusError

SIDES = {"train", "training", "test", "testing", "val", "valid", "validation", "dev", "held_out"}


def folder_sources(_root: Path, _config: CorpusConfig) -> list[Source]:
    """None: what is read are the images alone."""
    return []


def folder_studies(root: Path, config: CorpusConfig, bad: BadRows, _notes: Counter[str]) -> Iterator[Study]:
    """Images in sorted order of their paths.

    Raises:
        CorpusError: when `patient_pattern` is no regular expression with a group, or fits a file not at all.
    """
    base = Path(config.image_text.images).expanduser() if config.image_text.images else root
    pattern = _patient_pattern(config.image_text.patient_pattern)
    names = [path.relative_to(base) for path in sorted(base.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file()]
    sided = bool(names) and all(len(name.parts) > 2 and name.parts[0].lower() in SIDES for name in names)
    for name in names:
        parts = name.parts[1:] if sided else name.parts
        labels = {"class": parts[0]} if len(parts) > 1 else {}
        match = pattern.search(name.name) if pattern else None
        if pattern and not match:
            bad.add(name.as_posix(), f"its name does not fit corpus.image_text.patient_pattern = {pattern.pattern!r}")
            continue
        yield Study(name.as_posix(), name.as_posix(), match[1] if match else name.as_posix(), (Picture(base / name),), None, labels,
                    split=name.parts[0].lower() if sided else "")


def _patient_pattern(text: str) -> re.Pattern[str] | None:
    try:
        pattern = re.compile(text) if text else None
    except re.error as err:
        raise CorpusError(asked=f"use corpus.image_text.patient_pattern = {text!r}", why=f"it is no regular expression ({err})",
                          instead="write for example '^(\\w+?)_'") from None
    if pattern and not pattern.groups:
        raise CorpusError(asked=f"use corpus.image_text.patient_pattern = {text!r}", why="it has no group", instead="put what names the patient in parentheses")
    return pattern
