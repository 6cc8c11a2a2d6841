"""Instances: points of histories at which a recommender is asked, with the vector that it answers from, the item that it answers, and latents' levels.

Owns: the even choice of points in long histories, sparse activations of a coder, and RecSAE's levels: deciles of all positive activations of all latents,
1 to 10, and 0 where a latent is silent (arXiv 2411.06112). Refuses: examples without a known interaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from torch import Tensor

from sparselight.errors import CorpusError
from sparselight.protocols import Example, SparseCoder
from sparselight.subjects.recommender.scoring import top_items
from sparselight.subjects.recommender.subject import RecommenderSubject, seen_of

BLOCK_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Instances:
    """Rows: one point of one history each."""

    x: Float[Tensor, "instance d_in"]
    """At the site of the SAE."""
    vector: Float[Tensor, "instance d"]
    """That scores are made of."""
    item: Int[np.ndarray, " instance"]
    """Token id of the item that the instance is about."""
    user: Int[np.ndarray, " instance"]
    """Index into the examples."""

    def __len__(self) -> int:
        return len(self.item)


def draw_instances(subject: RecommenderSubject, examples: Sequence[Example], site: str, per_user: int, relate_to: Literal["recommended", "last"]) -> Instances:
    """Ask the model at up to `per_user` points of each history.

    Raises:
        CorpusError: when no example has an interaction that the model knows.
    """
    histories = [subject.history(example) for example in examples]
    at = [(user, t) for user, history in enumerate(histories) for t in points(len(history), per_user, subject.module.reads == "history")]
    if not at:
        raise CorpusError(asked=f"ask {subject.name} about {len(examples)} users", why="none of them has an interaction with an item that it knows",
                          instead="give users with a history")
    parts: list[tuple[Tensor, Tensor, np.ndarray]] = []
    for start in range(0, len(at), BLOCK_ROWS):
        some = at[start:start + BLOCK_ROWS]
        batch = subject.prepare_at([histories[user] for user, _ in some], [t for _, t in some])
        vector = subject.user_vectors(batch)
        item = batch.token_id if relate_to == "last" else top_items(subject.module, vector, 1, seen_of(batch)).items[:, 0]
        parts.append((subject.capture(batch, [site])[site].cpu(), vector.cpu(), item.cpu().numpy()))
    return Instances(torch.cat([x for x, _, _ in parts]), torch.cat([vector for _, vector, _ in parts]), np.concatenate([item for _, _, item in parts]),
                     np.array([user for user, _ in at]))


def points(length: int, per_user: int, reads_history: bool) -> list[int]:
    """Evenly spaced positions of a history, the last one always."""
    if not length:
        return []
    n = min(per_user, length) if reads_history else 1
    return np.unique(np.linspace(length - 1, 0, n).round().astype(int)).tolist() if n > 1 else [length - 1]


@torch.no_grad()
def activations(coder: SparseCoder, x: Float[Tensor, "instance d_in"]) -> sparse.csr_matrix:
    """Positive activations [instance, latent]."""
    codes = coder.encode(x)
    matrix = sparse.csr_matrix((codes.values.float().cpu().numpy(), codes.latents.cpu().numpy(), codes.indptr.cpu().numpy()), shape=(len(x), coder.n_latents))
    matrix.data[matrix.data < 0] = 0
    matrix.eliminate_zeros()
    return matrix


def raw_activations(x: Float[Tensor, "instance d_in"]) -> sparse.csr_matrix:
    """The dimensions themselves as latents: silent below their own median (RecSAE's baseline takes each dimension's deciles), then how far above it."""
    above = (x - x.median(0).values).clamp(min=0).numpy()
    return sparse.csr_matrix(above)


def level_edges(values: sparse.csr_matrix) -> Float[np.ndarray, " 9"]:
    """The nine inner deciles of all positive activations."""
    return np.quantile(values.data, np.arange(1, 10) / 10) if len(values.data) else np.zeros(9)


def at_level(values: sparse.csr_matrix, edges: Float[np.ndarray, " 9"], level: int) -> sparse.csr_matrix:
    """The activations whose level, 1 + the number of deciles at or below them, is `level` or higher."""
    kept = values.copy()
    kept.data[1 + np.searchsorted(edges, kept.data, side="right") < level] = 0
    kept.eliminate_zeros()
    return kept
