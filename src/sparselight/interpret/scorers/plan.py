"""What every scorer is: a plan of one latent and one explanation, made of questions and a rule that turns their answers into a Score.

A scorer that asks no model has a plan without questions. A plan that cannot be made (too few examples) says why and scores as such: no score is ever made up.
The same plan of another latent's explanation is the control `shuffled`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from sparselight.interpret.contexts import LatentExamples
from sparselight.interpret.llm.chat import ChatRequest
from sparselight.interpret.llm.reading import Reading
from sparselight.records import Context, Score

MOST_UNANSWERED_FRAC = 0.5  # with more of the examples unanswered there is no score: those that are left are a choice that the model made


@dataclass(frozen=True, slots=True)
class Plan:
    """Questions, and what to make of the answers."""

    scorer: str
    requests: list[ChatRequest] = field(default_factory=list)
    finish: Callable[[Sequence[Reading]], Score] | None = None
    why_not: str = ""

    def score(self, readings: Sequence[Reading]) -> Score:
        """The score that the answers come to."""
        if self.finish is None:
            return Score(scorer=self.scorer, why_not=self.why_not)
        return self.finish(readings)


class Scorer(Protocol):
    """One way to test an explanation."""

    name: str
    uses_explanation: bool
    """Whether the score depends on the explanation; one that does not needs no shuffled control."""

    def plan(self, item: LatentExamples, explanation: str) -> Plan: ...


def too_few(item: LatentExamples, least: int) -> str:
    """Why there can be no score for want of examples; empty when there are enough."""
    for name, found in (("fires", item.score_positive), ("is silent", item.score_negative)):
        if len(found) < least:
            return f"held-out examples in which it {name}: {len(found)}, and {least} are needed (explain.scorers.min_examples)"
    return ""


def unanswered(scorer: str, n_missing: int, n_asked: int, readings: Sequence[Reading]) -> Score | None:
    """The score of a test that was answered too seldom; None when it was answered often enough."""
    if n_missing <= MOST_UNANSWERED_FRAC * n_asked:
        return None
    reasons = sorted({reading.why for reading in readings if reading.data is None})
    return Score(scorer=scorer, n_unanswered=n_missing, why_not=f"{n_missing} of {n_asked} examples have no answer that can be read ({'; '.join(reasons)})")


def pick(contexts: Sequence[Context], n: int) -> list[Context]:
    """n contexts evenly over the list, which is all of them when it is short."""
    if len(contexts) <= n:
        return list(contexts)
    return [contexts[index] for index in np.linspace(0, len(contexts) - 1, n).round().astype(int).tolist()]


def rng_of(seed: int, *parts: object) -> np.random.Generator:
    """A generator that depends on the seed and on names alone, so that a latent's examples do not change with what else is scored."""
    text = "\0".join(map(str, parts)).encode()
    return np.random.default_rng([seed, *text])


def shared_examples(item: LatentExamples) -> int:
    """Held-out firing examples that the explainer may have seen too: 0 unless the split was broken."""
    seen = {context.example for context in item.explain}
    return sum(context.example in seen for context in item.score_positive)
