"""The weighted sum of terms, and what a term may look at."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Float, Int
from torch import Tensor

from sparselight.sae import Sae, TrainingForward, TrainingPass
from sparselight.train.config import TrainConfig


@dataclass(frozen=True)
class TermInputs:
    """What a term may look at. It differentiates in forward.z, forward.x_hats and in parameters that it reads directly."""

    sae: Sae
    architecture: TrainingForward
    forward: TrainingPass
    target: Float[Tensor, "token d_out"]
    dead: Int[Tensor, " dead"]
    config: TrainConfig
    step: int
    """Counted from 0."""
    example: Int[Tensor, " token"] | None
    """Which example each token is of; there when a term asks for it."""

    @cached_property
    def errors(self) -> Float[Tensor, "group token d_out"]:
        """target - x_hats, without a graph, for reading in the forward pass only: the squared error's gradient takes its memory."""
        return self.target - self.forward.x_hats.detach()


@dataclass(frozen=True)
class Term:
    """One row of TERMS."""

    value: Callable[[TermInputs], Float[Tensor, ""]]
    weight: Callable[[TrainConfig, int], float]
    """At a step, counted from 0; the term is not computed where it is 0."""
    active: Callable[[TrainConfig], bool]


@dataclass(frozen=True)
class Objective:
    """Terms and their weights."""

    terms: Mapping[str, Term]
    config: TrainConfig

    def __call__(self, inputs: TermInputs) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """The weighted sum, and every term's own value before weighting."""
        weights = {name: term.weight(self.config, inputs.step) for name, term in self.terms.items()}
        values = {name: self.terms[name].value(inputs) for name, weight in weights.items() if weight}
        total = sum((weights[name] * value for name, value in values.items()), start=inputs.target.new_zeros(()))
        return total, {name: value.detach() for name, value in values.items()}

    @property
    def needs_examples(self) -> bool:
        return self.config.objective.tilt > 0 and self.config.objective.tilt_unit == "example"


def make_objective(config: TrainConfig, terms: Mapping[str, Term]) -> Objective:
    return Objective({name: term for name, term in terms.items() if term.active(config)}, config)
