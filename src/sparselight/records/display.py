"""How records and runs look in a notebook: what `show()` gives back, and who draws it.

Records stand left of everything that draws, so the part that does hands its functions in (`DRAWN_BY`, filled when `sparselight` is used as a
library). Where nobody did, plain text is shown. Refuses nothing.
"""

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparselight.files import write_bytes

DRAWN_BY: dict[str, Callable[..., "Shown"]] = {}
"""Kind of thing (`card`, `run`) to the function that draws one."""


class Shown:
    """A piece of HTML that stands by itself: a notebook shows it where it is the last value of a cell.

    Args:
        page: a whole HTML document.
        title: read out in place of the frame.
        height_px: of the frame.
        with_script: whether the document's own script may run; it then still reaches nothing outside its frame.
    """

    def __init__(self, page: str, title: str, height_px: int, with_script: bool = False):
        self.page, self.title, self.height_px, self.with_script = page, title, height_px, with_script

    def __repr__(self) -> str:
        return f"Shown({self.title}: {len(self.page):,} characters of HTML; save(path) writes them)"

    def _repr_html_(self) -> str:
        sandbox = "allow-scripts" if self.with_script else ""
        return (f'<iframe srcdoc="{html.escape(self.page, quote=True)}" sandbox="{sandbox}" title="{html.escape(self.title, quote=True)}" '
                f'style="width:100%;height:{self.height_px}px;border:1px solid #8886;border-radius:8px"></iframe>')

    def save(self, path: str | Path) -> Path:
        """Write the document.

        Raises:
            StoreError: when it cannot be written.
        """
        write_bytes(Path(path), self.page.encode("utf-8", "replace"))
        return Path(path)


def drawn(kind: str, thing: Any, **settings: Any) -> Shown:
    """A thing as whoever draws its kind shows it."""
    if kind in DRAWN_BY:
        return DRAWN_BY[kind](thing, **settings)
    return Shown(f"<!doctype html><meta charset=utf-8><pre>{html.escape(repr(thing))}</pre>", kind, 240)
