"""Try to break the explorer, and count: `python scripts/explorer_safety.py [--cases 100]`; writes benchmarks/results/explorer_safety.json.

Two parts, the same as in the tests, but with more of everything. Requests are made from the API's own schema (schemathesis) against a made run. Hostile strings
stand as every word of made runs of each modality, moved on from run to run so that each comes to stand in the places of each page; every page is opened in
Chromium, where a script that runs, a dialog, an error of the page and a request to any other host count as faults. A payload counts for a page where it stood
there as text. Needs the extra `dev` and Chromium.
"""

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "tests" / "serve"), str(ROOT / "tests" / "browser"), str(ROOT / "scripts")]

from explorer_pictures import browsing  # noqa: E402
from fuzzing import fuzz  # noqa: E402
from payloads import PAYLOADS  # noqa: E402
from watched import WIDE, Watched  # noqa: E402
from worded_run import MODALITIES, hostile, make_worded_run, plain  # noqa: E402

from sparselight import __version__  # noqa: E402
from sparselight.files import write_bytes  # noqa: E402
from sparselight.interpret.renderers import visible  # noqa: E402
from sparselight.serve import ServeSettings  # noqa: E402
from sparselight.serve.app import create_app  # noqa: E402
from sparselight.serve.running import Server  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "explorer_safety.json"
STEP = 31  # by so many words the payloads move on from run to run
PAGES = {"overview": "", "features": "/features", "feature": "/features/base/1", "feature of the residual SAE": "/features/residual/3", "map": "/map",
         "try": "/try", "compare": "/compare", "log": "/log"}
READY = {"features": "#list .space", "map": "canvas[data-points], #problem > *"}
SHOWN_CHARS = 24  # of a payload, by which it is found on a page: long ones are shortened there
TEXT = """() => [document.body.textContent, ...[...document.querySelectorAll('*')].flatMap(one => [one.title, one.placeholder, one.value,
 one.getAttribute('aria-label'), one.getAttribute('href')])].filter(one => typeof one === 'string').join(' ')"""


def requests(folder: Path, n_cases: int) -> dict[str, Any]:
    """Requests from the schema."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import schemathesis

        app = create_app([make_worded_run(folder / "run", plain)], ServeSettings(allow_edits=True))
        schema = schemathesis.openapi.from_asgi("/api/openapi.json", app, headers={"Host": "127.0.0.1"})
        found = fuzz(schema, n_cases)
    by_class: dict[str, dict[str, int]] = {}
    for operation, counted in found.statuses.items():
        for status, n in counted.items():
            own = by_class.setdefault(operation, {})
            own[f"{status // 100}xx"] = own.get(f"{status // 100}xx", 0) + n
    return {"schemathesis": schemathesis.__version__, "operations": by_class, "n_requests": sum(sum(counted.values()) for counted in found.statuses.values()),
            "failures": found.failures}


def flat(text: str) -> str:
    """Text as it is compared: without white space and the marks that stand for it."""
    return "".join(char for char in text if not char.isspace() and char not in "\u2423\u21b5\u21e5\u240d")


def on_page(text: str) -> set[int]:
    """Which payloads stand in a page's text."""
    shown = flat(text)
    return {number for number in range(len(PAYLOADS)) if (probe := flat(visible(hostile(number)[:SHOWN_CHARS]))) and probe in shown}


def opened(page: Watched, run: str) -> Iterator[tuple[str, str]]:
    """Every page of a run and its text."""
    for name, path in PAGES.items():
        page.page.goto(f"{page.origin}/runs/{run}{path}")
        page.page.wait_for_selector(READY.get(name, "main[data-ready]"), state="attached")
        page.page.wait_for_timeout(150)
        yield name, page.page.evaluate(TEXT)


def pages(browser: Any, folder: Path, n_runs: int) -> dict[str, Any]:
    """Every page of runs of hostile words, in a browser."""
    seen: dict[str, dict[str, set[int]]] = {name: {modality: set() for modality in MODALITIES} for name in PAGES}
    n_opened, faults = 0, list[str]()
    for number in range(n_runs):
        runs = [make_worded_run(folder / f"{modality}-{number}", lambda at, shift=STEP * number: hostile(at + shift), modality) for modality in MODALITIES]
        with Server(runs, ServeSettings(port=0)).start() as server:
            for modality, run in zip(MODALITIES, runs, strict=True):
                context = browser.new_context(viewport=WIDE)
                context.add_init_script("window.pwned = undefined;")
                page = Watched(context.new_page(), server.url.rstrip("/"))
                page.allowed.append("the server responded with a status of 4")  # the models of made runs cannot run
                for name, text in opened(page, run.name):
                    n_opened += 1
                    seen[name][modality] |= on_page(text)
                    if page.page.evaluate("window.pwned !== undefined"):
                        faults.append(f"{modality}, {name}, run {number}: a script of a payload ran")
                faults += [f"{modality}, run {number}: {fault}" for fault in page.faults]
                context.close()
        print(f"run {number + 1} of {n_runs}: {n_opened} pages, {len(faults)} faults", flush=True)
    return {"n_payloads": len(PAYLOADS), "n_pages_opened": n_opened, "modalities": list(MODALITIES), "faults": faults,
            "payloads_on_page": {name: {modality: len(found) for modality, found in own.items()} for name, own in seen.items()},
            "payloads_anywhere": {modality: len(set().union(*(own[modality] for own in seen.values()))) for modality in MODALITIES}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100, help="requests of each operation")
    parser.add_argument("--runs", type=int, default=-(-len(PAYLOADS) // STEP), help="of each modality, with the payloads moved on")
    given = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name, browsing() as browser:
        found = {"sparselight": __version__, "requests": requests(Path(name), given.cases), "pages": pages(browser, Path(name), given.runs),
                 "browser": browser.version}
    write_bytes(RESULT, (json.dumps({**found, "wall_s": round(time.monotonic() - began)}, indent=1) + "\n").encode())
    print(f"{RESULT}: {len(found['requests']['failures'])} failures of requests, {len(found['pages']['faults'])} faults of pages")
    sys.exit(1 if found["requests"]["failures"] or found["pages"]["faults"] else 0)


if __name__ == "__main__":
    main()
