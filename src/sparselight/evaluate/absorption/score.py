"""What is absorbed, unit by unit, once probes, codes and main latents are fixed.

Chanin et al. 2024 (arXiv 2409.14507) for full absorption, SAEBench (arXiv 2503.09532) for the fraction. Owns the definition and nothing
that is fitted. An entry of a unit is one latent that fires there; a latent that is silent projects nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse

from sparselight.evaluate.absorption.config import AbsorptionConfig

SILENT = 1e-8  # activations below it do not count as firing


class Absorbed(NamedTuple):
    """For units of one class."""

    full: Bool[np.ndarray, " unit"]
    fraction: Float[np.ndarray, " unit"]
    missed: Bool[np.ndarray, " unit"]
    """All main latents are silent."""
    top: Int[np.ndarray, " unit"]
    """The latent with the largest projection on the probe; -1 where none projects more than 0."""


def score_units(
    codes: sparse.csr_matrix, along: Float[np.ndarray, " latent"], cos: Float[np.ndarray, " latent"], projection: Float[np.ndarray, " unit"],
    main: Sequence[int], config: AbsorptionConfig,
) -> Absorbed:
    """Full absorption and absorption fraction of each unit.

    With the unit probe direction p, a latent f projects z_f <w_f, p>, P = <x, p>, M is what the main latents project together, and A what
    the `max_absorbing` largest projections bring among other latents with cos(w_f, p) >= fraction_cos that project more than 0:
        full      all main latents silent, P > 0, and the top projecting latent has cos >= full_cos and brings projection_frac of P or more
        fraction  0 where M >= P or A / P < projection_frac; else 1 where M <= 0; else a / (a + M) with a = min(A, P - M)
    Without a main latent there is nothing that could be absorbed: all units are missed, and both are 0.

    Args:
        codes: of units that have the class and that its probe finds.
        along: <w_f, p> of every latent.
        cos: cosine of every latent's direction with p.
        projection: P of every unit.
    """
    n, total = codes.shape[0], np.asarray(projection, dtype=np.float64)
    unit, latent, value = np.repeat(np.arange(n), np.diff(codes.indptr)), codes.indices, codes.data.astype(np.float64)
    brings = value * along[latent]
    is_main = np.zeros(codes.shape[1], dtype=bool)
    is_main[list(main)] = True
    of_main = is_main[latent]
    missed = np.bincount(unit[of_main & (value >= SILENT)], minlength=n) == 0

    first, rank = _ranked(unit, brings)
    top, top_brings = np.full(n, -1), np.zeros(n)
    best = first[rank == 0]
    best = best[brings[best] > 0]
    top[unit[best]], top_brings[unit[best]] = latent[best], brings[best]
    full = missed & (len(main) > 0) & (total > 0) & (top >= 0) & (cos[top] >= config.full_cos) & (top_brings >= config.projection_frac * total)

    may = np.flatnonzero(~of_main & (cos[latent] >= config.fraction_cos) & (brings > 0))
    order, rank = _ranked(unit[may], brings[may])
    taken = may[order[rank < config.max_absorbing]]
    absorbing, main_part = (np.bincount(unit[part], brings[part], minlength=n) for part in (taken, of_main))
    counts = (len(main) > 0) & (total > 0) & (main_part < total) & (absorbing >= config.projection_frac * total)
    shared = np.minimum(absorbing, total - main_part)
    parts = np.divide(shared, shared + main_part, out=np.ones(n), where=counts & (main_part > 0))
    return Absorbed(full, np.where(counts, np.clip(parts, 0, 1), 0.0), missed, top)


def _ranked(unit: Int[np.ndarray, " entry"], size: Float[np.ndarray, " entry"]) -> tuple[Int[np.ndarray, " entry"], Int[np.ndarray, " entry"]]:
    """Entries unit by unit, the largest first, and the rank of each in its unit."""
    order = np.lexsort((-size, unit))
    ordered = unit[order]
    return order, np.arange(len(order)) - np.searchsorted(ordered, ordered)
