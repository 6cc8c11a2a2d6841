"""A trained recommender on disk: recommender.json (settings, results, checksum), model.safetensors, items.parquet, users.json.

The record is written last, so that a folder with one is complete. No pickle. Refuses: folders without it, weights of another shape.
"""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sparselight.corpus.interactions.items import ItemTable
from sparselight.errors import RunError, SubjectError
from sparselight.files import atomic_path, make_folder, write_bytes
from sparselight.records.recommender import RecommenderRecord
from sparselight.subjects.recommender.config import RecommenderConfig
from sparselight.subjects.recommender.models import make_model
from sparselight.subjects.recommender.subject import RecommenderSubject

RECORD, WEIGHTS, ITEMS, USERS = "recommender.json", "model.safetensors", "items.parquet", "users.json"


def save_recommender(subject: RecommenderSubject, record: RecommenderRecord, folder: Path) -> None:
    """Write a model of this package that was trained.

    Raises:
        StoreError: when the folder cannot be written.
    """
    make_folder(folder)
    (folder / RECORD).unlink(missing_ok=True)
    subject.items.save(folder / ITEMS)
    write_bytes(folder / USERS, json.dumps(subject.users).encode())
    with atomic_path(folder / WEIGHTS) as temporary:
        save_file({name: value.contiguous() for name, value in subject.module.state_dict().items()}, temporary)
    record.save(folder / RECORD)


def read_record(folder: Path) -> RecommenderRecord:
    """What stands in the folder of a recommender.

    Raises:
        SubjectError: when there is no complete one.
    """
    try:
        return RecommenderRecord.load(folder / RECORD)
    except RunError as err:
        raise SubjectError(asked=f"load the recommender in {folder}", why=err.why,
                           instead="give the folder that train_recommender wrote, or set subject.source = 'train'") from None


def load_recommender(folder: str | Path, device: torch.device | str = "cpu", unknown_items: str = "refuse", name: str | None = None) -> RecommenderSubject:
    """Read what `train_recommender` wrote.

    Raises:
        SubjectError: when it is missing, damaged or incomplete.
    """
    folder = Path(folder).expanduser()
    record = read_record(folder)
    config = RecommenderConfig.parse(record.settings, "subject.recommender")
    try:
        state = load_file(folder / WEIGHTS)
        users = json.loads((folder / USERS).read_text(encoding="utf-8"))
        items = ItemTable.load(folder / ITEMS)
        edges = state["edges"].numpy() if "edges" in state else None
        module = make_model(config, record.n_users, record.n_items, edges)
        module.load_state_dict(state)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as err:
        raise SubjectError(asked=f"load the recommender in {folder}", why=f"its files are damaged ({str(err).splitlines()[0]})",
                           instead="train it again, or restore the folder") from None
    return RecommenderSubject(module.to(device), items, name or record.name, users or None, unknown_items)
