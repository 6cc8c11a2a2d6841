"""A real browser on a real server over small runs. A page that logs an error, opens a dialog or asks any other host for anything fails its test."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from live_run import make_live_run
from watched import WAIT_MS, WIDE, Watched
from worded_run import MODALITIES, PNG, hostile, make_worded_run, plain

from sparselight.serve import ServeSettings
from sparselight.serve.live.config import LiveConfig
from sparselight.serve.running import Server

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--no-first-run"]

Open = Callable[..., Any]


@pytest.fixture(scope="session")
def chromium() -> str:
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed (Debian, Ubuntu: apt install chromium)")
    return found


@pytest.fixture(scope="module")  # while it stands an event loop runs in this thread, which tests elsewhere must not find
def browser(chromium: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS, timeout=WAIT_MS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def live(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server over a run of each modality whose model runs, `text`, `residues`, `items` and `image`; notes are allowed."""
    folder = tmp_path_factory.mktemp("live")
    runs = [make_live_run(folder / modality, modality) for modality in MODALITIES]
    with serving(runs, allow_edits=True, live=LiveConfig(time_limit_s=WAIT_MS / 1000)) as origin:
        yield origin


@pytest.fixture(scope="session")
def worded(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server over runs of each modality, `hostile-...` with payloads as words, `plain-...` without."""
    folder = tmp_path_factory.mktemp("worded")
    words = {"hostile": hostile, "plain": plain}
    runs = [make_worded_run(folder / f"{name}-{modality}", word, modality) for name, word in words.items() for modality in MODALITIES]
    for run in runs:
        (run / "media" / "x.png").write_bytes(PNG)  # the picture of the edit that was tried
    with serving(runs) as origin:
        yield origin


@contextmanager
def serving(runs: list[Path], **settings: Any) -> Iterator[str]:
    server = Server(runs, ServeSettings(port=0, **settings)).start()
    try:
        yield server.url.rstrip("/")
    finally:
        server.stop()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Make a page: `open_page(origin, size=..., dark=..., density=...)`. At the end no page may have had a fault."""
    made: list[Watched] = []

    def make(origin: str, size: dict[str, int] = WIDE, dark: bool = False, density: float = 1) -> Watched:
        context = browser.new_context(viewport=size, color_scheme="dark" if dark else "light", device_scale_factor=density)
        context.add_init_script("window.pwned = undefined;")
        made.append(Watched(context.new_page(), origin))
        return made[-1]

    yield make
    ran = [watched.page.evaluate("window.pwned") for watched in made]
    faults = [fault for watched in made for fault in watched.faults]
    for watched in made:
        watched.page.unroute_all(behavior="ignoreErrors")  # a request that is under way when the page closes is nobody's fault
        watched.page.context.unroute_all(behavior="ignoreErrors")
        watched.page.context.close()
    assert not any(ran)
    assert faults == []
