"""Recommenders that Cornac trained: factor models (BPR, MF, WMF, VBPR, ... whatever gives user and item vectors of a product), and SASRec.

Cornac is asked through its public methods only, and is not imported here: the model that is given brings it along. Refuses: models that are not
fitted, and models whose score is not a product of two vectors.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sparselight.corpus.interactions.items import ItemTable
from sparselight.errors import SubjectError
from sparselight.subjects.recommender.models import BprMf
from sparselight.subjects.recommender.module import Recommender
from sparselight.subjects.recommender.subject import RecommenderSubject

DOT = "dot product"


class CornacSequence(Recommender):
    """Cornac's SASRec: histories filled up on the left, its last state, its items (a bias where it was trained with one)."""

    def __init__(self, inner: nn.Module, n_items: int, max_history: int):
        d = int(inner.item_emb.weight.shape[1])  # type: ignore[union-attr, index]
        super().__init__(n_items, d, "history", max_history)
        self.inner = inner

    def represent(self, history: Int[Tensor, "row position"], lengths: Int[Tensor, " row"], users: Int[Tensor, " row"]) -> Float[Tensor, "row d"]:  # noqa: ARG002
        width = history.shape[1]
        at = torch.arange(self.max_history, device=history.device) - (self.max_history - lengths[:, None])
        items = history.gather(1, at.clamp(0, width - 1)) - 1
        rows = torch.where(at >= 0, items, self.n_items)  # Cornac's padding is the id after the last item
        vectors: Tensor = self.inner(None, rows, self._all(), return_hidden=True)[0]
        return vectors

    def item_vectors(self) -> Float[Tensor, "vocabulary d"]:
        table = self._items()[1]
        return torch.cat([torch.zeros_like(table[:1]), table])

    def item_bias(self) -> Float[Tensor, " vocabulary"] | None:
        biases = self._items()[2]
        return None if biases is None else torch.cat([biases.new_zeros(1), biases.flatten()])

    def _all(self) -> Tensor:
        return torch.arange(self.n_items, device=next(self.inner.parameters()).device)

    def _items(self) -> Any:
        padding = torch.full((1, self.max_history), self.n_items, device=self._all().device)
        padding[0, -1] = 0
        return self.inner(None, padding, self._all(), return_hidden=True)


def from_cornac(model: Any, items: ItemTable | None = None, name: str | None = None, unknown_items: str = "refuse") -> RecommenderSubject:
    """A fitted Cornac model as a subject.

    Args:
        items: titles and labels by item id (`ItemTable.from_examples` of a corpus).

    Raises:
        SubjectError: when it is not fitted, or its score is no product of a user's and an item's vector.
    """
    shown = name or f"cornac {getattr(model, 'name', type(model).__name__)}"
    if not getattr(model, "is_fitted", False):
        raise SubjectError(asked=f"study {shown}", why="it is not fitted", instead="call its fit() first")
    ids = _in_order(model.iid_map, model.total_items)
    table = ItemTable(ids, [f"item {one}" for one in ids], [{} for _ in ids])
    table = table if items is None else table.with_texts_of(items)
    inner = getattr(model, "model", None)
    if isinstance(inner, nn.Module) and hasattr(inner, "item_emb") and hasattr(model, "max_len"):
        return RecommenderSubject(CornacSequence(inner, len(ids), model.max_len), table, shown, None, unknown_items)
    if not getattr(model, "_ann_supported", False) or DOT not in model.get_vector_measure():
        raise SubjectError(asked=f"study {shown}", why="Cornac does not give it as a product of user and item vectors",
                           instead="wrap its network as sparselight.subjects.recommender.PlainRecommender, with score=")
    users, vectors = (np.asarray(part, dtype=np.float32) for part in (model.get_user_vectors(), model.get_item_vectors()))
    module = BprMf(len(users), len(vectors), users.shape[1])
    with torch.no_grad():
        module.users.weight.copy_(torch.from_numpy(users))
        module.items.weight.copy_(torch.from_numpy(np.concatenate([np.zeros_like(vectors[:1]), vectors])))
    return RecommenderSubject(module, table, shown, _in_order(model.uid_map, len(users)), unknown_items)


def _in_order(numbers: dict[Any, int], n: int) -> list[str]:
    """Names by their number."""
    result = [f"#{number}" for number in range(n)]
    for one, number in numbers.items():
        if number < n:
            result[number] = str(one)
    return result
