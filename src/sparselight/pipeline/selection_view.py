"""What a person wants to see of selections: counts, the score curve, sample texts, agreement with labels, overlap between strategies."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from sparselight.errors import ConfigError
from sparselight.protocols import Example
from sparselight.records import Part
from sparselight.select import Selection, labels_of
from sparselight.subjects import HuggingFaceSubject

CURVE_POINTS = 10
N_SAMPLES, SAMPLE_CHARS = 6, 160


class Sample(Part):
    """A text of a selection."""

    rank: int
    """From 1, seeds not counted."""
    id: str
    score: float
    is_held_out: bool
    text: str
    """Its beginning."""


class CurvePoint(Part):
    """The score curve at one rank."""

    rank: int
    n_tokens: int
    """Of the selection up to there, seeds not counted."""
    score: float


class Truth(Part):
    """How a selection agrees with examples that are known to be of the domain. Seeds count on neither side."""

    label: str
    n_true: int
    """Examples with that label."""
    n_found: int
    """Of them, selected."""
    recall: float | None
    precision: float | None
    base_rate: float
    """Precision of a random choice."""


class Strategy(Part):
    """One way of selecting and what it chose."""

    name: str
    n_examples: int
    n_seeds: int
    n_held_out: int
    n_tokens: int
    seed_counts: dict[str, int]
    left_out: dict[str, int]
    terms: list[str]
    curve: list[CurvePoint]
    samples: list[Sample]
    truth: Truth | None


class SelectResult(Part):
    """What a selection came to: the one object that `--json` prints."""

    source: str
    n_examples: int
    """Of the corpus, both sides."""
    max_tokens: int
    guard: str
    strategies: list[Strategy]
    """The settings' own first."""
    overlap: dict[str, dict[str, float]]
    """Shared examples / examples in either (Jaccard index), seeds not counted."""
    next_command: str


class SelectPlan(Part):
    """What a selection would do."""

    source: str
    strategies: list[str]
    max_tokens: int
    n_examples: int | None
    """None where the corpus is not read yet."""
    n_chars: int | None
    finished: bool
    """Whether the selection of the settings themselves stands there already."""
    seconds: float | None


def describe(
    name: str, selection: Selection, examples: Sequence[Example], n_train: int, subject: HuggingFaceSubject, truth: str | None
) -> Strategy:
    """What a person wants to see of a selection."""
    found = [(index, score) for index, score, is_seed in zip(selection.examples, selection.scores, selection.is_seed, strict=True) if not is_seed]
    sizes = np.cumsum(subject.n_tokens([examples[index] for index, _ in found]))
    ends = sorted({round(len(found) * (point + 1) / CURVE_POINTS) - 1 for point in range(CURVE_POINTS)} - {-1}) if found else []
    shown = sorted({round(at * (len(found) - 1) / max(N_SAMPLES - 1, 1)) for at in range(N_SAMPLES)}) if found else []
    return Strategy(
        name=name, n_examples=len(selection.examples), n_seeds=sum(selection.is_seed), n_tokens=selection.n_tokens,
        n_held_out=sum(index >= n_train for index in selection.examples), seed_counts=selection.seed_counts, left_out=selection.left_out,
        terms=selection.terms, curve=[CurvePoint(rank=end + 1, n_tokens=int(sizes[end]), score=found[end][1]) for end in ends],
        samples=[Sample(rank=at + 1, id=examples[index].id, score=score, is_held_out=index >= n_train,
                        text=" ".join(examples[index].text.split())[:SAMPLE_CHARS]) for at in shown for index, score in [found[at]]],
        truth=None if truth is None else agreement(truth, selection, examples),
    )


def agreement(label: str, selection: Selection, examples: Sequence[Example]) -> Truth:
    """Recall and precision of a selection against a label; seeds, and what has the very text of a seed, count on neither side.

    Raises:
        ConfigError: when no example has the label.
    """
    having = {index for index, example in enumerate(examples) if label in labels_of(example)}
    if not having:
        raise ConfigError(asked=f"compare with the label {label!r} (--truth)", why=f"none of the {len(examples)} examples has it",
                          instead="give kind=value of a label or span that the corpus has (`sparselight corpus info` lists them)")
    seed_texts = {examples[index].text for index, is_seed in zip(selection.examples, selection.is_seed, strict=True) if is_seed}
    free = {index for index, example in enumerate(examples) if example.text not in seed_texts}
    chosen, true = set(selection.examples) & free, having & free
    n_found = len(chosen & true)
    return Truth(label=label, n_true=len(true), n_found=n_found, recall=n_found / len(true) if true else None,
                 precision=n_found / len(chosen) if chosen else None, base_rate=len(true) / max(len(free), 1))


def overlaps(selections: Mapping[str, Selection]) -> dict[str, dict[str, float]]:
    """Jaccard index of every two selections, seeds not counted."""
    chosen = {name: set(_found(selection)) for name, selection in selections.items()}
    return {a: {b: len(chosen[a] & chosen[b]) / max(len(chosen[a] | chosen[b]), 1) for b in chosen} for a in chosen}


def _found(selection: Selection) -> Iterator[int]:
    return (index for index, is_seed in zip(selection.examples, selection.is_seed, strict=True) if not is_seed)
