"""The files of a corpus: which ones, by what name, how they are opened, and what happens to a row of them that is no example.

Owns: finding files under a root, names that do not change when the folder moves, gzip, strict UTF-8 with the position of the bad byte,
the count of bad rows, checksums. Refuses: a root that is not there, a file that cannot be read.
"""

import contextlib
import gzip
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO, cast

from sparselight.corpus.config import GZIPPED, SUFFIXES, CorpusConfig
from sparselight.corpus.python_source import SKIPPED_FOLDERS
from sparselight.errors import CorpusError
from sparselight.files import sha256_file
from sparselight.records import BadRow, SourceFile

N_SHOWN = 20  # bad rows kept with their reason


@dataclass(frozen=True, slots=True)
class Source:
    """One file: its path, and its name in ids, messages and fingerprints."""

    path: Path
    name: str

    @contextlib.contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The bytes, unpacked where the name ends in .gz.

        Raises:
            CorpusError: when the file is missing, unreadable or a damaged archive.
        """
        with readable(self.path), self.path.open("rb") as handle:
            yield cast(BinaryIO, gzip.GzipFile(fileobj=handle)) if self.path.suffix == ".gz" else handle

    def text(self, unix_lines: bool = True) -> str:
        """The whole file as strict UTF-8, a byte order mark left out.

        Args:
            unix_lines: whether every kind of line end becomes a newline; not so where offsets into the file count.

        Raises:
            CorpusError: also when it is not UTF-8, with the position of the first bad byte.
        """
        with self.open() as handle:
            raw = handle.read()
        try:
            text = raw.decode("utf-8").removeprefix("\ufeff")
        except UnicodeDecodeError as err:
            raise CorpusError(asked=f"read the corpus file {self.path}", why=f"it is not UTF-8 text (byte {err.start})",
                              instead="convert it to UTF-8, or move it out of corpus.root") from None
        return text.replace("\r\n", "\n").replace("\r", "\n") if unix_lines else text

    def record(self) -> SourceFile:
        with readable(self.path):
            return SourceFile(name=self.name, n_bytes=self.path.stat().st_size, sha256=sha256_file(self.path))


@dataclass
class BadRows:
    """Rows that cannot become examples: the first one ends the reading, or all are counted and the first few kept with their reasons."""

    refuse: bool
    n: int = 0
    shown: list[BadRow] = field(default_factory=list)

    def add(self, where: str, why: str) -> None:
        """Note one.

        Raises:
            CorpusError: when bad rows are refused.
        """
        if self.refuse:
            raise CorpusError(asked=f"read {where}", why=why, instead='mend it, or set corpus.on_bad_row = "skip" to leave such rows out and count them')
        self.n += 1
        if len(self.shown) < N_SHOWN:
            self.shown.append(BadRow(where=where, why=why))


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what the operating system says of a file that cannot be read into the user-facing error."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as err:
        raise CorpusError(asked=f"read the corpus file {path}", why=f"it is a damaged gzip archive ({err})", instead="fetch or pack it again") from None
    except OSError as err:
        raise CorpusError(asked=f"read the corpus file {path}", why=err.strerror or str(err),
                          instead="make the file readable, or set corpus.root to another path") from None


def find_sources(config: CorpusConfig) -> list[Source]:
    """The files that hold the examples, in sorted order: the root itself when it is a file, whatever its ending.

    Raises:
        CorpusError: when none of a folder is among `corpus.files`, or that is said of a file.
    """
    root = config.path()
    if root.is_file():
        if config.files:
            raise CorpusError(asked=f"read corpus.files = {config.files}", why=f"corpus.root = {config.root!r} is a file itself", instead="give its folder")
        return [Source(root, root.name)]
    endings = SUFFIXES[config.kind]
    endings += tuple(f"{ending}.gz" for ending in endings) if config.kind in GZIPPED else ()
    found = (path for path in sorted(root.rglob("*")) if path.name.endswith(endings) and path.is_file())
    sources = ((path, path.relative_to(root)) for path in found)
    skipped = SKIPPED_FOLDERS if config.kind == "python_source" else set()
    all_files = [Source(path, name.as_posix()) for path, name in sources if not skipped.intersection(name.parts)]
    chosen = [source for source in all_files if not config.files or _is_among(source, config.files)]
    if all_files and not chosen:
        raise CorpusError(asked=f"read corpus.files = {config.files}", why=f"none of the {len(all_files)} files in {root} is called so",
                          instead=f"give patterns such as '*{all_files[0].path.suffix}', or leave it out")
    return chosen


def _is_among(source: Source, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in (source.name, source.path.name) for pattern in patterns)


def extra_sources(config: CorpusConfig) -> list[Source]:
    """Files beside the root that the corpus is read with: annotations and held-out ids."""
    sources = []
    for setting in ("spans", "example_labels", "held_out_ids"):
        if value := getattr(config, setting):
            path = Path(value).expanduser()
            if not path.is_file():
                raise CorpusError(asked=f"read corpus.{setting} = {value!r}", why="there is no such file", instead="give the path of an existing file")
            sources.append(Source(path, path.name))
    for setting, path in {**config.interactions.paths(), **config.protein.paths(), **config.image_text.paths()}.items():
        if not path.is_file():
            raise CorpusError(asked=f"read corpus.{setting} = {str(path)!r}", why="there is no such file", instead="give the path of an existing file")
        sources.append(Source(path, path.name))
    return sources

