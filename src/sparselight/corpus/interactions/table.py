"""Interactions as arrays: who, what, when; ordered, cleaned, reduced to a core. No files and no titles here.

Everything is counted that is left out. Order inside a user is by time, and by row where times are equal or missing. Refuses: repeated
interactions where the settings say so.
"""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from jaxtyping import Bool, Float, Int

from sparselight.errors import CorpusError

TRAIN, DEV, TEST = 0, 1, 2
SIDES = ("train", "dev", "test")


@dataclass(frozen=True, slots=True)
class Interactions:
    """Rows of a table, those of each user together and in the order of time."""

    users: list[str]
    items: list[str]
    user: Int[np.ndarray, " row"]  # index into users
    item: Int[np.ndarray, " row"]  # index into items
    time: Float[np.ndarray, " row"] | None  # seconds, or any unit that orders
    side: Int[np.ndarray, " row"]  # TRAIN, DEV or TEST

    @classmethod
    def make(
        cls, users: list[str], items: list[str], user: Int[np.ndarray, " row"], item: Int[np.ndarray, " row"], time: Float[np.ndarray, " row"] | None,
        side: Int[np.ndarray, " row"] | None = None,
    ) -> Self:
        """Put rows in order: by user, then time, then as they come."""
        order = np.lexsort((np.arange(len(user)), time if time is not None else np.zeros(len(user)), user))
        side = np.zeros(len(user), np.int64) if side is None else side
        return cls(users, items, user[order], item[order], None if time is None else time[order], side[order])

    def __len__(self) -> int:
        return len(self.user)

    def bounds(self) -> Int[np.ndarray, " user_plus_1"]:
        """Where the rows of each user begin."""
        return np.searchsorted(self.user, np.arange(len(self.users) + 1))

    def keep(self, rows: Bool[np.ndarray, " row"]) -> Self:
        """Some of the rows; users and items keep their numbers."""
        return replace(self, user=self.user[rows], item=self.item[rows], time=None if self.time is None else self.time[rows], side=self.side[rows])

    def with_side(self, side: Int[np.ndarray, " row"]) -> Self:
        return replace(self, side=side)


def clean(rows: Interactions, duplicates: str, k_core: int, notes: "Counter[str]") -> Interactions:
    """Settle repeated interactions, then reduce to the k-core.

    Args:
        notes: gets how many rows were left out, by reason.

    Raises:
        CorpusError: when an interaction is repeated and `duplicates` is "refuse".
    """
    if duplicates != "keep":
        repeated = _repeated(rows, last=duplicates == "last")
        if repeated.any() and duplicates == "refuse":
            row = int(np.argmax(repeated))
            raise CorpusError(asked="read interactions", why=f"user {rows.users[rows.user[row]]!r} has the item {rows.items[rows.item[row]]!r} more than once "
                              f"({int(repeated.sum())} such rows)", instead='set corpus.interactions.duplicates to "first", "last" or "keep"')
        if repeated.any():
            notes["repeated interactions of a user with an item left out"] += int(repeated.sum())
            rows = rows.keep(~repeated)
    core = in_core(rows.user, rows.item, k_core)
    if not core.all():
        notes[f"interactions outside the {k_core}-core left out"] += int((~core).sum())
        rows = rows.keep(core)
    return rows


def _repeated(rows: Interactions, last: bool) -> Bool[np.ndarray, " row"]:
    """Rows that are not the first (or the last) of their user with their item."""
    key = rows.user * len(rows.items) + rows.item
    order = np.arange(len(key))[::-1] if last else np.arange(len(key))
    kept = order[np.unique(key[order], return_index=True)[1]]
    result = np.ones(len(key), dtype=bool)
    result[kept] = False
    return result


def in_core(user: Int[np.ndarray, " row"], item: Int[np.ndarray, " row"], k: int) -> Bool[np.ndarray, " row"]:
    """Rows of the k-core of the user-item graph: the largest part in which every user and every item has k rows or more (Seidman 1983)."""
    inside = np.ones(len(user), dtype=bool)
    while k > 1 and inside.any():
        n_user, n_item = (np.bincount(column[inside], minlength=int(column.max()) + 1) for column in (user, item))
        still = inside & (n_user[user] >= k) & (n_item[item] >= k)
        if still.sum() == inside.sum():
            break
        inside = still
    return inside
