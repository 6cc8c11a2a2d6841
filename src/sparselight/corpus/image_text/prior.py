"""The study before: the patient's previous image and report, added to each study that has one.

Owns: the order of a patient's studies, by date or running number. Studies that nothing orders get no earlier one, and are counted.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from sparselight.corpus.image_text.config import ImageTextConfig
from sparselight.corpus.image_text.sections import PRIOR_REPORT
from sparselight.corpus.image_text.study import PRIOR, Picture, Study

PRIOR_SECTIONS = ("findings", "impression")


def with_priors(studies: Sequence[Study], settings: ImageTextConfig, notes: "Counter[str]") -> Iterator[Study]:
    """The studies in their order, each with what the settings want of the patient's previous one."""
    previous: dict[int, Study] = {}
    last: dict[str, Study] = {}
    for index in sorted((index for index, study in enumerate(studies) if study.order), key=lambda index: (studies[index].order, index)):
        study = studies[index]
        if study.patient in last and last[study.patient].order != study.order:
            previous[index] = last[study.patient]
        last[study.patient] = study
    for index, study in enumerate(studies):
        if not study.order:
            notes["studies without a date, and so without an earlier study"] += 1
        yield _with(study, previous[index], settings, notes) if index in previous else study


def _with(study: Study, before: Study, settings: ImageTextConfig, notes: "Counter[str]") -> Study:
    notes["studies with an earlier study of the patient"] += 1
    if settings.prior_report and before.sections:
        words = " ".join(before.sections[name] for name in PRIOR_SECTIONS if before.sections.get(name))
        study = replace(study, sections={**(study.sections or {}), **({PRIOR_REPORT: words} if words else {})})
    if settings.prior_image:
        here = next((picture for picture in before.pictures if picture.name == "frontal" and picture.path.is_file()), None)
        here = here or next((picture for picture in before.pictures if picture.path.is_file()), None)
        study = replace(study, pictures=(*study.pictures, Picture(here.path, PRIOR))) if here else study
    return study
