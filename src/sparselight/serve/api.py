"""The read-only JSON API: one route an answer of `models`, each a call into `data`.

Answers are written by pydantic itself, so that numbers that are not finite become null. Refuses whatever the query models refuse; errors get their form
in `security`.
"""

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse, Response
from pydantic import BaseModel

from sparselight.serve.data.explorer import ExplorerData
from sparselight.serve.models import Curves, Facets, FeatureCard, FeatureList, FeatureQuery, Overview, Refusal, RunList, RunLog
from sparselight.serve.threads import ReadingThreads

Run = Annotated[str, PathParameter(max_length=100, description="Id of the run.")]
Source = Annotated[str, PathParameter(max_length=100, description="SAE, such as `base`.")]
Latent = Annotated[int, PathParameter(ge=0, le=2**40)]
Media = Annotated[str, PathParameter(max_length=255, description="Name of a picture.")]
REFUSALS = {code: {"model": Refusal} for code in (400, 401, 403, 404, 413, 421, 422)}
PICTURES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif", ".webp": "image/webp"}


def written(answer: BaseModel) -> Response:
    """An answer as JSON, as it is: it was checked when it was made."""
    return Response(answer.model_dump_json(), media_type="application/json")


def api_router(data: ExplorerData, reading: ReadingThreads) -> APIRouter:
    """All read-only routes, to be included under /api."""
    router = APIRouter(responses=REFUSALS)  # type: ignore[arg-type]

    @router.get("/runs", response_model=RunList, summary="All runs")
    @reading
    def runs() -> Response:
        return written(data.run_list())

    @router.get("/runs/{run}/overview", response_model=Overview, summary="A run at a glance")
    @reading
    def overview(run: Run) -> Response:
        return written(data.overview(run))

    @router.get("/runs/{run}/curves", response_model=Curves, summary="Training logs, thinned")
    @reading
    def curves(run: Run) -> Response:
        return written(data.curves(run))

    @router.get("/runs/{run}/facets", response_model=Facets, summary="What features can be filtered by")
    @reading
    def facets(run: Run) -> Response:
        return written(data.facets(run))

    @router.get("/runs/{run}/features", response_model=FeatureList, summary="Features, filtered and sorted")
    @reading
    def features(run: Run, query: Annotated[FeatureQuery, Query()]) -> Response:
        return written(data.list_features(run, query))

    @router.get("/runs/{run}/features/{source}/{latent}", response_model=FeatureCard, summary="One feature")
    @reading
    def feature(run: Run, source: Source, latent: Latent) -> Response:
        return written(data.feature(run, source, latent))

    @router.get("/runs/{run}/log", response_model=RunLog, summary="How the run was made")
    @reading
    def log(run: Run) -> Response:
        return written(data.log(run))

    @router.get("/runs/{run}/media/{name}", response_class=FileResponse, summary="A picture of the corpus")
    def media(run: Run, name: Media) -> Response:
        path = data.runs[run].media(name)
        return FileResponse(path, media_type=PICTURES[path.suffix.lower()])

    return router
