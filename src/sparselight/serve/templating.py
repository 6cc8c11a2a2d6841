"""The templates of the explorer: where they lie, and the filters that write numbers and text in them.

Owns escaping (always on) and how a number of a page is written, the same as on the report. Knows nothing of a server, so that a page can be made without one.
Refuses names that a template uses and nobody gave.
"""

from functools import cache
from typing import Any, Protocol
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sparselight.interpret.renderers import visible
from sparselight.report import numbers


@cache
def environment() -> Environment:
    """The templates, with the numbers of the report as filters."""
    made = Environment(loader=PackageLoader("sparselight.serve", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters |= {
        "number": numbers.number, "percent": numbers.percent, "count": numbers.count, "compact": numbers.compact, "seconds": numbers.seconds,
        "bytes": size_of, "interval": numbers.interval, "visible": visible, "ready": Markup, "name": plain_name, "ratio": ratio,
    }
    made.globals |= {"feature_address": feature_address, "list_address": list_address}
    return made


REFUSED_TITLES = {401: "A token is needed", 404: "Not found", 500: "The server failed"}


class Told(Protocol):
    """The three parts of a refusal."""

    @property
    def asked(self) -> str: ...

    @property
    def why(self) -> str: ...

    @property
    def instead(self) -> str: ...


def wants_page(path: str, accept: str) -> bool:
    """Whether an answer to this address is read by a person: a browser that opens a page says so, its scripts and other programs do not."""
    return "text/html" in accept and not path.startswith(("/api/", "/static/"))


def refused_title(status: int) -> str:
    return REFUSED_TITLES.get(status, "This page cannot be shown")


def refusal_page(error: Told, status: int) -> str:
    """A refusal as a page that needs nothing else of the server: for whom it does not let in, and where it failed."""
    return environment().get_template("refused.html.j2").render({"error": error, "status": status, "title": refused_title(status)})


def feature_address(run: str, source: str, latent: int) -> str:
    return f"/runs/{quote(run, safe='')}/features/{quote(source, safe='')}/{latent}"


def list_address(run: str, **query: Any) -> str:
    """The list with filters."""
    given = {name: str(value).lower() if isinstance(value, bool) else value for name, value in query.items() if value not in (None, "", False)}
    return f"/runs/{quote(run, safe='')}/features" + (f"?{urlencode(given)}" if given else "")


def plain_name(name: str) -> str:
    """A name of code as words: `level_prediction` as level prediction."""
    return name.replace("_", " ")


def ratio(value: float) -> str:
    return f"{numbers.number(value, 2)}{numbers.TIMES}" if value < 1000 else f"over 1000{numbers.TIMES}"


def size_of(n_bytes: float) -> str:
    """Bytes in the largest unit that leaves a whole number."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000 or unit == "GB":
            break
        n_bytes /= 1000
    return f"{numbers.number(n_bytes)}{numbers.NBSP}{unit}"
