"""What a written sequence is to have, and who judges it: a pattern in PROSITE's syntax, or a probe of an annotation on the unedited subject's activations.

A judge knows nothing of the dictionary: the pattern reads letters, the probe was fitted on natural proteins and reads passes without any edit. Its word on
natural held-out sequences of the same length is part of the result. Owns both judges and how goals are written (`pattern: NAME`, `label: kind=value`).
Refuses: other forms, labels that too few proteins carry.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int

from sparselight.corpus.protein.prosite import find_pattern, named_pattern
from sparselight.errors import ConfigError, CorpusError
from sparselight.evaluate.probes import Probe, auroc, fit_logistic
from sparselight.evaluate.sequences import entropy_bits
from sparselight.evaluate.statistics import wilson
from sparselight.protocols import Example, Subject
from sparselight.records import MetricValue, SequenceJudge
from sparselight.subjects.batching import batches_by_length
from sparselight.vocab import UNLABELLED

BATCH_TOKENS = 8192
MIN_CARRIERS = 10  # proteins with the label, on each side
TUNED_EVERY = 4  # every fourth protein of the fit side is one on which the probe's threshold is chosen
SHORT_SPANS = 0.1  # quantile of natural spans' lengths: as long must a run of residues be
MAX_NATURAL = 200  # natural stretches that are judged
Run = tuple[int, int]


class Judged(NamedTuple):
    """What a judge says of some sequences."""

    hits: Bool[np.ndarray, " sequence"]
    """Sequences of low complexity never are."""
    marked: list[list[Run]]


class SequenceGoal(Protocol):
    """What sequences are to have."""

    @property
    def title(self) -> str: ...
    def judge(self, subject: Subject, sequences: Sequence[str], min_entropy_bits: float) -> Judged: ...
    def on_natural(self, subject: Subject, natural: Sequence[Example], length: int, min_entropy_bits: float) -> SequenceJudge: ...


@dataclass(frozen=True)
class PatternSequenceGoal:
    """Sequences that match a pattern."""

    pattern: str
    name: str = ""

    @property
    def title(self) -> str:
        return f"a match of {self.name or self.pattern}"

    def judge(self, subject: Subject, sequences: Sequence[str], min_entropy_bits: float) -> Judged:  # noqa: ARG002
        """A match that is not of low complexity."""
        marked = [[(match.start, match.end) for match in find_pattern(self.pattern, text)] for text in sequences]
        return Judged(np.array([bool(found) for found in marked]) & varied(sequences, min_entropy_bits), marked)

    def on_natural(self, subject: Subject, natural: Sequence[Example], length: int, min_entropy_bits: float) -> SequenceJudge:
        """How often natural stretches of that length match."""
        texts = [example.text[:length] for example in natural if len(example.text) >= min(length, max(len(one.text) for one in natural))][:MAX_NATURAL]
        hits = self.judge(subject, texts, min_entropy_bits).hits
        return SequenceJudge(what=f"the pattern {self.pattern}, outside of sequences of low complexity", natural=_share(hits))


@dataclass(frozen=True)
class LabelSequenceGoal:
    """Sequences in which a probe of residues finds a run that is long enough to be an instance of the label."""

    kind: str
    value: str
    site: str
    probe: Probe
    threshold: float
    """Log odds above which a residue counts; the one of the highest F1 on a part of the fit side that the probe was not fitted on."""
    min_run: int
    """Residues; 9 in 10 natural instances are at least as long."""

    @property
    def title(self) -> str:
        return f"{self.kind}={self.value}"

    @classmethod
    def fit(cls, kind: str, value: str, site: str, subject: Subject, examples: Sequence[Example]) -> "LabelSequenceGoal":
        """Fit the probe on natural proteins, without any edit.

        Raises:
            CorpusError: when too few of them carry the label.
        """
        check_carriers(kind, value, examples, "the text that probes are fitted on")
        ordered = sorted(examples, key=lambda example: carries(example, kind, value))  # so that both parts hold some that carry it
        sides = [[example for number, example in enumerate(ordered) if bool(number % TUNED_EVERY) == is_fitted] for is_fitted in (True, False)]
        (x, y, _), (x_tuned, y_tuned, _) = (residues(subject, side, site, kind, value) for side in sides)
        probe = fit_logistic(x, y)
        lengths = [span.end - span.start for example in examples for span in example.spans if (span.name, span.value) == (kind, value)]
        return cls(kind, value, site, probe, best_threshold(probe.scores(x_tuned)[:, 0], y_tuned), max(1, int(np.quantile(lengths, SHORT_SPANS))))

    def judge(self, subject: Subject, sequences: Sequence[str], min_entropy_bits: float) -> Judged:
        """A run of residues above the threshold, in a sequence that is not of low complexity."""
        examples = [Example(str(number), text, str(number)) for number, text in enumerate(sequences)]
        x, _, owner = residues(subject, examples, self.site, self.kind, self.value)
        above = self.probe.scores(x)[:, 0] > self.threshold
        marked = [[run for run in runs(above[owner == number]) if run[1] - run[0] >= self.min_run] for number in range(len(sequences))]
        return Judged(np.array([bool(found) for found in marked]) & varied(sequences, min_entropy_bits), marked)

    def on_natural(self, subject: Subject, natural: Sequence[Example], length: int, min_entropy_bits: float) -> SequenceJudge:
        """Held-out stretches round an instance of the label, stretches of proteins without one, and residues of both.

        Raises:
            CorpusError: when too few held-out proteins carry the label.
        """
        check_carriers(self.kind, self.value, natural, "held-out text")
        within = [example for example in natural if carries(example, self.kind, self.value)][:MAX_NATURAL]
        without = [example for example in natural if not carries(example, self.kind, self.value)][:MAX_NATURAL]
        found, alarms = (self.judge(subject, [self._stretch(example, length) for example in side], min_entropy_bits).hits for side in (within, without))
        x, y, _ = residues(subject, [*within, *without], self.site, self.kind, self.value)
        scores = self.probe.scores(x)[:, 0]
        above = scores > self.threshold
        return SequenceJudge(
            what=f"a logistic probe of {self.title} on the unedited subject's activations at {self.site}, fitted on natural proteins: {self.min_run} residues "
            "or more in a row", natural=_share(found), natural_without=_share(alarms), auroc=float(auroc(scores, y, np.ones((1, len(y))))[0]),
            precision=float((above & y).sum() / max(above.sum(), 1)), recall=float((above & y).sum() / max(y.sum(), 1)))

    def _stretch(self, example: Example, length: int) -> str:
        """So many residues, with the first instance of the label in the middle where there is one."""
        span = next((span for span in example.spans if (span.name, span.value) == (self.kind, self.value)), None)
        middle = (span.start + span.end) // 2 if span else length // 2
        start = min(max(0, middle - length // 2), max(0, len(example.text) - length))
        return example.text[start:start + length]


def sequence_goal(text: str, subject: Subject, site: str, fit: Sequence[Example]) -> SequenceGoal:
    """A goal from its form on the command line: `pattern: zinc_finger_C2H2`, `pattern: R-G-D`, `label: transmembrane region=helix`.

    Raises:
        ConfigError: for another form, and patterns that cannot be read.
        CorpusError: when too few proteins carry the label.
    """
    kind, colon, rest = (part.strip() for part in text.partition(":"))
    if not colon or kind not in ("pattern", "label") or not rest:
        raise ConfigError(asked=f"use {text!r} as a goal for sequences", why="it is neither a pattern nor a label",
                          instead="write 'pattern: zinc_finger_C2H2', 'pattern: R-G-D' or 'label: transmembrane region=helix'")
    if kind == "pattern":
        pattern = named_pattern(rest)
        return PatternSequenceGoal(pattern, rest if pattern != rest else "")
    name, equals, value = rest.partition("=")
    if not equals:
        raise ConfigError(asked=f"use {text!r} as a goal", why="the label names no value",
                          instead="write kind=value, such as 'label: signal peptide=signal peptide'")
    return LabelSequenceGoal.fit(name, value, site, subject, fit)


def carries(example: Example, kind: str, value: str) -> bool:
    return any((span.name, span.value) == (kind, value) for span in example.spans)


def check_carriers(kind: str, value: str, examples: Sequence[Example], where: str) -> int:
    """Number of examples that carry the label.

    Raises:
        CorpusError: when they are too few.
    """
    n = sum(carries(example, kind, value) for example in examples)
    if not MIN_CARRIERS <= n <= len(examples) - MIN_CARRIERS:
        known = sorted({f"{span.name}={span.value}" for example in examples for span in example.spans if span.name != UNLABELLED})
        raise CorpusError(asked=f"judge sequences by {kind}={value}", why=f"{n} of {len(examples)} proteins of {where} carry it, and {MIN_CARRIERS} with and "
                          f"{MIN_CARRIERS} without it are needed", instead=f"give one of {', '.join(known[:8])}, or more text (probe_tokens)" if known else
                          "give a pattern, or a corpus with annotations")
    return n


def residues(subject: Subject, examples: Sequence[Example], site: str, kind: str, value: str,
             ) -> tuple[Float[np.ndarray, "token d_site"], Bool[np.ndarray, " token"], Int[np.ndarray, " token"]]:
    """Activations of all residues whose labels are known, whether they carry the label, and whose they are; example by example."""
    parts: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for group in batches_by_length(subject.n_tokens(list(examples)), BATCH_TOKENS, subject.ref().token_policy):
        batch = subject.prepare([examples[index] for index in group])
        x, local, start = subject.capture(batch, [site])[site].float().cpu().numpy(), batch.example.numpy(), batch.char_start.numpy()
        for number, index in enumerate(group):
            own = local == number
            inside, known = np.zeros(int(own.sum()), dtype=bool), np.ones(int(own.sum()), dtype=bool)
            for span in examples[index].spans:
                covered = (start[own] >= span.start) & (start[own] < span.end)
                inside |= covered & ((span.name, span.value) == (kind, value))
                known &= ~(covered & (span.name == UNLABELLED))
            parts[index] = x[own][known], inside[known]
    order = range(len(examples))
    owner = np.repeat(np.arange(len(examples)), [len(parts[index][1]) for index in order])
    return np.concatenate([parts[index][0] for index in order]), np.concatenate([parts[index][1] for index in order]), owner


def best_threshold(scores: Float[np.ndarray, " unit"], y: Bool[np.ndarray, " unit"]) -> float:
    """The score above which F1 is highest: midway to the next one."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(y[order])
    best = int(np.argmax(2 * hits / (np.arange(1, len(y) + 1) + max(int(y.sum()), 1))))
    after = scores[order[best + 1]] if best + 1 < len(y) else scores[order[best]] - 1
    return float((scores[order[best]] + after) / 2)


def runs(above: Bool[np.ndarray, " unit"]) -> list[Run]:
    """Stretches of units that are all above."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], above.astype(np.int8), [0]])))
    return [(int(start), int(end)) for start, end in zip(edges[::2], edges[1::2], strict=True)]


def varied(sequences: Sequence[str], min_entropy_bits: float) -> Bool[np.ndarray, " sequence"]:
    """Which are not of low complexity."""
    return np.array([entropy_bits(text) >= min_entropy_bits for text in sequences], dtype=bool)


def _share(hits: Bool[np.ndarray, " sequence"]) -> MetricValue:
    return wilson(int(hits.sum()), len(hits), "sequences")
