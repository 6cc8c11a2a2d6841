"""Makes the cards of one coder, the latents of one file of activations at a time.

Owns what a card says and, where nothing can be said, why: a latent that never fires, one that fires in a single example or too rarely, one that no
label meets. Refuses nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import sparse

from sparselight.interpret.activations import Reading
from sparselight.interpret.contexts import Windows
from sparselight.interpret.controls import Reference
from sparselight.interpret.directions import Effects
from sparselight.interpret.evidence import graded
from sparselight.interpret.examples import card_contexts
from sparselight.interpret.label_rule import Found, LabelRule
from sparselight.interpret.patches import WholeExamples
from sparselight.records import Card, Neighbour

DECILES = np.linspace(0, 1, 11)


class Weights(NamedTuple):
    """What the decoder directions of a coder say, one entry a latent."""

    effects: Effects
    neighbours: list[list[Neighbour]]
    parents: list[list[Neighbour]]


@dataclass(frozen=True, slots=True)
class CardMaker:
    """Cards of one coder."""

    source: str
    reading: Reading
    rule: LabelRule
    references: Mapping[str, Reference]
    weights: Weights
    windows: Windows
    sizes: Mapping[tuple[str, str], int]
    """Tokens that were read, by (role, set)."""
    min_fires: int
    n_contexts: int
    whole: WholeExamples | None = None
    """Of a corpus with images."""

    def cards(self, start: int, activations: sparse.csc_matrix) -> list[Card]:
        """The cards of the latents from `start` on.

        Args:
            activations: [token of the frame, latent] of those latents.
        """
        found = self.rule.find(activations, start) if self.rule.hypotheses.n_hypotheses else None
        return [self._card(start, number, activations, found) for number in range(activations.shape[1])]

    def _card(self, start: int, number: int, activations: sparse.csc_matrix, found: Found | None) -> Card:
        latent, part = start + number, slice(activations.indptr[number], activations.indptr[number + 1])
        fired, values = activations.indices[part], activations.data[part]
        n_fires = sum(int(counts[latent]) for counts in self.reading.n_fires.values())
        why = self._why_not(n_fires, number, fired, found)
        general = self._fire_rate(latent, "general")
        peaks = sorted((peak for kept in self.reading.strongest.values() for peak in kept.of(latent)), key=lambda peak: -peak.value)
        promotes, suppresses = self.weights.effects[latent] if n_fires else ([], [])
        card = Card(
            latent=latent, source=self.source, fire_rate=general, domain_fire_rate=self._fire_rate(latent, "domain", general),
            max_activation=float(self.reading.largest[latent]), explanation=None, grade_why=why, promotes=promotes, suppresses=suppresses,
            contexts=card_contexts(peaks, fired, values, self.windows, self.n_contexts, self.whole.of(latent) if self.whole else None),
            neighbours=self.weights.neighbours[latent], parents=self.weights.parents[latent], n_fires=n_fires, n_tokens=sum(self.sizes.values()),
            quantiles=np.quantile(values, DECILES).tolist() if len(values) else [],
        )
        return card if why or found is None else graded(card, [self.rule.explanation(found, number, self.references)])

    def _why_not(self, n_fires: int, number: int, fired: np.ndarray, found: Found | None) -> str:
        """Why a latent has no explanation; empty where it has one."""
        if not n_fires:
            return f"it fires on none of the {sum(self.sizes.values()):,} tokens that were read"
        n_explain = int(np.searchsorted(fired, self.rule.frame.n_explain))
        if n_explain < self.min_fires:
            sampled = f"{self.rule.frame.n_explain:,} explain tokens of the sample"
            return f"it fires on {n_explain} of the {sampled}, at least {self.min_fires} are needed (explain.min_fires)"
        if found is None:
            return "no label occurs on enough tokens and groups to be a hypothesis (explain.min_support, explain.min_groups)"
        if found.n_examples[number] < 2:
            return "it fires in one example only, from which what it stands for cannot be told"
        return "" if found.choice.hypothesis[number] >= 0 else "no hypothesis holds for any token on which it fires"

    def _fire_rate(self, latent: int, name: str, default: float = 0.0) -> float:
        """Fraction of the held-out tokens of a set on which a latent fires; the default where there is no such set."""
        counts = self.reading.n_fires.get(("score", name))
        return default if counts is None else int(counts[latent]) / self.sizes["score", name]
