"""Sections and finding labels of reports: invented sentences with a known reading."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparselight.corpus.image_text.labeller import finding_names, label_report
from sparselight.corpus.image_text.sections import compose, find_sections, parse_report

SENTENCES = [
    ("The heart is enlarged.", {"cardiomegaly": "present"}),
    ("The heart is not enlarged.", {"cardiomegaly": "absent"}),
    ("Heart size is within normal limits.", {"cardiomegaly": "absent"}),
    ("Borderline cardiomegaly.", {"cardiomegaly": "uncertain"}),
    ("No focal consolidation, pneumothorax, or definite pleural effusion.", {"consolidation": "absent", "pneumothorax": "absent",
                                                                             "pleural effusion": "absent"}),
    ("No pneumothorax, but there is a small left effusion.", {"pneumothorax": "absent", "pleural effusion": "present"}),
    ("Small pericardial effusion.", {}),
    ("No change in the right pleural effusion.", {"pleural effusion": "present"}),
    ("Pneumonia cannot be excluded.", {"pneumonia": "uncertain"}),
    ("There is no opacity to suggest pneumonia.", {"opacity": "absent", "pneumonia": "absent"}),
    ("Patchy opacity which may be secondary to atelectasis.", {"opacity": "present", "atelectasis": "uncertain"}),
    ("Opacity in the left base, possible pneumonia.", {"opacity": "present", "pneumonia": "uncertain"}),
    ("Interval resolution of the edema.", {"edema": "absent"}),
    ("The effusion has resolved.", {"pleural effusion": "absent"}),
    ("Nodule is not seen.", {"nodule or mass": "absent"}),
    ("History of pneumonia.", {}),
    ("Evaluate for rib fracture.", {}),
    ("Please note that fractures may not be demonstrated.", {}),
    ("Healed fracture of the left fifth rib.", {"fracture": "present"}),
    ("The lungs are clear.", {"opacity": "absent"}),
    ("Subcutaneous emphysema along the neck.", {}),
    ("Flattened diaphragms and hyperinflation.", {"emphysema": "present"}),
    ("Calcified granuloma in the right upper lobe.", {"granuloma": "present", "calcification": "present"}),
    ("Mild dextroscoliosis with osteophytes.", {"scoliosis": "present", "spine degeneration": "present"}),
    ("Moderate hiatal hernia.", {"hiatal hernia": "present"}),
    ("Right PICC with its tip in the SVC; dual-chamber pacemaker.", {"line or tube": "present", "pacemaker": "present"}),
    ("The endotracheal tube has been removed.", {"line or tube": "absent"}),
    ("Median sternotomy and surgical clips.", {"surgical material": "present"}),
    ("", {}), ("   \n ", {}), ("????", {}),
]


@pytest.mark.parametrize(("sentence", "expected"), SENTENCES, ids=[sentence for sentence, _ in SENTENCES])
def test_labels_of_a_sentence(sentence: str, expected: dict[str, str]) -> None:
    assert label_report(sentence).findings == expected


def test_the_strongest_mention_is_the_reports_label() -> None:
    assert label_report("No effusion. Possible effusion.").findings == {"pleural effusion": "uncertain"}
    assert label_report("No effusion on the right.\nSmall effusion on the left. Possible effusion.").findings == {"pleural effusion": "present"}


def test_only_findings_and_impression_are_read_where_there_are_headings() -> None:
    report = label_report("INDICATION: Pneumonia, cardiomegaly.\nFINDINGS: Small effusion.\nIMPRESSION: Edema.")
    assert report.findings == {"pleural effusion": "present", "edema": "present"} and report.read
    nothing = label_report("INDICATION: Pneumonia.")
    assert nothing.findings == {} and not nothing.read and not nothing.normal
    assert label_report("INDICATION: Pneumonia.", sections=["indication"]).findings == {"pneumonia": "present"}


def test_normal() -> None:
    assert label_report("Clear lungs. Normal heart size. No effusion.").normal
    assert label_report("Sternotomy wires are intact. Lungs are clear.").normal  # a device is no disease
    assert not label_report("Possible edema.").normal


def test_spans_cover_the_words() -> None:
    text = "FINDINGS: Unchanged small effusion. New PICC. No edema. Possible mass.\nIMPRESSION: Improved compared to the prior exam."
    spans = {(text[span.start:span.end], span.name, span.value) for span in label_report(text).spans()}
    assert spans >= {("effusion", "finding", "pleural effusion"), ("PICC", "finding", "line or tube"), ("PICC", "device", "line or tube"),
                     ("edema", "finding negated", "edema"),
                     ("mass", "finding uncertain", "nodule or mass"), ("Unchanged", "longitudinal", "unchanged"), ("New", "longitudinal", "new"),
                     ("Improved", "longitudinal", "better"), ("compared to the prior", "longitudinal", "compared")}


def test_names_are_unique() -> None:
    assert len(set(finding_names())) == len(finding_names()) == 20


@given(st.text(alphabet="noNO pleural effusion.,\n:;?!XÄß-0INDGS", max_size=300))
def test_any_text_gives_spans_inside_it(text: str) -> None:
    for span in label_report(text).spans():
        assert 0 <= span.start < span.end <= len(text)
    for section in find_sections(text):
        assert 0 <= section.start <= section.end <= len(text)


def test_sections_of_a_free_report() -> None:
    report = """
                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 HISTORY:  ___ year old with cough

 COMPARISONS:  None.

 Findings:

 The lungs are clear.  There is
 no effusion.

 CONCLUSION: 1. Normal: nothing acute.

 NOTIFICATION: Called at noon.
"""
    sections, headed = parse_report(report)
    assert headed and sections == {"technique": "CHEST (PA AND LAT)", "indication": "___ year old with cough", "comparison": "None.",
                                   "findings": "The lungs are clear. There is no effusion.", "impression": "1. Normal: nothing acute."}


def test_a_report_without_headings_is_findings() -> None:
    assert parse_report("The lungs are clear.\nNo effusion.") == ({"findings": "The lungs are clear. No effusion."}, False)
    assert parse_report(" \n") == ({}, False)


def test_compose_and_parse_again() -> None:
    sections = {"indication": "cough", "findings": "Clear\nlungs.  Heart: normal.", "impression": "Normal."}
    text, spans = compose(sections, ["indication", "comparison", "findings", "impression"])
    assert text == "INDICATION: cough\nFINDINGS: Clear lungs. Heart: normal.\nIMPRESSION: Normal."
    assert [(span.value, text[span.start:span.end]) for span in spans] == [("indication", "cough"), ("findings", "Clear lungs. Heart: normal."),
                                                                           ("impression", "Normal.")]
    assert parse_report(text)[0] == {"indication": "cough", "findings": "Clear lungs. Heart: normal.", "impression": "Normal."}
