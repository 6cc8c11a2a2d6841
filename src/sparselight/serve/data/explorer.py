"""The one door to what the explorer shows: runs by id, each part made once and kept until its files change.

Owns the caches and what a run without cards shows. Pages, API and the frozen file call it; it knows nothing of HTTP. Refuses: runs and features that are
not there.
"""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from sparselight import __version__
from sparselight.errors import ConfigError, SparselightError
from sparselight.serve.data import card as cards
from sparselight.serve.data import features as lists
from sparselight.serve.data import overview as overviews
from sparselight.serve.data.columns import Columns
from sparselight.serve.data.log import run_log
from sparselight.serve.data.map import FOLDER
from sparselight.serve.data.peaks import Peaks, read_peaks
from sparselight.serve.data.served import Runs, ServedRun, problem_of
from sparselight.serve.models import Abilities, Curves, Facets, FeatureCard, FeatureList, FeatureQuery, NoteView, Overview, RunList, RunLog, RunSummary
from sparselight.serve.settings import ServeSettings
from sparselight.vocab import STAGES

MOST_CARDS = 128
"""Cards that are kept ready, over all runs."""
FEW_CONTEXTS = 400_000
"""Up to so many contexts the peak tokens of lists are read at once, above it beside everything else."""
Notes = Callable[[ServedRun, str, int], Sequence[NoteView]]
T = TypeVar("T")


class ExplorerData:
    """What is served.

    Args:
        notes: gives the notes of a feature.
    """

    def __init__(self, runs: Runs, settings: ServeSettings, notes: Notes | None = None):
        self.runs, self.settings, self._notes = runs, settings, notes
        self._cards: OrderedDict[tuple[Any, ...], FeatureCard] = OrderedDict()
        self._lock = threading.Lock()
        self._peaks_of: dict[str, tuple[Any, Peaks | None]] = {}

    def run_list(self) -> RunList:
        """All runs; one that cannot be read is listed with its problem."""
        abilities = Abilities(version=__version__, is_shared=self.settings.share_readonly, may_try=self.settings.may_try, may_write=self.settings.may_write)
        return RunList(runs=[self._summary(run) for run in self.runs.values()], abilities=abilities)

    def _summary(self, run: ServedRun) -> RunSummary:
        try:
            finished, (columns, problem) = run.finished(), self._columns(run)
        except SparselightError as err:
            return RunSummary(id=run.id, name=run.title, modality="text", subject="", site="", n_features=0, n_supported=0, finished=[], missing=list(STAGES),
                              problem=problem_of(err, run))
        return RunSummary(
            id=run.id, name=run.record.name, modality=run.modality, subject=run.subject, site=run.site, n_features=columns.n if columns else 0,
            n_supported=int(columns.supported.sum()) if columns else 0, finished=finished, missing=[stage for stage in STAGES if stage not in finished],
            problem=problem,
        )

    def overview(self, run: str) -> Overview:
        """A run at a glance."""
        served = self.runs[run]
        columns, problem = self._columns(served)
        return served.kept("overview", (served.stamp(), columns.serial if columns else None, problem), lambda: overviews.overview(served, columns, problem))

    def curves(self, run: str) -> Curves:
        """Training logs."""
        return overviews.curves(self.runs[run])

    def facets(self, run: str) -> Facets:
        """What its features can be filtered by."""
        served = self.runs[run]
        columns = self.columns(served)
        return served.kept("facets", columns.serial, lambda: lists.facets(columns))

    def features(self, run: str, **query: Any) -> FeatureList:
        """A part of its features; arguments are those of `FeatureQuery`.

        Raises:
            ConfigError: when a condition is none.
        """
        try:
            return self.list_features(run, FeatureQuery(**query))
        except ValidationError as err:
            raise refused_query(err) from None

    def list_features(self, run: str, query: FeatureQuery) -> FeatureList:
        """A part of its features."""
        columns, peaks = self._listed(self.runs[run])
        return lists.feature_list(columns, peaks, query)

    def feature(self, run: str, source: str, latent: int) -> FeatureCard:
        """One feature.

        Raises:
            NotFoundError: when it has no card.
        """
        served = self.runs[run]
        return self._of_one_state(served, lambda: self._feature(served, source, latent))

    def _feature(self, run: ServedRun, source: str, latent: int) -> FeatureCard:
        columns, notes = self.columns(run), [] if self._notes is None else list(self._notes(run, source, latent))
        key = (run.id, source, latent, columns.serial, run.studies_stamp(), tuple(note.id for note in notes))
        with self._lock:
            if key in self._cards:
                self._cards.move_to_end(key)
                return self._cards[key]
        made = cards.feature_card(run, columns, source, latent, notes)
        with self._lock:
            self._cards[key] = made
            while len(self._cards) > MOST_CARDS:
                self._cards.popitem(last=False)
        return made

    def log(self, run: str) -> RunLog:
        """How it was made."""
        return run_log(self.runs[run])

    def columns(self, run: ServedRun) -> Columns:
        """The columns of its cards.

        Raises:
            RunError: when it has none.
        """
        catalogue = run.catalogue()
        return run.kept("columns", run.catalogue_stamp(), lambda: Columns(catalogue))

    def warm(self) -> None:
        """Read what every page needs, so that the first one is quick; what cannot be read is told when it is asked for."""
        for run in self.runs:
            with contextlib.suppress(SparselightError, OSError):
                self.overview(run)
        for run in self.runs.values():
            with contextlib.suppress(SparselightError, OSError):
                self.columns(run).prepare()
                self._peaks(run)

    def _columns(self, run: ServedRun) -> tuple[Columns | None, str]:
        """The columns, or why there are none."""
        _ = run.record
        try:
            return self.columns(run), ""
        except SparselightError as err:
            return None, problem_of(err, run)

    def _listed(self, run: ServedRun) -> tuple[Columns, Peaks | None]:
        """Columns and peak tokens; rows of one state of the catalogue mean nothing in another."""
        return self._of_one_state(run, lambda: (self.columns(run), self._peaks(run)))

    def _of_one_state(self, run: ServedRun, read: Callable[[], T]) -> T:
        """What is read in several parts, read again where the catalogue was replaced meanwhile."""
        while True:
            stamp = run.catalogue_stamp()
            try:
                found = read()
            except SparselightError:
                if run.catalogue_stamp() == stamp:
                    raise
                continue
            if run.catalogue_stamp() == stamp:
                return found

    def _peaks(self, run: ServedRun) -> Peaks | None:
        """The peak tokens; None while those of a large catalogue are being read in a thread of their own."""
        catalogue, stamp = run.catalogue(), run.catalogue_stamp()
        n_contexts = run.kept("n_contexts", stamp, lambda: catalogue.sql("SELECT count(*) AS n FROM contexts").column("n")[0].as_py())
        if n_contexts <= FEW_CONTEXTS:
            return run.kept("peaks", stamp, lambda: read_peaks(catalogue))
        with self._lock:
            found = self._peaks_of.get(run.id)
            if found is not None and found[0] == stamp:
                return found[1]
            self._peaks_of[run.id] = (stamp, None)

        def read() -> None:
            try:
                peaks = read_peaks(catalogue, run.folder / FOLDER)
            except (SparselightError, OSError):  # the file is gone: the next list asks again
                peaks = None
            with self._lock:
                if self._peaks_of[run.id][0] == stamp:
                    self._peaks_of[run.id] = (stamp if peaks is not None else None, peaks)

        threading.Thread(target=read, name=f"peaks of {run.id}").start()
        return None


def refused_query(err: ValidationError) -> ConfigError:
    """The refusal of a query whose values are none."""
    first = err.errors()[0]
    name = ".".join(map(str, first["loc"])) or "the query"
    why = first["msg"][:1].lower() + first["msg"][1:]
    return ConfigError(asked=f"list features with {name} = {str(first['input'])[:80]!r}", why=why, instead=f"mend {name}")
