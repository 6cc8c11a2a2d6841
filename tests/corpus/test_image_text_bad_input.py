"""What is wrong with a study is said by name, or counted and left out; nothing is guessed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_image_text_layouts import chestxray14, config_of, mimic, names_of, openi_csv, read, table_of, write_csv
from xray_files import dicom, gradient, png

from sparselight.errors import ConfigError, CorpusError, SparselightError


def refused(root: Path, match: str, image_text: dict[str, Any] | None = None, error: type[SparselightError] = CorpusError, **settings: Any) -> None:
    with pytest.raises(error, match=match):
        read(root, image_text, **settings)


def table_with(tmp_path: Path, *rows: dict[str, Any]) -> Path:
    png(tmp_path / "good.png")
    return write_csv(tmp_path / "t.csv", [{"id": "good", "image": "good.png", "findings": "Clear lungs."}, *rows])


def skipped(root: Path, why: str, image_text: dict[str, Any] | None = None) -> None:
    """The bad study ends the reading, or it is left out with its reason."""
    refused(root, why, image_text, id="id")
    corpus = read(root, image_text, id="id", on_bad_row="skip")
    assert [example.id for example in corpus] == ["good"] and corpus.reading is not None and corpus.reading.bad.n == 1
    assert why in corpus.reading.bad.shown[0].why


@pytest.mark.parametrize(("name", "content", "why"), [
    ("bad.png", b"not a picture", "no PNG, JPEG or DICOM"), ("bad.jpg", b"", "it is empty"), ("bad.dcm", b"\0" * 128 + b"DICM", "no pixels"),
])
def test_corrupt_images(tmp_path: Path, name: str, content: bytes, why: str) -> None:
    (tmp_path / name).write_bytes(content)
    skipped(table_with(tmp_path, {"id": "bad", "image": name, "findings": "Clear."}), why)


def test_truncated_image_is_found_while_reading(tmp_path: Path) -> None:
    path = png(tmp_path / "bad.png", np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8))
    path.write_bytes(path.read_bytes()[:2000])
    table = table_with(tmp_path, {"id": "bad", "image": "bad.png", "findings": "Clear."})
    skipped(table, "damaged")
    assert len(read(table, {"check_pixels": False}, id="id")) == 2  # headers alone do not show it


def test_a_dicom_that_names_a_person(tmp_path: Path) -> None:
    dicom(tmp_path / "bad.dcm", PatientName="Roe^Richard", BurnedInAnnotation="YES")
    table = table_with(tmp_path, {"id": "bad", "image": "bad.dcm", "findings": "Clear."})
    skipped(table, "PatientName that seems real; its header says that words are burned into the picture")
    with pytest.raises(CorpusError) as err:
        read(table, id="id")
    assert "Roe" not in str(err.value)
    allowed = read(table, {"allow_phi": True}, id="id")
    assert len(allowed) == 2 and allowed.reading is not None and sum(allowed.reading.notes.values()) == 1


def test_color_is_counted_or_refused(tmp_path: Path) -> None:
    color = np.zeros((4, 4, 3), np.uint8)
    color[0, 0] = (255, 0, 0)
    png(tmp_path / "bad.png", color)
    table = table_with(tmp_path, {"id": "bad", "image": "bad.png", "findings": "Clear."})
    kept = read(table, id="id")
    assert kept.reading is not None and kept.reading.notes == {"images in color": 1}
    skipped(table, "it is in color", {"color": "refuse"})


def test_too_large(tmp_path: Path) -> None:
    png(tmp_path / "bad.png", np.zeros((9, 9), np.uint8))
    skipped(table_with(tmp_path, {"id": "bad", "image": "bad.png", "findings": "Clear."}), "9 x 9 pixels, and at most 50", {"max_pixels": 50})


@pytest.mark.parametrize(("box", "why"), [
    ({"w": 0}, "has no area"), ({"h": -2}, "has no area"), ({"x": 20}, "lies outside"), ({"x": "left"}, "not four numbers"), ({"y": "nan"}, "not four numbers"),
])
def test_boxes_without_area_or_outside(tmp_path: Path, box: dict[str, Any], why: str) -> None:
    table = table_with(tmp_path)
    boxes = write_csv(tmp_path / "b" / "boxes.csv", [{"image": "good.png", "label": "Mass", "x": 1, "y": 1, "w": 1, "h": 1, **box}])
    refused(table, why, {"boxes": str(boxes)}, id="id")
    corpus = read(table, {"boxes": str(boxes)}, id="id", on_bad_row="skip")
    assert corpus[0].images[0].boxes == () and corpus.reading is not None and corpus.reading.bad.n == 1


def test_boxes_without_their_columns(tmp_path: Path) -> None:
    table, boxes = table_with(tmp_path), write_csv(tmp_path / "b" / "boxes.csv", [{"image": "good.png", "x": 1}])
    refused(table, "no column 'label'", {"boxes": str(boxes)}, id="id")


def test_missing_images(tmp_path: Path) -> None:
    root = openi_csv(tmp_path)
    png(root / "images" / "1_IM-2.dcm.png")
    refused(root, "it lacks .*1_IM-1.dcm.png")
    kept = read(root, {"missing_images": "keep"})
    assert [names_of(example) for example in kept] == [[("1_IM-2.dcm.png", "frontal")], []] and kept.reading is not None
    assert kept.reading.notes == {"studies kept with some of their images": 1, "studies kept without an image, as text alone": 1}
    png(root / "images" / "1_IM-1.dcm.png")
    left = read(root, {"missing_images": "skip"})
    assert [example.id for example in left] == ["1"] and left.reading is not None
    assert left.reading.notes == {"studies left out for a missing image (corpus.image_text.missing_images)": 1}
    refused(root, "it lacks one of oblique", {"views": ["oblique"]})


def test_reports_without_findings(tmp_path: Path) -> None:
    png(tmp_path / "a.png")
    table = table_with(tmp_path, {"id": "bare", "image": "a.png", "findings": ""})
    kept = read(table, id="id")
    assert kept[1].labels == {} and kept[1].text == "" and kept.reading is not None
    assert kept.reading.notes == {"reports without findings or impression kept, without finding labels": 1}
    assert len(read(table, {"no_findings": "skip"}, id="id")) == 1
    refused(table, "no findings or impression", {"no_findings": "refuse"}, id="id")


def test_rows_of_one_study_that_contradict_each_other(tmp_path: Path) -> None:
    table = table_of(tmp_path)
    table.write_text(table.read_text().replace("img/b.png,Lateral,The heart is enlarged.", "img/b.png,Lateral,Clear."))
    refused(table, "has another findings in an earlier row", id="study", group="patient")
    table.write_text(table.read_text().replace("s1,p1,img/b.png", "s1,p9,img/b.png"))
    refused(table, "has the patient 'p1' in an earlier row .*and here 'p9'", id="study", group="patient")


def test_columns_that_are_not_there(tmp_path: Path) -> None:
    table = table_of(tmp_path)
    cases: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("image_text.image", {"image": "nope"}, {}), ("image_text.image_name", {"image_name": "nope"}, {}), ("id", {}, {"id": "nope"}),
        ("image_text.section_columns.findings", {"section_columns": {"findings": "nope"}}, {}), ("labels", {}, {"labels": ["nope"]}),
    ]
    for setting, image_text, others in cases:
        refused(table, rf"'nope' of .*\(corpus.{setting}\)", image_text, **others)


def test_bad_values_of_a_row(tmp_path: Path) -> None:
    png(tmp_path / "a.png")
    rows = [{"id": "good", "image": "a.png", "findings": "Clear."}, {"id": 1.5, "image": "a.png"}, {"id": "x", "image": 7},
            {"id": "y", "image": "a.png", "findings": 3}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{\n")
    corpus = read(tmp_path / "t.jsonl", id="id", on_bad_row="skip")
    assert len(corpus) == 1 and corpus.reading is not None and corpus.reading.bad.n == 4


@pytest.mark.parametrize(("make", "settings", "image_text", "setting"), [
    (openi_csv, {"id": "uid"}, {}, "corpus.id"), (openi_csv, {"labels": ["MeSH"]}, {}, "corpus.labels"),
    (openi_csv, {}, {"date": "d"}, "corpus.image_text.date"),
    (openi_csv, {"split": "split"}, {}, "corpus.split"), (mimic, {}, {"patient_pattern": "(a)"}, "corpus.image_text.patient_pattern"),
    (mimic, {"split": "side"}, {}, "corpus.split"), (chestxray14, {}, {"no_findings": "skip"}, "corpus.image_text.no_findings"),
    (table_of, {}, {"label_template": "{labels}"}, "corpus.image_text.label_template"),
])
def test_settings_that_a_layout_would_ignore(tmp_path: Path, make: Any, settings: dict[str, Any], image_text: dict[str, Any], setting: str) -> None:
    refused(make(tmp_path), setting, image_text, ConfigError, **settings)


def test_settings_that_make_no_sense(tmp_path: Path) -> None:
    for image_text, why in (({"label_template": "none"}, "has no {labels}"), ({"views": ["a", "a"]}, "names one twice"),
                            ({"sections": ["findings"], "label_sections": ["impression"]}, "leaves out"),
                            ({"sections": ["conclusion"]}, "sections"), ({"max_pixels": 10**9}, "max_pixels")):
        with pytest.raises(ConfigError, match=why):
            config_of(tmp_path, image_text)
    refused(table_of(tmp_path), "nothing says which study of a patient is earlier", {"prior_image": True}, ConfigError, id="study", group="patient")
    refused(table_of(tmp_path), "does not use it", None, ConfigError, text="findings")
    refused(table_of(tmp_path), "no such folder", {"images": str(tmp_path / "nowhere")})


def test_roots_that_fit_no_layout(tmp_path: Path) -> None:
    refused(tmp_path, "fits no layout")
    table_of(tmp_path)
    write_csv(tmp_path / "second.csv", [{"a": 1}])
    refused(tmp_path, "fits no layout")
    refused(tmp_path, "holds 2 tables", {"layout": "table"})
    refused(tmp_path, "no folders p10", {"layout": "mimic_cxr"})


def test_damaged_archives_and_xml(tmp_path: Path) -> None:
    (tmp_path / "NLMCXR_reports.tgz").write_bytes(b"no archive")
    refused(tmp_path, "damaged")
    (tmp_path / "NLMCXR_reports.tgz").unlink()
    (tmp_path / "1.xml").write_text("<eCitation><uId")
    refused(tmp_path, "not valid XML")


def test_a_study_that_the_published_split_does_not_name(tmp_path: Path) -> None:
    root = mimic(tmp_path)
    png(root / "files" / "p11" / "p11000099" / "s70000001" / "dd.jpg", gradient(seed=5))
    refused(root, "does not name it", split="split")


def test_a_report_that_is_no_text(tmp_path: Path) -> None:
    root = mimic(tmp_path)
    (root / "files" / "p11" / "p11000011" / "s60000001.txt").write_bytes(b"FINDINGS: \xff")
    refused(root, "its report: it is not UTF-8 text")
    corpus = read(root, on_bad_row="skip")
    assert len(corpus) == 2 and corpus.reading is not None and corpus.reading.bad.n == 1


def test_names_that_do_not_fit_the_patient_pattern(tmp_path: Path) -> None:
    png(tmp_path / "a" / "x.png")
    refused(tmp_path, "does not fit", {"patient_pattern": r"(\d+)"})
    refused(tmp_path, "no group", {"patient_pattern": r"\d+"})
    refused(tmp_path, "no regular expression", {"patient_pattern": "("})
