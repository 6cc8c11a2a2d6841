"""The endpoints of notes: `/runs/{run}/notes`.

Owns the checks of a request. Refuses: notes on features that the run does not have, and every change where notes are not allowed.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from sparselight.errors import ConfigError
from sparselight.interpret.catalogue.notes import add_note, withdraw_note
from sparselight.pipeline.explaining import run_catalogue
from sparselight.serve.models import NoteView
from sparselight.serve.notes import notes_by_feature, view
from sparselight.serve.settings import NotAllowedError, not_found

Audit = Callable[[Path, str, dict[str, object]], None]


class NewNote(BaseModel):
    """A note, a label, or both."""

    model_config = ConfigDict(extra="forbid")
    feature: str = Field(max_length=200)
    who: str = Field(default="", max_length=200)
    label: str = Field(default="", max_length=1000)
    text: str = Field(default="", max_length=100_000)


class Withdrawal(BaseModel):
    """Which note is taken back."""

    model_config = ConfigDict(extra="forbid")
    note: str = Field(max_length=40)
    who: str = Field(default="", max_length=200)


class FeatureNote(NoteView):
    """A note with its feature."""

    feature: str


class NoteList(BaseModel):
    """Notes of a run, the oldest first."""

    notes: list[FeatureNote]
    may_write: bool


def notes_router(runs: Mapping[str, Path], allow_notes: bool, audit: Audit) -> APIRouter:
    """All routes of notes.

    Args:
        runs: folders by the names that addresses give them.
        audit: told of every change before it is made.
    """
    router = APIRouter(prefix="/runs/{run}/notes", tags=["notes"])

    def folder_of(run: str) -> Path:
        if run not in runs:
            raise not_found(f"open the run {run[:80]!r}")
        return runs[run]

    def check_allowed() -> None:
        if not allow_notes:
            raise NotAllowedError(asked="save a note", why="this server was started read-only", instead="start it with --allow-edits")

    @router.get("")
    def listed(run: str, feature: Annotated[str | None, Query(max_length=200)] = None) -> NoteList:
        """Notes that stand, of one feature or of all."""
        found = notes_by_feature(folder_of(run))
        wanted = [note for notes in found.values() for note in notes if feature in (None, note.feature)]
        return NoteList(notes=[FeatureNote(feature=note.feature, **view(note).model_dump()) for note in sorted(wanted, key=lambda note: note.when)],
                        may_write=allow_notes)

    @router.post("", status_code=201)
    def add(run: str, note: NewNote) -> FeatureNote:
        """Write a note or a label down."""
        folder = folder_of(run)
        check_allowed()
        source, slash, latent = note.feature.rpartition("/")
        if not slash or not latent.isascii() or not latent.isdigit() or len(latent) > 9:
            raise ConfigError(asked=f"note something on {note.feature[:80]!r}", why="that is no feature's name", instead="write base/12")
        run_catalogue(folder).card(source, int(latent))  # refused where there is none
        audit(folder, "note", {"feature": note.feature, "who": note.who, "label": note.label, "text": note.text})
        written = add_note(folder, source, int(latent), note.who, note.label, note.text)
        return FeatureNote(feature=written.feature, **view(written).model_dump())

    @router.post("/withdraw")
    def withdraw(run: str, given: Withdrawal) -> NoteList:
        """Take a note back; what was said stays in the file."""
        folder = folder_of(run)
        check_allowed()
        audit(folder, "note", {"withdraws": given.note, "who": given.who})
        taken = withdraw_note(folder, given.note, given.who)
        return listed(run, taken.feature)

    return router
