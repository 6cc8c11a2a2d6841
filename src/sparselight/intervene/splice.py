"""Splicing: the edits of one site as one function on activations.

Every dictionary reads the same x; its edits act one after another on the latents that it finds there; what they change adds up:
    keep_error   x' = x + sum over dictionaries of (z' - z) W_dec      (tokens whose latents do not change keep their bits)
    replace      x' = sum over dictionaries of decode(z')              (at the tokens where the edits act)
so that edits of a base and a residual SAE are edits of the stitched one. Refuses: to run where it needs to know which tokens it gets and nobody says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparselight.errors import ConfigError
from sparselight.intervene.operations import Affine
from sparselight.intervene.reading import Dictionary, Reader, activation_reader
from sparselight.intervene.where import EVERYWHERE, Phase, during, is_everywhere, token_mask
from sparselight.protocols import EditFunction, Places
from sparselight.records import Where


@dataclass(frozen=True, slots=True)
class Trigger:
    """A condition on another latent."""

    read: Reader
    above: float
    fires: bool

    def holds(self, x: Float[Tensor, "token d_in"]) -> Bool[Tensor, " token"]:
        return (self.read(x)[:, 0] > self.above) == self.fires


@dataclass(frozen=True, slots=True)
class Change:
    """One edit, made ready for its dictionary."""

    columns: Int[Tensor, " changed"] | None
    """Of the latents that the dictionary's edits name together; None for all of them."""
    affine: Affine
    where: Where
    trigger: Trigger | None
    replaces: bool
    words: str

    @property
    def needs_places(self) -> bool:
        return not is_everywhere(self.where) or len(self.affine.offset) > 1

    def mask(self, x: Float[Tensor, "token d_in"], places: Places | None) -> Bool[Tensor, " token"] | None:
        """Tokens at which it acts; None for all."""
        mask = None
        if places is not None and self.needs_places:
            mask = token_mask(self.where, places).to(x.device)
            if len(self.affine.offset) > 1:
                mask &= (places.position < len(self.affine.offset)).to(x.device)
        if self.trigger is not None:
            fires = self.trigger.holds(x)
            mask = fires if mask is None else mask & fires
        return mask

    def apply(self, z: Float[Tensor, "token chosen"], mask: Bool[Tensor, " token"] | None, places: Places | None) -> Float[Tensor, "token chosen"]:
        gain, offset = self.affine
        own = z if self.columns is None else z[:, self.columns]
        if len(offset) > 1:
            assert places is not None
            offset = offset[places.position.clamp(max=len(offset) - 1).to(z.device)]
        new = torch.addcmul(offset, own, gain)
        if mask is not None:
            new = torch.where(mask[:, None], new, own)
        return new if self.columns is None else z.index_copy(1, self.columns, new)


@dataclass(frozen=True, slots=True)
class CoderChanges:
    """The edits of one dictionary at one site, in order."""

    coder: Dictionary
    latents: Int[Tensor, " chosen"]
    """Ascending; all that its edits name."""
    read: Reader
    directions: Float[Tensor, "chosen d_in"]
    changes: tuple[Change, ...]

    @property
    def replaces(self) -> bool:
        return any(change.replaces for change in self.changes)

    def single(self) -> "SingleChange | None":
        """The one edit, where it is one that acts at every token and keeps the error."""
        if len(self.changes) != 1 or self.changes[0].needs_places or self.changes[0].trigger is not None or self.replaces:
            return None
        gain, offset = self.changes[0].affine
        return SingleChange(self.read, gain - 1, offset, self.directions)

    def difference(self, x: Float[Tensor, "token d_in"], places: Places | None) -> tuple[Float[Tensor, "token chosen"], Bool[Tensor, " token"] | None]:
        """z' - z, and the tokens at which an edit acts; None for all."""
        z = new = self.read(x)
        masks = []
        for change in self.changes:
            masks.append(change.mask(x, places))
            new = change.apply(new, masks[-1], places)
        acts = None if any(mask is None for mask in masks) else torch.stack([mask for mask in masks if mask is not None]).any(0)
        return new - z, acts


@dataclass(frozen=True, slots=True)
class SingleChange:
    """One edit of one dictionary at every token, with as few operations as a single token takes."""

    read: Reader
    gain: Float[Tensor, " changed"]
    """Less 1: of the change."""
    offset: Float[Tensor, "1 changed"]
    directions: Float[Tensor, "changed d_in"]

    @torch.no_grad()
    def step(self, x: Float[Tensor, "1 d_in"]) -> Float[Tensor, "1 d_in"]:
        return torch.addmm(x, torch.addcmul(self.offset, self.read(x), self.gain), self.directions)


class Splice:
    """The edits of one site, as a `protocols.PlacedEdit`."""

    is_pure = True
    """It never writes into the activations that it is given."""

    def __init__(self, parts: Sequence[CoderChanges]):
        self.parts = tuple(part for part in parts if part.changes)
        self.needs_places = any(change.needs_places for part in self.parts for change in part.changes)
        self._directions = torch.cat([part.directions for part in self.parts]) if self.parts else None
        self._left: dict[Phase, Splice | None] = {}
        self._one = self.parts[0].single() if len(self.parts) == 1 else None

    def __repr__(self) -> str:
        return "; ".join(change.words for part in self.parts for change in part.changes) or "no edit"

    def __call__(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        if self.needs_places:
            raise ConfigError(asked=f"apply the edit ({self!r})", why="it acts at some tokens only, and this pass does not say which tokens it holds",
                              instead="give it to subject.predict, loss or generate, or call edit.at(places) first")
        if self._one is not None and len(x) == 1 and x.device == self._one.gain.device:  # a step of a generation
            return self._one.step(x)
        return self._apply(x, None)

    def at(self, places: Places) -> EditFunction:
        """The edit for the tokens of one pass."""
        return Placed(self, places)

    def during(self, phase: Phase) -> "Splice | None":
        """What is left of it in a pass whose tokens are all given, or all generated; None where that is nothing."""
        if phase not in self._left:
            self._left[phase] = self._during(phase)
        return self._left[phase]

    def _during(self, phase: Phase) -> "Splice | None":
        parts, same = [], True
        for part in self.parts:
            kept = [(change, during(change.where, phase)) for change in part.changes]
            changes = tuple(change if where == change.where else replace(change, where=where) for change, where in kept if where is not None)
            same &= all(where == change.where for change, where in kept)
            if changes:
                parts.append(replace(part, changes=changes))
        if same:
            return self
        return Splice(parts) if parts else None

    @torch.no_grad()
    def _apply(self, x: Float[Tensor, "token d_in"], places: Places | None) -> Float[Tensor, "token d_in"]:
        if not self.parts or not len(x):
            return x
        assert self._directions is not None
        rows = x.to(self._directions.device)
        found = [part.difference(rows, places) for part in self.parts]
        change = found[0][0] if len(found) == 1 else torch.cat([difference for difference, _ in found], 1)
        if self.parts[0].replaces:
            acts = [torch.ones(len(x), dtype=torch.bool, device=rows.device) if mask is None else mask for _, mask in found]
            return self._replaced(x, rows, change, torch.stack(acts).any(0))
        return add_change(x, change, self._directions)

    def _replaced(self, x: Tensor, rows: Tensor, change: Tensor, acts: Bool[Tensor, " token"]) -> Float[Tensor, "token d_in"]:
        """decode(z') where an edit acts: decode is linear in z up to b_dec."""
        assert self._directions is not None
        total = change @ self._directions
        for part in self.parts:
            total = total + part.coder.decode(part.coder.encode(rows))
        return torch.where(acts.to(x.device)[:, None], total.to(x), x)

    @classmethod
    def stack(cls, splices: Sequence["Splice | None"]) -> EditFunction | None:
        """One function for rows that each have their own edits; None where they cannot be taken together (other dictionaries, conditions, places)."""
        return stacked(splices)


class Placed:
    """A splice and the tokens of one pass."""

    def __init__(self, splice: Splice, places: Places):
        self._splice, self._places = splice, places

    def __repr__(self) -> str:
        return repr(self._splice)

    def __call__(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        assert len(x) == len(self._places.position), "one place a token"
        return self._splice._apply(x, self._places)


class StackedRows:
    """Edits of one dictionary that differ from row to row: one gain and one offset a row and latent."""

    needs_places = True

    def __init__(self, part: CoderChanges, directions: Float[Tensor, "chosen d_in"], gain: Float[Tensor, "row chosen"], offset: Float[Tensor, "row chosen"]):
        self._part, self._directions, self._gain, self._offset = part, directions, gain, offset

    def __repr__(self) -> str:
        return f"{len(self._gain)} rows with their own edits of {len(self._directions)} latents"

    def __call__(self, _x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        raise AssertionError("called through `at`")

    def during(self, _phase: Phase) -> EditFunction:
        return self

    def at(self, places: Places) -> EditFunction:
        @torch.no_grad()
        def apply(x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
            z = self._part.read(x.to(self._directions.device))
            row = places.example.to(z.device)
            return add_change(x, z * self._gain[row] + self._offset[row] - z, self._directions)

        return apply


def add_change(x: Float[Tensor, "token d_in"], change: Float[Tensor, "token chosen"], directions: Float[Tensor, "chosen d_in"]) -> Float[Tensor, "token d_in"]:
    """x + change @ directions; x itself where nothing changes, and the bits of tokens at which nothing does."""
    if len(x) == 1:  # a step of a generation
        return x + (change @ directions.to(change.dtype)).to(x) if change.any() else x
    touched = change.any(1)
    if touched.all():
        return x + (change @ directions.to(change.dtype)).to(x)
    tokens = touched.nonzero()[:, 0]
    if not len(tokens):
        return x
    return x.index_add(0, tokens.to(x.device), (change[tokens] @ directions.to(change.dtype)).to(x))


def stacked(splices: Sequence[Splice | None]) -> StackedRows | None:
    """As `Splice.stack`."""
    parts = [splice.parts for splice in splices if splice is not None]
    if not parts or any(len(own) != 1 or own[0].coder is not parts[0][0].coder for own in parts):
        return None
    changes = [change for own in parts for change in own[0].changes]
    if any(change.needs_places or change.trigger is not None or change.replaces for change in changes):
        return None
    first = parts[0][0]
    latents = torch.cat([own[0].latents for own in parts]).unique()
    gain, offset = first.directions.new_ones(len(splices), len(latents)), first.directions.new_zeros(len(splices), len(latents))
    for row, splice in enumerate(splices):
        for change in splice.parts[0].changes if splice is not None else ():
            named = cast("Splice", splice).parts[0].latents
            columns = torch.searchsorted(latents, named if change.columns is None else named[change.columns.to(named.device)])
            gain[row, columns] *= change.affine.gain
            offset[row, columns] = offset[row, columns] * change.affine.gain + change.affine.offset[0]
    directions = first.coder.W_dec.detach()[latents.to(first.coder.W_dec.device)]
    part = replace(first, latents=latents, read=activation_reader(first.coder, latents), directions=directions, changes=())
    return StackedRows(part, directions, gain, offset)


def coder_changes(coder: Any, edits: Sequence[tuple[Sequence[int], Affine, Where, Trigger | None, bool, str]]) -> CoderChanges:
    """Edits of one dictionary, made ready: (latents, what is done to them, where, condition, whether it replaces, words)."""
    latents = torch.tensor(sorted({latent for chosen, *_ in edits for latent in chosen}), dtype=torch.int64)
    device = coder.W_dec.device
    changes = []
    for chosen, affine, where, trigger, replaces, words in edits:
        first = {latent: index for index, latent in reversed(list(enumerate(chosen)))}  # a latent that is named twice counts once
        order = torch.tensor(sorted(first), dtype=torch.int64)
        pick = torch.tensor([first[latent] for latent in order.tolist()], dtype=torch.int64)
        columns = None if len(order) == len(latents) else torch.searchsorted(latents, order).to(device)
        made = Affine(affine.gain[pick].to(device), affine.offset[:, pick].to(device))
        changes.append(Change(columns, made, where or EVERYWHERE, trigger, replaces, words))
    directions = coder.W_dec.detach()[latents.to(device)]
    return CoderChanges(coder, latents, activation_reader(coder, latents), directions, tuple(changes))
