"""Intruder detection: is there anything that the firing examples of a latent have in common? No explanation is needed.

After Paulo and Belrose 2025 (arXiv 2507.08473). n firing examples of like strength and one silent one are shown, marks and all (those of the intruder are put
at random, as many); the judge names the odd one out. accuracy = right / trials; chance is 1 / (n + 1), stated beside it as the control `chance`. The interval
is the percentile bootstrap over trials; a held-out example takes part in several of them, which makes it a little too narrow.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from sparselight.evaluate.statistics import Resamples, ratio
from sparselight.interpret.contexts import LatentExamples
from sparselight.interpret.llm.chat import ChatRequest, Sampling
from sparselight.interpret.llm.config import ScorersConfig
from sparselight.interpret.llm.prompts import Prompts, form_of
from sparselight.interpret.llm.reading import Reading
from sparselight.interpret.llm.show import n_active, numbered_examples, peak_value, wrongly_marked
from sparselight.interpret.scorers.binary import value
from sparselight.interpret.scorers.plan import Plan, rng_of, too_few, unanswered
from sparselight.protocols import Renderer
from sparselight.records import Context, MetricValue, Score


class Trial(NamedTuple):
    """Examples in the order shown, and which of them is the intruder, from 0."""

    shown: list[Context]
    intruder: int


def schema_of(n: int) -> dict[str, Any]:
    number = {"type": "integer", "minimum": 1, "maximum": n, "description": f"the number of the example that does not belong, from 1 to {n}"}
    return {"type": "object", "additionalProperties": False, "required": ["odd_one_out"], "properties": {"odd_one_out": number}}


class Intruder:
    """Which example does not belong?"""

    name = "intruder"
    uses_explanation = False

    def __init__(self, config: ScorersConfig, prompts: Prompts, renderer: Renderer, sampling: Sampling):
        self.config, self.prompts, self.renderer, self.sampling = config, prompts, renderer, sampling

    def plan(self, item: LatentExamples, explanation: str) -> Plan:  # noqa: ARG002 - the test is of the examples alone
        """Trials of one latent."""
        if why_not := too_few(item, self.config.min_examples):
            return Plan(self.name, why_not=why_not)
        if len(item.score_positive) < self.config.n_shown:
            return Plan(self.name, why_not=f"held-out examples in which it fires: {len(item.score_positive)}, and explain.scorers.n_shown = "
                        f"{self.config.n_shown} stand beside the intruder")
        trials = self.trials(item)
        if not trials:
            return Plan(self.name, why_not="no silent example has tokens to mark")
        return Plan(self.name, [self._request(trial) for trial in trials], partial(self._score, trials))

    def trials(self, item: LatentExamples) -> list[Trial]:
        """Firing examples that are neighbors in strength, with one silent example each."""
        rng, n = rng_of(self.config.seed, self.name, item.key), self.config.n_shown
        ordered = sorted(item.score_positive, key=peak_value)
        trials = []
        for start in np.linspace(0, len(ordered) - n, self.config.n_trials).round().astype(int).tolist():
            firing = ordered[start : start + n]
            silent = item.score_negative[int(rng.integers(len(item.score_negative)))]
            intruder = wrongly_marked(silent, round(float(np.median([n_active(context) for context in firing]))), rng)
            if intruder is None:
                continue
            place = int(rng.integers(n + 1))
            shown = [firing[index] for index in rng.permutation(n).tolist()]
            trials.append(Trial([*shown[:place], intruder, *shown[place:]], place))
        return trials

    def _request(self, trial: Trial) -> ChatRequest:
        schema = schema_of(len(trial.shown))
        messages = self.prompts[self.name].fill(examples=numbered_examples(trial.shown, self.renderer), n_examples=str(len(trial.shown)), form=form_of(schema))
        return ChatRequest(messages, schema, self.sampling)

    def _score(self, trials: Sequence[Trial], readings: Sequence[Reading]) -> Score:
        right = [reading.data["odd_one_out"] - 1 == trial.intruder for trial, reading in zip(trials, readings, strict=True) if reading.data is not None]
        n_missing = len(trials) - len(right)
        if score := unanswered(self.name, n_missing, len(trials), readings):
            return score
        resamples = Resamples.draw(len(right), self.config.n_bootstrap, self.config.seed)
        values = ratio(resamples.totals(np.array(right, dtype=np.float64)), resamples.totals(np.ones(len(right))))
        accuracy = value(values, len(right), self.config.seed, len(right) == 1, "trials")
        assert accuracy is not None
        chance = MetricValue(value=1 / (self.config.n_shown + 1), n=len(right), unit="trials")
        return Score(scorer=self.name, values={"accuracy": accuracy}, controls={"chance": {"accuracy": chance}}, n_positive=len(right) * self.config.n_shown,
                     n_negative=len(right), n_unanswered=n_missing)
