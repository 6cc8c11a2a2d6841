"""Level prediction: the judge says from 0 to 10 how strongly the latent fires, as RecSAE verifies its concepts (arXiv 2411.06112).

Levels are the deciles of all positive activations of the SAE, over all latents together; 0 is silent. A firing example has level 5 or more, an answer above 5
says that the latent fires. With TP, FN of the firing and TN, FP of the silent examples:

    confidence = (TP + TN) / all     recall = TP / P     true_negative_rate = TN / N     precision = TP / (TP + FP)

RecSAE calls the true-negative rate precision; the names here say what they are. Its code takes an answer that is no number for "silent", so that garbage
raises the score on silent examples; here it is unanswered. It also tests on the construction examples where a latent has five or fewer: here both sides never
share an example, and where a caller's examples do, the score says so.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from sparselight.evaluate.statistics import ratio
from sparselight.interpret.contexts import LatentExamples
from sparselight.interpret.llm.chat import ChatRequest, Sampling
from sparselight.interpret.llm.config import ScorersConfig
from sparselight.interpret.llm.prompts import Prompts, form_of
from sparselight.interpret.llm.reading import Reading
from sparselight.interpret.llm.show import fenced_explanation, numbered_examples, peak_value, unmarked, until_peak
from sparselight.interpret.scorers.binary import Judgments, binary_score, side, value
from sparselight.interpret.scorers.detection import Case
from sparselight.interpret.scorers.plan import Plan, pick, shared_examples, too_few, unanswered
from sparselight.protocols import Renderer
from sparselight.records import Card, Score

FIRES_FROM = 5  # level of an example that counts as firing; answers count above it
SCHEMA: dict[str, Any] = {
    "type": "object", "additionalProperties": False, "required": ["level"],
    "properties": {"level": {"type": "integer", "minimum": 0, "maximum": 10, "description": "a whole number from 0 to 10"}},
}
Edges = Float[np.ndarray, "9"]


class LevelPrediction:
    """How strongly does the latent fire?

    Args:
        deciles: of the positive activations of each source (`global_deciles`); without them those of the examples at hand are taken, and the score says so.
    """

    name = "level_prediction"
    uses_explanation = True

    def __init__(self, config: ScorersConfig, prompts: Prompts, renderer: Renderer, sampling: Sampling, deciles: Mapping[str, Edges] | None = None):
        self.config, self.prompts, self.renderer, self.sampling, self.deciles = config, prompts, renderer, sampling, deciles or {}

    def plan(self, item: LatentExamples, explanation: str) -> Plan:
        """One question an example."""
        if why_not := too_few(item, self.config.min_examples):
            return Plan(self.name, why_not=why_not)
        edges, note = self._edges(item)
        firing = [context for context in item.score_positive if level_of(peak_value(context), edges) >= FIRES_FROM]
        if len(firing) < self.config.min_examples:
            return Plan(self.name, why_not=f"held-out examples of level {FIRES_FROM} or more: {len(firing)}, and {self.config.min_examples} are needed "
                        "(explain.scorers.min_examples)")
        cases = [
            *(Case(context, True) for context in pick(firing, self.config.n_positive)),
            *(Case(context, False) for context in pick(item.score_negative, self.config.n_negative)),
            *(Case(context, False, True) for context in pick(item.near_miss, self.config.n_near_misses)),
        ]
        if n_shared := shared_examples(item):
            note = f"{note}{'; ' if note else ''}{n_shared} of the firing examples were shown to the explainer too, which flatters the score"
        return Plan(self.name, [self._request(case, explanation) for case in cases], partial(self._score, cases, note))

    def _edges(self, item: LatentExamples) -> tuple[Edges, str]:
        edges = self.deciles.get(item.source)
        if edges is not None:
            return edges, ""
        values = [peak_value(context) for context in (*item.explain, *item.score_positive)]
        return np.quantile(values, np.linspace(0.1, 0.9, 9)), "levels are deciles of this latent's own examples, because those of the whole SAE are not known"

    def _request(self, case: Case, explanation: str) -> ChatRequest:
        shown = until_peak(case.shown) if self.prompts.modality == "items" else case.shown  # a history ends with the item in question, as in RecSAE
        messages = self.prompts[self.name].fill(explanation=fenced_explanation(explanation), form=form_of(SCHEMA),
                                                examples=numbered_examples([unmarked(shown)], self.renderer))
        return ChatRequest(messages, SCHEMA, self.sampling)

    def _score(self, cases: Sequence[Case], note: str, readings: Sequence[Reading]) -> Score:
        judged = np.array([-1 if reading.data is None else int(reading.data["level"] > FIRES_FROM) for reading in readings])
        if score := unanswered(self.name, int((judged < 0).sum()), len(cases), readings):
            return score
        judgments = Judgments(judged, np.array([case.is_positive for case in cases]), np.array([case.is_near_miss for case in cases]),
                              [case.shown.group for case in cases])
        score = binary_score(self.name, judgments, self.config.n_bootstrap, self.config.seed, note)
        firing = side(judgments, judgments.is_positive, self.config.n_bootstrap, self.config.seed)
        silent = side(judgments, ~judgments.is_positive & ~judgments.is_near_miss, self.config.n_bootstrap, self.config.seed + 1)
        if firing is None or silent is None:
            return score
        confidence = value(ratio(firing.yes + silent.n - silent.yes, firing.n + silent.n), firing.n_groups + silent.n_groups, self.config.seed,
                           min(firing.n_groups, silent.n_groups) == 1)
        return score if confidence is None else score.model_copy(update={"values": {"confidence": confidence, **score.values}})


def level_of(activation: float, edges: Edges) -> int:
    """0 for a silent example, else 1 + the number of deciles below it."""
    return 0 if activation <= 0 else 1 + int(np.searchsorted(edges, activation, side="left"))


def global_deciles(cards: Sequence[Card]) -> Edges | None:
    """Deciles of all positive activations of an SAE, from what its cards keep: each latent's quantiles, weighted by how often it fires.

    A latent's distribution is taken as linear between its quantiles at 0, 0.1, ... 1. None where no card has quantiles.
    """
    fine = np.linspace(0.005, 0.995, 100)
    known = [card for card in cards if card.n_fires > 0 and len(card.quantiles) > 1]
    if not known:
        return None
    values = np.concatenate([np.interp(fine, np.linspace(0, 1, len(card.quantiles)), card.quantiles) for card in known])
    weights = np.repeat([card.n_fires / len(fine) for card in known], len(fine))
    order = np.argsort(values, kind="stable")
    share = np.cumsum(weights[order]) / weights.sum()
    found: Edges = values[order][np.searchsorted(share, np.linspace(0.1, 0.9, 9) - 1e-12)]
    return found
