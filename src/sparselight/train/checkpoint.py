"""Checkpoints: one safetensors file each, written atomically, with a checksum of its content in the header. The last two are kept.

A file that is damaged is passed over for the one before it. Killing the writer at any moment leaves the earlier ones whole.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sparselight.files import atomic_path
from sparselight.train.state import TrainState

N_KEPT = 2
VERSION = 1


class Checkpoints:
    """The checkpoints of one training."""

    def __init__(self, folder: Path, every_s: float):
        self.folder, self.every_s = folder, every_s
        self._saved_at = time.monotonic()

    def save_if_due(self, state: TrainState) -> None:
        if time.monotonic() - self._saved_at >= self.every_s:
            self.save(state)

    def save(self, state: TrainState) -> None:
        tensors = state.tensors()
        header = {"version": VERSION, "step": state.step, "sha256": content_hash(tensors)}
        with atomic_path(self.folder / f"step-{state.step:09d}.safetensors") as path:
            save_file(tensors, path, metadata={"sparselight": json.dumps(header)})
        for old in self.files()[:-N_KEPT]:
            old.unlink()
        self._saved_at = time.monotonic()

    def restore(self, state: TrainState) -> None:
        """Bring a fresh state to the newest checkpoint that reads whole; without one it stays fresh."""
        for leftover in self.folder.glob(".*.tmp"):  # of a writer that was killed
            leftover.unlink()
        for path in reversed(self.files()):
            if (found := read_checkpoint(path)) is not None:
                state.restore(*found)
                return
            path.unlink()

    def files(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.safetensors"))

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], int] | None:
    """Tensors and step of a checkpoint; None when the file is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["sparselight"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        whole = header["version"] == VERSION and header["sha256"] == content_hash(tensors)
        return (tensors, header["step"]) if whole else None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None


def content_hash(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"\0{name}\0{list(tensors[name].shape)}\0".encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()
