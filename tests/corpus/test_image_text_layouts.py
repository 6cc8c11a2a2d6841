"""Layouts of studies: what each folder or table gives as examples. All reports and pictures are invented."""

import csv
import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from xray_files import REPORT, dicom, gradient, png

from sparselight.cli.corpus import render_corpus
from sparselight.corpus import CorpusConfig, load_corpus, source_fingerprint
from sparselight.corpus.base import ListCorpus
from sparselight.corpus.describe import corpus_record
from sparselight.corpus.image_text import image_file
from sparselight.corpus.image_text.layouts import guess_layout
from sparselight.protocols import Box, Example


def read(root: Path, image_text: dict[str, Any] | None = None, **settings: Any) -> ListCorpus:
    return load_corpus(config_of(root, image_text, **settings))


def config_of(root: Path, image_text: dict[str, Any] | None = None, **settings: Any) -> CorpusConfig:
    return CorpusConfig.parse({"kind": "image_text", "root": str(root), "image_text": image_text or {}, **settings}, "corpus")


def names_of(example: Example) -> list[tuple[str, str]]:
    return [(Path(image.path).name, image.name) for image in example.images]


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(gzip.compress(text.getvalue().encode()) if path.suffix == ".gz" else text.getvalue().encode())
    return path


# Tables.

def table_of(tmp_path: Path) -> Path:
    png(tmp_path / "img" / "a.png"), png(tmp_path / "img" / "b.png", gradient(seed=1)), png(tmp_path / "img" / "c.png", gradient(seed=2))
    return write_csv(tmp_path / "studies.csv", [
        {"study": "s1", "patient": "p1", "image": "img/a.png", "view": "PA", "Findings": "The heart is enlarged.", "impression": "", "sex": "F",
         "side": "train"},
        {"study": "s2", "patient": "p2", "image": "img/c.png", "view": "AP", "Findings": "", "impression": "No effusion.", "sex": "M", "side": "test"},
        {"study": "s1", "patient": "p1", "image": "img/b.png", "view": "Lateral", "Findings": "The heart is enlarged.", "impression": "", "sex": "F",
         "side": "train"},
    ])


def test_several_rows_of_one_study(tmp_path: Path) -> None:
    corpus = read(table_of(tmp_path), {"image_name": "view"}, id="study", group="patient", labels=["sex"], split="side")
    first, second = corpus
    assert (first.id, first.group, first.text) == ("s1", "p1", "FINDINGS: The heart is enlarged.")
    assert names_of(first) == [("a.png", "frontal"), ("b.png", "lateral")]
    assert first.labels == {"sex": "F", "finding.cardiomegaly": "present", "report": "abnormal"}
    assert [(span.name, span.value, first.text[span.start:span.end]) for span in first.spans] == [
        ("finding", "cardiomegaly", "heart is enlarged"), ("section", "findings", "The heart is enlarged.")] or len(first.spans) == 2
    assert second.text == "IMPRESSION: No effusion." and second.labels["finding.pleural effusion"] == "absent"
    train, held = corpus.split()
    assert [example.id for example in train] == ["s1"] and [example.id for example in held] == ["s2"]


def test_columns_as_views_and_a_whole_report(tmp_path: Path) -> None:
    png(tmp_path / "f.png"), png(tmp_path / "l.png", gradient(seed=1))
    (tmp_path / "t.jsonl").write_text(json.dumps({"uid": 4, "frontal": "f.png", "lateral": "l.png", "report": REPORT}) + "\n")
    (example,) = read(tmp_path / "t.jsonl", {"image": ["frontal", "lateral"], "report": "report"}, id="uid")
    assert names_of(example) == [("f.png", "frontal"), ("l.png", "lateral")] and example.text == REPORT and example.id == "4"
    (alone,) = read(tmp_path / "t.jsonl", {"image": ["frontal", "lateral"], "report": "report", "views": ["lateral"], "sections": ["impression"],
                                           "label_sections": ["impression"]})
    assert names_of(alone) == [("l.png", "lateral")] and alone.text == "IMPRESSION: Possible left basilar atelectasis."
    assert alone.labels == {"finding.atelectasis": "uncertain", "report": "abnormal"}
    assert len(read(tmp_path / "t.jsonl", {"image": ["frontal", "lateral"], "report": "report", "max_images": 1})[0].images) == 1


def test_parquet_with_lists_of_paths(tmp_path: Path) -> None:
    png(tmp_path / "f.png"), png(tmp_path / "l.png", gradient(seed=1))
    pq.write_table(pa.table({"files": [["f.png", "l.png"], ["f.png"]], "views": [["PA", "LATERAL"], ["PA"]], "findings": ["Clear lungs.", None],
                             "unused": [1, 2]}), tmp_path / "t.parquet")
    corpus = read(tmp_path / "t.parquet", {"image": "files", "image_name": "views"})
    assert [names_of(example) for example in corpus] == [[("f.png", "frontal"), ("l.png", "lateral")], [("f.png", "frontal")]]
    assert [example.text for example in corpus] == ["FINDINGS: Clear lungs.", ""] and corpus[0].id == "t.parquet:1"


def test_boxes_become_fractions(tmp_path: Path) -> None:
    table = table_of(tmp_path)
    boxes = write_csv(tmp_path / "b" / "boxes.csv", [{"image": "a.png", "label": "Mass", "x": 2, "y": 3, "w": 4, "h": 3},
                                                     {"image": "a.png", "label": "Nodule", "x": -1, "y": 0, "w": 3, "h": 60},
                                                     {"image": "z.png", "label": "Nodule", "x": 1, "y": 1, "w": 1, "h": 1}])
    corpus = read(table, {"boxes": str(boxes)}, id="study", group="patient")
    assert corpus[0].images[0].boxes == (Box(0.25, 0.5, 0.75, 1.0, "box", "Mass"), Box(0.0, 0.0, 0.25, 1.0, "box", "Nodule"))
    assert corpus.reading is not None and corpus.reading.notes == {"boxes cut at the edge of their image": 1, "boxes of images that no example has": 1}


def test_the_previous_study(tmp_path: Path) -> None:
    for name in "abc":
        png(tmp_path / f"{name}.png", gradient(seed=ord(name)))
    table = write_csv(tmp_path / "t.csv", [
        {"id": "late", "who": "p", "day": "10", "image": "a.png", "findings": "New effusion."},
        {"id": "early", "who": "p", "day": "9", "image": "b.png", "findings": "Mild edema."},
        {"id": "other", "who": "q", "day": "1", "image": "c.png", "findings": "Clear."}])
    corpus = read(table, {"date": "day", "prior_image": True, "prior_report": True}, id="id", group="who")
    late, early, other = corpus
    assert names_of(late) == [("a.png", ""), ("b.png", "prior")] and late.text == "PRIOR REPORT: Mild edema.\nFINDINGS: New effusion."
    assert "finding.edema" not in late.labels  # the earlier report is not this study's
    assert names_of(early) == [("b.png", "")] and names_of(other) == [("c.png", "")] and early.text == "FINDINGS: Mild edema."


# Open-i.

def openi_csv(folder: Path) -> Path:
    write_csv(folder / "indiana_reports.csv", [
        {"uid": "1", "MeSH": "Cardiomegaly/mild;Spine/degenerative", "Problems": "Cardiomegaly;Spine", "image": "x", "indication": "Cough",
         "comparison": "None.", "findings": "Mild cardiomegaly.", "impression": "XXXX."},
        {"uid": "2", "MeSH": "normal", "Problems": "normal", "image": "x", "indication": "", "comparison": "", "findings": "", "impression": "Clear lungs."}])
    return write_csv(folder / "indiana_projections.csv", [
        {"uid": "1", "filename": "1_IM-1.dcm.png", "projection": "Lateral"}, {"uid": "1", "filename": "1_IM-2.dcm.png", "projection": "Frontal"},
        {"uid": "2", "filename": "2_IM-1.dcm.png", "projection": "Frontal"}]).parent


def test_openi_tables(tmp_path: Path) -> None:
    root = openi_csv(tmp_path)
    for number, name in enumerate(("1_IM-1", "1_IM-2", "2_IM-1")):
        png(root / "images" / f"{name}.dcm.png", gradient(seed=number))
    first, second = read(root)
    assert names_of(first) == [("1_IM-2.dcm.png", "frontal"), ("1_IM-1.dcm.png", "lateral")] and first.group == "1"
    assert first.text == "INDICATION: Cough\nCOMPARISON: None.\nFINDINGS: Mild cardiomegaly.\nIMPRESSION: XXXX."
    assert first.labels == {"problem.cardiomegaly": "present", "problem.spine": "present", "finding.cardiomegaly": "present", "report": "abnormal"}
    assert second.labels["report"] == "normal"


XML = """<?xml version="1.0"?><eCitation><uId id="{uid}"/><MedlineCitation><Article><Abstract>
<AbstractText Label="FINDINGS">{findings}</AbstractText><AbstractText Label="IMPRESSION"></AbstractText></Abstract></Article></MedlineCitation>
<MeSH><major>Opacity/lung</major></MeSH><parentImage id="{uid}_IM-1"/></eCitation>"""


def test_openi_xml_as_folder_and_as_archive(tmp_path: Path) -> None:
    png(tmp_path / "images" / "CXR7_IM-1.png")
    report = XML.format(uid="CXR7", findings="Left opacity &lt; 2 cm.")
    (tmp_path / "ecgen").mkdir()
    (tmp_path / "ecgen" / "7.xml").write_text(report)
    (example,) = read(tmp_path)
    assert example.id == "CXR7" and example.text == "FINDINGS: Left opacity < 2 cm." and names_of(example) == [("CXR7_IM-1.png", "")]
    assert example.labels == {"problem.opacity": "present", "finding.opacity": "present", "report": "abnormal"}
    packed = tmp_path / "packed" / "NLMCXR_reports.tgz"
    packed.parent.mkdir()
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(tmp_path / "ecgen", "ecgen")
    assert read(packed, {"images": str(tmp_path / "images")})[0].text == example.text


# MIMIC-CXR.

def mimic(root: Path) -> Path:
    patient = root / "files" / "p10" / "p10000032"
    png(patient / "s50000001" / "aa-1.jpg", gradient(seed=1))
    png(patient / "s50000002" / "bb-1.jpg", gradient(seed=2)), png(patient / "s50000002" / "bb-2.jpg", gradient(seed=3))
    dicom(root / "files" / "p11" / "p11000011" / "s60000001" / "cc-1.dcm", PatientID="11000011")
    for number, findings in (("s50000001", "Small effusion."), ("s50000002", "Effusion is unchanged.")):
        (patient / f"{number}.txt").write_text(f"  FINAL REPORT\n INDICATION: ___\n\n FINDINGS:\n {findings}\n")
    (root / "files" / "p11" / "p11000011" / "s60000001.txt").write_text("No acute process. Lungs are clear.")
    keys = {"subject_id": "10000032", "study_id": "50000001"}
    write_csv(root / "mimic-cxr-2.0.0-metadata.csv.gz", [
        {"dicom_id": "aa-1", **keys, "ViewPosition": "PA", "StudyDate": "21800506", "StudyTime": "213014.5"},
        {"dicom_id": "bb-1", **keys, "study_id": "50000002", "ViewPosition": "LATERAL", "StudyDate": "21800626", "StudyTime": "80000.0"},
        {"dicom_id": "bb-2", **keys, "study_id": "50000002", "ViewPosition": "AP", "StudyDate": "21800626", "StudyTime": "80000.0"},
        {"dicom_id": "cc-1", "subject_id": "11000011", "study_id": "60000001", "ViewPosition": "PA", "StudyDate": "21790101", "StudyTime": "1"}])
    write_csv(root / "mimic-cxr-2.0.0-split.csv.gz", [
        {"dicom_id": "aa-1", **keys, "split": "train"}, {"dicom_id": "bb-1", **keys, "study_id": "50000002", "split": "train"},
        {"dicom_id": "cc-1", "subject_id": "11000011", "study_id": "60000001", "split": "validate"}])
    write_csv(root / "mimic-cxr-2.0.0-chexpert.csv.gz", [{**keys, "Pleural Effusion": "1.0", "Edema": "-1.0", "Fracture": "0.0", "Pneumonia": ""}])
    return root


def test_mimic_cxr(tmp_path: Path) -> None:
    corpus = read(mimic(tmp_path), {"prior_image": True, "prior_report": True}, split="split")
    first, second, third = corpus
    assert first.id == "50000001" and first.group == second.group == "10000032" and first.text == "INDICATION: ___\nFINDINGS: Small effusion."
    assert [first.labels[f"problem.{name}"] for name in ("pleural effusion", "edema", "fracture")] == ["present", "uncertain", "absent"]
    assert first.labels["view"] == "PA" and "problem.pneumonia" not in first.labels
    assert names_of(second) == [("bb-2.jpg", "frontal"), ("bb-1.jpg", "lateral"), ("aa-1.jpg", "prior")]
    assert second.text.startswith("PRIOR REPORT: Small effusion.\nINDICATION: ___")
    assert {span.value for span in second.spans if span.name == "longitudinal"} == {"unchanged"}
    assert third.text == "FINDINGS: No acute process. Lungs are clear." and names_of(third) == [("cc-1.dcm", "frontal")]
    train, held = corpus.split()
    assert [example.id for example in held] == ["60000001"] and len(train) == 2


def test_mimic_cxr_reports_in_a_folder_of_their_own(tmp_path: Path) -> None:
    root = mimic(tmp_path / "jpg")
    for path in sorted((root / "files").rglob("*.txt")):
        target = tmp_path / "reports" / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    corpus = read(root, {"reports": str(tmp_path / "reports")})
    assert [bool(example.text) for example in corpus] == [True] * 3


# ChestX-ray14 and folders.

def chestxray14(root: Path) -> Path:
    for number, name in enumerate(("00000001_000", "00000001_001", "00000002_000")):
        png(root / "images_001" / "images" / f"{name}.png", gradient(seed=number))
    common = {"Patient Age": 50, "Patient Gender": "F", "View Position": "PA"}
    write_csv(root / "Data_Entry_2017.csv", [
        {"Image Index": "00000001_000.png", "Finding Labels": "Cardiomegaly|Pleural_Thickening", "Follow-up #": 0, "Patient ID": 1, **common},
        {"Image Index": "00000001_001.png", "Finding Labels": "Effusion", "Follow-up #": 1, "Patient ID": 1, **common},
        {"Image Index": "00000002_000.png", "Finding Labels": "No Finding", "Follow-up #": 0, "Patient ID": 2, **common}])
    (root / "BBox_List_2017.csv").write_text("Image Index,Finding Label,Bbox [x,y,w,h],,,\n00000001_000.png,Cardiomegaly,2.0,3.0,4.0,1.5,,,\n")
    (root / "test_list.txt").write_text("00000002_000.png\n")
    return root


def test_chestxray14(tmp_path: Path) -> None:
    corpus = read(chestxray14(tmp_path), {"prior_image": True}, split="split")
    first, second, third = corpus
    assert first.text == "" and first.spans == () and first.group == second.group == "1" and third.group == "2"
    assert first.labels == {"problem.cardiomegaly": "present", "problem.pleural thickening": "present",
                            "view": "PA"} and third.labels["problem.no finding"] == "present"
    assert first.images[0].boxes == (Box(0.25, 0.5, 0.75, 0.75, "box", "Cardiomegaly"),)
    assert names_of(second) == [("00000001_001.png", "frontal"), ("00000001_000.png", "prior")]
    assert [example.id for example in corpus.split()[1]] == ["00000002_000.png"]


def test_text_from_a_template_only_where_it_is_asked_for(tmp_path: Path) -> None:
    first = read(chestxray14(tmp_path), {"label_template": "FINDINGS: {labels}."})[0]
    assert first.text == "FINDINGS: cardiomegaly, pleural thickening."


def test_folders_by_class_and_split(tmp_path: Path) -> None:
    for side in ("train", "test"):
        for label in ("normal", "pneumonia"):
            png(tmp_path / side / label / f"{side}_{label}_1.png", gradient(seed=len(side + label)))
    corpus = read(tmp_path, {"patient_pattern": r"^(\w+?)_1"}, split="split")
    assert {example.labels["class"] for example in corpus} == {"normal", "pneumonia"} and {example.text for example in corpus} == {""}
    assert corpus[0].id == "test/normal/test_normal_1.png" and corpus[0].group == "test_normal"
    assert {example.id.split("/")[0] for example in corpus.split()[1]} == {"test"}


def test_a_folder_of_images_is_of_this_kind_by_itself(tmp_path: Path) -> None:
    png(tmp_path / "a" / "1.png")
    assert CorpusConfig.parse({"root": str(tmp_path)}).kind == "image_text" and guess_layout(tmp_path) == "folders"


# What a corpus of images shares with all others.

def test_saved_spooled_and_moved_corpora_are_the_same(tmp_path: Path) -> None:
    boxes = write_csv(tmp_path / "boxes" / "b.csv", [{"image": "a.png", "label": "Mass", "x": 1, "y": 1, "w": 2, "h": 2}])
    settings = {"image_name": "view", "boxes": str(boxes)}
    table = table_of(tmp_path / "one")
    corpus = read(table, settings, id="study", group="patient")
    corpus.save(tmp_path / "c.parquet")
    again = ListCorpus.load(tmp_path / "c.parquet", "saved")
    assert list(again) == list(corpus) and again.fingerprint() == corpus.fingerprint()
    spooled = read(table, settings, id="study", group="patient", in_memory=False)
    assert list(spooled) == list(corpus) and spooled.fingerprint() == corpus.fingerprint()
    spooled.save(tmp_path / "d.parquet")
    assert list(ListCorpus.load(tmp_path / "d.parquet", "saved")) == list(corpus)
    moved = read(table_of(tmp_path / "two"), settings, id="study", group="patient")
    assert moved.fingerprint() == corpus.fingerprint() and moved[0].images != corpus[0].images
    png(tmp_path / "two" / "img" / "a.png", gradient(seed=6))
    assert read(tmp_path / "two" / "studies.csv", settings, id="study", group="patient").fingerprint() != corpus.fingerprint()


def test_a_changed_image_is_noticed_without_reading(tmp_path: Path) -> None:
    config = config_of(table_of(tmp_path), id="study", group="patient")
    before = source_fingerprint(config)
    assert source_fingerprint(config) == before
    png(tmp_path / "img" / "a.png", np.zeros((30, 30), np.uint8))
    assert source_fingerprint(config) != before


def test_texts_in_memory_with_images(tmp_path: Path) -> None:
    image = image_file(png(tmp_path / "a.png"), "frontal")
    corpus = ListCorpus.from_texts(["one", "two"], images=[[image], []])
    assert corpus[0].images == (image,) and corpus[1].images == () and corpus.fingerprint() != ListCorpus.from_texts(["one", "two"]).fingerprint()


def test_text_beside_pictures_stays_text(tmp_path: Path) -> None:
    png(tmp_path / "1.png"), png(tmp_path / "2.png")
    (tmp_path / "notes.md").write_text("text")
    assert CorpusConfig.parse({"root": str(tmp_path)}).kind == "text"


def test_a_corpus_without_images_has_the_columns_it_always_had(tmp_path: Path) -> None:
    corpus = ListCorpus.from_texts(["a", "b"])
    corpus.save(tmp_path / "c.parquet")
    assert pq.read_schema(tmp_path / "c.parquet").names == ["id", "group", "text", "labels", "spans"]


@pytest.mark.parametrize("dedup", ["exact", "near"])
def test_duplicates_are_studies_that_share_an_image(tmp_path: Path, dedup: str) -> None:
    rows = [{"id": str(number), "image": f"{number}.png", "findings": "No acute disease."} for number in range(4)]
    for number, seed in enumerate((0, 1, 0, 2)):
        png(tmp_path / f"{number}.png", gradient(seed=seed))
    table = write_csv(tmp_path / "t.csv", rows)
    assert [example.id for example in read(table, id="id", dedup=dedup)] == ["0", "1", "3"]
    grouped = read(table, id="id", dedup=dedup, dedup_action="group")
    assert [example.group for example in grouped] == ["0", "1", "0", "3"]


def test_corpus_record(tmp_path: Path) -> None:
    record = corpus_record(config_of(table_of(tmp_path), {"image_name": "view"}, id="study", group="patient"))
    assert record.n_examples == 2 and record.kind == "image_text" and {"finding", "finding negated", "section"} == {count.name for count in record.spans}
    assert record.n_images == 3 and record.image_names == {"frontal": 2, "lateral": 1} and "images        3: frontal 2, lateral 1" in render_corpus(record)
    assert [source.name for source in record.sources] == ["studies.csv"] and record.settings["image_text"] == {"image_name": "view"}
