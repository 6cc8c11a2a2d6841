"""Recommenders that ReChorus trained and saved as a state dict: SASRec and BPRMF, as RecSAE (arXiv 2411.06112) studied them.

Only tensors are read. Item ids of the file are ReChorus' own, from 1; a table says which of the user's items each is. Refuses: files that hold
Python objects besides tensors, other architectures, tables that do not fit.
"""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparselight.corpus.interactions.frames import read_frame
from sparselight.corpus.interactions.items import ItemTable
from sparselight.corpus.sources import BadRows, Source
from sparselight.errors import MissingExtraError, SubjectError
from sparselight.subjects.recommender.models import BprMf, SasRec
from sparselight.subjects.recommender.module import Recommender
from sparselight.subjects.recommender.subject import RecommenderSubject

SAFE_TORCH = (2, 6)  # CVE-2025-32434: before it a file could run code in spite of weights_only
SAE_PREFIX = "sae_module."
PARTS = {"masked_attn_head.q_linear": "query", "masked_attn_head.k_linear": "key", "masked_attn_head.v_linear": "value", "layer_norm1": "norm1",
         "layer_norm2": "norm2", "linear1": "up", "linear2": "down"}


def load_rechorus(
    path: str | Path, item_ids: str | Path, n_heads: int = 1, items: ItemTable | None = None, unknown_items: str = "drop", name: str | None = None,
) -> RecommenderSubject:
    """Load a model that ReChorus saved; tensors of an SAE in the same file are left aside (`load_sae` reads those).

    Args:
        path: the `.pt` file.
        item_ids: a table with two columns: the user's item id, and ReChorus' (`item_id`).
        n_heads: attention heads; the file does not say.
        items: titles and labels, by the user's item ids (`ItemTable.from_examples` of a corpus).

    Raises:
        SubjectError: when the file is not such a model, or the table does not name each of its items once.
    """
    path = Path(path)
    state = {key: value for key, value in read_tensors(path).items() if not key.startswith(SAE_PREFIX)}
    if "i_embeddings.weight" in state and "p_embeddings.weight" in state:
        module = _sasrec(state, path, n_heads)
    elif {"u_embeddings.weight", "i_embeddings.weight"} <= state.keys():
        module = _bpr_mf(state)
    else:
        raise _refuse(path, f"its tensors ({', '.join(sorted(state)[:4])}, ...) are those of no model known here", "give a SASRec or BPRMF, or wrap the model: "
                      "sparselight.subjects.recommender.PlainRecommender")
    table = read_item_ids(Path(item_ids), module.n_items)
    users = [str(number) for number in range(len(state["u_embeddings.weight"]))] if isinstance(module, BprMf) else None
    return RecommenderSubject(module, table if items is None else table.with_texts_of(items), name or path.stem, users, unknown_items)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict, by the unpickler that makes nothing else.

    Raises:
        SubjectError: when the file is missing, damaged or holds something else.
    """
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < SAFE_TORCH:
        raise MissingExtraError(package="torch>=2.6", extra="recsys", asked=f"read {path} without running its code")
    try:
        value: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, OSError, RuntimeError, ValueError, EOFError, KeyError) as err:
        raise _refuse(path, f"it is missing, damaged, or holds more than tensors ({(str(err).strip().splitlines() or ['?'])[0][:120]})",
                      "give the path of a state dict that torch.save wrote") from None
    if not isinstance(value, dict) or not all(isinstance(one, Tensor) for one in value.values()):
        raise _refuse(path, "it holds no table of tensors by name", "save model.state_dict()")
    return value


def read_item_ids(path: Path, n_items: int) -> ItemTable:
    """The items in the order of ReChorus' ids; the title of each is its own id until titles are given.

    Raises:
        SubjectError: when an id is missing or out of range.
    """
    frame = read_frame(Source(path, path.name), BadRows(refuse=True))
    own = next((column for column in frame.names if column != "item_id"), "")
    numbers = frame.text("item_id", "item_ids").to_pylist()
    found = {int(number): one for one, number in zip(frame.text(own, "item_ids").to_pylist(), numbers, strict=True) if number.isdecimal()}
    missing = [number for number in range(1, n_items + 1) if number not in found]
    if missing or len(found) > n_items:
        raise SubjectError(asked=f"name the {n_items} items of a recommender by {path}", why=f"it names {len(found)}, and not {missing[:3]}",
                           instead="give the table with which the model was trained")
    ids = [found[number] for number in range(1, n_items + 1)]
    return ItemTable(ids, [f"item {one}" for one in ids], [{} for _ in ids])


def _sasrec(state: dict[str, Tensor], path: Path, n_heads: int) -> Recommender:
    renamed = {"items.weight": state.pop("i_embeddings.weight"), "positions.weight": state.pop("p_embeddings.weight")}
    n_layers = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("transformer_block."))
    for key, value in state.items():
        _, number, rest = key.split(".", 2)
        part, _, kind = rest.rpartition(".")
        if part not in PARTS:
            raise _refuse(path, f"it holds the tensor {key!r}, which SASRec does not have", "give a SASRec, or wrap the model as a PlainRecommender")
        renamed[f"blocks.{number}.{PARTS[part]}.{kind}"] = value
    n_items, d = renamed["items.weight"].shape[0] - 1, renamed["items.weight"].shape[1]
    if d % n_heads:
        raise _refuse(path, f"its width {d} cannot be divided among {n_heads} heads", "give n_heads= as it was trained")
    module = SasRec(n_items, d, n_layers, n_heads, renamed["positions.weight"].shape[0] - 1)
    module.load_state_dict(renamed)
    return module


def _bpr_mf(state: dict[str, Tensor]) -> Recommender:
    users, items = state["u_embeddings.weight"], state["i_embeddings.weight"]
    module = BprMf(len(users), len(items) - 1, users.shape[1])
    module.load_state_dict({"users.weight": users, "items.weight": items})
    return module


def _refuse(path: Path, why: str, instead: str) -> SubjectError:
    return SubjectError(asked=f"load the recommender {path}", why=why, instead=instead)
