"""Where a store lives: a local folder, or any address that fsspec understands (s3://, gs://, memory://, ...).

A remote store is written into a local staging folder and each finished file uploaded, the manifest last; it is read through a local
cache bounded in bytes, and by ranges where a shard finds no room there. Cached files are named by their SHA-256, so a store that was
written anew at the same address is never confused with the old one. Refuses, naming the object: what is gone, cut or unreachable.
"""

import contextlib
import hashlib
import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

from sparselight.errors import StoreError
from sparselight.files import atomic_path, make_folder, sha256_file

Location = str | Path
URL = re.compile(r"^([a-z][a-z0-9+.-]+):/{1,2}(?=[^/])", re.I)  # two letters or more, so that C:/ stays a path; Path() turns // into /
DEFAULT_CACHE_BYTES = 20 * 10**9


def is_remote(location: Location) -> bool:
    return bool(URL.match(str(location)))


def cache_folder() -> Path:
    """SPARSELIGHT_CACHE, else ~/.cache/sparselight."""
    return Path(os.environ.get("SPARSELIGHT_CACHE") or Path.home() / ".cache" / "sparselight")


def cache_bytes() -> int:
    """SPARSELIGHT_CACHE_BYTES, else 20 GB.

    Raises:
        StoreError: when it is no number.
    """
    text = os.environ.get("SPARSELIGHT_CACHE_BYTES", "")
    if text and not text.isdigit():
        raise StoreError(asked=f"use SPARSELIGHT_CACHE_BYTES = {text!r}", why="it is not a whole number", instead="set it to bytes, such as 20000000000")
    return int(text) if text else DEFAULT_CACHE_BYTES


class Remote:
    """A folder at a URL."""

    def __init__(self, location: Location):
        self.url = URL.sub(r"\1://", str(location)).rstrip("/")
        with self._errors("open", ""):
            import fsspec

            self.fs, self.root = fsspec.core.url_to_fs(self.url)
        self.root = self.root.rstrip("/")

    def __repr__(self) -> str:
        return self.url

    def sizes(self) -> dict[str, int]:
        """Size in bytes of every file there, by one listing."""
        with self._errors("list", ""):
            self.fs.invalidate_cache()
            try:
                return {Path(str(entry["name"])).name: int(entry["size"] or 0) for entry in self.fs.ls(self.root, detail=True)}
            except FileNotFoundError:
                return {}

    def get(self, name: str, path: Path) -> None:
        """Download an object into a local file, atomically."""
        with atomic_path(path) as temporary, self._errors("read", name):
            self.fs.get_file(f"{self.root}/{name}", str(temporary))

    def put(self, path: Path, name: str) -> None:
        """Upload a local file and see that all of it arrived.

        Raises:
            StoreError: when it did not.
        """
        with self._errors("write", name):
            self.fs.makedirs(self.root, exist_ok=True)
            self.fs.put_file(str(path), f"{self.root}/{name}")
            self.fs.invalidate_cache()
            arrived, sent = self.fs.size(f"{self.root}/{name}"), path.stat().st_size
        if arrived != sent:
            raise StoreError(asked=f"write {self.url}/{name}", why=f"{arrived} of {sent} bytes arrived", instead="run the same command again")

    def delete(self, name: str) -> None:
        with self._errors("delete", name), contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(f"{self.root}/{name}")

    def ranges(self, name: str, starts: list[int], ends: list[int]) -> list[bytes]:
        """Bytes [start, end) of an object, all requests at once where the protocol can."""
        path = f"{self.root}/{name}"
        with self._errors("read", name):
            found: list[bytes] = self.fs.cat_ranges([path] * len(starts), starts, ends, on_error="raise")
        for start, end, content in zip(starts, ends, found, strict=True):
            if len(content) != end - start:
                raise StoreError(asked=f"read {self.url}/{name}", why=f"it is truncated: it has no bytes {start} to {end}",
                                 instead=f"run `sparselight store repair {self.url}`")
        return found

    def sha256(self, name: str) -> str | None:
        """Of an object, read in pieces; None when there is none."""
        digest, path = hashlib.sha256(), f"{self.root}/{name}"
        with self._errors("read", name):
            if not self.fs.exists(path):
                return None
            with self.fs.open(path, "rb") as handle:
                while content := handle.read(1 << 22):
                    digest.update(content)
        return digest.hexdigest()

    @contextlib.contextmanager
    def _errors(self, verb: str, name: str) -> Iterator[None]:
        """Whatever a protocol raises, as a StoreError that names the object."""
        address = f"{self.url}/{name}" if name else self.url
        try:
            yield
        except StoreError:
            raise
        except FileNotFoundError:
            raise StoreError(asked=f"{verb} {address}", why="there is no such object (any more)",
                             instead=f"check the address and your access, or run `sparselight store repair {self.url}`") from None
        except ImportError as err:
            raise StoreError(asked=f"{verb} {address}", why=str(err).rstrip("."),
                             instead="install the package that it names; for s3://: pip install 'sparselight[s3]'") from None
        except Exception as err:  # every protocol has errors of its own kind
            lines = str(err).strip().splitlines() or [type(err).__name__]
            raise StoreError(asked=f"{verb} {address}", why=lines[0].rstrip("."), instead="check the address, the credentials and the connection, "
                             "then run the same command again") from err


class FileCache:
    """Local copies of remote files, named by their SHA-256, bounded in bytes. What this process uses is never evicted by it."""

    def __init__(self, folder: Path | None = None, max_bytes: int | None = None):
        self.folder = (folder or cache_folder()) / "files"
        self.max_bytes = cache_bytes() if max_bytes is None else max_bytes
        self._used: set[str] = set()
        self._lock = threading.Lock()  # a prefetching thread and its caller may want one file

    def get(self, remote: Remote, name: str, sha256: str, n_bytes: int) -> Path | None:
        """The local copy of a remote file, downloaded and checked if need be; None when it finds no room.

        Raises:
            StoreError: when it is gone, or not the file with this checksum.
        """
        with self._lock:
            return self._get(remote, name, sha256, n_bytes)

    def _get(self, remote: Remote, name: str, sha256: str, n_bytes: int) -> Path | None:
        path = self.folder / sha256
        with contextlib.suppress(FileNotFoundError):  # another process makes room whenever it needs some
            if path.stat().st_size == n_bytes:
                os.utime(path)
                self._used.add(sha256)
                return path
        if not self._make_room(n_bytes):
            return None
        remote.get(name, path)
        if sha256_file(path) != sha256:
            found = path.stat().st_size
            path.unlink()
            raise StoreError(asked=f"read {remote.url}/{name}", instead=f"run `sparselight store repair {remote.url}`",
                             why=f"it is damaged: {f'it has {found} of {n_bytes} bytes' if found != n_bytes else 'its content does not match its SHA-256'}")
        self._used.add(sha256)
        return path

    def _make_room(self, n_bytes: int) -> bool:
        """Evict what was used longest ago, until a file of this size fits."""
        make_folder(self.folder)
        for leftover in self.folder.glob(".*.tmp"):
            if not _is_alive(leftover.name.split(".")[-2]):
                leftover.unlink(missing_ok=True)
        files = []
        for path in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                files += [(path.stat(), path)] if not path.name.startswith(".") else []
        files.sort(key=lambda item: item[0].st_mtime_ns)
        total = sum(stat.st_size for stat, _ in files)
        idle = [(stat.st_size, path) for stat, path in files if path.name not in self._used]
        if n_bytes > self.max_bytes - total + sum(size for size, _ in idle):
            return False
        for size, path in idle:
            if total + n_bytes <= self.max_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size
        return True


def _is_alive(pid: str) -> bool:
    return not pid.isdigit() or Path(f"/proc/{pid}").exists() or not Path("/proc").exists()


class StagedFolder:
    """The local folder into which a store is written; a remote one's files leave it once they are uploaded."""

    def __init__(self, location: Location):
        self.location = location
        self.remote = Remote(location) if is_remote(location) else None
        self.folder = Path(location) if self.remote is None else cache_folder() / "staging" / hashlib.sha256(self.remote.url.encode()).hexdigest()[:16]
        self._sizes: dict[str, int] = {}

    def begin(self) -> None:
        """Bring in the small files that say how far a remote store is. Call it with the folder's lock held."""
        if self.remote is None:
            return
        self._sizes = self.remote.sizes()
        for path in self.folder.glob("*.json"):  # what another process finished or took back meanwhile counts
            if path.name not in self._sizes and not (self.folder / f"{path.stem}.safetensors").exists():
                path.unlink()
        for name in self._sizes:
            if name.endswith(".json") or name.startswith("examples"):
                self.remote.get(name, self.folder / name)

    def uploaded_size(self, name: str) -> int | None:
        """Size of a file at its remote place, as of the beginning; None when it is not there or the store is local."""
        return self._sizes.get(name)

    def sizes(self) -> dict[str, int]:
        """Size of every file of the store where it lives, locks and half-written files left out."""
        if self.remote is not None:
            return self.remote.sizes()
        paths = [path for path in self.folder.iterdir() if path.is_file() and not path.name.startswith(".")] if self.folder.is_dir() else []
        return {path.name: path.stat().st_size for path in paths}

    def publish(self, *names: str, keep: bool = True) -> None:
        """Upload finished files, in this order; those that are not to be kept are then deleted here."""
        if self.remote is None:
            return
        for name in names:
            self.remote.put(self.folder / name, name)
            self._sizes[name] = (self.folder / name).stat().st_size
            if not keep:
                (self.folder / name).unlink()

    def retract(self, name: str) -> None:
        """Delete a file in both places."""
        if self.remote is not None and self._sizes.pop(name, None) is not None:
            self.remote.delete(name)
        (self.folder / name).unlink(missing_ok=True)

    def end(self) -> None:
        """A remote store that is complete leaves nothing in the staging folder."""
        if self.remote is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
