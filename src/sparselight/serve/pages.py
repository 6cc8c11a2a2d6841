"""The HTML pages of the explorer: routes, and what the templates are given.

Overview, features, one feature and the log are whole without a script; the map, the trial page and the comparison are a frame that a script fills from the
API. Templates escape everything; the only ready markup is what `models` call `html` and `svg`. Refuses nothing by itself: errors of the data become a page that
says what was asked, why not, and what to do instead.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from sparselight.errors import ConfigError, SparselightError
from sparselight.serve.models import Facets, FeatureCard, FeatureList, Overview, RunList, RunLog
from sparselight.serve.templating import Told, environment, refused_title
from sparselight.serve.threads import ReadingThreads

LIST_ROWS = 60  # features that the list holds before its script asks for more
TABS = {"overview": "Overview", "features": "Features", "map": "Map", "try": "Try it", "compare": "Compare", "log": "Log"}
SCRIPTED = ("map", "try", "compare")  # pages that a script fills
MODALITIES = {"text": "text", "residues": "protein sequences", "items": "user histories", "image": "images with their reports"}
TRUE = ("true", "1", "on", "yes")


class PageData(Protocol):
    """Where the pages take what they show."""

    def run_list(self) -> RunList: ...

    def overview(self, run: str) -> Overview: ...

    def facets(self, run: str) -> Facets: ...

    def features(self, run: str, **query: Any) -> FeatureList: ...

    def feature(self, run: str, source: str, latent: int) -> FeatureCard: ...

    def log(self, run: str) -> RunLog: ...


def pages_router(data: PageData, reading: ReadingThreads, status_of: Callable[[SparselightError], int] = lambda _: 404) -> APIRouter:
    """All HTML routes.

    Args:
        status_of: HTTP status of the page that shows an error.
    """
    router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
    pages = Pages(data, status_of)

    @router.get("/")
    @reading
    def runs() -> Response:
        return pages.runs()

    @router.get("/runs/{run}")
    @reading
    def overview(run: str) -> Response:
        return pages.show(run, "overview", lambda: {"overview": data.overview(run)})

    @router.get("/runs/{run}/features")
    @reading
    def features(run: str, request: Request) -> Response:
        return pages.show(run, "features", lambda: feature_list(data, run, request.query_params))

    @router.get("/runs/{run}/features/{source}/{latent}")
    @reading
    def feature(run: str, source: str, latent: str) -> Response:
        return pages.show(run, "features", lambda: {"card": data.feature(run, source, latent_number(latent))}, "feature")

    @router.get("/runs/{run}/log")
    @reading
    def log(run: str) -> Response:
        return pages.show(run, "log", lambda: {"log": data.log(run)})

    for tab in SCRIPTED:
        router.add_api_route(f"/runs/{{run}}/{tab}", reading(scripted_page(pages, data, tab)), methods=["GET"], response_class=HTMLResponse)

    return router


def scripted_page(pages: "Pages", data: PageData, tab: str) -> Callable[[str], Response]:
    """The route of a page that a script fills."""
    def page(run: str) -> Response:
        return pages.show(run, tab, lambda: {"facets": data.facets(run)})

    return page


class Pages:
    """Templates filled with a server's data."""

    def __init__(self, data: PageData, status_of: Callable[[SparselightError], int]):
        self.data, self.status_of = data, status_of

    def runs(self) -> Response:
        """The list of runs; where there is one only, that run."""
        listed = self.data.run_list()
        if len(listed.runs) == 1 and not listed.runs[0].problem:
            return RedirectResponse(f"/runs/{listed.runs[0].id}")
        return render("runs", {"runs": listed.runs, "abilities": listed.abilities, "run": None, "tab": ""})

    def show(self, run: str, tab: str, values: Callable[[], Mapping[str, Any]], template: str = "") -> Response:
        """A page of a run, or of what is wrong with it."""
        try:
            listed = self.data.run_list()
            found = values()
        except SparselightError as err:
            return self.problem(err, self.status_of(err))
        own = next((one for one in listed.runs if one.id == run), None)
        return render(template or tab, {"runs": listed.runs, "abilities": listed.abilities, "run": own, "tab": tab, **found})

    def problem(self, error: Told, status: int) -> Response:
        """The page of an error."""
        listed = self.data.run_list()
        values = {"runs": listed.runs, "abilities": listed.abilities, "run": None, "tab": ""}
        return render("problem", {**values, "error": error, "title": refused_title(status)}, status)


def feature_list(data: PageData, run: str, given: Mapping[str, str]) -> dict[str, Any]:
    """The first rows of the list that an address asks for, and its filters as they stand in the form."""
    query = feature_query(given)
    as_given = {name: given.get(name, "") for name in FILTERS}
    return {"facets": data.facets(run), "listed": data.features(run, limit=LIST_ROWS, **query), "query": {**as_given, **query}}


def feature_query(given: Mapping[str, str]) -> dict[str, Any]:
    """The filters of an address.

    Raises:
        ConfigError: where one has no value of its kind.
    """
    query: dict[str, Any] = {}
    for name, kind in FILTERS.items():
        if given.get(name, "") == "":
            continue
        try:
            query[name] = kind(given[name])
        except ValueError:
            raise ConfigError(asked=f"list features with {name} = {given[name][:80]!r}", why="it is no number", instead="give a number") from None
    return query


def latent_number(latent: str) -> int:
    """The number of a latent in an address.

    Raises:
        ConfigError: where it is none.
    """
    if not (latent.isascii() and latent.isdigit() and len(latent) < 12):
        raise ConfigError(asked=f"open the latent {latent[:80]!r}", why="it is no number", instead="choose a feature from the list")
    return int(latent)


def _truth(text: str) -> bool:
    return text.lower() in TRUE


def _whole(text: str) -> int:
    return max(0, int(text))


FILTERS: dict[str, Callable[[str], Any]] = {
    "text": str, "label": str, "grade": str, "source": str, "domain_only": _truth, "supported": _truth, "min_fire_rate": float, "max_fire_rate": float,
    "sort": str, "descending": _truth, "offset": _whole,
}


def render(template: str, values: Mapping[str, Any], status: int = 200) -> Response:
    page = environment().get_template(f"{template}.html.j2").render({"tabs": TABS, "modalities": MODALITIES, **values})
    return Response(page.encode("utf-8", errors="replace"), status, media_type="text/html; charset=utf-8")
