"""From turned knobs to edits of the run: operations, amounts in the features' own units, measured once and kept.

Owns: the reference values of a run's features (from its stores, as `OpenRun.edit` measures them), and the hash of each SAE's weights, which would
cost more than the edit itself. Refuses: what `OpenRun.edit` refuses, more edits than the limit.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparselight.errors import ConfigError, nearest
from sparselight.intervene.edit import check_edit, words
from sparselight.intervene.operations import unit_of
from sparselight.intervene.scales import Firings, find_firings, with_scales
from sparselight.records import Edit, EditSet, Where
from sparselight.serve.live.models import EditRequest, LiveEdit
from sparselight.vocab import EDIT_OPERATIONS

if TYPE_CHECKING:
    from sparselight.pipeline.opened import OpenRun

OPERATIONS = {name: said for name, said in EDIT_OPERATIONS.items() if name != "swap"}
KEPT = 256  # features whose firings are remembered


class Knobs:
    """Makes edits of a run's features."""

    def __init__(self, run: "OpenRun", max_edits: int):
        self._run, self._max_edits = run, max_edits
        self._firings: OrderedDict[tuple[str, int], Firings] = OrderedDict()
        self._hashes: dict[str, str] = {}

    def edits(self, request: EditRequest) -> list[Edit]:
        """The edits of a request, checked and measured.

        Raises:
            ConfigError: when one cannot be honored.
            RunError: when the stores are gone that an amount is measured on.
        """
        if len(request.edits) > self._max_edits:
            raise ConfigError(asked=f"turn {len(request.edits)} features together", why=f"live.max_edits = {self._max_edits}", instead="turn fewer")
        made = [self._unmeasured(one, request.where) for one in request.edits]
        self._measure([edit for edit in made if unit_of(edit) != "absolute"])
        ready = [with_scales(edit, self._firings[edit.source, edit.latents[0]]) if unit_of(edit) != "absolute" else edit for edit in made]
        for edit in ready:
            check_edit(edit, self._run.sae(edit.source))
        return ready

    def record(self, edits: Sequence[Edit]) -> EditSet:
        """The edits as they can be saved and done again anywhere."""
        for source in {edit.source for edit in edits} - set(self._hashes):
            self._hashes[source] = self._run.sae(source).weights_hash()
        return EditSet(edits=[edit.model_copy(update={"weights": self._hashes[edit.source]}) for edit in edits], subject=self._run.subject.ref())

    def _unmeasured(self, one: LiveEdit, where: str) -> Edit:
        if one.operation not in OPERATIONS:
            raise ConfigError(asked=f"turn {one.feature[:80]} by {one.operation!r}", why="there is no such operation here",
                              instead=nearest(one.operation, OPERATIONS))
        source, latent = self._run.latent(one.feature)
        edit = Edit(site=self._run.site, latents=[latent], operation=one.operation, amount=one.amount, unit=one.unit, source=source,
                    where=Where(tokens=where))
        check_edit(edit.model_copy(update={"scales": [1.0]}), self._run.sae(source))  # before any store is read
        return edit

    def _measure(self, edits: Sequence[Edit]) -> None:
        """Firings of the features that are not known yet: one pass over the stores for each SAE."""
        missing: dict[str, list[int]] = {}
        for edit in edits:
            key = (edit.source, edit.latents[0])
            if key in self._firings:
                self._firings.move_to_end(key)
            else:
                missing.setdefault(edit.source, []).append(edit.latents[0])
        for source, latents in missing.items():
            found = find_firings(self._run.sae(source), self._run.reference_rows(), latents)
            for latent, values in found.values.items():
                self._firings[source, latent] = Firings({latent: values}, found.n_tokens)
        while len(self._firings) > max(KEPT, len(edits)):
            self._firings.popitem(last=False)


def in_words(edit: Edit) -> str:
    """The edit, and what its unit stands for."""
    measured = f" ({unit_of(edit)} = {edit.scales[0]:.4g})" if edit.scales and unit_of(edit) != "absolute" else ""
    return words(edit) + measured
