"""From studies to examples: images opened and checked, sections put together, findings labelled, boxes joined.

Owns: what becomes of a study that lacks something. One that cannot be read is a bad row: refused, or counted and left out (corpus.on_bad_row); images that are
not there and reports without findings go by settings of their own.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from sparselight.corpus.config import CorpusConfig
from sparselight.corpus.image_text.boxes import Boxes
from sparselight.corpus.image_text.config import ImageTextConfig
from sparselight.corpus.image_text.identity import identity_faults
from sparselight.corpus.image_text.labeller import label_report
from sparselight.corpus.image_text.layouts import LAYOUTS, layout_of
from sparselight.corpus.image_text.pixels import decode, is_dicom, read_dicom, size_of
from sparselight.corpus.image_text.prior import with_priors
from sparselight.corpus.image_text.sections import PRIOR_REPORT, compose, parse_report
from sparselight.corpus.image_text.study import LABEL_PREFIX, PRIOR, Picture, Study
from sparselight.corpus.sources import BadRows, Source, readable
from sparselight.errors import CorpusError
from sparselight.protocols import Example, Image

FINDING_PREFIX = "finding."


def image_text_sources(config: CorpusConfig) -> list[Source]:
    """The tables and archives that a corpus is read from; images and single reports are in the examples, with their content."""
    return LAYOUTS[layout_of(config)].sources(config.path(), config)


def study_files(config: CorpusConfig) -> Iterator[Path]:
    """Every image and report file, for a look whether something changed."""
    for study in LAYOUTS[layout_of(config)].studies(config.path(), config, BadRows(refuse=False), Counter()):
        yield from study.files
        yield from (picture.path for picture in study.pictures)


def image_text_examples(config: CorpusConfig, bad: BadRows, notes: "Counter[str]") -> Iterator[tuple[Example, bool | None]]:
    """Every study of the source, and whether the split that the source gives holds it out (None without one)."""
    settings = config.image_text
    layout = layout_of(config)
    studies = LAYOUTS[layout].studies(config.path(), config, bad, notes)
    if settings.prior_image or settings.prior_report:
        studies = with_priors(list(studies), settings, notes)
    pictures = _Pictures(settings, Boxes(_boxes_source(config, layout), settings.box_name, bad, notes), notes)
    for study in studies:
        example = None if study.fault else _example(study, settings, pictures, bad, notes)
        if study.fault:
            bad.add(study.where, study.fault)
        if config.split and not study.split and example:
            bad.add(study.where, f"the published split does not name it (corpus.split = {config.split!r})")
        elif example:
            yield example, study.split in config.held_out_values if config.split else None
    pictures.boxes.count_unused()


def _boxes_source(config: CorpusConfig, layout: str) -> Source | None:
    named = config.image_text.paths().get("image_text.boxes")
    if named:
        return Source(named, named.name)
    beside = LAYOUTS[layout].sources(config.path(), config) if layout == "chestxray14" else []
    return next((source for source in beside if source.name.startswith("BBox_List")), None)


def _example(study: Study, settings: ImageTextConfig, pictures: "_Pictures", bad: BadRows, notes: "Counter[str]") -> Example | None:
    chosen = _chosen(study, settings, notes)
    if chosen is None:
        return None
    if study.sections is None and settings.label_template:
        named = [name.removeprefix(LABEL_PREFIX) for name in study.labels if name.startswith(LABEL_PREFIX)] or list(study.labels.values())
        study = replace(study, sections=parse_report(settings.label_template.replace("{labels}", ", ".join(named)))[0])
    looked_in = [name for name in settings.label_sections if name in settings.sections]
    if study.sections is not None and looked_in and not any(study.sections.get(name) for name in looked_in):
        words = " or ".join(looked_in)
        if settings.no_findings == "refuse":
            raise CorpusError(asked=f"read {study.where}", why=f"its report has no {words}", instead='set corpus.image_text.no_findings to "keep" or "skip"')
        notes[f"reports without {words} {'left out' if settings.no_findings == 'skip' else 'kept, without finding labels'}"] += 1
        if settings.no_findings == "skip":
            return None
    if not study.headed:
        notes["reports without headings, taken as findings"] += 1
    try:
        images = tuple(pictures.read(picture) for picture in chosen)
    except CorpusError as err:
        bad.add(study.where, f"{err.asked.removeprefix('open ')}: {err.why}")
        return None
    order = ([PRIOR_REPORT] if settings.prior_report else []) + list(settings.sections)
    text, spans = compose(study.sections or {}, order)
    labels = {name: value for name, value in study.labels.items() if value}
    found = label_report(text, looked_in) if text and looked_in else None
    if found and found.read:
        labels |= {f"{FINDING_PREFIX}{name}": status for name, status in found.findings.items()}
        labels["report"] = "normal" if found.normal else "abnormal"
        spans = tuple(sorted((*spans, *found.spans()), key=lambda span: (span.start, span.end, span.name, span.value)))
    return Example(study.id, text, study.patient, labels, spans, images)


def _chosen(study: Study, settings: ImageTextConfig, notes: "Counter[str]") -> list[Picture] | None:
    """The pictures that an example gets; None where the study is left out for those that it lacks."""
    own = [picture for picture in study.pictures if picture.name != PRIOR]
    if settings.views:
        own = [picture for view in settings.views for picture in own if picture.name == view]
    own = own[:settings.max_images]
    here = [picture for picture in own if picture.path.is_file()]
    if own and len(here) == len(own):
        return [*here, *(picture for picture in study.pictures if picture.name == PRIOR)]
    missing = next((str(picture.path) for picture in own if picture not in here), f"one of {', '.join(settings.views)}" if settings.views else "any image")
    if settings.missing_images == "refuse":
        raise CorpusError(asked=f"read {study.where}", why=f"it lacks {missing}",
                          instead='put the images there (corpus.image_text.images says where), or set corpus.image_text.missing_images to "skip" or "keep"')
    if settings.missing_images == "skip":
        notes["studies left out for a missing image (corpus.image_text.missing_images)"] += 1
        return None
    notes["studies kept with some of their images" if here else "studies kept without an image, as text alone"] += 1
    return [*here, *(picture for picture in study.pictures if picture.name == PRIOR)]


class _Seen(NamedTuple):
    sha256: str
    size: tuple[int, int]


class _Pictures:
    """Opens, checks and hashes image files, each once."""

    def __init__(self, settings: ImageTextConfig, boxes: Boxes, notes: "Counter[str]"):
        self.settings, self.boxes, self.notes = settings, boxes, notes
        self.seen: dict[Path, _Seen] = {}

    def read(self, picture: Picture) -> Image:
        """The image of a file.

        Raises:
            CorpusError: when it cannot be read, is too large or in color where that is refused, or its header names a person.
        """
        path = picture.path.absolute()
        seen = self.seen.get(path) or self._look(path)
        self.seen[path] = seen
        return Image(str(path), seen.sha256, picture.name, self.boxes.of(path, *seen.size))

    def _look(self, path: Path) -> _Seen:
        settings = self.settings
        with readable(path):
            content = path.read_bytes()
        if is_dicom(content):
            self._check_identity(content, path)
        if not settings.check_pixels and settings.color == "keep":
            return _Seen(hashlib.sha256(content).hexdigest(), size_of(content, path, settings.max_pixels))
        shown = decode(content, path, settings.max_pixels)
        if shown.mode == "RGB":
            if settings.color == "refuse":
                raise CorpusError(asked=f"open the image {path}", why='it is in color (corpus.image_text.color = "refuse")',
                                  instead="leave it out of the corpus")
            self.notes["images in color"] += 1
        return _Seen(hashlib.sha256(content).hexdigest(), shown.size)

    def _check_identity(self, content: bytes, path: Path) -> None:
        if faults := identity_faults(read_dicom(content, path, pixels=False), path):
            if not self.settings.allow_phi:
                raise CorpusError(asked=f"open the image {path}", why="; ".join(faults),
                                  instead="de-identify the file, or set corpus.image_text.allow_phi = true if you may read it as it is")
            self.notes["DICOM files whose header seems to name a person, read (corpus.image_text.allow_phi)"] += 1
