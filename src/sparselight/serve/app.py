"""The explorer's application: data, routers, errors in one form, static files, all behind the guard.

Owns the wiring and the audit lines. Every error is {asked, why, instead}, as a page where a browser opened an address outside /api: those of ours keep
their words, without the place of the run on this machine; any other is an error of the program, which is logged here and told without details. Refuses what
`security` and the routers refuse.
"""

import contextlib
import json
import logging
import threading
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from sparselight import __version__
from sparselight.errors import EndpointError, SparselightError, StoreError
from sparselight.serve.analysis_api import analysis_router
from sparselight.serve.api import api_router
from sparselight.serve.data.explorer import ExplorerData
from sparselight.serve.data.served import Runs, pathless, without_place
from sparselight.serve.live.router import live_router
from sparselight.serve.models import Refusal
from sparselight.serve.notes import notes_of
from sparselight.serve.notes_api import notes_router
from sparselight.serve.pages import Pages, pages_router
from sparselight.serve.security import HEADERS, Guard
from sparselight.serve.settings import NotAllowedError, NotFoundError, ServeSettings
from sparselight.serve.templating import refusal_page, wants_page
from sparselight.serve.threads import ReadingThreads

AUDIT = "serve_audit.jsonl"
STATIC = Path(__file__).parent / "static"
log = logging.getLogger("sparselight.serve")


def create_app(runs: Sequence[Path], settings: ServeSettings | None = None) -> FastAPI:
    """The application over run folders.

    Raises:
        RunError: for a folder that is no run.
    """
    settings = settings or ServeSettings()
    data = ExplorerData(Runs(runs, hide_paths=settings.share_readonly), settings, lambda run, source, latent: notes_of(run.folder, source, latent))

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        warming = threading.Thread(target=data.warm, name="warm")  # no daemon: a program that ends in the midst of a query is torn down by force
        warming.start()
        yield
        warming.join()

    app = FastAPI(title="sparselight explorer", version=__version__, openapi_url="/api/openapi.json", docs_url=None, redoc_url=None, lifespan=lifespan,
                  description="Read-only access to finished runs, and live activations and edits.")
    app.state.data, app.state.settings = data, settings
    _include(app, data, settings)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    _handle_errors(app, data)
    app.add_middleware(Guard, settings=settings)
    return app


def _include(app: FastAPI, data: ExplorerData, settings: ServeSettings) -> None:
    """All routers."""
    folders, audit, reading = {id: run.folder for id, run in data.runs.items()}, Audit(settings), ReadingThreads()
    app.include_router(pages_router(data, reading, status_of))
    live = live_router(folders, settings.live, settings.may_try, audit, settings.share_readonly)
    for router in (api_router(data, reading), live, notes_router(folders, settings.may_write, audit), analysis_router(data.runs)):
        app.include_router(router, prefix="/api")


class Audit:
    """Writes a line for each edit and note of a server that others use, or that may change something: what, when, in which run."""

    def __init__(self, settings: ServeSettings):
        self._settings, self._lock = settings, threading.Lock()

    def __call__(self, run: Path, what: str, details: dict[str, Any]) -> None:
        """Append to `serve_audit.jsonl` in the run folder.

        Raises:
            NotAllowedError: when it cannot be written: what leaves no trace is not done.
        """
        if not (self._settings.share_readonly or self._settings.allow_edits):
            return
        line = json.dumps({"when": datetime.now(UTC).isoformat(timespec="milliseconds"), "what": what, "shared": self._settings.share_readonly, **details},
                          ensure_ascii=True, default=str)
        try:
            with self._lock, (run / AUDIT).open("a", encoding="ascii") as handle:
                handle.write(line + "\n")
        except OSError as err:
            raise NotAllowedError(asked=f"{what} on this server", why=f"its audit line cannot be written ({err.strerror})",
                                  instead="make the run folder writable") from None


def status_of(err: SparselightError) -> int:
    """The HTTP status of an error of ours."""
    if isinstance(err, NotFoundError) or err.why == "it is not served here":
        return 404
    if isinstance(err, NotAllowedError):
        return 403
    return 409 if isinstance(err, StoreError | EndpointError) else 400


def _handle_errors(app: FastAPI, data: ExplorerData) -> None:
    pages, hides = Pages(data, status_of), data.settings.share_readonly

    def told(request: Request, err: Refusal, status: int) -> Response:
        """For a person a page, for a program JSON."""
        return pages.problem(err, status) if wants_page(request.url.path, request.headers.get("accept", "")) else JSONResponse(err.model_dump(), status)

    @app.exception_handler(SparselightError)
    async def ours(request: Request, err: SparselightError) -> Response:
        parts = {"asked": err.asked, "why": err.why, "instead": err.instead}
        for run in data.runs.values():
            parts = {name: without_place(text, run) for name, text in parts.items()}
        return told(request, Refusal(**(pathless(parts) if hides else parts)), status_of(err))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, err: RequestValidationError) -> Response:
        first = err.errors()[0]
        where = ".".join(str(part) for part in first["loc"])[:200]
        return told(request, Refusal(asked=f"read {where} of the request", why=str(first["msg"])[:1].lower() + str(first["msg"])[1:200],
                                     instead="see /api/openapi.json for what is accepted"), 422)

    @app.exception_handler(HTTPException)
    async def other(request: Request, err: HTTPException) -> Response:
        path = request.url.path[:200]
        asked, why = (f"open {path}", "nothing stands at that address") if err.status_code == 404 else (f"{request.method} {path}", str(err.detail).lower())
        return told(request, Refusal(asked=asked, why=why, instead="go back to the list of runs"), err.status_code)

    @app.exception_handler(Exception)
    async def broken(request: Request, err: Exception) -> Response:
        log.error("%s %s failed", request.method, request.url.path, exc_info=err)
        refused = Refusal(asked=f"{request.method} {request.url.path[:200]}", why="the server failed", instead="look at what it printed, and report it")
        if wants_page(request.url.path, request.headers.get("accept", "")):
            return HTMLResponse(refusal_page(refused, 500), 500, dict(HEADERS))
        return JSONResponse(refused.model_dump(), 500, dict(HEADERS))  # it goes past the guard, which adds them to all others
