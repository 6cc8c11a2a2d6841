"""The study of finding labels, on three invented reports."""

import csv
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

STUDY = Path(__file__).parents[2] / "studies" / "radiology_labels"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(STUDY))
    spec = importlib.util.spec_from_file_location("radiology_labels_run", STUDY / "run.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_agreement_is_counted_by_half(study: ModuleType, tmp_path: Path) -> None:
    columns = ("uid", "MeSH", "Problems", "image", "indication", "comparison", "findings", "impression")
    rows = [("1", "Cardiomegaly/mild", "Cardiomegaly", "", "", "", "The heart is enlarged.", ""), ("3", "normal", "normal", "", "", "",
                                                                                                   "Possible cardiomegaly.", ""),
            ("5", "Cardiomegaly", "Cardiomegaly", "", "", "", "Clear lungs.", ""), ("2", "normal", "normal", "", "", "", "Clear lungs.", ""),
            ("7", "No Indexing", "No Indexing", "", "", "", "The heart is enlarged.", ""), ("9", "Opacity", "Opacity", "", "", "", "", "")]
    with (tmp_path / "indiana_reports.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([columns, *rows])
    results = study.measure(tmp_path)
    assert results["n_reports"] == {"test": 3, "seen": 1}
    heart = results["findings"]["cardiomegaly"]["test"]
    assert heart["n_indexed"] == 2 and heart["present"]["precision"]["value"] == 1.0 and heart["present"]["recall"]["value"] == 0.5
    assert heart["present_or_uncertain"]["precision"]["value"] == 0.5 and results["findings"]["edema"]["test"]["present"]["precision"] is None
    assert "| cardiomegaly | 2 | 1.00 (" in study.table(results)
