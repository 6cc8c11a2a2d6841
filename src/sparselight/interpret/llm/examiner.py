"""Explains and scores some latents at once: all their questions in one batch, so that the server is kept busy.

Owns what a cap leaves: a latent whose questions were not all answered for want of budget has no score, because part of a test would be another test.
"""

from collections.abc import Iterator, Sequence

from sparselight.interpret.contexts import LatentExamples
from sparselight.interpret.llm.asking import Asker, Tally
from sparselight.interpret.llm.chat import ChatRequest
from sparselight.interpret.llm.explainer import LlmExplainer
from sparselight.interpret.llm.reading import Reading
from sparselight.interpret.scorers.plan import Plan, Scorer
from sparselight.protocols import Progress
from sparselight.records import Explanation, Score


class Examiner:
    """An explainer and scorers with the model that they ask.

    Args:
        explainer: None to score explanations that exist.
        asker: None where nothing asks a language model.
    """

    def __init__(self, explainer: LlmExplainer | None, scorers: Sequence[Scorer], asker: Asker | None):
        self.explainer, self.scorers, self.asker = explainer, scorers, asker
        self.n_done = self.n_questions = 0
        """Questions answered, and how many there will be: for the progress."""

    @property
    def tally(self) -> Tally:
        return self.asker.tally if self.asker else Tally()

    @property
    def capped(self) -> str:
        """The setting whose cap ended the work; empty while none did."""
        return self.asker.client.capped if self.asker else ""

    def explain(self, items: Sequence[LatentExamples], progress: Progress) -> tuple[dict[str, Explanation], dict[str, str]]:
        """Explanations by key of the latent, and why there is none, for the others."""
        if self.explainer is None:
            return {}, {}
        why_not = {item.key: why for item in items if (why := self.explainer.why_not(item))}
        asked = [item for item in items if item.key not in why_not]
        made = {}
        for item, reading in zip(asked, self._ask([self.explainer.request(item) for item in asked], progress), strict=True):
            explanation = self.explainer.explanation(reading)
            if explanation is None:
                why_not[item.key] = f"no answer that can be read ({reading.why})"
            else:
                made[item.key] = explanation
        return made, why_not

    def score(self, pairs: Sequence[tuple[LatentExamples, str]], progress: Progress, scorers: Sequence[Scorer] | None = None) -> list[list[Score]]:
        """Scores of (latent, explanation) pairs, all questions at once."""
        scorers = self.scorers if scorers is None else scorers
        plans = [[scorer.plan(item, text) for scorer in scorers] for item, text in pairs]
        readings = iter(self._ask([request for row in plans for plan in row for request in plan.requests], progress))
        return [[self._finish(plan, readings) for plan in row] for row in plans]

    def _finish(self, plan: Plan, readings: Iterator[Reading]) -> Score:
        found = [next(readings) for _ in plan.requests]
        cap = next((reading.why for reading in found if reading.why.startswith("the cap ")), "")
        return Score(scorer=plan.scorer, why_not=cap) if cap else plan.score(found)  # part of a test would be another test

    def _ask(self, requests: Sequence[ChatRequest], progress: Progress) -> list[Reading]:
        if not requests:
            return []
        assert self.asker is not None, "a scorer that asks has an asker"
        before = self.n_done

        def report(done: float, total: float, note: str = "") -> None:  # noqa: ARG001 - of this batch
            progress(min(before + done, self.n_questions), self.n_questions, note)

        readings = self.asker.ask(requests, report)
        self.n_done += len(requests)
        return readings
