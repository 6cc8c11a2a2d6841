"""What a metric family declares of itself: one row a file, collected by `suite.py`."""

from collections.abc import Callable
from typing import Any, NamedTuple

from sparselight.config import Config

# measure(case, contenders, config, findings, progress) -> None
Measure = Callable[..., None]


class Family(NamedTuple):
    """One family of metrics."""

    name: str
    """As asked for on the command line, and the name of its table in the settings (`evaluate.NAME`)."""
    title: str
    measure: Measure
    config: type[Config]
    needs: tuple[str, ...] = ()
    """Of `subject` (runs it), `examples` (tokens of held-out examples), `annotations` (labelled spans or examples), `several` (two SAEs or more)."""
    suites: tuple[str, ...] = ("full",)

    def default(self) -> Any:
        """Its settings where none are given."""
        return self.config()
