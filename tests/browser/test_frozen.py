"""The one file for a colleague, opened from disk in a browser: nothing of a hostile word runs, the filter works, nothing is asked of anybody."""

from pathlib import Path
from typing import Any

import pytest
from watched import NARROW
from worded_run import hostile, make_worded_run

import sparselight as sl


@pytest.mark.parametrize("modality", ["text", "image"])
def test_a_frozen_run_opens_from_disk(open_page: Any, tmp_path: Path, modality: str) -> None:
    file = tmp_path / "run.html"
    sl.freeze(make_worded_run(tmp_path / "run", hostile, modality), file)
    watched = open_page("file://", NARROW)
    page = watched.page
    page.goto(file.as_uri() + "#features")
    page.wait_for_selector("#rows a")
    everything = page.locator("#found").inner_text()
    assert not watched.is_wide()
    page.select_option("#filter-source", "residual")
    watched.until("before => document.querySelector('#found').textContent !== before", arg=everything)
    page.locator("#rows a").first.click()
    watched.until_at("#f-residual-")
