"""The endpoints of the map and of comparisons: `/runs/{run}/map` and `/runs/{run}/compare`.

Owns what addresses name. Refuses: runs and SAEs that are not there.
"""

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from sparselight.serve.api import written
from sparselight.serve.data.compare import DRIFTED_FROM, MATCHED_FROM, Comparisons, Kind, SaeComparison
from sparselight.serve.data.map import FeatureMap, Maps
from sparselight.serve.data.served import Runs

Source = Annotated[str, Query(max_length=200)]
Cosine = Annotated[float, Query(ge=0, le=1)]


def analysis_router(runs: Runs) -> APIRouter:
    """Both routes."""
    router = APIRouter(tags=["analysis"])
    maps, comparisons = Maps(), Comparisons()

    @router.get("/runs/{run}/map", response_model=FeatureMap)
    def feature_map(run: str, source: Source = "base") -> Response:
        """The features of an SAE on a map; where `is_final` is false, ask again in a few seconds."""
        return written(maps.of(runs[run], source))

    @router.get("/runs/{run}/compare")
    def compare(
        run: str, a: Source = "base", b: Source = "residual", kind: Kind = "matched", offset: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
        limit: Annotated[int, Query(ge=1, le=500)] = 50, matched_from: Cosine = MATCHED_FROM, drifted_from: Cosine = DRIFTED_FROM,
    ) -> SaeComparison:
        """Two SAEs feature by feature; `b` is an SAE of this run, or RUN:SAE of another one that is served."""
        other, colon, source = b.rpartition(":")
        against = runs[other] if colon else runs[run]
        return comparisons.compare(runs[run], a, against, source, kind, offset, limit, matched_from, min(drifted_from, matched_from))

    return router
