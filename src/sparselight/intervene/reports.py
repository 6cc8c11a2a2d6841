"""Steering of radiology reports: a finding as a goal, and every other finding as what an edit might change besides.

Owns: `FindingGoal` and the shares of reports in which each finding is present, with Wilson intervals, for every method and strength. Who decides is the
rule-based labeller of the corpus (`label_report`): it judges words, not whether they are true of the picture. Refuses: findings and states that it does not
know.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, cast, get_args

import numpy as np
from jaxtyping import Bool, Float

from sparselight.corpus.image_text.labeller import label_report
from sparselight.corpus.image_text.lexicon import FINDINGS
from sparselight.errors import ConfigError, nearest
from sparselight.evaluate.statistics import wilson
from sparselight.intervene.generated import Generated
from sparselight.intervene.study_curves import Measured
from sparselight.protocols import Example, Subject
from sparselight.records import FindingRate

State = Literal["present", "uncertain", "absent", "mentioned"]
FORM = "finding: pleural effusion"


@dataclass(frozen=True)
class FindingGoal:
    """Share of the generated reports in which a finding is present, uncertain, absent (denied), or mentioned at all."""

    finding: str
    state: State = "present"
    unit: ClassVar[str] = "share of reports"
    on: ClassVar[Literal["text"]] = "text"

    @classmethod
    def parse(cls, text: str) -> "FindingGoal":
        """From `pleural effusion` or `pleural effusion=absent`.

        Raises:
            ConfigError: for a finding or a state that the labeller does not know.
        """
        name, _, state = (part.strip() for part in text.partition("="))
        known = [finding.name for finding in FINDINGS]
        if name not in known:
            raise ConfigError(asked=f"use the finding {name!r} as a goal", why="the labeller does not know it", instead=nearest(name, known))
        if state and state not in get_args(State):
            raise ConfigError(asked=f"use the goal {name}={state}", why=f"{state!r} is no state of a finding", instead=nearest(state, get_args(State)))
        return cls(name, cast("State", state or "present"))

    @property
    def title(self) -> str:
        return f"reports in which {self.finding} is {self.state}"

    def values(self, subject: Subject, texts: Sequence[Generated]) -> Float[np.ndarray, " text"]:  # noqa: ARG002
        return np.array([self._holds(findings_of(text)) for text in texts], dtype=np.float64)

    def present(self, subject: Subject, examples: Sequence[Example]) -> Bool[np.ndarray, " token"]:
        """Tokens of the words that say so."""
        batch = subject.prepare(examples)
        number, start, end = batch.example.numpy(), batch.char_start.numpy(), batch.char_end.numpy()
        result = np.zeros(batch.n_tokens, dtype=bool)
        for index, example in enumerate(examples):
            own = np.flatnonzero(number == index)
            for mention in label_report(example.text).mentions:
                if mention.finding == self.finding and self.state in (mention.status, "mentioned"):
                    result[own[(start[own] < mention.end) & (end[own] > mention.start)]] = True
        return result

    def _holds(self, findings: dict[str, str]) -> bool:
        state = findings.get(self.finding)
        return state is not None if self.state == "mentioned" else state == self.state


def findings_of(text: Generated) -> dict[str, str]:
    """State of each finding in a generated report, what was given of it included."""
    return dict(label_report(text.prompt + text.text).findings)


def annotate_reports(examples: Sequence[Example]) -> list[Example]:
    """Examples with the labeller's spans: findings, devices, words of change."""
    return [replace(example, spans=label_report(example.text).spans()) for example in examples]


def finding_rates(measured: Sequence[Measured]) -> list[FindingRate]:
    """Of every method and strength: in how many of its reports each finding is present. Without an edit the texts are the same for all methods."""
    found = []
    for number, one in enumerate(measured):
        for strength, texts in zip(one.strengths, one.texts, strict=False):
            if not texts or (number and not strength):
                continue
            labels = [findings_of(text) for text in texts]
            for finding in FINDINGS:
                n = sum(own.get(finding.name) == "present" for own in labels)
                found.append(FindingRate(method=one.method.name, strength=strength, finding=finding.name, family=finding.family,
                                         rate=wilson(n, len(labels), "reports")))
    return found
