"""The radiology studies: pairs join by label and never across splits, families of concepts, what a steering study came to."""

import csv
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from sparselight.records import Card, Explanation

STUDIES = Path(__file__).parents[2] / "studies"


def module_of(study: str, name: str) -> ModuleType:
    """A file of a study, under a name of its own."""
    spec = importlib.util.spec_from_file_location(f"{study}_{name}", STUDIES / study / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_pictures_and_reports_are_joined_by_label_within_a_split(tmp_path: Path) -> None:
    pairs = module_of("radiology_subject", "pairs")
    rows = [{"uid": str(uid), "Problems": ("normal", "Opacity; Cardiomegaly", "Scoliosis")[uid % 3], "indication": "Cough.", "comparison": "",
             "findings": f"Report {uid}.", "impression": ""} for uid in range(60)]
    with (tmp_path / "indiana_reports.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows([*rows, {**rows[0], "uid": "60", "findings": ""}])
    reports = pairs.read_reports(tmp_path)
    assert len(reports) == 60 and {report.kind for report in reports} == {"normal", "opacity", "other"}
    assert reports[0].text == "INDICATION: Cough.\nFINDINGS: Report 0."
    arrays = {"images": np.zeros((6, 28, 28), np.uint8), "labels": np.tile([[0], [1]], (3, 1))}
    arrays = {f"{split}_{name}": value for split in pairs.SPLITS for name, value in arrays.items()}
    np.savez(tmp_path / "pictures.npz", **arrays)
    pictures = pairs.read_pictures(tmp_path / "pictures.npz")
    pairs.write_pictures(tmp_path, pictures)
    assert pairs.write_table(tmp_path / "pairs.csv", reports, pictures, tmp_path) == 20 + 3 * 20
    by_uid = {report.uid: report for report in reports}
    with (tmp_path / "pairs.csv").open(newline="") as handle:
        for row in csv.DictReader(handle):
            report, path = by_uid[row["patient"]], Path(row["image"])
            assert (row["picture_class"], row["split"], path.parent.name) == (report.kind, report.split, report.split)
            assert bool(pictures[report.split].is_opacity[int(path.stem)]) == (report.kind == "opacity")
            assert (tmp_path / path).is_file()


@pytest.mark.parametrize(("label", "family", "finding"), [
    ("finding=pleural effusion", "pathologies", "pleural effusion=present"), ("finding negated=edema", "pathologies", "edema=absent"),
    ("piece in finding=opac\u2192opacity", "pathologies", "opacity=present"), ("device=pacemaker", "devices", "pacemaker=present"),
    ("finding=line or tube", "devices", "line or tube=present"), ("longitudinal=unchanged", "longitudinal", ""), ("patch=upper left", "picture", ""),
    ("picture=any patch", "picture", ""), ("section=FINDINGS", "sections", ""), ("word=impression", "textual", ""), ("word=effusion", "pathologies", ""),
    ("words=pleural\u2192effusion", "pathologies", ""),
    ("token= unchanged", "longitudinal", ""), ("piece=pacemaker", "devices", ""), ("finding.edema=absent", "pathologies", ""),
])
def test_families_go_by_the_label_of_the_explanation(label: str, family: str, finding: str) -> None:
    families = module_of("maira2", "families")
    card = Card(latent=0, source="base", fire_rate=0.0, domain_fire_rate=0.0, max_activation=0.0, contexts=[], promotes=[], suppresses=[],
                explanation=Explanation(text="x", label=label, explainer="statistical"))
    assert (families.family_of(card), families.finding_of(card)) == (family, finding)
    assert families.family_of(card.model_copy(update={"explanation": None})) == ""
