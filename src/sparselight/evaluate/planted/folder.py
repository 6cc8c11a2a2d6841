"""Planted data on disk: two activation stores like any other, and the truth beside them.

`planted.json` (settings), `features.parquet` (one row a feature), `directions.safetensors`, `fit/` and `held_out/` (stores), and for each of them
`fit.active.parquet`: which features are on at which token, how strongly. Made again in the same folder it goes on where it stopped.
Refuses: a folder that holds another planted world.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sparselight.errors import RunError, StoreError
from sparselight.evaluate.case import Dataset
from sparselight.evaluate.planted.config import PlantedConfig
from sparselight.evaluate.planted.subject import BLOCK_EXAMPLES, SIDES, SITE, PlantedSubject
from sparselight.files import atomic_path
from sparselight.protocols import Progress, Store, no_progress
from sparselight.records import Record
from sparselight.store import FolderStore, HarvestConfig, harvest
from sparselight.store.plan import MANIFEST
from sparselight.store.tensors import write_tensors

RECORD = "planted.json"
ACTIVE_SCHEMA = pa.schema([("example", pa.int32()), ("position", pa.int32()), ("feature", pa.int32()), ("magnitude", pa.float32())])


class PlantedRecord(Record):
    """planted.json: the settings that everything else follows from."""

    KIND: ClassVar[str] = "planted"
    config: dict[str, Any]
    fingerprint: str
    """Of the subject; another one means that random numbers are drawn otherwise here than where the data were made."""


@dataclass(frozen=True)
class PlantedData:
    """A finished folder."""

    folder: Path
    subject: PlantedSubject

    @cached_property
    def fit(self) -> FolderStore:
        """To train and fit on."""
        return FolderStore.open(self.folder / "fit")

    @cached_property
    def held_out(self) -> FolderStore:
        return FolderStore.open(self.folder / "held_out")

    def dataset(self, name: str = "planted", kinds: tuple[str, ...] = (), fit_tokens: int = 100_000) -> Dataset:
        """Both sides as a dataset of an evaluation.

        Args:
            kinds: of features that are marked by spans, see PlantedSubject.examples.
            fit_tokens: how much of the fit side is offered; an evaluation uses evaluate.n_tokens of it, and spans take memory.
        """
        return Dataset(name, self.subject.examples("fit", kinds, fit_tokens), self.subject.examples("held_out", kinds), self.fit, self.held_out)


def plant(config: PlantedConfig, folder: Path, progress: Progress = no_progress) -> PlantedData:
    """Make planted data, or finish what was begun in the folder.

    Raises:
        StoreError: when the folder holds other planted data, or cannot be written.
    """
    subject = PlantedSubject(config)
    record = PlantedRecord(config=config.model_dump(mode="json"), fingerprint=subject.fingerprint)
    path = folder / RECORD
    if path.exists() and PlantedRecord.load(path) != record:
        raise StoreError(asked=f"plant features in {folder}", why="it holds planted data with other settings",
                         instead=f"choose another folder, or delete {folder}")
    data = PlantedData(folder, subject)
    if all((folder / name).exists() for side in SIDES for name in (f"{side}/{MANIFEST}", f"{side}.active.parquet")):
        return data
    record.save(path)
    with atomic_path(folder / "features.parquet") as temporary:
        pq.write_table(subject.world.table(), temporary, compression="zstd")
    with atomic_path(folder / "directions.safetensors") as temporary:
        write_tensors(temporary, {"directions": ("F32", subject.world.directions.numpy()), "bias": ("F32", subject.world.bias.numpy())})
    for side in SIDES:
        fingerprint = hashlib.sha256(f"{subject.fingerprint}\0{side}".encode()).hexdigest()
        harvest(subject, subject.examples(side), [SITE], folder / side, HarvestConfig(site=SITE), fingerprint, progress)
        if not (folder / f"{side}.active.parquet").exists():
            write_active(subject, side, folder / f"{side}.active.parquet")
    return data


def open_planted(folder: Path) -> PlantedData:
    """Planted data as `plant` left them.

    Raises:
        RunError: when there are none, or this machine draws other random numbers from the same seed.
    """
    record = PlantedRecord.load(folder / RECORD)
    subject = PlantedSubject(PlantedConfig.parse(record.config, "planted"))
    if subject.fingerprint != record.fingerprint:
        raise RunError(asked=f"open the planted data {folder}", why="the same settings give other activations with this version of numpy",
                       instead="make them again in another folder")
    return PlantedData(folder, subject)


def planted_behind(store: Store | None) -> PlantedSubject | None:
    """The subject whose activations a store holds, where it was made by `plant`; None for any other store.

    Raises:
        RunError: as `open_planted`.
    """
    folder = getattr(store, "folder", None)
    if store is None or folder is None or not (Path(folder).parent / RECORD).is_file():
        return None
    subject = open_planted(Path(folder).parent).subject
    return subject if subject.fingerprint == store.manifest.subject.fingerprint else None


def write_active(subject: PlantedSubject, side: str, path: Path) -> None:
    """The truth of one side as Parquet, a block of examples at a time; `example` is the number in the store."""
    n_examples, size = subject.config.n_examples(side), subject.config.example_tokens
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, ACTIVE_SCHEMA, compression="zstd") as writer:
        for number in range(-(-n_examples // BLOCK_EXAMPLES)):
            first = number * BLOCK_EXAMPLES
            n_own = min(BLOCK_EXAMPLES, n_examples - first)
            own = subject.block(SIDES.index(side), number).magnitudes[:n_own * size].tocoo()
            columns = [(first + own.row // size).astype(np.int32), (own.row % size).astype(np.int32), own.col.astype(np.int32), own.data]
            writer.write_table(pa.Table.from_arrays([pa.array(column) for column in columns], schema=ACTIVE_SCHEMA))
