"""Notes of the runs that are served, read again when their file has changed.

Owns the cache, keyed by the file's state. Refuses nothing: a run without notes has none.
"""

import threading
from pathlib import Path

from sparselight.interpret.catalogue.notes import NOTES, by_feature, read_notes
from sparselight.records.notes import Note
from sparselight.serve.models import NoteView

_KEPT: dict[Path, tuple[tuple[int, int, int], dict[tuple[str, int], list[Note]]]] = {}
_LOCK = threading.Lock()


def notes_by_feature(run_folder: Path) -> dict[tuple[str, int], list[Note]]:
    """All notes of a run, by (source, latent)."""
    path = run_folder / NOTES
    try:
        stat = path.stat()
    except OSError:
        return {}
    state = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
    with _LOCK:
        if run_folder not in _KEPT or _KEPT[run_folder][0] != state:
            _KEPT[run_folder] = (state, by_feature(read_notes(run_folder)))
        return _KEPT[run_folder][1]


def notes_of(run_folder: Path, source: str, latent: int) -> list[NoteView]:
    """The notes of one feature, the oldest first."""
    return [view(note) for note in notes_by_feature(run_folder).get((source, latent), [])]


def view(note: Note) -> NoteView:
    """A note as pages show it."""
    return NoteView(id=note.id, when=note.when, who=note.who, label=note.label, text=note.text)
