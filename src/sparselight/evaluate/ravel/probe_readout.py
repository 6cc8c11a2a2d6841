"""Reading attributes by linear probes: what the subject "says" of an attribute is what a probe of its activations says.

For subjects that cannot be asked in words, and for data without entities: tokens with two annotations or more. It tells how well latents
separate what is linearly there, not what the subject makes of it, and is labelled `probe readout` wherever it is reported.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparselight.evaluate.case import Case, SideName
from sparselight.evaluate.labels import example_kinds, label_values, span_kinds, token_labels
from sparselight.evaluate.probes import fit_logistic
from sparselight.evaluate.ravel.config import RavelConfig
from sparselight.evaluate.ravel.pairs import ANY, Pairs, Units

SETTING = "probe readout"


class Task(NamedTuple):
    """Units of both sides, and how each side is read."""

    attributes: list[str]
    units: list[Units]
    readouts: list["ProbeReadout"]
    note: str


class ProbeReadout:
    """One-vs-rest logistic probes; the value with the largest log odds is what is said, and the cross entropy is of their softmax."""

    def __init__(self, weights: Float[Tensor, "value d_in"], bias: Float[Tensor, " value"], first: Int[np.ndarray, " attribute_plus_1"]):
        self.weights, self.bias, self.first = weights, bias, first
        self._attribute = torch.from_numpy(np.repeat(np.arange(len(first) - 1), np.diff(first)))

    def _logits(self, pairs: Pairs, x: Float[Tensor, "pair d_in"]) -> Float[Tensor, "pair value"]:
        others = self._attribute[None] != torch.from_numpy(pairs.attribute)[:, None]
        return (x @ self.weights.T + self.bias).masked_fill(others, -torch.inf)

    def _target(self, pairs: Pairs) -> Int[Tensor, " pair"]:
        return torch.from_numpy(self.first[pairs.attribute] + pairs.value)

    def loss(self, pairs: Pairs, x: Float[Tensor, "pair d_in"]) -> Float[Tensor, ""]:
        return torch.nn.functional.cross_entropy(self._logits(pairs, x), self._target(pairs))

    def right(self, pairs: Pairs, x: Float[Tensor, "pair d_in"]) -> Bool[np.ndarray, " pair"]:
        return (self._logits(pairs, x).argmax(1) == self._target(pairs)).numpy()

    def knows(self, units: Units) -> Bool[np.ndarray, " unit"]:
        """Units of which every attribute is read correctly."""
        n, n_attributes = units.values.shape
        every = np.arange(n)
        found = [self.right(Pairs(every, every, np.full(n, index), units.values[:, index], np.ones(n, dtype=bool)), units.x) for index in range(n_attributes)]
        return np.all(found, axis=0)


def probe_task(case: Case, dataset: str, config: RavelConfig) -> tuple[Task | None, str]:
    """Tokens that carry every attribute, probes fitted on the fit side, and the tokens that the probes read correctly.

    Returns:
        The task, None where there are not two attributes, and why.
    """
    attributes, names = _attributes(case, dataset, config)
    if len(attributes) < 2:
        return None, (f"{len(attributes)} kind(s) of annotation have two values with {config.least_units} or more tokens on both sides (ravel.least_units), "
                      "and two kinds are needed (ravel.attributes)")
    fit, held_out = (_units(case, dataset, side, attributes, names, config) for side in ("fit", "held_out"))
    y = np.concatenate([fit.values[:, [index]] == np.arange(len(names[index])) for index in range(len(names))], axis=1)
    if not len(held_out.group) or not y.any(0).all() or y.all(0).any():
        return None, f"too few tokens carry all of {', '.join(attributes)} (name fewer in ravel.attributes)"
    probe = fit_logistic(fit.x.numpy(), y, C=1 / (config.probe_l2 * len(y)))
    readout = ProbeReadout(torch.from_numpy(probe.weights).float(), torch.from_numpy(probe.bias).float(), np.cumsum([0, *map(len, names)]))
    known = [readout.knows(units) for units in (fit, held_out)]
    note = (f"ravel on {dataset}, {SETTING}: {', '.join(attributes)}; the probes read all attributes of {known[1].sum()} of {len(known[1])} held-out tokens "
            "correctly, and only those are used")
    return Task(attributes, [_kept(units, which) for units, which in zip((fit, held_out), known, strict=True)], [readout, readout], note), ""


def _attributes(case: Case, dataset: str, config: RavelConfig) -> tuple[list[str], list[list[str]]]:
    """Kinds with two frequent values or more, and those values."""
    examples = case.tokens(dataset, "fit").examples
    known = {*span_kinds(examples), *example_kinds(examples)}
    kinds, names = [], []
    for kind in config.attributes or sorted(known):
        values = label_values(case.tokens(dataset, "fit"), kind) if kind in known else []
        if not values:
            continue
        counts = np.min([np.asarray((token_labels(case.tokens(dataset, side), kind, values) != 0).sum(0)).ravel() for side in ("fit", "held_out")], axis=0)
        frequent = [index for index in np.argsort(-counts, kind="stable")[: config.max_values] if counts[index] >= config.least_units]
        if len(frequent) > 1:
            kinds.append(kind)
            names.append([values[index] for index in sorted(frequent)])
    return kinds, names


def _units(case: Case, dataset: str, side: SideName, attributes: list[str], names: list[list[str]], config: RavelConfig) -> Units:
    """Tokens with exactly one of the values of every attribute."""
    tokens = case.tokens(dataset, side)
    marks = [(token_labels(tokens, kind, values) != 0).tocsr() for kind, values in zip(attributes, names, strict=True)]
    whole = np.flatnonzero(np.all([np.diff(mark.indptr) == 1 for mark in marks], axis=0))
    rows = np.sort(np.random.default_rng(config.seed).permutation(whole)[: config.n_units])
    values = np.stack([mark[rows].indices for mark in marks], axis=1).astype(np.int64) if len(rows) else np.zeros((0, len(marks)), dtype=np.int64)
    return Units(tokens.read(rows).float().cpu(), values, np.full(len(rows), ANY), tokens.group[rows])


def _kept(units: Units, which: Bool[np.ndarray, " unit"]) -> Units:
    return Units(units.x[torch.from_numpy(which)], units.values[which], units.asks[which], units.group[which])
