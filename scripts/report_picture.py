"""Make the README's picture of a report: `python scripts/report_picture.py RUN [--out docs/images/report.png]`.

The run's own report.html, as it stands, in the Chromium that is installed, with what the picture leaves out hidden by a style sheet: the head, the result
with its figures but without its table, and the first edit. Nothing is drawn or written by hand. Refuses: a folder without a report, a machine without
Chromium, a picture above 250 kB.
"""

import argparse
from pathlib import Path

from explorer_pictures import browsing, small

from sparselight.files import write_bytes
from sparselight.records import RunRecord

WIDTH, PADDING = 950, 24
HIDDEN = """
nav, footer, section, #result .scroll, #result > p.small, .edit ~ .edit, #edits > h2, #edits > p { display: none }
#result, #edits { display: block !important; padding-top: .75rem }
header.page { padding-top: 1rem }
main { padding: 0 1.5rem }
"""


def report_of(run: Path) -> Path:
    """The report of a run folder."""
    stages = RunRecord.load(run / "run.json").stages
    page = run / stages.get("report", "report") / "report.html"
    if not page.is_file():
        raise SystemExit(f"{run} has no report: finish the run first")
    return page


def photograph(page: Path) -> bytes:
    """The chosen parts of a report as PNG, as high as they are."""
    with browsing() as browser:
        size = {"width": WIDTH, "height": 800}
        shown = browser.new_page(viewport=size, color_scheme="light", bypass_csp=True)  # the page's own policy forbids styles from outside
        shown.goto(page.resolve().as_uri())
        shown.add_style_tag(content=HIDDEN)
        bottom = shown.evaluate("Math.max(...[...document.querySelectorAll('#result, .edit')].map(part => part.getBoundingClientRect().bottom)) + scrollY")
        return bytes(shown.screenshot(full_page=True, clip={"x": 0, "y": 0, "width": WIDTH, "height": bottom + PADDING}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder with a report")
    parser.add_argument("--out", type=Path, default=Path("docs/images/report.png"))
    given = parser.parse_args()
    write_bytes(given.out, small(photograph(report_of(given.run))))
    print(f"{given.out}: {given.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
