"""The README's picture of a report is taken of a report, by scripts/report_picture.py."""

import importlib
import io
import shutil
from pathlib import Path

import pytest

from sparselight.report import ReportData, write_report

SCRIPTS = Path(__file__).parents[2] / "scripts"


def test_the_picture_holds_result_and_first_edit_alone(report_data: ReportData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = pytest.importorskip("PIL.Image")
    monkeypatch.syspath_prepend(str(SCRIPTS))
    names = importlib.import_module("explorer_pictures").NAMES
    pytest.importorskip("playwright")
    if not any(map(shutil.which, names)):
        pytest.skip(f"no browser of {', '.join(names)}")
    script = importlib.import_module("report_picture")
    write_report(report_data, tmp_path / "report.html")
    picture = image.open(io.BytesIO(script.photograph(tmp_path / "report.html")))
    assert picture.width == script.WIDTH
    assert 800 < picture.height < 2600  # the whole page is many times as long
