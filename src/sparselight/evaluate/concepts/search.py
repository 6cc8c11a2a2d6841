"""The search of all latents against all concepts: for each concept the latents that fit it best, for each latent its best concept.

Latents, thresholds and concepts are chosen by their scores on the fit side; nothing here reads a held-out value except the p-values of all
pairs, each at the threshold that the fit side chose. Work goes in blocks of latents, so that memory does not grow with their number.
Owns: the search. Refuses nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from sparselight.evaluate.concepts.chance import FisherBound, Screen
from sparselight.evaluate.concepts.firing import Firing, Ranks
from sparselight.evaluate.concepts.marks import Marks

BLOCK_PAIRS = 200_000  # latent x concept pairs held at once: the arrays of a block stay in the processor's caches


class Choice(NamedTuple):
    """The best pairs by one criterion: `latent` is -1 where none scores above 0."""

    latent: Int[np.ndarray, "rank concept"]
    threshold: Int[np.ndarray, "rank concept"]
    """Number in the grid."""
    score: Float[np.ndarray, "rank concept"]


class LatentChoice(NamedTuple):
    """The best concept of each latent by F1: -1 where none scores above 0."""

    concept: Int[np.ndarray, " latent"]
    threshold: Int[np.ndarray, " latent"]
    score: Float[np.ndarray, " latent"]


@dataclass(frozen=True, slots=True)
class Found:
    """What a search chose."""

    by_concept: dict[str, Choice]
    by_latent: LatentChoice
    screen: Screen | None


class HeldOutSide(NamedTuple):
    """Where the p-values of all pairs are taken."""

    firing: Firing
    marks: Marks
    level: float
    """p-values above it are not kept."""


def search(firing: Firing, ranks: Ranks | None, marks: Marks, n_best: int, by_domain: bool, held_out: HeldOutSide | None = None) -> Found:
    """Search all pairs on the fit side.

    Criteria: `f1`, 2 TP / (fires + labelled); with `by_domain` also `f1_domain`, the harmonic mean of precision and the share of spans of which
    at least one unit fires (InterPLM); `auroc`, of the activations. A pair's threshold is the one with its highest score, the lowest among equals.

    Args:
        ranks: of the same activations; without them there is no criterion `auroc`.
        n_best: latents to keep for each concept.
        held_out: where to take p-values of all pairs; none are taken without it.
    """
    criteria = ["f1", *(["f1_domain"] if by_domain else []), *(["auroc"] if ranks is not None else [])]
    best = {criterion: _Best.empty(n_best, marks.n_concepts) for criterion in criteria}
    own = LatentChoice(np.full(firing.n_latents, -1), np.zeros(firing.n_latents, dtype=np.int64), np.zeros(firing.n_latents))
    test = _Test.of(held_out) if held_out is not None else None
    for part in _blocks(firing.n_latents, marks.n_concepts):
        alive = firing.n_fires[0, part] > 0
        over = _best_thresholds(firing, part, marks, by_domain)
        for criterion, pairs in over.items():
            best[criterion].add(pairs.score, pairs.threshold, part.start)
        f1, threshold = over["f1"].score, over["f1"].threshold
        if ranks is not None:
            best["auroc"].add(np.where(alive[:, None], ranks.auroc(part, marks.ones, marks.n_labelled), 0.0), threshold, part.start)
        concept, row = f1.argmax(axis=1), np.arange(len(f1))
        own.score[part], own.threshold[part] = f1[row, concept], threshold[row, concept]
        own.concept[part] = np.where(f1[row, concept] > 0, concept, -1)
        if test is not None:
            test.add(part, threshold, alive)
    return Found({criterion: kept.choice() for criterion, kept in best.items()}, own, test.screen() if test is not None else None)


def best_per_concept(firing: Firing, marks: Marks) -> Choice:
    """For each concept the latent and threshold of the highest F1, for concepts so many and rare that most pairs share no unit (token ids)."""
    latent, threshold, score = np.full(marks.n_concepts, -1), np.zeros(marks.n_concepts, dtype=np.int64), np.zeros(marks.n_concepts)
    touching = sparse.csr_matrix(firing.levels[0].shape, dtype=np.int32)
    for number in reversed(range(len(firing.levels))):
        touching = touching + firing.levels[number]
        for part in _blocks(firing.n_latents, 512):
            hits = (touching[part] @ marks.ones).tocoo()
            f1 = 2 * hits.data / (firing.n_fires[number, part][hits.row] + marks.n_labelled[hits.col])
            order = np.lexsort((hits.row, -f1, hits.col))
            concept, first = np.unique(hits.col[order], return_index=True)
            value, row = f1[order[first]], hits.row[order[first]] + part.start
            # A lower threshold wins among equals, and at one threshold the lower latent: blocks come in ascending order.
            better = (value > score[concept]) | ((value == score[concept]) & (number < threshold[concept]))
            latent[concept[better]], threshold[concept[better]], score[concept[better]] = row[better], number, value[better]
    return Choice(latent[None], threshold[None], score[None])


@dataclass(slots=True)
class _Best:
    """The best latents of each concept so far, in descending order."""

    score: np.ndarray
    latent: np.ndarray
    threshold: np.ndarray

    @classmethod
    def empty(cls, n_best: int, n_concepts: int) -> "_Best":
        shape = (n_best, n_concepts)
        return cls(np.zeros(shape), np.full(shape, -1), np.zeros(shape, dtype=np.int64))

    def add(self, score: np.ndarray, threshold: np.ndarray, start: int) -> None:
        """Take in a block of latents; among equals the lowest latent stands first."""
        score, concept, found = score.copy(), np.arange(score.shape[1]), []
        for _ in range(min(len(self.score), len(score))):
            row = score.argmax(axis=0)
            found.append((score[row, concept], row + start, threshold[row, concept]))
            score[row, concept] = -1
        values, latents, levels = (np.concatenate([before, np.stack(column)]) for before, column in
                                   zip((self.score, self.latent, self.threshold), zip(*found, strict=True), strict=True))
        order = np.argsort(-values, axis=0, kind="stable")[: len(self.score)]
        self.score, self.latent, self.threshold = (np.take_along_axis(column, order, axis=0) for column in (values, latents, levels))

    def choice(self) -> Choice:
        return Choice(np.where(self.score > 0, self.latent, -1), self.threshold, self.score)


@dataclass(slots=True)
class _Test:
    """The p-values of all pairs of latents that live on the fit side."""

    side: HeldOutSide
    bound: FisherBound
    kept: list[np.ndarray]
    n_tests: int = 0

    @classmethod
    def of(cls, side: HeldOutSide) -> "_Test":
        return cls(side, FisherBound.of(side.firing.n_units), [])

    def add(self, part: slice, threshold: np.ndarray, alive: np.ndarray) -> None:
        firing, marks = self.side.firing, self.side.marks
        hits, n_fires = np.zeros(threshold.shape, dtype=np.int64), firing.n_fires[threshold, np.arange(part.start, part.stop)[:, None]]
        for number, found in zip(reversed(range(len(firing.levels))), firing.hits(part, marks.ones), strict=True):
            np.copyto(hits, found, where=threshold == number)
        log_p = self.bound.log_p(hits[alive], n_fires[alive], np.broadcast_to(marks.n_labelled, hits.shape)[alive])
        self.kept.append(log_p[log_p <= np.log(self.side.level)])
        self.n_tests += log_p.size

    def screen(self) -> Screen:
        return Screen.of(np.concatenate(self.kept), self.n_tests, self.side.level)


def _blocks(n_latents: int, n_concepts: int) -> Iterator[slice]:
    size = max(1, BLOCK_PAIRS // max(1, n_concepts))
    return (slice(start, min(start + size, n_latents)) for start in range(0, n_latents, size))


@dataclass(slots=True)
class _OverThresholds:
    """The best threshold of each pair of a block so far, when they come from the highest down: the lowest wins among equals."""

    score: Float[np.ndarray, "latent concept"]
    threshold: Int[np.ndarray, "latent concept"]

    def consider(self, number: int, score: Float[np.ndarray, "latent concept"]) -> None:
        better = score >= self.score
        np.copyto(self.score, score, where=better)
        np.copyto(self.threshold, number, where=better)


def _best_thresholds(firing: Firing, part: slice, marks: Marks, by_domain: bool) -> dict[str, _OverThresholds]:
    """Score and threshold of every pair of a block, by F1 and, where asked for, by F1 of domains."""
    shape = (part.stop - part.start, marks.n_concepts)
    over = {criterion: _OverThresholds(np.zeros(shape), np.zeros(shape, dtype=np.int8)) for criterion in ("f1", *(["f1_domain"] if by_domain else []))}
    spans = firing.spans_found(part, marks.spans, marks.of_span) if by_domain else iter(())
    for number, hits in zip(reversed(range(len(firing.levels))), firing.hits(part, marks.ones), strict=True):
        n_fires = firing.n_fires[number, part, None]
        over["f1"].consider(number, 2 * hits / np.maximum(n_fires + marks.n_labelled, 1))
        if by_domain:
            precision, recall = hits / np.maximum(n_fires, 1), next(spans) / np.maximum(marks.n_spans, 1)
            product = 2 * precision * recall
            over["f1_domain"].consider(number, np.divide(product, precision + recall, out=product, where=product > 0))
    return over


def thresholds_of(fracs: Sequence[float], largest: Float[np.ndarray, " latent"]) -> Float[np.ndarray, "threshold latent"]:
    """The grid: each fraction of each latent's largest activation on the fit side."""
    return np.array(fracs)[:, None] * largest
