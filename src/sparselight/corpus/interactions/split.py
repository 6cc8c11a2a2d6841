"""Splits in time: which interactions train a recommender, which tune it, which test it; and the guards against leaks.

    leave_one_out   each user's last interaction tests, the one before tunes (ReChorus, SASRec); the future of other users is in training
    global_time     whole days in order: the last ones test, those before tune (RecSAE's ML-1M split); nothing of training is later than dev or test

Owns: both, and the cold guard: a test of an item or a user that training never sees asks for what no model can know. Refuses: a global split of
a table without times, and parts that come out empty.
"""

from collections import Counter

import numpy as np
from jaxtyping import Int

from sparselight.corpus.interactions.config import InteractionsConfig
from sparselight.corpus.interactions.table import DEV, SIDES, TEST, TRAIN, Interactions
from sparselight.errors import CorpusError


def split_in_time(rows: Interactions, config: InteractionsConfig, notes: "Counter[str]") -> Interactions:
    """Mark every interaction as train, dev or test; cold ones are left out where the settings say so.

    Raises:
        CorpusError: when there are no times to split by, or nothing is left to train on.
    """
    if config.split == "none":
        return rows
    side = leave_one_out(rows, config.min_train) if config.split == "leave_one_out" else global_time(rows, config)
    rows = rows.with_side(side)
    if not (side == TRAIN).any() or not (side == TEST).any():
        raise CorpusError(asked=f"split {len(rows)} interactions by {config.split}", why=f"{int((side == TRAIN).sum())} would train and "
                          f"{int((side == TEST).sum())} test", instead="lower corpus.interactions.k_core or min_value, or set split = 'none'")
    return drop_cold(rows, notes) if config.cold == "drop" else rows


def leave_one_out(rows: Interactions, min_train: int) -> Int[np.ndarray, " row"]:
    """Each user's last row is test, the one before dev, where `min_train` rows stay before them."""
    bounds, side = rows.bounds(), np.full(len(rows), TRAIN)
    enough = np.flatnonzero(np.diff(bounds) >= min_train + 2)
    side[bounds[enough + 1] - 1] = TEST
    side[bounds[enough + 1] - 2] = DEV
    return side


def global_time(rows: Interactions, config: InteractionsConfig) -> Int[np.ndarray, " row"]:
    """Days in order: test takes whole days from the end until test_frac of the rows would be passed, dev the same before it."""
    if rows.time is None:
        raise CorpusError(asked="split interactions by corpus.interactions.split = 'global_time'", why="the table has no times",
                          instead="name their column in corpus.interactions.time, or use 'leave_one_out'")
    day = np.floor(rows.time / config.day_s)
    days, counts = np.unique(day, return_counts=True)
    from_end = np.cumsum(counts[::-1])[::-1]  # rows on each day and after it
    test_days = days[from_end <= config.test_frac * len(rows)]
    dev_days = days[from_end <= (config.test_frac + config.dev_frac) * len(rows)]
    first_test, first_dev = (part[0] if len(part) else np.inf for part in (test_days, dev_days))
    return np.where(day >= first_test, TEST, np.where(day >= first_dev, DEV, TRAIN))


def drop_cold(rows: Interactions, notes: "Counter[str]") -> Interactions:
    """Leave out dev and test rows whose item or user has no training row."""
    trained = rows.side == TRAIN
    known_item, known_user = np.zeros(len(rows.items), dtype=bool), np.zeros(len(rows.users), dtype=bool)
    known_item[rows.item[trained]], known_user[rows.user[trained]] = True, True
    cold = ~trained & ~(known_item[rows.item] & known_user[rows.user])
    if not cold.any():
        return rows
    notes["dev and test interactions with an item or user that training never sees left out"] += int(cold.sum())
    return rows.keep(~cold)


def check_no_leak(rows: Interactions) -> None:
    """Refuse a split in which a user's dev or test row comes before one of the user's training rows.

    Raises:
        CorpusError: naming the user.
    """
    same = rows.user[1:] == rows.user[:-1]
    falls = np.flatnonzero(same & (rows.side[1:] < rows.side[:-1]))
    if len(falls):
        user = rows.users[rows.user[falls[0]]]
        raise CorpusError(asked="read interactions that come split", why=f"user {user!r} has a {SIDES[rows.side[falls[0] + 1]]} interaction after one of a "
                          f"later part, so that training would know its future ({len(falls)} such places)",
                          instead="mend the files, or put all rows into one table and let corpus.interactions.split divide them")
