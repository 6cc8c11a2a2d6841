"""Probes as a setting: the exact minimum of a penalized logistic loss, or a linear layer trained step by step as published protocols do.

Owns: `ProbeConfig`, the dispatch between both, and balanced draws of labelled examples, by a seed. The step-by-step form chooses its epoch on
a part of the fit side that it is not trained on; SAEBench chooses it on the test set. Refuses: settings that the chosen solver would ignore.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import nn

from sparselight.config import Config
from sparselight.evaluate.probes import fit_logistic
from sparselight.protocols import Example

LEAST_SELECTION = 4  # examples below which the best epoch cannot be told, and the last one is taken


class ProbeConfig(Config):
    """How a linear probe is fitted."""

    solver: Literal["exact", "adamw"] = "exact"
    """`exact`: the minimum of the L2-penalized logistic loss, without a seed. `adamw`: a linear layer trained step by step, as SAEBench and Marks et al. do."""
    C: float = Field(1.0, gt=0)
    """Inverse strength of the penalty (exact only)."""
    lr: float = Field(1e-3, gt=0)
    """Learning rate (adamw only)."""
    batch_size: int = Field(16, ge=1)
    """Examples a step (adamw only)."""
    n_epochs: int = Field(20, ge=1)
    """Passes over the examples (adamw only)."""
    l1: float = Field(1e-3, ge=0)
    """Weight of the sum of absolute weights in the loss (adamw only)."""
    selection_frac: float = Field(0.2, ge=0, lt=1)
    """Share of the fit examples on which the best epoch is chosen and which are not trained on; 0 keeps the last epoch (adamw only)."""

    @model_validator(mode="after")
    def _only_what_is_used(self) -> Self:
        unused = {"exact": ("lr", "batch_size", "n_epochs", "l1", "selection_frac"), "adamw": ("C",)}[self.solver]
        for name in unused:
            if getattr(self, name) != type(self).model_fields[name].get_default():
                raise ValueError(f"{name} means nothing to solver = {self.solver!r}")
        return self


class Linear(NamedTuple):
    """One linear probe: above 0 means yes."""

    weights: Float[np.ndarray, " feature"]
    bias: float

    def scores(self, x: Float[np.ndarray, "unit feature"]) -> Float[np.ndarray, " unit"]:
        return x @ self.weights + self.bias


def fit_probe(x: Float[np.ndarray, "unit feature"], y: Bool[np.ndarray, " unit"], config: ProbeConfig, seed: int) -> Linear:
    """A probe for one label.

    Args:
        seed: of the starting weights and the order of examples (adamw only).

    Raises:
        CorpusError: when there is only one class.
    """
    if config.solver == "exact":
        probe = fit_logistic(x, y, C=config.C)
        return Linear(probe.weights[0], float(probe.bias[0]))
    return _train(x, y, config, seed)


def _train(x: Float[np.ndarray, "unit feature"], y: Bool[np.ndarray, " unit"], config: ProbeConfig, seed: int) -> Linear:
    """AdamW on binary cross entropy + l1 * sum |w|, over shuffled batches; keeps the last epoch among those with the best accuracy on the selection part."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=generator)
    n_selection = int(len(x) * config.selection_frac)
    n_selection = n_selection if n_selection >= LEAST_SELECTION and config.n_epochs > 1 else 0
    inputs, targets = torch.from_numpy(x).float(), torch.from_numpy(y).float()
    selection, rest = order[:n_selection], order[n_selection:]
    bound = x.shape[1] ** -0.5  # as nn.Linear starts
    weights, bias = (((torch.rand(n, generator=generator) * 2 - 1) * bound).requires_grad_() for n in (x.shape[1], 1))
    optimizer, best = torch.optim.AdamW([weights, bias], lr=config.lr), (-1.0, weights, bias)
    for _ in range(config.n_epochs):
        for batch in rest[torch.randperm(len(rest), generator=generator)].split(config.batch_size):
            optimizer.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(inputs[batch] @ weights + bias, targets[batch]) + config.l1 * weights.abs().sum()
            loss.backward()
            optimizer.step()
        right = float((((inputs[selection] @ weights + bias) > 0) == targets[selection].bool()).double().mean()) if n_selection else 1.0
        if right >= best[0]:
            best = (right, weights.detach().clone(), bias.detach().clone())
    return Linear(best[1].double().numpy(), float(best[2]))


def two_valued(examples: Sequence[Example], kind: str, values: Sequence[str]) -> Int[np.ndarray, " example"]:
    """0 where an example's label of that kind is the first value, 1 where it is the second, -1 elsewhere."""
    return np.array([list(values).index(example.labels[kind]) if example.labels.get(kind) in values else -1 for example in examples], dtype=np.int64)


def two_labels(examples: Sequence[Example], kind: str, given: Sequence[str], setting: str) -> list[str] | str:
    """The two labels of a kind that are compared: those given, or all that occur where these are two; else why there are none."""
    found = sorted({example.labels[kind] for example in examples if kind in example.labels})
    if not found:
        return f"no example of the fit side carries the label {kind!r}"
    labels = list(given) or found
    return labels if len(labels) == 2 else f"{kind} has {len(found)} labels on the fit side, and {setting} does not name two of them"


def subgroups(concept: Int[np.ndarray, " example"], attribute: Int[np.ndarray, " example"]) -> list[Int[np.ndarray, " member"]]:
    """Examples of (concept, attribute) = (0, 0), (0, 1), (1, 0), (1, 1)."""
    return [np.flatnonzero((concept == first) & (attribute == second)) for first in (0, 1) for second in (0, 1)]


def draw_evenly(members: Sequence[Int[np.ndarray, " unit"]], most: int, seed: int) -> Int[np.ndarray, " unit"]:
    """As many units of each set as the smallest has, at most `most` in all, in ascending order."""
    rng = np.random.default_rng(seed)
    each = min(min(len(part) for part in members), most // len(members))
    return np.sort(np.concatenate([rng.choice(part, each, replace=False) for part in members]))
