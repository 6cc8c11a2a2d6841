"""The endpoints of the map and of comparisons: `/runs/{run}/map` and `/runs/{run}/compare`.

Owns what addresses name. Refuses: runs and SAEs that are not there.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query

from sparselight.serve.data.compare import DRIFTED_FROM, MATCHED_FROM, Comparisons, Kind, SaeComparison
from sparselight.serve.data.map import FeatureMap, Maps
from sparselight.serve.data.served import ServedRun
from sparselight.serve.settings import not_found

Source = Annotated[str, Query(max_length=200)]
Cosine = Annotated[float, Query(ge=0, le=1)]


def analysis_router(runs: Mapping[str, Path]) -> APIRouter:
    """Both routes.

    Args:
        runs: folders by the names that addresses give them.
    """
    router = APIRouter(tags=["analysis"])
    served = {name: ServedRun(name, folder) for name, folder in runs.items()}
    maps, comparisons = Maps(), Comparisons()

    def find(run: str) -> ServedRun:
        if run not in served:
            raise not_found(f"open the run {run[:80]!r}")
        return served[run]

    @router.get("/runs/{run}/map")
    def feature_map(run: str, source: Source = "base") -> FeatureMap:
        """The features of an SAE on a map; where `is_final` is false, ask again in a few seconds."""
        return maps.of(find(run), source)

    @router.get("/runs/{run}/compare")
    def compare(
        run: str, a: Source = "base", b: Source = "residual", kind: Kind = "matched", offset: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
        limit: Annotated[int, Query(ge=1, le=500)] = 50, matched_from: Cosine = MATCHED_FROM, drifted_from: Cosine = DRIFTED_FROM,
    ) -> SaeComparison:
        """Two SAEs feature by feature; `b` is an SAE of this run, or RUN:SAE of another one that is served."""
        other, colon, source = b.rpartition(":")
        against = find(other) if colon else find(run)
        return comparisons.compare(find(run), a, against, source, kind, offset, limit, matched_from, min(drifted_from, matched_from))

    return router
