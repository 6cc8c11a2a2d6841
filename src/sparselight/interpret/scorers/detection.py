"""Detection and fuzzing: does the explanation tell firing from silent examples, and right marks from wrong ones?

Both are those of automated interpretation after Paulo et al. 2024 (arXiv 2410.13928; EleutherAI's delphi): a judge that has not seen the latent reads the
explanation and a few held-out examples and says of each whether the latent fires (detection: nothing is marked) or whether the marks stand where it fires
(fuzzing: half of the firing examples are marked rightly, half on silent tokens drawn at random, as many). Which examples stand together, and in which order,
is drawn once a latent, so that the same explanation is asked the same questions again. Near misses take part in detection and are scored apart.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from sparselight.interpret.contexts import LatentExamples
from sparselight.interpret.llm.chat import ChatRequest, Sampling
from sparselight.interpret.llm.config import ScorersConfig
from sparselight.interpret.llm.pictures import PromptPictures
from sparselight.interpret.llm.prompts import Prompts, form_of
from sparselight.interpret.llm.reading import Reading
from sparselight.interpret.llm.show import fenced_explanation, n_active, numbered_examples, unmarked, wrongly_marked
from sparselight.interpret.scorers.binary import Judgments, binary_score
from sparselight.interpret.scorers.plan import Plan, pick, rng_of, too_few, unanswered
from sparselight.protocols import Renderer
from sparselight.records import Context, Score


class Case(NamedTuple):
    """One example as it is shown, and the truth."""

    shown: Context
    is_positive: bool
    is_near_miss: bool = False


def yes_no_schema(n: int) -> dict[str, Any]:
    """One 0 or 1 an example."""
    values = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 1}, "minItems": n, "maxItems": n,
              "description": f"[{', '.join(['0 or 1'] * min(n, 3))}{', ...' if n > 3 else ''}]"}
    return {"type": "object", "additionalProperties": False, "required": ["fits"], "properties": {"fits": values}}


class YesNoScorer:
    """What detection and fuzzing share: cases in small groups, one question a group."""

    name = ""
    uses_explanation = True

    def __init__(self, config: ScorersConfig, prompts: Prompts, renderer: Renderer, sampling: Sampling, pictures: PromptPictures | None = None):
        self.config, self.prompts, self.renderer, self.sampling, self.pictures = config, prompts, renderer, sampling, pictures

    def cases(self, item: LatentExamples, rng: np.random.Generator) -> list[Case]:
        """All cases of a latent."""
        raise NotImplementedError

    def plan(self, item: LatentExamples, explanation: str) -> Plan:
        """Questions about one latent, and their score."""
        if why_not := too_few(item, self.config.min_examples):
            return Plan(self.name, why_not=why_not)
        rng = rng_of(self.config.seed, self.name, item.key)
        cases = self.cases(item, rng)
        if len({case.is_positive for case in cases if not case.is_near_miss}) < 2:
            return Plan(self.name, why_not="every token of its examples is active, so no marks can be put wrongly")
        cases = [cases[index] for index in rng.permutation(len(cases)).tolist()]
        size = self.config.examples_per_prompt
        batches = [cases[start : start + size] for start in range(0, len(cases), size)]
        return Plan(self.name, [self._request(batch, explanation) for batch in batches], partial(self._score, batches))

    def _request(self, batch: Sequence[Case], explanation: str) -> ChatRequest:
        schema = yes_no_schema(len(batch))
        messages = self.prompts[self.name].fill(
            explanation=fenced_explanation(explanation), examples=numbered_examples([case.shown for case in batch], self.renderer),
            n_examples=str(len(batch)), form=form_of(schema))
        if self.pictures is not None:
            messages = self.pictures.attach(messages, [case.shown for case in batch], marked=False)
        return ChatRequest(messages, schema, self.sampling)

    def _score(self, batches: Sequence[Sequence[Case]], readings: Sequence[Reading]) -> Score:
        judged: list[int] = []
        for batch, reading in zip(batches, readings, strict=True):
            judged += [-1] * len(batch) if reading.data is None else reading.data["fits"]
        cases = [case for batch in batches for case in batch]
        if score := unanswered(self.name, judged.count(-1), len(cases), readings):
            return score
        judgments = Judgments(np.array(judged), np.array([case.is_positive for case in cases]), np.array([case.is_near_miss for case in cases]),
                              [case.shown.group for case in cases])
        return binary_score(self.name, judgments, self.config.n_bootstrap, self.config.seed)


class Detection(YesNoScorer):
    """Which examples does the latent fire on?"""

    name = "detection"

    def cases(self, item: LatentExamples, rng: np.random.Generator) -> list[Case]:  # noqa: ARG002 - nothing is drawn
        config = self.config
        return [
            *(Case(unmarked(context), True) for context in pick(item.score_positive, config.n_positive)),
            *(Case(unmarked(context), False) for context in pick(item.score_negative, config.n_negative)),
            *(Case(unmarked(context), False, True) for context in pick(item.near_miss, config.n_near_misses)),
        ]


class Fuzzing(YesNoScorer):
    """Are the right tokens marked?"""

    name = "fuzzing"

    def cases(self, item: LatentExamples, rng: np.random.Generator) -> list[Case]:
        contexts = pick(item.score_positive, self.config.n_positive + self.config.n_negative)
        order = rng.permutation(len(contexts)).tolist()
        n_right = (len(contexts) + 1) // 2
        wrong = (wrongly_marked(contexts[index], n_active(contexts[index]), rng) for index in order[n_right:])
        return [*(Case(contexts[index], True) for index in order[:n_right]), *(Case(context, False) for context in wrong if context is not None)]
