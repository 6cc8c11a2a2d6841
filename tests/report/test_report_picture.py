"""Pictures of pages are taken of pages, by scripts/report_picture.py."""

import importlib
import io
import re
import shutil
from pathlib import Path

import pytest

from sparselight.report import ReportData, write_report

SCRIPTS = Path(__file__).parents[2] / "scripts"


def test_pictures_hold_what_they_are_to_show_alone(report_data: ReportData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = pytest.importorskip("PIL.Image")
    monkeypatch.syspath_prepend(str(SCRIPTS))
    names = importlib.import_module("explorer_pictures").NAMES
    pytest.importorskip("playwright")
    if not any(map(shutil.which, names)):
        pytest.skip(f"no browser of {', '.join(names)}")
    script = importlib.import_module("report_picture")
    write_report(report_data, tmp_path / "report.html")
    page = tmp_path / "report.html"
    picture = image.open(io.BytesIO(script.photograph(page, script.HIDDEN, "#result, .edit")))
    assert picture.width == script.WIDTH
    assert 800 < picture.height < 2600  # the whole page is many times as long
    anchor = re.findall(r'<article class="card [a-z]+" id="(best-[^"]+)"', page.read_text())[0]
    card = image.open(io.BytesIO(script.photograph(page, f"{script.CARDS}#{anchor} {{ display: block !important }}", f"#{anchor}")))
    assert 100 < card.height < 1500
    with pytest.raises(SystemExit, match="none of #best-nowhere"):
        script.photograph(page, script.CARDS, "#best-nowhere")
