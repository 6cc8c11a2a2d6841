"""What a metric family declares of itself: one row a file, collected by `suite.py`; and the names of the reference points."""

from collections.abc import Callable
from typing import Any, NamedTuple

from sparselight.config import Config

# measure(case, contenders, config, findings, progress) -> None
Measure = Callable[..., None]

SUBJECT, ZERO, MEAN = "subject", "zero ablation", "mean ablation"
"""Reference points that fix the scale of other values: the unedited subject, and every activation replaced by 0 or by the mean of the fit side.
They are nobody's coder names. The two ablations are contenders for families that ask for them."""


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
    ablations: bool = False
    """Whether it measures zero and mean ablation too: its contenders then hold ZERO and, where a mean is known, MEAN."""
    plain: bool = False
    """Whether it never reads spans: those that a source makes on demand are then not made for it."""
    passes: int = 0
    """Passes of the subject over all held-out tokens that it takes for each contender, for estimates."""

    def default(self) -> Any:
        """Its settings where none are given."""
        return self.config()
