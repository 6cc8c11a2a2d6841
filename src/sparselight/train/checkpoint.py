"""Checkpoints: one safetensors file each, written atomically, with version, step and a checksum of the content in the header.

The last few are kept. A file that is damaged is passed over for the one before it; killing the writer at any moment leaves the earlier ones
whole. Files of older versions are read; version 1 holds no moving mean of the loss. Refuses: files of a newer version, which stay.
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

from sparselight.errors import TrainingError
from sparselight.files import atomic_path
from sparselight.train.state import TrainState

VERSION = 2
BEST = "best.safetensors"


class Checkpoints:
    """The checkpoints of one training."""

    def __init__(self, folder: Path, every_s: float, keep: int = 2):
        self.folder, self.every_s, self.keep = folder, every_s, keep
        self._saved_at = time.monotonic()

    def save_if_due(self, state: TrainState) -> None:
        if time.monotonic() - self._saved_at >= self.every_s:
            self.save(state)

    def save(self, state: TrainState) -> None:
        write_checkpoint(self.folder / f"step-{state.step:09d}.safetensors", state)
        for old in self.files()[: -self.keep]:
            old.unlink()
        self._saved_at = time.monotonic()

    def restore(self, state: TrainState) -> None:
        """Bring a fresh state to the newest checkpoint that reads whole; without one it stays fresh.

        Raises:
            TrainingError: when the newest was written by a newer version.
        """
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


def write_checkpoint(path: Path, state: TrainState) -> None:
    tensors = {name: tensor.detach().cpu() for name, tensor in state.tensors().items()}
    header = {"version": VERSION, "step": state.step, "sha256": content_hash(tensors)}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"sparselight": json.dumps(header)})


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], int] | None:
    """Tensors and step of a checkpoint; None when the file is damaged.

    Raises:
        TrainingError: when it was written by a newer version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["sparselight"])
            version, step, expected = int(header["version"]), int(header["step"]), str(header["sha256"])
            if version <= VERSION:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None
    if version > VERSION:
        raise TrainingError(asked=f"go on from the checkpoint {path}", why=f"it has version {version}, this sparselight reads up to {VERSION}",
                            instead="upgrade sparselight, or train into another folder")
    return (tensors, step) if expected == content_hash(tensors) else None


def content_hash(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"\0{name}\0{list(tensors[name].shape)}\0".encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()
