"""Make pictures of pages that sparselight writes: `python scripts/report_picture.py RUN [--cards base/205,base/160 | --steering NAME] [--out PICTURE]`.

The page as it stands, in the Chromium that is installed, with what the picture leaves out hidden by a style sheet. Of a report: the head, the result with
its figures but without its table, and the first edit (the README's picture); with --cards those cards alone; with --steering the head and the result of
RUN/steering/NAME. Nothing is drawn or written by hand. Refuses: a run without that page or card, a machine without Chromium, a picture above 250 kB.
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

CARDS = """
nav, footer, header.page, section > :not(.cards), section:not(#features), .card { display: none }
main { padding: 0 1.5rem }
.cards { margin: 1rem 0 !important }
"""
STEERING = """
nav, footer, #arms, #sequences, #reading, #provenance { display: none }
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


def photograph(page: Path, hidden: str, shown_parts: str, width: int = WIDTH) -> bytes:
    """The parts of a page that are not hidden as PNG, as high as they are."""
    with browsing() as browser:
        size = {"width": width, "height": 800}
        shown = browser.new_page(viewport=size, color_scheme="light", bypass_csp=True)  # the page's own policy forbids styles from outside
        shown.goto(page.resolve().as_uri())
        shown.add_style_tag(content=hidden)
        bottoms = "[...document.querySelectorAll(parts)].map(part => part.getBoundingClientRect()).filter(box => box.height).map(box => box.bottom)"
        bottom = shown.evaluate(f"parts => Math.max(0, ...{bottoms}) + scrollY", shown_parts)
        if not bottom:
            raise SystemExit(f"{page} has none of {shown_parts}")
        return bytes(shown.screenshot(full_page=True, clip={"x": 0, "y": 0, "width": width, "height": bottom + PADDING}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder with a report")
    parser.add_argument("--cards", default="", help="keys of cards among the best-evidenced features, such as base/205,base/160")
    parser.add_argument("--steering", default="", help="name of a steering study of the run")
    parser.add_argument("--out", type=Path, default=Path("docs/images/report.png"))
    given = parser.parse_args()
    if given.cards:
        anchors = [f"#best-{key.replace('/', '-')}" for key in given.cards.split(",")]
        picture = photograph(report_of(given.run), f"{CARDS}{', '.join(anchors)} {{ display: block !important }}", ", ".join(anchors), 1100)
    elif given.steering:
        page = given.run / "steering" / given.steering / "steering.html"
        if not page.is_file():
            raise SystemExit(f"{given.run} has no steering study {given.steering}")
        picture = photograph(page, STEERING, "#result")
    else:
        picture = photograph(report_of(given.run), HIDDEN, "#result, .edit")
    write_bytes(given.out, small(picture))
    print(f"{given.out}: {given.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
