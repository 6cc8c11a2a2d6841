"""A page in a browser that keeps what goes wrong on it."""

import re
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

WAIT_MS = 240_000  # many times what the slowest machine needs: a test fails by what is wrong, never by when it comes
WIDE, NARROW = {"width": 1200, "height": 900}, {"width": 375, "height": 780}
IS_MOVING = ("Execution context was destroyed", "Cannot find context", "Frame was detached")  # said of a page that is on its way to another


class Watched:
    """A page and what went wrong on it. `allowed`: words of what the browser itself logs when a test provokes a refusal."""

    def __init__(self, page: Any, origin: str):
        self.page, self.origin, self.allowed, self._faults = page, origin, list[str](), list[str]()
        page.set_default_timeout(WAIT_MS)
        page.on("console", lambda message: self._faults.append(f"{message.type}: {message.text}") if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self._faults.append(f"script: {error}"))
        page.on("dialog", self._dialog)
        page.context.route("**/*", self._route)

    @property
    def faults(self) -> list[str]:
        return [fault for fault in self._faults if not any(words in fault for words in self.allowed)]

    def _dialog(self, dialog: Any) -> None:
        self._faults.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _route(self, route: Any) -> None:
        address = urlsplit(route.request.url)
        if address.scheme in ("data", "blob", "file") or f"{address.scheme}://{address.netloc}" == self.origin:
            route.continue_()
        else:
            self._faults.append(f"asked {route.request.url[:200]}")
            route.abort()

    def go(self, path: str, wait: str = "main[data-ready]") -> Any:
        """Open an address of the server and wait until its script has run."""
        self.page.goto(self.origin + path)
        self._wait(lambda: self._ask("selector => document.querySelector(selector) !== null", wait), wait)
        return self.page

    def until(self, expression: str, arg: Any = None) -> None:
        """Wait until an expression holds. Playwright's own way needs `eval` in the page, which its content security policy forbids."""
        self._wait(lambda: self._ask(expression, arg), expression)

    def until_at(self, pattern: str) -> None:
        """Wait until the address, as the page itself says it, fits a pattern, and the page is loaded."""
        self._wait(lambda: re.search(pattern, self._ask("location.href") or ""), pattern)
        self.page.wait_for_load_state()

    def _wait(self, holds: Callable[[], object], what: str) -> None:
        end = time.monotonic() + WAIT_MS / 1000
        while not holds():
            assert self.faults == []  # it would wait in vain
            assert time.monotonic() < end, f"never {what!r} at {self.page.url}"
            self.page.wait_for_timeout(50)

    def _ask(self, expression: str, arg: Any = None) -> Any:
        """What an expression is; nothing on a page that is on its way to another."""
        from playwright.sync_api import Error

        try:
            return self.page.evaluate(expression, arg)
        except Error as error:
            if any(words in str(error) for words in IS_MOVING):
                return None
            raise

    def is_wide(self) -> bool:
        """Whether the page must be scrolled sideways."""
        return bool(self.page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"))
