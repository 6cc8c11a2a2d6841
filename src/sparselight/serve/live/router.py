"""The live endpoints: `/runs/{run}/live/...`.

Each request that runs the model goes to the thread of its run and ends when its browser has gone. Owns the services, opened on first use. Refuses:
runs that are not served, edits where they are not allowed.
"""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request

from sparselight.serve.live.config import LiveConfig
from sparselight.serve.live.models import ActivationsAnswer, ActivationsRequest, EditAnswer, EditRequest, ExamplesAnswer, ItemsAnswer, LiveInfo
from sparselight.serve.live.service import LiveService
from sparselight.serve.settings import NotAllowedError, not_found

Audit = Callable[[Path, str, dict[str, object]], None]
"""Gets the run's folder, what was done, and its details."""
Text = Annotated[str, Query(max_length=1000)]
Limit = Annotated[int, Query(ge=1, le=200)]


class LiveServices:
    """The services of all runs, each opened on first use.

    Args:
        runs: folders by the names that addresses give them.
        hide_paths: answers name no folder of this machine.
    """

    def __init__(self, runs: Mapping[str, Path], config: LiveConfig, hide_paths: bool = False):
        self._runs, self._config, self._hide_paths = runs, config, hide_paths
        self._open: dict[str, LiveService] = {}
        self._lock = threading.Lock()

    def of(self, run: str) -> LiveService:
        """The service of a run.

        Raises:
            NotFoundError: for a run that is not served.
            RunError: when its SAEs are not trained.
        """
        if run not in self._runs:
            raise not_found(f"open the run {run[:80]!r}")
        with self._lock:
            if run not in self._open:
                self._open[run] = LiveService(self._runs[run], self._config, run, self._hide_paths)
            return self._open[run]

    def close(self) -> None:
        """Let all threads end."""
        for service in self._open.values():
            service.close()


def no_audit(_folder: Path, _what: str, _details: dict[str, object]) -> None:
    """The Audit of a server that keeps none."""


def live_router(runs: Mapping[str, Path], config: LiveConfig | None = None, allow_edits: bool = True, audit: Audit = no_audit,
                hide_paths: bool = False) -> APIRouter:
    """All live routes. `router.services.close()` lets their threads end.

    Args:
        runs: folders by the names that addresses give them.
        audit: told of every edit.
        hide_paths: answers name no folder of this machine.
    """
    router = APIRouter(prefix="/runs/{run}/live", tags=["live"])
    services = LiveServices(runs, config or LiveConfig(), hide_paths)
    router.services = services  # type: ignore[attr-defined]

    @router.get("")
    def info(run: str, load: bool = False) -> LiveInfo:
        """What can be tried on the run; with `load`, its model is loaded meanwhile."""
        service = services.of(run)
        if load:
            service.begin_loading()
        return service.info(allow_edits)

    @router.post("/activations")
    async def activations(run: str, asked: ActivationsRequest, request: Request) -> ActivationsAnswer:
        """Which features fire where on an input."""
        service = services.of(run)
        return await service.worker.answer(lambda stop: service.activations(asked, stop), request.is_disconnected)

    @router.post("/edit")
    async def edit(run: str, asked: EditRequest, request: Request) -> EditAnswer:
        """The same input without and with edits."""
        if not allow_edits:
            raise NotAllowedError(asked="turn features", why="this server shows runs and lets nobody edit",
                                  instead="serve the run yourself, or start the server with --allow-edits")
        service = services.of(run)
        audit(service.folder, "edit", {"edits": [one.model_dump() for one in asked.edits], "n_tokens": asked.n_tokens, "seed": asked.seed})
        return await service.worker.answer(lambda stop: service.edit(asked, stop), request.is_disconnected)

    @router.get("/items")
    async def items(run: str, request: Request, text: Text = "", limit: Limit = 20) -> ItemsAnswer:
        """Items whose title or id holds a text."""
        service = services.of(run)
        return await service.worker.answer(lambda _: service.find_items(text, limit), request.is_disconnected)

    @router.get("/examples")
    def examples(run: str, text: Text = "", limit: Limit = 20) -> ExamplesAnswer:
        """Held-out examples whose id or text holds a text."""
        return services.of(run).find_examples(text, limit)

    return router
