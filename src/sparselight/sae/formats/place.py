"""What lies at a path, read without running anything that it holds.

Owns: JSON, YAML, safetensors, npz and torch files as plain data; every fault of a file ends in a SaeError that names it. Torch files go
through the unpickler that makes tensors and plain containers alone (weights_only). Refuses: torch files on a PyTorch whose unpickler had a
known hole (before 2.6), objects of any other class, npz files with Python objects, names that lead out of the folder.
"""

import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sparselight.errors import MissingExtraError, SaeError

WEIGHT_SUFFIXES = (".safetensors", ".npz", ".pt", ".pth")
SAFE_TORCH = (2, 6)  # CVE-2025-32434: before it a file could run code in spite of weights_only


class Place:
    """A folder, or one file and what lies beside it."""

    def __init__(self, path: Path, shown: str | None = None):
        self.shown = shown or str(path)
        """The place as the user named it, for messages and notes."""
        if not path.exists():
            raise self.refuse("there is no such file or folder", "give the path of an SAE, or hf://OWNER/NAME/PATH")
        self.path = path
        self.folder = path if path.is_dir() else path.parent
        self.file = None if path.is_dir() else path.name
        self._read: dict[str, Mapping[str, Any]] = {}

    def refuse(self, why: str, instead: str) -> SaeError:
        return SaeError(asked=f"load the SAE {self.shown}", why=why, instead=instead)

    def ask(self, setting: str, why: str, meaning: str) -> SaeError:
        """The refusal where a format leaves something unsaid."""
        return self.refuse(why, f"give {setting}=... ({meaning}); on the command line --set {setting}=...")

    def has(self, name: str) -> bool:
        return (self.folder / name).is_file()

    def weight_file(self, *patterns: str) -> str | None:
        """The one file that fits a pattern: that which was named, or the only one of the folder."""
        names = [self.file] if self.file is not None else sorted(path.name for path in self.folder.iterdir() if path.is_file())
        fitting = [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]
        return fitting[0] if len(fitting) == 1 else None

    def inside(self, name: str) -> Path:
        """A file that an index names, which must lie in the folder.

        Raises:
            SaeError: for an absolute path, or one that leads out of the folder, by `..` or by a link.
        """
        path = (self.folder / name).resolve()
        if not path.is_relative_to(self.folder.resolve()):
            raise self.refuse(f"it names the file {name!r}, which lies outside of its folder", "name files of that folder")
        return path

    def json(self, name: str) -> dict[str, Any]:
        """A JSON object; keys in no order."""
        try:
            value = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise self.refuse(f"there is no {name} in it", f"give a folder with {name}") from None
        except (OSError, ValueError, RecursionError) as err:
            raise self.refuse(f"{name} cannot be read ({err})", "restore that file") from None
        return self._object(name, value)

    def yaml(self, name: str) -> dict[str, Any]:
        try:
            import yaml
        except ImportError:
            raise MissingExtraError(package="pyyaml", extra="text", asked=f"read {name} of the SAE {self.shown}") from None
        try:
            return self._object(name, yaml.safe_load((self.folder / name).read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as err:
            raise self.refuse(f"{name} cannot be read ({' '.join(str(err).split())})", "restore that file") from None

    def _object(self, name: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.refuse(f"{name} is damaged (no object)", "restore that file")
        return value

    def content(self, name: str) -> Mapping[str, Any]:
        """What a weight file holds, by name: tensors and, in torch files, plain values and nested dicts."""
        if name not in self._read:
            readers = {".safetensors": self._safetensors, ".npz": self._npz}
            self._read[name] = readers.get(Path(name).suffix, self._torch)(name)
        return self._read[name]

    def names(self, file: str | None) -> set[str]:
        """Names in a weight file; none where there is no such file or it cannot be read (reading it says why)."""
        if file is None:
            return set()
        try:
            return set(self.content(file))
        except SaeError:
            return set()

    def _safetensors(self, name: str) -> Mapping[str, Tensor]:
        try:
            return _Lazy(self.folder / name)
        except (OSError, SafetensorError) as err:
            raise self._unreadable(name, err) from None

    def _npz(self, name: str) -> Mapping[str, Tensor]:
        try:
            with (self.folder / name).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return {key: torch.from_numpy(np.ascontiguousarray(arrays[key])) for key in arrays.files}
        except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as err:
            raise self._unreadable(name, err) from None

    def _torch(self, name: str) -> Mapping[str, Any]:
        check_torch(f"load the SAE {self.shown}")
        path = self.folder / name
        try:
            with warnings.catch_warnings():  # about pickles that torch did not write; what they are is said below
                warnings.simplefilter("ignore")
                value = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except pickle.UnpicklingError:
            raise self.refuse(f"{name} holds Python objects besides tensors, or is damaged; such files can run code when they are read, so it was not",
                              "convert it to safetensors where it was made") from None
        except Exception as err:  # a damaged file ends in almost any error of the reader
            raise self._unreadable(name, err) from None
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise self.refuse(f"{name} holds no table of tensors by name", "give a file that holds a state dict")
        return value

    def _unreadable(self, name: str, err: Exception) -> SaeError:
        first = (str(err).strip().splitlines() or [type(err).__name__])[0]
        return self.refuse(f"{name} is missing or damaged ({first})", "restore that file")


class _Lazy(Mapping[str, Tensor]):
    """A safetensors file; tensors are read when taken."""

    def __init__(self, path: Path):
        self.path = path
        with safe_open(path, framework="pt") as file:
            self.names = list(file.keys())

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.names:
            raise KeyError(name)
        with safe_open(self.path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    def __iter__(self) -> Any:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def check_torch(asked: str, version: str = torch.__version__) -> None:
    """Refuse torch files where reading them is not safe.

    Raises:
        SaeError: on a PyTorch before 2.6.
    """
    if tuple(int(part) for part in version.split(".")[:2]) < SAFE_TORCH:
        raise SaeError(asked=asked, why=f"it is a torch file, and PyTorch {version} can be made to run code by one (CVE-2025-32434)",
                       instead="upgrade to PyTorch 2.6 or newer, or convert the file to safetensors")
