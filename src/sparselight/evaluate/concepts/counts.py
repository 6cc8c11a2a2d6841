"""Counts of every (latent, concept) pair at every threshold, in one pass over the tokens of one side: what rules of association are functions of.

Tokens are encoded chunk by chunk and forgotten, so memory grows with latents x concepts x thresholds (4 bytes each, twice) and not with tokens. Chunks end
where a group ends, so that no span, shuffled or not, is met twice. Several sets of marks (labels in place, and shuffled) are counted in the same pass.
Owns: PairCounts. Refuses nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from sparselight.evaluate.case import Column, Tokens
from sparselight.evaluate.concepts.firing import Firing, by_latent
from sparselight.evaluate.concepts.marks import Marks
from sparselight.evaluate.contender import Contender
from sparselight.protocols import Codes, Progress, no_progress

CHUNK_TOKENS = 16_384
BLOCK_PAIRS = 200_000  # latent x concept pairs of one product

Thresholds = Float[np.ndarray, "threshold latent"]
Pairs = Int[np.ndarray, "threshold latent concept"]


@dataclass(slots=True)
class PairCounts:
    """Sums over the tokens of one side. Counts of two sides with the same thresholds and concepts add up."""

    hits: Pairs
    """Tokens that carry the concept and on which the latent is above the threshold."""
    spans_found: Pairs
    """Spans of the concept of which at least one token is such."""
    n_fires: Int[np.ndarray, "threshold latent"]
    n_labelled: Int[np.ndarray, " concept"]
    n_spans: Int[np.ndarray, " concept"]
    n_units: int

    @classmethod
    def zero(cls, thresholds: Thresholds, marks: Marks) -> "PairCounts":
        """Before any token; what the concepts are is known already."""
        shape = (*thresholds.shape, marks.n_concepts)
        return cls(np.zeros(shape, dtype=np.int32), np.zeros(shape, dtype=np.int32), np.zeros(thresholds.shape, dtype=np.int64), marks.n_labelled,
                   marks.n_spans, marks.n_units)

    def add(self, firing: Firing, marks: Marks) -> None:
        """Take in a chunk, its thresholds in the order of this object."""
        n_concepts, last = self.hits.shape[2], len(self.hits) - 1
        size = max(1, BLOCK_PAIRS // max(1, n_concepts))
        for start in range(0, firing.n_latents, size):
            part = slice(start, min(start + size, firing.n_latents))
            both = zip(firing.hits(part, marks.ones), firing.spans_found(part, marks.spans, marks.of_span), strict=True)
            for number, (hits, spans) in enumerate(both):
                self.hits[last - number, part] += hits
                self.spans_found[last - number, part] += spans

    def __add__(self, other: "PairCounts") -> "PairCounts":
        return PairCounts(self.hits + other.hits, self.spans_found + other.spans_found, self.n_fires + other.n_fires, self.n_labelled + other.n_labelled,
                          self.n_spans + other.n_spans, self.n_units + other.n_units)

    def take(self, thresholds: Sequence[int]) -> "PairCounts":
        """The counts at some of the thresholds."""
        chosen = list(thresholds)
        return PairCounts(self.hits[chosen], self.spans_found[chosen], self.n_fires[chosen], self.n_labelled, self.n_spans, self.n_units)

    def sorted_back(self, order: Int[np.ndarray, "threshold latent"]) -> "PairCounts":
        """Counts at thresholds that were sorted for each latent, in the order before."""
        inverse = np.argsort(order, axis=0)
        hits, spans = (np.take_along_axis(counts, inverse[:, :, None], axis=0) for counts in (self.hits, self.spans_found))
        return PairCounts(hits, spans, np.take_along_axis(self.n_fires, inverse, axis=0), self.n_labelled, self.n_spans, self.n_units)


@torch.no_grad()
def largest_activations(tokens: Tokens, contender: Contender, n_tokens: int) -> Float[np.ndarray, " latent"]:
    """The largest activation of each latent over at most `n_tokens` evenly spaced tokens, 0 where it is never above 0."""
    coder = contender.sparse
    assert coder is not None
    rows = np.unique(np.linspace(0, tokens.n_tokens - 1, min(n_tokens, tokens.n_tokens)).astype(np.int64))
    result = np.zeros(coder.n_latents)
    for start in range(0, len(rows), CHUNK_TOKENS):
        codes = coder.encode(contender.there(tokens.read(rows[start:start + CHUNK_TOKENS])))
        np.maximum.at(result, codes.latents.cpu().numpy(), codes.values.float().cpu().numpy())
    return result


@torch.no_grad()
def count_pairs(tokens: Tokens, contender: Contender, marks: Sequence[Marks], thresholds: Thresholds, progress: Progress = no_progress) -> list[PairCounts]:
    """Count all pairs in one pass.

    Args:
        marks: labels of these tokens, in one or more versions.
        thresholds: in any order.

    Returns:
        Counts for each version of the marks.
    """
    coder = contender.sparse
    assert coder is not None
    order = np.argsort(thresholds, axis=0, kind="stable")
    ascending = np.take_along_axis(thresholds, order, axis=0)
    counts, done = [PairCounts.zero(thresholds, version) for version in marks], 0
    for rows in group_chunks(tokens.group, CHUNK_TOKENS):
        firing = Firing.of(by_latent(_on_cpu(coder.encode(contender.there(tokens.read(rows))))), ascending)
        for version, sums in zip(marks, counts, strict=True):
            sums.n_fires += firing.n_fires
            sums.add(firing, Marks(version.matrix[rows], version.group[rows], version.n_groups))
        done += len(rows)
        progress(done, tokens.n_tokens)
    return [sums.sorted_back(order) for sums in counts]


def group_chunks(group: Column, n_tokens: int) -> Iterator[Column]:
    """Token indices by group, whole groups together, about `n_tokens` at a time."""
    rows = np.argsort(group, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(group[rows])) + 1, len(rows))
    start = 0
    for number, end in enumerate(ends.tolist()):
        if end - start >= n_tokens or number == len(ends) - 1:
            yield rows[start:end]
            start = end


def _on_cpu(codes: Codes) -> Codes:
    return Codes(codes.values.float().cpu(), codes.latents.cpu(), codes.indptr.cpu(), codes.n_latents)
