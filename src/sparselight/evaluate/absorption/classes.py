"""Parent classes of one kind on the units of both sides, and the probe that says where each class is.

A unit is a token; its classes are the values of one kind of annotation that it carries, and units that carry none count against every class.
The ground truth probe of a class is a logistic regression on the activations of the fit side (SAEBench's loss, brought to its minimum).
Owns: which units are used, which of them choose the number of main latents, and which classes qualify.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from sparselight.evaluate.absorption.config import AbsorptionConfig
from sparselight.evaluate.absorption.ranking import f1_scores
from sparselight.evaluate.case import Case, SideName, Tokens
from sparselight.evaluate.labels import example_kinds, label_values, span_kinds, token_labels
from sparselight.evaluate.probes import Probe, fit_logistic

CHOOSE_FRAC = 0.2


@dataclass(frozen=True, slots=True)
class Units:
    """Units of one side."""

    tokens: Tokens
    rows: Int[np.ndarray, " unit"]  # of `tokens`
    y: Bool[np.ndarray, "unit class"]

    @property
    def group(self) -> Int[np.ndarray, " unit"]:
        return self.tokens.group[self.rows]

    def x(self) -> Float[np.ndarray, "unit d_in"]:
        return self.tokens.read(self.rows).cpu().numpy()


class Qualified(NamedTuple):
    """Classes of one kind, with what is the same for every coder. Indices of classes run over `names`."""

    dataset: str
    kind: str
    names: list[str]
    fit: Units
    held_out: Units
    train: Bool[np.ndarray, " unit"]
    """Of the fit units: those on which latents are ranked and sparse probes are fitted."""
    probe: Probe
    f1: Float[np.ndarray, " class"]
    """Of the probe on the held-out side."""
    chosen: list[int]
    """Classes whose F1 is high enough."""
    n_classes: int
    """Of this kind, those with too few units included."""

    def sides(self) -> Iterator[tuple[SideName, Units]]:
        yield "fit", self.fit
        yield "held_out", self.held_out

    @property
    def choose(self) -> tuple[Units, Bool[np.ndarray, " unit"]]:
        """Units on which the number of main latents is chosen."""
        return (self.held_out, np.ones(len(self.held_out.rows), dtype=bool)) if self.train.all() else (self.fit, ~self.train)


def parent_kinds(case: Case, dataset: str, config: AbsorptionConfig) -> list[str]:
    """The kinds of annotation asked for, or all that have as many classes as the settings allow."""
    examples = case.tokens(dataset, "fit").examples
    kinds = sorted({*span_kinds(examples), *example_kinds(examples)})
    if config.parents:
        return [kind for kind in config.parents if kind in kinds]
    return [kind for kind in kinds if config.least_classes <= len(label_values(case.tokens(dataset, "fit"), kind)) <= config.max_classes]


def qualify(case: Case, dataset: str, kind: str, config: AbsorptionConfig) -> tuple[Qualified | None, str]:
    """Draw the units of a kind, fit its probes, and find the classes that qualify.

    Returns:
        The classes, None where there are too few, and why.
    """
    least, setting = (config.least_letters, "least_letters") if kind == "first_letter" else (config.least_classes, "least_classes")
    names = label_values(case.tokens(dataset, "fit"), kind)
    fit, held_out = (_draw(case, dataset, side, kind, names, config) for side in ("fit", "held_out"))
    train = _train(fit, config)
    counts = [part.sum(0) for part in (fit.y[train], held_out.y, *([] if train.all() else [fit.y[~train]]))]
    absences = [len(part) - part.sum(0) for part in (fit.y[train], held_out.y)]
    kept = np.flatnonzero((np.min(counts, 0) >= config.least_units) & (np.min(absences, 0) >= config.least_units))
    if len(kept) < least:
        return None, (f"{len(kept)} of {len(names)} classes of {kind} have {config.least_units} or more units in every part of the data "
                      f"(absorption.least_units), and {least} classes are needed (absorption.{setting})")
    fit, held_out = (Units(side.tokens, side.rows, side.y[:, kept]) for side in (fit, held_out))
    probe = fit_logistic(fit.x(), fit.y, C=1 / (config.probe_l2 * len(fit.rows)), weight=np.where(fit.y, (~fit.y).sum(0) / fit.y.sum(0), 1.0))
    f1 = f1_scores(probe.scores(held_out.x()) > 0, held_out.y)
    chosen = np.flatnonzero(f1 > config.least_f1).tolist()
    if len(chosen) < least:
        return None, (f"the probes of {len(chosen)} of {len(names)} classes of {kind} reach an F1 above {config.least_f1} (absorption.least_f1), "
                      f"and {least} are needed (absorption.{setting})")
    return Qualified(dataset, kind, [names[index] for index in kept], fit, held_out, train, probe, f1, chosen, len(names)), ""


def _draw(case: Case, dataset: str, side: SideName, kind: str, names: list[str], config: AbsorptionConfig) -> Units:
    tokens = case.tokens(dataset, side)
    rows = np.sort(np.random.default_rng(config.seed).permutation(tokens.n_tokens)[: config.n_units])
    return Units(tokens, rows, token_labels(tokens, kind, names)[rows].toarray() != 0)


def _train(fit: Units, config: AbsorptionConfig) -> Bool[np.ndarray, " unit"]:
    """All fit units, or all but those of a fifth of the groups."""
    groups = np.unique(fit.group)
    if config.choose_on == "held_out" or len(groups) < 2:
        return np.ones(len(fit.rows), dtype=bool)
    n = max(1, round(CHOOSE_FRAC * len(groups)))
    return ~np.isin(fit.group, np.random.default_rng(config.seed).permutation(groups)[:n])
