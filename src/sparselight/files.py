"""Writing files so that a reader sees the old content or the new, never a torn one; checksums; folder locks."""

import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from sparselight.errors import RunError, StoreError

_NUMBERS = itertools.count()


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path` durably, on failure it is removed.

    Threads that write one file at once each have a temporary path of their own: the last to end stays, whole.

    Raises:
        StoreError: when the disk is full or the folder cannot be written; what stood there before stays.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{next(_NUMBERS)}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError as err:
        raise write_error(path, err) from err
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents.

    Raises:
        StoreError: when the disk is full or the place cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise write_error(folder, err) from err


def write_bytes(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_error(path: Path, err: OSError) -> StoreError:
    """The user-facing form of a failed write."""
    full = err.errno in (errno.ENOSPC, errno.EDQUOT)
    return StoreError(
        asked=f"write {path}",
        why="the disk is full" if full else (err.strerror or str(err)),
        instead="free some space (or choose another folder with --out) and run the same command again; finished parts are kept"
        if full else "choose a folder that can be written with --out",
    )


def sha256_file(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextlib.contextmanager
def folder_lock(folder: Path, asked: str) -> Iterator[None]:
    """Hold a folder against a second writer; the lock ends with the process, however it ends.

    Raises:
        RunError: when another process holds it.
    """
    make_folder(folder)
    try:
        handle: IO[str] = (folder / ".lock").open("w")
    except OSError as err:
        raise write_error(folder / ".lock", err) from err
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            if err.errno not in (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES):
                raise write_error(folder / ".lock", err) from err
            raise RunError(asked=asked, why=f"another process is writing {folder}", instead="wait for it to end, or choose another folder with --out") from err
        yield
    finally:
        handle.close()
