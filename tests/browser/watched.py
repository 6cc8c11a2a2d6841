"""A page in a browser that keeps what goes wrong on it."""

import time
from typing import Any
from urllib.parse import urlsplit

WAIT_MS = 60_000
WIDE, NARROW = {"width": 1200, "height": 900}, {"width": 375, "height": 780}


class Watched:
    """A page and what went wrong on it."""

    def __init__(self, page: Any, origin: str):
        self.page, self.origin, self.faults = page, origin, list[str]()
        page.set_default_timeout(WAIT_MS)
        page.on("console", lambda message: self.faults.append(f"{message.type}: {message.text}") if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.faults.append(f"script: {error}"))
        page.on("dialog", self._dialog)
        page.context.route("**/*", self._route)

    def _dialog(self, dialog: Any) -> None:
        self.faults.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _route(self, route: Any) -> None:
        address = urlsplit(route.request.url)
        if address.scheme in ("data", "blob", "file") or f"{address.scheme}://{address.netloc}" == self.origin:
            route.continue_()
        else:
            self.faults.append(f"asked {route.request.url[:200]}")
            route.abort()

    def go(self, path: str, wait: str = "main[data-ready]") -> Any:
        """Open an address of the server and wait until its script has run."""
        self.page.goto(self.origin + path)
        self.page.wait_for_selector(wait, state="attached")
        return self.page

    def until(self, expression: str, arg: Any = None) -> None:
        """Wait until an expression holds. Playwright's own way needs `eval` in the page, which its content security policy forbids."""
        end = time.monotonic() + WAIT_MS / 1000
        while not self.page.evaluate(expression, arg):
            assert time.monotonic() < end, expression
            self.page.wait_for_timeout(50)

    def is_wide(self) -> bool:
        """Whether the page must be scrolled sideways."""
        return bool(self.page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"))
