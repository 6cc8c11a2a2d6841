"""Near copies in a selection: the leakage guard, and near duplicates among what is chosen.

Two texts are near copies when their Jaccard index over character 5-grams reaches select.near_jaccard (corpus/minhash.py), directly or by way of other
texts. The guard keeps training text apart from held-out text: it concerns the selection; for the general text of a run, corpus.dedup = "near" with
corpus.dedup_action = "group" keeps copies on one side of the split.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from sparselight.corpus import ListCorpus
from sparselight.corpus.dedup import exact_roots, near_roots
from sparselight.protocols import Example
from sparselight.select.config import SelectConfig

HELD_OUT_COPY, SEED_COPY, NEAR_DUPLICATE = "held_out_copies", "seed_copies", "near_duplicates"


@dataclass(frozen=True)
class Kept:
    """What passed, in order, and what did not: the reason and how many had passed before."""

    examples: list[int]
    left_out: list[tuple[int, str]]

    def counts(self, n_kept: int | None = None) -> Counter[str]:
        """How many were left out for each reason before the first `n_kept` were found."""
        return Counter(reason for before, reason in self.left_out if n_kept is None or before < n_kept)


class Copies:
    """The clusters of near copies of a corpus and the seed texts beside it.

    Args:
        held_out: which examples are held out; without it there is nothing to guard.
    """

    def __init__(self, examples: Sequence[Example], outside: Sequence[Example], seeds: Iterable[int], config: SelectConfig,
                 held_out: Bool[np.ndarray, " example"] | None):
        self.config, self.held_out, self.n_unchecked = config, held_out, 0
        self.cluster: Int[np.ndarray, " example"] | None = None
        if (config.guard != "off" and held_out is not None) or config.near_duplicates == "drop":
            whole = ListCorpus([*examples, *outside], "examples and seed texts")
            self.cluster, self.n_unchecked = near_roots(whole, exact_roots(whole), config.near_jaccard)
            self.seed_clusters = set(self.cluster[[*seeds, *range(len(examples), len(whole))]].tolist())
            self.held_out_clusters = set() if held_out is None else set(self.cluster[:len(examples)][held_out].tolist())

    def guarded(self, ranked: Sequence[int], seeds: set[int]) -> Kept:
        """A ranking without what the guard leaves out; with `report` nothing is left out, only counted."""
        if self.cluster is None or self.held_out is None or self.config.guard == "off":
            return Kept(list(ranked), [])
        kept: list[int] = []
        left_out: list[tuple[int, str]] = []
        for index in ranked:
            reason = "" if index in seeds else self._leak(index)
            if reason:
                left_out.append((len(kept), reason))
            if not reason or self.config.guard == "report":
                kept.append(index)
        return Kept(kept, left_out)

    def without_near_duplicates(self, ranked: Sequence[int], seeds: set[int]) -> Kept:
        """A ranking without near copies of seeds and of what stands before them."""
        if self.cluster is None or self.config.near_duplicates == "keep":
            return Kept(list(ranked), [])
        kept: list[int] = []
        left_out: list[tuple[int, str]] = []
        taken = set(self.seed_clusters)
        for index in ranked:
            cluster = int(self.cluster[index])
            if index not in seeds and cluster in taken:
                left_out.append((len(kept), NEAR_DUPLICATE))
                continue
            taken.add(cluster)
            kept.append(index)
        return Kept(kept, left_out)

    def _leak(self, index: int) -> str:
        assert self.cluster is not None and self.held_out is not None
        cluster = int(self.cluster[index])
        if self.held_out[index]:
            return SEED_COPY if cluster in self.seed_clusters else ""
        return HELD_OUT_COPY if cluster in self.held_out_clusters else ""
