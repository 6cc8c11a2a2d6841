"""Asks for answers of a form and reads them: what cannot be read is asked for once more with a word on the form, and what stays unread is counted.

Owns the tally that a result shows: how many answers were refused, cut, garbled or missing. Nothing of these is ever taken for an answer.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from sparselight.interpret.llm.chat import ChatRequest, Message
from sparselight.interpret.llm.client import LlmClient
from sparselight.interpret.llm.prompts import Prompts, form_of
from sparselight.interpret.llm.reading import Reading, read
from sparselight.protocols import Progress, no_progress

REPAIRABLE = ("garbage", "cut")


@dataclass(slots=True)
class Tally:
    """What became of the questions of one call of the command."""

    n_asked: int = 0
    n_read: int = 0
    n_refused: int = 0
    n_cut: int = 0
    """Ended at explain.llm.max_answer_tokens before the JSON was whole."""
    n_garbled: int = 0
    n_repaired: int = 0
    """Of those read: at a second attempt."""
    problems: Counter[str] = field(default_factory=Counter)
    """Why there was no answer at all, with how often."""

    def count(self, readings: Sequence[Reading]) -> None:
        for reading in readings:
            self.n_asked += 1
            self.n_read += reading.data is not None
            self.n_refused += reading.why == "refused"
            self.n_cut += reading.why == "cut"
            self.n_garbled += reading.why == "garbage"
            if reading.data is None and reading.why not in ("refused", *REPAIRABLE):
                self.problems[reading.why] += 1

    @property
    def n_missing(self) -> int:
        return self.n_asked - self.n_read


class Asker:
    """A client that hands out data instead of text."""

    def __init__(self, client: LlmClient, prompts: Prompts, tally: Tally | None = None):
        self.client, self.prompts, self.tally = client, prompts, tally or Tally()

    def ask(self, requests: Sequence[ChatRequest], progress: Progress = no_progress) -> list[Reading]:
        """Readings in the order of the requests."""
        answers = self.client.ask(requests, progress)
        readings = [read(answer, request.schema) for answer, request in zip(answers, requests, strict=True)]
        last = list(requests)
        for _ in range(self.client.config.n_repairs):
            wrong = [index for index, reading in enumerate(readings) if reading.why in REPAIRABLE]
            if not wrong:
                break
            for index in wrong:
                last[index] = self._repair(last[index], answers[index].text, readings[index].why)
            again = self.client.ask([last[index] for index in wrong])
            for index, answer in zip(wrong, again, strict=True):
                reading = read(answer, last[index].schema)
                self.tally.n_repaired += reading.data is not None
                if reading.data is not None or not answer.problem:  # a cap or a failing server says nothing new of the first answer
                    answers[index], readings[index] = answer, reading
        self.tally.count(readings)
        return readings

    def _repair(self, request: ChatRequest, text: str, why: str) -> ChatRequest:
        """The same conversation with a word on the form; more room where the answer was cut."""
        turns = self.prompts["repair"].fill(form=form_of(request.schema))
        messages = (*request.messages, *([Message("assistant", text)] if text.strip() and why == "garbage" else []), *(turns if why == "garbage" else ()))
        sampling = replace(request.sampling, max_tokens=2 * request.sampling.max_tokens) if why == "cut" else request.sampling
        return replace(request, messages=messages, sampling=sampling)
