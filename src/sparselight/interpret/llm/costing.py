"""What explaining and scoring would cost, before anything is asked: the same questions are made and looked up on disk instead of being sent.

A question about an explanation that is not there yet is made with words of its length. Controls of other latents' explanations are counted, not looked up.
"""

from collections.abc import Sequence

from sparselight.errors import ConfigError
from sparselight.interpret.contexts import LatentExamples
from sparselight.interpret.llm.budget import Estimate
from sparselight.interpret.llm.chat import ChatRequest
from sparselight.interpret.llm.client import LlmClient
from sparselight.interpret.llm.examiner import Examiner
from sparselight.interpret.llm.job import BATCH_LATENTS, Job
from sparselight.interpret.llm.reading import read

EXPLANATION_TOKENS = 60  # of an answer to expect, braces and all
JUDGMENT_TOKENS = 25


class Costing:
    """The cost of jobs of one examiner.

    Args:
        n_control_latents: on how many latents each control is measured.
    """

    def __init__(self, examiner: Examiner, n_control_latents: int):
        self.explainer, self.scorers, self.asker, self.n_control_latents = examiner.explainer, examiner.scorers, examiner.asker, n_control_latents

    def estimate(self, job: Job) -> Estimate:
        """Of a whole job, controls included, without asking anything. Control questions that depend on explanations to come are counted, not looked up."""
        total = self._estimate([], [])
        for item in job.items:
            total += self._estimate(*self._requests_of(item, [found.text for found in job.given.get(item.key, ())], True))
        shuffled, others = self._control_items(job)
        for item in shuffled:
            n_texts = len(job.given.get(item.key, ())) + (self.explainer is not None)
            total += self._estimate([], self._questions(item, [f"explanation {number} of another latent" for number in range(n_texts)], is_control=True))
        for item in others:
            total += self._estimate(*self._requests_of(item, [], True))
        return total

    def n_questions(self, job: Job) -> int:
        """How many questions a job has: exact for one batch of latents, of more by what the first batch has."""
        n_explained, first = int(self.explainer is not None), job.items[:BATCH_LATENTS]
        shuffled, others = self._control_items(job)
        n_texts = {item.key: len(job.given.get(item.key, ())) + n_explained for item in first}
        scored = sum(n_explained + n_texts[item.key] * len(self._questions(item, [""])) for item in first)
        controls = sum(n_texts.get(item.key, 1) * len(self._questions(item, [""], is_control=True)) for item in shuffled)
        return scored * len(job.items) // max(1, len(first)) + controls + sum(1 + len(self._questions(item, [""])) for item in others)

    def _questions(self, item: LatentExamples, texts: Sequence[str], is_control: bool = False) -> list[ChatRequest]:
        """Questions that score texts; of a control those that depend on the text."""
        scorers = [scorer for scorer in self.scorers if scorer.uses_explanation or not is_control]
        return [request for text in texts for scorer in scorers for request in scorer.plan(item, text).requests]

    def check_caps(self, job: Job) -> None:
        """Refuse caps that do not do for the first latent.

        Raises:
            ConfigError: naming the cap and what one latent needs.
        """
        if self.asker is None or not job.items:
            return
        config, item = self.asker.client.config, job.items[0]
        explain, score = self._requests_of(item, [found.text for found in job.given.get(item.key, ())], True)
        needed, largest = self._estimate(explain, score), most_of_one(self.asker.client, [*explain, *score])
        found = {
            "max_calls": (config.max_calls, needed.n_calls),
            "max_tokens": (config.max_tokens, max(needed.tokens_in + needed.tokens_out, largest.most_tokens)),
            "max_cost": (config.max_cost, max(needed.cost or 0.0, largest.most_cost or 0.0)),
        }
        for name, (cap, one) in found.items():
            if cap is not None and one > cap:
                raise ConfigError(asked=f"explain latents within explain.llm.{name} = {cap:g}", why=f"one latent ({item.key}) needs about {one:,.6g}",
                                  instead="raise it, or take fewer examples or scorers (explain.scorers)")

    def _requests_of(self, item: LatentExamples, texts: Sequence[str], is_explained: bool) -> tuple[list[ChatRequest], list[ChatRequest]]:
        """Questions that explain a latent, and that score the texts and its new explanation; where that is not on disk, words of its length stand for it."""
        explain: list[ChatRequest] = []
        texts = list(texts)
        if is_explained and self.explainer is not None and not self.explainer.why_not(item):
            explain = [self.explainer.request(item)]
            texts.append(self._text_on_disk(explain[0]) or " ".join(["description"] * self.explainer.config.max_words))
        return explain, self._questions(item, texts)

    def _text_on_disk(self, request: ChatRequest) -> str:
        answer = self.asker.client.cache.get(request) if self.asker else None
        found = self.explainer.explanation(read(answer, request.schema)) if answer and self.explainer else None
        return found.text if found else ""

    def _control_items(self, job: Job) -> tuple[Sequence[LatentExamples], list[LatentExamples]]:
        others = [item for rows in job.controls.values() for item in rows[: self.n_control_latents]] if self.explainer is not None else []
        return job.items[: self.n_control_latents], others

    def _estimate(self, explain: Sequence[ChatRequest], score: Sequence[ChatRequest]) -> Estimate:
        if self.asker is None:
            return Estimate(0, 0, 0, 0, 0, None, None)
        client = self.asker.client
        return client.estimate(explain, EXPLANATION_TOKENS) + client.estimate(score, JUDGMENT_TOKENS)


def most_of_one(client: LlmClient, requests: Sequence[ChatRequest]) -> Estimate:
    """The most expensive single question that is not on disk."""
    rows = [client.estimate([request], 0) for request in requests]
    return max(rows, key=lambda row: row.most_tokens, default=Estimate(0, 0, 0, 0, 0, None, None))
