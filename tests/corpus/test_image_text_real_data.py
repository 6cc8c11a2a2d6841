"""The public data sets as they lie on disk: counts that they are known by. Skipped where they are not there."""

from collections import Counter
from pathlib import Path

import pytest

from sparselight.corpus import CorpusConfig, load_corpus
from sparselight.corpus.image_text import open_image
from sparselight.corpus.image_text.openi import openi_studies
from sparselight.corpus.sources import BadRows

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"


def folder(name: str) -> Path:
    if not (DATA / name).is_dir():
        pytest.skip(f"{name} is not on this machine")
    return DATA / name


def studies_of(root: Path) -> dict[str, int]:
    """Number of studies, of those with findings or an impression, and of pictures."""
    config = CorpusConfig.parse({"kind": "image_text", "root": str(root)})
    studies = list(openi_studies(root, config, BadRows(refuse=True), Counter()))
    return {"studies": len(studies), "read": sum(bool((study.sections or {}).keys() & {"findings", "impression"}) for study in studies),
            "pictures": sum(len(study.pictures) for study in studies), "normal": sum("problem.normal" in study.labels for study in studies)}


def test_openi_tables() -> None:
    assert studies_of(folder("openi_reports")) == {"studies": 3851, "read": 3826, "pictures": 7466, "normal": 1379}


@pytest.mark.slow
def test_openi_archive() -> None:
    assert studies_of(folder("openi_reports") / "NLMCXR_reports.tgz") == {"studies": 3955, "read": 3927, "pictures": 7470, "normal": 1391}


def test_nih_images() -> None:
    corpus = load_corpus(CorpusConfig.parse({"kind": "image_text", "root": str(folder("nih_cxr_images"))}))
    assert [example.group for example in corpus] == ["00000001", "00027426"] and corpus.reading is not None
    assert corpus.reading.notes["boxes of images that no example has"] == 984
    assert {open_image(example.images[0]).size for example in corpus} == {(512, 512)}


def test_nih_images_as_a_folder() -> None:
    corpus = load_corpus(CorpusConfig.parse({"kind": "image_text", "root": str(folder("nih_cxr_images") / "images"),
                                             "image_text": {"patient_pattern": r"(\d{8})_\d{3}"}}))
    assert len(corpus) == 13 and len(corpus.groups()) == 8
