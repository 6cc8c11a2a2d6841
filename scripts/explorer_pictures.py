"""Make the pictures of docs/guides/explorer.md from a run folder: `python scripts/explorer_pictures.py RUN [--out docs/images] [--feature base/12]`.

The run is served on this machine and looked at with the Chromium that is installed; nothing is changed in it but the layout of its map (RUN/explorer). Each
picture is a PNG with a palette of at most 128 colors. Refuses: a machine without Chromium, a picture above 150 kB.
"""

import argparse
import io
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from sparselight.serve import ServeSettings
from sparselight.serve.running import Server

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MOST_BYTES = 150_000
FULL_LIST = 8  # features of the domain; fewer do not make a picture of a list
COLORS = (128, 64, 32)
WAIT_MS = 180_000


@dataclass(frozen=True, slots=True)
class Picture:
    """What is shown: a page, until something is there, then perhaps something done."""

    name: str
    path: str
    wait: str
    size: tuple[int, int] = (1200, 800)
    dark: bool = False
    act: Callable[[Any], None] = lambda _: None


def show_outcome(page: Any) -> None:
    """Scroll to what comes of the knobs in the address."""
    page.evaluate("scrollTo(0, document.querySelector('#tokens-title').getBoundingClientRect().top + scrollY - 70)")


def draw_lasso(page: Any) -> None:
    """A lasso about a part of the map."""
    while page.evaluate("document.querySelector('#how').textContent.includes('being made')"):
        page.wait_for_timeout(1000)
    page.click("#lasso")
    box = page.locator("canvas").bounding_box()
    left, top = box["x"] + 0.52 * box["width"], box["y"] + 0.3 * box["height"]
    corners = [(-90, -50), (10, -85), (100, -30), (85, 60), (-20, 80), (-100, 30)]
    page.mouse.move(left + corners[-1][0], top + corners[-1][1])
    page.mouse.down()
    for x, y in corners:
        page.mouse.move(left + x, top + y, steps=3)
    page.mouse.up()
    page.mouse.move(5, 5)


PICTURES = (
    Picture("overview", "", "svg.run-wide", (1200, 900)),
    Picture("features", "/features?supported=true{domain}", "#list .space ~ .frow a"),
    Picture("feature", "/features/{best}", "[role=tab]", (1200, 900)),
    Picture("map", "/map?color=domain", "canvas[data-points]", act=draw_lasso),
    Picture("try", "/try?edits={best}:clamp:{amount}:absolute", "#outcome .side, #outcome .tokens-table", (1200, 1000), act=show_outcome),
    Picture("compare", "/compare", "#counts [role=tab]"),
    Picture("dark", "/features/{best}", "[role=tab]", (1200, 800), dark=True),
    Picture("phone", "/features/{best}", "[role=tab]", (375, 780)),
)


def take(page: Any, picture: Picture, address: str) -> bytes:
    """The picture as PNG."""
    page.goto(address)
    page.wait_for_selector(picture.wait)
    picture.act(page)
    page.wait_for_timeout(600)
    return bytes(page.screenshot())


def small(png: bytes) -> bytes:
    """The same with a palette, in as few colors as the size asks for."""
    image, made = Image.open(io.BytesIO(png)).convert("RGB"), b""
    for colors in COLORS:
        out = io.BytesIO()
        image.quantize(colors, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
        made = out.getvalue()
        if len(made) <= MOST_BYTES:
            return made
    sys.exit(f"a picture takes {len(made):,} bytes even in {COLORS[-1]} colors: make it smaller")


def shown(data: Any, run: str, feature: str | None) -> dict[str, str]:
    """What pictures show: a feature (where none is given the domain's with the highest F1, else any with evidence), a strong amount of it, a list."""
    domain = data.features(run, sort="f1", domain_only=True, supported=True, limit=1)
    if feature:
        source, _, latent = feature.partition("/")
        chosen = data.feature(run, source, int(latent))
    else:
        chosen = [*domain.rows, *data.features(run, sort="f1", supported=True, limit=1).rows, *data.features(run, limit=1).rows][0]
    return {"best": f"{chosen.source}/{chosen.latent}", "amount": f"{1.5 * chosen.max_activation:.0f}",
            "domain": "&domain_only=true" if domain.total >= FULL_LIST else ""}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--prefix", default="explorer")
    parser.add_argument("--feature", help="the one to show, such as base/12")
    parser.add_argument("--only", nargs="*", help="names of pictures")
    given = parser.parse_args()
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    if found is None:
        sys.exit(f"no browser: install one of {', '.join(NAMES)}")
    from playwright.sync_api import sync_playwright

    given.out.mkdir(parents=True, exist_ok=True)
    server = Server([given.run], ServeSettings(port=0)).start()
    try:
        run = server.app.state.data.run_list().runs[0].id
        names = shown(server.app.state.data, run, given.feature)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
            for picture in PICTURES:
                if given.only and picture.name not in given.only:
                    continue
                width, height = picture.size
                page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="dark" if picture.dark else "light")
                page.set_default_timeout(WAIT_MS)
                made = small(take(page, picture, f"{server.url}runs/{run}{picture.path.format(**names)}"))
                path = given.out / f"{given.prefix}-{picture.name}.png"
                path.write_bytes(made)
                print(f"{path}: {len(made):,} bytes")
                page.close()
            browser.close()
    finally:
        server.stop()


if __name__ == "__main__":
    main()
