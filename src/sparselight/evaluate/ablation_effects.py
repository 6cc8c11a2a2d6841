"""What ablation scores have in common: latents ranked by effect, random ones beside them, and how values for several sizes are reported.

Owns nothing of its own; see `scr.py` and `tpp.py`. A size that a dictionary does not have is reported as not defined.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from sparselight.evaluate.contender import Contender
from sparselight.evaluate.findings import Cell, Findings
from sparselight.evaluate.readout import Readout, matched_latents
from sparselight.evaluate.statistics import Resampled
from sparselight.evaluate.trained_probes import draw_evenly

if TYPE_CHECKING:
    from sparselight.evaluate.scr_tpp import ScrTppConfig


def number_or_none(value: Resampled) -> float | None:
    """The value itself; None where it is not defined."""
    return float(value[0]) if np.isfinite(value[0]) else None


def effect_part(readout: Readout, config: "ScrTppConfig", examples: Int[np.ndarray, " example"], y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The examples on which effects are taken, and their labels."""
    if readout.is_here or len(examples) <= config.effect_examples:
        return examples, y
    part = draw_evenly([np.flatnonzero(y), np.flatnonzero(~y)], config.effect_examples, readout.case.config.seed)
    return examples[part], y[part]


def ranked_by(effect: Float[np.ndarray, " latent"], most: int) -> Int[np.ndarray, " ranked"]:
    """Latents by falling effect; those without are left out."""
    order = np.argsort(-effect, kind="stable")[:most]
    return order[effect[order] > 0]


def sizes_of(config: "ScrTppConfig", contender: Contender, latents: np.ndarray, rankings: Sequence[np.ndarray]) -> list[int]:
    """The sizes that the dictionary has, and for which there are as many of `latents` as the rankings ablate."""
    return [n for n in config.n if n <= (contender.n_latents or 0) and len(latents) >= min(n, *map(len, rankings))]


def random_like(readout: Readout, name: str, contender: Contender, ranked: Int[np.ndarray, " ranked"]) -> Int[np.ndarray, " control"]:
    return matched_latents(ranked, readout.fire_counts(name, contender), readout.case.config.seed)


def report_sizes(findings: Findings, dataset: str, name: str, prefix: str, sizes: Sequence[int], values: Mapping[tuple[str, int], Resampled],
            metrics: Sequence[str]) -> None:
    """Add all values; where a size is missing, say why."""
    for (metric, n), value in values.items():
        findings.add(Cell(name, metric, dataset, f"{prefix}n={n}"), value)
    for metric in metrics:
        why = "there are fewer other living latents of like firing rates" if "random" in metric else "the dictionary has fewer latents"
        for n in sizes:
            if (metric, n) not in values:
                findings.lacks(Cell(name, metric, dataset, f"{prefix}n={n}"), why)
