"""Make the pictures of docs/guides/explorer.md: `python scripts/explorer_pictures.py text=RUN protein=RUN items=RUN images=RUN [--out docs/images]`.

Each run is served on this machine and looked at with the Chromium that is installed; nothing is changed in it but what the explorer itself keeps there (the
layout of its map, copies of pictures). The feature shown is the domain's with the highest held-out F1, or that of `text=RUN@base/12`. Pictures of the run
on text are called `explorer-PAGE.png`, others `explorer-NAME-PAGE.png`; with `--every FOLDER` each page is taken there besides in light and dark, wide and
narrow, to be looked at. A picture is a PNG with a palette. Refuses: a machine without Chromium, a picture above 250 kB.
"""

import argparse
import io
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from sparselight.serve import ServeSettings
from sparselight.serve.running import Server

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MOST_BYTES = 250_000
FULL_LIST = 8  # features of the domain; fewer do not make a picture of a list
COLORS, EXACT = 256, 160  # of a palette; so many of them the commonest colors as they are: areas of one color stay what they were
WAIT_MS = 180_000
WIDE, NARROW = 1200, 375


@dataclass(frozen=True, slots=True)
class Picture:
    """What is shown: a page, until something is there, then perhaps something done."""

    name: str
    path: str
    wait: str
    size: tuple[int, int] = (WIDE, 800)
    dark: bool = False
    act: Callable[[Any], None] = lambda _: None
    only: str = ""
    """Of the run of this name alone."""
    except_of: str = ""
    """Not of the run of this name, which has its own."""


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
    Picture("overview", "", "svg.run-wide", (WIDE, 900)),
    Picture("features", "/features?supported=true{domain}", "#list .space ~ .frow a"),
    Picture("feature", "/features/{best}", "[role=tab]", (WIDE, 900), except_of="images"),
    Picture("feature", "/features/{best}", "[role=tab]", (WIDE, 1300), only="images"),
    Picture("map", "/map?color={color}", "canvas[data-points]", act=draw_lasso),
    Picture("try", "/try?feature={best}&edits={best}:clamp:{amount}:absolute#example={example}", "#outcome .side, #outcome .tokens-table", (WIDE, 1000),
            act=show_outcome),
    Picture("compare", "/compare", "#counts [role=tab]"),
    Picture("log", "/log", "main[data-ready]"),
    Picture("dark", "/features/{best}", "[role=tab]", dark=True, only="text"),
    Picture("phone", "/features/{best}", "[role=tab]", (NARROW, 780), only="text"),
)


def take(page: Any, picture: Picture, address: str, whole: bool = False) -> bytes:
    """The picture as PNG.

    Args:
        whole: all of the page, not only what is in sight.
    """
    page.goto(address)
    page.wait_for_selector(picture.wait, state="attached" if whole else "visible")
    if not whole or picture.name == "map":
        picture.act(page)
    page.wait_for_timeout(600)
    return bytes(page.screenshot(full_page=whole))


def small(png: bytes) -> bytes:
    """The same with a palette: its commonest colors as they are, and others between them."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    pixels = np.asarray(image).astype(np.int64) @ (65_536, 256, 1)
    packed, place, n = np.unique(pixels, return_inverse=True, return_counts=True)
    colors = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], 1)
    exact = colors[np.argsort(-n, kind="stable")[:EXACT]]
    others = np.array(image.quantize(COLORS - len(exact), Image.Quantize.MAXCOVERAGE).getpalette() or []).reshape(-1, 3)[: COLORS - len(exact)]
    palette = np.concatenate([exact, others])
    nearest = np.concatenate([((part[:, None] - palette) ** 2).sum(2).argmin(1) for part in np.array_split(colors, 1 + len(colors) // 4096)])
    made = Image.fromarray(nearest[place].reshape(pixels.shape).astype(np.uint8))
    made.putpalette(palette.astype(np.uint8).tobytes())
    out = io.BytesIO()
    made.save(out, "PNG", optimize=True)
    if len(out.getvalue()) > MOST_BYTES:
        sys.exit(f"a picture takes {len(out.getvalue()):,} bytes: make it smaller")
    return out.getvalue()


def shown(data: Any, run: str, feature: str) -> dict[str, str]:
    """What pictures show: a feature (where none is given the domain's with the highest F1, else any with evidence), a strong amount of it, its best example."""
    domain = data.features(run, sort="f1", domain_only=True, supported=True, limit=1)
    if feature:
        source, _, latent = feature.partition("/")
        row = data.feature(run, source, int(latent))
    else:
        row = [*domain.rows, *data.features(run, sort="f1", supported=True, limit=1).rows, *data.features(run, limit=1).rows][0]
    card = data.feature(run, row.source, row.latent)
    examples = [context.example for group in card.contexts for context in group.contexts]
    return {"best": f"{row.source}/{row.latent}", "amount": f"{1.5 * row.max_activation:.3g}", "example": quote(examples[0] if examples else "", safe=""),
            "domain": "&domain_only=true" if domain.total >= FULL_LIST else "", "color": "domain" if data.facets(run).has_domain else "grade"}


def forms(picture: Picture) -> Iterator[tuple[str, Picture]]:
    """A page in light and dark, wide and narrow."""
    for dark in (False, True):
        for width, height in ((WIDE, picture.size[1]), (NARROW, 780)):
            yield f"{picture.name}-{'dark' if dark else 'light'}-{width}", replace(picture, dark=dark, size=(width, height))


@contextmanager
def browsing() -> Iterator[Any]:
    """The browser of this machine."""
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    if found is None:
        sys.exit(f"no browser: install one of {', '.join(NAMES)}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


def photograph(browser: Any, name: str, folder: Path, feature: str, given: argparse.Namespace) -> None:
    """All pictures of a run."""
    with Server([folder], ServeSettings(port=0)).start() as server:
        run = server.app.state.data.run_list().runs[0].id
        names = shown(server.app.state.data, run, feature)

        def one(picture: Picture, path: Path, whole: bool = False) -> None:
            width, height = picture.size
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="dark" if picture.dark else "light")
            page.set_default_timeout(WAIT_MS)
            png = take(page, picture, f"{server.url}runs/{run}{picture.path.format(**names)}", whole)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png if whole else small(png))
            print(f"{path}: {path.stat().st_size:,} bytes", flush=True)
            page.close()

        for picture in PICTURES:
            if (given.only and picture.name not in given.only) or picture.only not in ("", name) or picture.except_of == name:
                continue
            if given.every is None:
                one(picture, given.out / f"explorer-{'' if name == 'text' else name + '-'}{picture.name}.png")
            elif picture.only in ("", "images"):
                for title, form in forms(picture):
                    one(form, given.every / f"{name}-{title}.png", whole=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN[@SAE/LATENT]")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--only", nargs="*", help="names of pages")
    parser.add_argument("--every", type=Path, metavar="FOLDER", help="put every page there in four forms, whole, instead")
    given = parser.parse_args()
    with browsing() as browser:
        for text in given.runs:
            name, equals, place = text.partition("=")
            folder, _, feature = place.partition("@")
            if not equals or not (Path(folder) / "run.json").is_file():
                parser.error(f"{text}: give NAME=RUN, where RUN is a run folder")
            photograph(browser, name, Path(folder), feature, given)


if __name__ == "__main__":
    main()
