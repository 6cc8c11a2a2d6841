"""Notes and labels that people give features: `annotations.jsonl` beside the catalogue, one line each, only ever added to.

Owns the file: lines are appended whole, under a lock, and synced; a line that a crash cut short is passed over and closed by the next one. A
withdrawal is a line too, so that nothing that was said is lost. Refuses: notes without words, too long ones, withdrawals of notes that are not there.
"""

import errno
import fcntl
import os
import secrets
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from sparselight.errors import ConfigError
from sparselight.files import make_folder, write_error
from sparselight.records.notes import Note

NOTES = "annotations.jsonl"
MOST_CHARS = 10_000
MOST_LABEL_CHARS = 200
MOST_BYTES = 64 * 2**20  # of the file


def add_note(folder: Path, source: str, latent: int, who: str, label: str = "", text: str = "") -> Note:
    """Write down a note, a label, or both.

    Raises:
        ConfigError: for one without words or with too many.
        StoreError: when the file cannot be written.
    """
    asked = f"note something on {source}/{latent}"
    label, text, who = map(_clean, (label, text, who))
    if not label and not text:
        raise ConfigError(asked=asked, why="there is neither a label nor a text", instead="write one of them")
    for name, value, most in (("label", label, MOST_LABEL_CHARS), ("text", text, MOST_CHARS), ("who", who, MOST_LABEL_CHARS)):
        if len(value) > most:
            raise ConfigError(asked=asked, why=f"{name} has {len(value):,} characters, more than {most:,}", instead="write less")
    note = Note(id=secrets.token_hex(6), when=_now(), who=who, source=source, latent=latent, label=label, text=text)
    _append(folder / NOTES, note)
    return note


def withdraw_note(folder: Path, note: str, who: str) -> Note:
    """Take a note back; the line of it stays in the file.

    Raises:
        ConfigError: when there is no such note.
        StoreError: when the file cannot be written.
    """
    found = next((one for one in read_notes(folder) if one.id == note), None)
    if found is None:
        raise ConfigError(asked=f"withdraw the note {note[:40]!r}", why="there is none, or it is withdrawn already", instead="look at the list of notes")
    taken = Note(id=secrets.token_hex(6), when=_now(), who=_clean(who)[:MOST_LABEL_CHARS], source=found.source, latent=found.latent, kind="withdraw",
                 withdraws=note)
    _append(folder / NOTES, taken)
    return taken


def read_notes(folder: Path) -> list[Note]:
    """The notes of a run that stand, in the order in which they were written."""
    listed = list(_lines(folder / NOTES))
    gone = {note.withdraws for note in listed if note.kind == "withdraw"}
    return [note for note in listed if note.kind == "note" and note.id not in gone]


def label_of(notes: Sequence[Note]) -> str:
    """The latest label among the notes of a feature, empty where there is none."""
    return next((note.label for note in reversed(notes) if note.label), "")


def by_feature(notes: Sequence[Note]) -> dict[tuple[str, int], list[Note]]:
    """Notes by (source, latent)."""
    found: dict[tuple[str, int], list[Note]] = {}
    for note in notes:
        found.setdefault((note.source, note.latent), []).append(note)
    return found


def _lines(path: Path) -> Iterator[Note]:
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return
    for line in lines:
        try:
            yield Note.model_validate_json(line)
        except ValidationError:  # blank, cut short, or not ours
            continue


def _append(path: Path, note: Note) -> None:
    """One line at the end of the file, whole or not at all for whoever reads it."""
    line = note.model_dump_json().encode("utf-8", "replace") + b"\n"
    make_folder(path.parent)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            size = os.fstat(handle).st_size
            if size + len(line) > MOST_BYTES:
                raise ConfigError(asked=f"add to {path.name}", why=f"it has {size:,} bytes", instead="move it away and begin another one")
            torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
            if os.write(handle, b"\n" * torn + line) < len(line):
                raise OSError(errno.ENOSPC, "the disk is full")
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as err:
        raise write_error(path, err) from err


def _clean(text: str) -> str:
    """Without white space at the ends and without lone surrogates, which a file cannot carry."""
    return text.strip().encode("utf-8", "replace").decode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
