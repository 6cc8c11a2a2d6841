"""Every page of every modality: there, without a fault, accessible, narrow enough for a phone, light and dark."""

from pathlib import Path
from typing import Any

import axe_playwright_python
import pytest
from watched import NARROW, WAIT_MS, WIDE
from worded_run import MODALITIES

AXE = Path(axe_playwright_python.__file__).parent / "axe.min.js"
PAGES = ("", "/features", "/features/base/0", "/log")
LIVE = {"": "main[data-ready]", "/features": "#list .c-name a", "/features/base/0": "main[data-ready]", "/map": "canvas[data-points]", "/try": "#fired li",
        "/compare": ".pair, .missing", "/log": "main[data-ready]"}

CHECKED = {"text": LIVE, "residues": (), "items": ("/try",), "image": ("/features/base/0",)}  # axe takes seconds a page; frames of pages are the same for all


def violations(page: Any) -> list[str]:
    """What axe finds, as rule and place."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations'], preload: false})")
    return [f"{rule['impact']} {rule['id']}: {node['target']} {node['failureSummary'][:300]}" for rule in found["violations"] for node in rule["nodes"][:3]]


@pytest.mark.parametrize("run", MODALITIES)
def test_pages_of_a_run_with_a_model(live: str, open_page: Any, run: str) -> None:
    watched = open_page(live)
    for path, wait in LIVE.items():
        page = watched.go(f"/runs/{run}{path}", wait)
        assert page.title().endswith("sparselight")
        assert page.locator("h1").count() == 1, path
        assert path not in CHECKED[run] or violations(page) == [], path
        page.set_viewport_size(NARROW)
        assert not watched.is_wide(), path
        page.set_viewport_size(WIDE)


@pytest.mark.parametrize("modality", MODALITIES)
def test_hostile_words_run_nothing(worded: str, open_page: Any, modality: str) -> None:
    watched = open_page(worded, NARROW, dark=True)
    for path in (*PAGES, "/features/residual/3"):
        page = watched.go(f"/runs/hostile-{modality}{path}")
        if path == "/features":
            page.wait_for_selector("#list .space")
        assert not watched.is_wide(), path
        assert page.evaluate("window.pwned === undefined")


def test_pages_are_accessible_in_the_dark(worded: str, open_page: Any) -> None:
    watched = open_page(worded, dark=True)
    for path in ("", "/features/residual/3"):
        assert violations(watched.go(f"/runs/plain-text{path}")) == [], path
    assert violations(watched.go("/")) == []


def test_what_is_not_there_says_what_to_do(worded: str, open_page: Any) -> None:
    watched = open_page(worded)
    watched.allowed.append("404")
    page = watched.go("/runs/nothing")
    assert "Instead" in page.locator(".problem").inner_text()


def test_the_choice_of_colors_stays(worded: str, open_page: Any) -> None:
    watched = open_page(worded)
    page = watched.go("/runs/plain-text")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    watched.until("light => getComputedStyle(document.body).backgroundColor !== light", light)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page = watched.go("/runs/plain-text/log")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark
    page.keyboard.press("d")
    watched.until("light => getComputedStyle(document.body).backgroundColor === light", light)


def test_pages_without_scripts(browser: Any, worded: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    page.goto(f"{worded}/runs/plain-text/features?source=residual")
    names = page.locator("#list .c-id").all_inner_texts()
    assert names and all("residual" in name for name in names)
    page.locator("#list .c-name a").first.click()
    page.locator(".context").nth(2).wait_for()
    context.close()
