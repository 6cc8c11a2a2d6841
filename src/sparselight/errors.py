"""User-facing errors: one root, one leaf a part of the system, one message form.

Every message has three parts: what was asked, why not, what to do instead. The command line prints it without a traceback
and exits with code 2. Programming faults stay `assert` or ordinary exceptions.
"""

import difflib
from collections.abc import Iterable


class SparselightError(ValueError):
    """Root of all errors that a user can cause and mend."""

    def __init__(self, *, asked: str, why: str, instead: str):
        self.asked, self.why, self.instead = asked, why, instead
        super().__init__(f"cannot {asked}: {why}. Instead: {instead}.")

    def to_dict(self) -> dict[str, str]:
        """The one JSON shape in which every command reports an error."""
        return {"error": type(self).__name__, "asked": self.asked, "why": self.why, "instead": self.instead}


class ConfigError(SparselightError):
    """A recipe, a setting or a command line value that cannot be honoured."""


class CorpusError(SparselightError):
    """A corpus that is missing, unreadable or empty."""


class SubjectError(SparselightError):
    """A model that cannot be loaded, or a site that it does not have."""


class StoreError(SparselightError):
    """An activation store that is missing, damaged, full, or belongs to something else."""


class SaeError(SparselightError):
    """A dictionary that cannot be built, loaded or saved as asked."""


class TrainingError(SparselightError):
    """A training run that cannot start or go on (non-finite loss, too little data)."""


class EndpointError(SparselightError):
    """A language model's server that cannot be reached, refuses the request, or does not answer as its protocol says."""


class RunError(SparselightError):
    """A run folder that is in use, incomplete, or not a run folder."""


class MissingExtraError(SparselightError):
    """An optional dependency that the request needs and that is not installed."""

    def __init__(self, *, package: str, extra: str, asked: str):
        super().__init__(asked=asked, why=f"the package {package} is not installed", instead=f"run `pip install 'sparselight[{extra}]'`")


def first_line(err: BaseException) -> str:
    """What an error of another library says, in one line."""
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return (lines[0] if lines else type(err).__name__).rstrip(".")


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that ends a message about an unknown name: the nearest known one, or the whole list when none is near."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"use {close[0]!r}" if close else f"use one of {', '.join(known)}"
