"""Units with attributes, and the pairs of units between which latents are exchanged.

RAVEL (Huang et al. 2024, arXiv 2402.17700) as SAEBench runs it: for an attribute A, cause pairs differ in A and should say what the source
says of A; isolation pairs are read for another attribute B, differ in B, and should go on saying what the base says of B.
"""

from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

ANY = -1


class Units(NamedTuple):
    """What activations are exchanged between: tokens, or entities in prompts."""

    x: Float[Tensor, "unit d_in"]
    values: Int[np.ndarray, "unit attribute"]
    asks: Int[np.ndarray, " unit"]
    """The attribute that the unit's prompt asks for, or ANY where all can be read."""
    group: Int[np.ndarray, " unit"]


class Pairs(NamedTuple):
    """The edited unit is the base; `attribute` is what is read, and `value` what should be said of it."""

    base: Int[np.ndarray, " pair"]
    source: Int[np.ndarray, " pair"]
    attribute: Int[np.ndarray, " pair"]
    value: Int[np.ndarray, " pair"]
    is_cause: Bool[np.ndarray, " pair"]

    def take(self, which: Int[np.ndarray, " some"] | slice) -> "Pairs":
        return Pairs(*(column[which] for column in self))


class Readout(Protocol):
    """What the subject says of an attribute once the activation of a unit is replaced."""

    def loss(self, pairs: Pairs, x: Float[Tensor, "pair d_in"]) -> Float[Tensor, ""]: ...  # cross entropy of `value`, mean over pairs
    def right(self, pairs: Pairs, x: Float[Tensor, "pair d_in"]) -> Bool[np.ndarray, " pair"]: ...


def draw_pairs(units: Units, attribute: int, n: int, rng: np.random.Generator) -> Pairs | None:
    """`n` cause pairs and `n` isolation pairs of an attribute, in random order; None where the units do not differ enough."""
    others = [other for other in range(units.values.shape[1]) if other != attribute and _pool(units, other) is not None]
    if _pool(units, attribute) is None or not others:
        return None
    read = np.concatenate([np.full(n, attribute), rng.choice(others, n)])
    base, source = np.empty(2 * n, dtype=np.int64), np.empty(2 * n, dtype=np.int64)
    for which in np.unique(read):
        here = np.flatnonzero(read == which)
        pool = _pool(units, which)
        assert pool is not None
        base[here], source[here] = _differing(units.values[pool, which], len(here), rng, pool)
    is_cause = np.arange(2 * n) < n
    value = units.values[np.where(is_cause, source, base), read]
    return Pairs(base, source, read, value, is_cause).take(rng.permutation(2 * n))


def _pool(units: Units, attribute: int) -> Int[np.ndarray, " some"] | None:
    """Units of which an attribute can be read; None where all of them have one value."""
    pool = np.flatnonzero((units.asks == ANY) | (units.asks == attribute))
    return pool if len(np.unique(units.values[pool, attribute])) > 1 else None


def _differing(values: Int[np.ndarray, " some"], n: int, rng: np.random.Generator, names: Int[np.ndarray, " some"],
               ) -> tuple[Int[np.ndarray, " pair"], Int[np.ndarray, " pair"]]:
    """Pairs with different values: any base, and any source of another value, each equally likely."""
    order = np.argsort(values, kind="stable")
    base = rng.integers(len(values), size=n)
    low, high = (np.searchsorted(values[order], values[base], side) for side in ("left", "right"))
    drawn = rng.integers(len(values) - (high - low))
    source = order[np.where(drawn < low, drawn, drawn + high - low)]
    return names[base], names[source]
