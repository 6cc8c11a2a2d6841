"""Which latent took over: of the units that the main latents of a class miss, those that a latent of the unit's own child brings.

A child divides a class: a token, a finer annotation. A latent belongs to a child where most of the parent's fit units on which it fires are
that child's, so that a broad latent which happens to project well is not called one. The held-out side only counts.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int
from scipy import sparse

from sparselight.evaluate.absorption.classes import Units
from sparselight.evaluate.absorption.config import AbsorptionConfig
from sparselight.evaluate.absorption.score import Absorbed
from sparselight.evaluate.labels import label_values, token_labels

NO_LATENT = -1


class Children(NamedTuple):
    """Children of one kind of parent: [unit, child], not 0 where the unit carries the child."""

    names: list[str]
    fit: sparse.csr_matrix
    held_out: sparse.csr_matrix


class ChildCounts(NamedTuple):
    """For held-out units of one class that its probe finds."""

    explained: Bool[np.ndarray, " unit"]
    """Missed by the main latents, and fully absorbed by a latent of a child that the unit carries."""
    rows: list[dict[str, object]]
    """One a child."""


def find_children(fit: Units, held_out: Units, config: AbsorptionConfig, token_text: dict[int, str]) -> Children | None:
    """The children of all units, None where the setting asks for none or nothing carries it."""
    if config.child == "token":
        ids = np.unique(np.concatenate([side.tokens.token_id[side.rows] for side in (fit, held_out)]))
        matrices = [_one_hot(np.searchsorted(ids, side.tokens.token_id[side.rows]), len(ids)) for side in (fit, held_out)]
        return Children([token_text.get(token_id, str(token_id)) for token_id in ids.tolist()], *matrices)
    names = label_values(fit.tokens, config.child) if config.child else []
    return Children(names, *((token_labels(side.tokens, config.child, names)[side.rows] != 0).tocsr() for side in (fit, held_out))) if names else None


def count_children(
    children: Children, fit_codes: sparse.csr_matrix, y_fit: Bool[np.ndarray, " unit"], found: Int[np.ndarray, " found"], absorbed: Absorbed, share: float,
) -> ChildCounts:
    """Per child, how many units were missed, and by which latent they are brought.

    Args:
        found: the held-out units that `absorbed` is about.
        share: of a latent's firing among the parent's fit units that must be a child's.
    """
    fires = (fit_codes[y_fit] > 0).astype(np.float64)
    together = (fires.T @ children.fit[y_fit].astype(np.float64)).tocsr()  # [latent, child]
    n_fires = np.asarray(fires.sum(0)).ravel()
    belongs = together.multiply(1 / np.maximum(n_fires, 1)[:, None]).tocsr() >= share
    units = children.held_out[found].tocsr()
    taken = absorbed.full & (absorbed.top != NO_LATENT)
    own = units.multiply(belongs[np.where(taken, absorbed.top, 0)]).tocsr()
    own = own.multiply(taken[:, None]).tocsr()
    own.eliminate_zeros()
    explained = np.diff(own.indptr) > 0
    rows = []
    carriers, carried_by = units.tocsc(), own.tocsc()
    for child in np.flatnonzero(np.diff(carriers.indptr)):
        mine = carriers.indices[carriers.indptr[child]:carriers.indptr[child + 1]]
        latents = absorbed.top[carried_by.indices[carried_by.indptr[child]:carried_by.indptr[child + 1]]]
        names, counts = np.unique(latents, return_counts=True)
        rows.append({"child": children.names[child], "n_found": len(mine), "n_missed": int(absorbed.missed[mine].sum()),
                     "n_absorbed": int(absorbed.full[mine].sum()), "n_by_child_latent": len(latents),
                     "child_latent": int(names[counts.argmax()]) if len(latents) else None})
    return ChildCounts(explained, rows)


def _one_hot(column: Int[np.ndarray, " unit"], n: int) -> sparse.csr_matrix:
    return sparse.csr_matrix((np.ones(len(column)), column, np.arange(len(column) + 1)), shape=(len(column), n))
