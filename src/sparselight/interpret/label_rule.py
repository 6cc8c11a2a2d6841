"""The label-rule scorer: a statistical explanation used as a classifier of held-out tokens, beside its controls.

For each latent of a file: search on the explain tokens, precision, recall and F1 on the held-out ones, and the same F1 for `rolled_labels` (the search
repeated on shifted labels), `shuffled` (explanations of other latents given to this one), `random_latent` and `raw_neuron` (`controls`).
Source of the rule: InterPLM's feature to concept association (see `search`); the controls are ours. Refuses nothing: where there is no score, its
`why_not` says so.
"""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse

from sparselight.interpret.controls import Reference
from sparselight.interpret.hypotheses import Hypotheses
from sparselight.interpret.scoring import Scores, held_out_f1, labelled_by_group, score
from sparselight.interpret.search import Choice, Columns, firing_matrix, maxima, roll_offsets, rolled, search
from sparselight.interpret.tokens import TokenFrame
from sparselight.records import Evidence, Explanation, MetricValue, Score

SCORER = "label_rule"
EXPLAINER = "statistical"
N_SWAPS = 20  # explanations of other latents that each latent is given


@dataclass(frozen=True, slots=True)
class Found:
    """What was found for the latents of one file."""

    choice: Choice
    scores: Scores
    rolled: Float[np.ndarray, "shuffle latent"]
    swapped: Float[np.ndarray, "swap latent"]
    n_explain: Int[np.ndarray, " latent"]
    """Explain tokens on which each fires."""
    n_examples: Int[np.ndarray, " latent"]
    """Explain examples in which it does."""


class LabelRule:
    """Hypotheses over one frame with all that does not change from latent to latent.

    Args:
        fracs: thresholds to try, as fractions of a latent's largest activation on the explain tokens.
    """

    def __init__(self, frame: TokenFrame, hypotheses: Hypotheses, fracs: Sequence[float], n_shuffles: int, n_bootstrap: int, seed: int):
        self.frame, self.hypotheses, self.fracs, self.seed, self.n_bootstrap = frame, hypotheses, sorted(fracs), seed, n_bootstrap
        columns, n = hypotheses.columns, frame.n_explain
        self.explain, self.held_out = columns.part(slice(0, n)), columns.part(slice(n, None))
        self.labels, self.n_labelled = self.explain.matrix(), self.held_out.n_labelled()
        _, self.group = np.unique(frame.group[n:], return_inverse=True)
        self.by_group = labelled_by_group(self.held_out, self.group)
        parts = [slice(part.start, part.stop) for part in frame.sets]
        self.sides = ([part for part in parts if part.stop <= n], [slice(part.start - n, part.stop - n) for part in parts if part.start >= n])
        self.offsets = [roll_offsets(parts, np.random.default_rng([seed, shuffle])) for shuffle in range(n_shuffles)]

    @property
    def n_groups(self) -> int:
        return self.by_group.shape[1]

    def find(self, activations: sparse.csc_matrix, first_latent: int) -> Found:
        """Search, score and control for some latents.

        Args:
            activations: [token of the frame, latent].
            first_latent: number of the first; the swaps depend on it.
        """
        explain, held_out = activations[: self.frame.n_explain], activations[self.frame.n_explain :]
        largest = maxima(explain)
        thresholds = [frac * largest for frac in self.fracs]

        def one(shuffle: int | None) -> tuple[Choice, Float[np.ndarray, " latent"]]:
            if shuffle is None:
                choice = search(explain, thresholds, self.labels, self.explain.rank)
                return choice, np.zeros(0)
            offsets, n_explain_parts = self.offsets[shuffle], len(self.sides[0])
            choice = search(rolled(explain, self.sides[0], offsets[:n_explain_parts]), thresholds, self.labels, self.explain.rank)
            firing = firing_matrix(rolled(held_out, self.sides[1], offsets[n_explain_parts:]), choice.threshold)
            return choice, held_out_f1(firing, choice.hypothesis, self.held_out, self.n_labelled)

        with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:  # sparse products let other threads run
            found = list(pool.map(one, [None, *range(len(self.offsets))]))
        choice = found[0][0]
        firing = firing_matrix(held_out, choice.threshold)
        scores = score(firing, choice, self.held_out, self.group, self.n_bootstrap, self.seed, self.by_group)
        swapped = _swapped(firing, choice, self.held_out, self.n_labelled, np.random.default_rng([self.seed, first_latent]))
        return Found(choice, scores, np.stack([f1 for _, f1 in found[1:]]), swapped, np.diff(explain.indptr), _n_examples(explain, self.frame.example))

    def reference(self, bins: Iterable[tuple[int, sparse.csc_matrix]]) -> Reference:
        """Held-out F1 of all latents of a control, each with its own best explanation."""
        if not self.hypotheses.n_hypotheses:
            return Reference(np.zeros(0), np.zeros(0))
        n_fires, f1 = [], []
        for _, activations in bins:
            explain, held_out = activations[: self.frame.n_explain], activations[self.frame.n_explain :]
            largest = maxima(explain)
            choice = search(explain, [frac * largest for frac in self.fracs], self.labels, self.explain.rank)
            f1.append(held_out_f1(firing_matrix(held_out, choice.threshold), choice.hypothesis, self.held_out, self.n_labelled))
            n_fires.append(np.diff(explain.indptr))
        return Reference.of(np.concatenate(n_fires), np.concatenate(f1))

    def explanation(self, found: Found, latent: int, references: Mapping[str, Reference]) -> Explanation:
        """The explanation of a latent that has a hypothesis, with its score.

        Args:
            latent: its place in the file.
        """
        hypothesis, scores = int(found.choice.hypothesis[latent]), found.scores
        text, label = self.hypotheses.texts[hypothesis], self.hypotheses.labels[hypothesis]
        made_with = {"seed": str(self.seed)}
        n_held_out = len(self.group)
        if not scores.n_fires[latent]:
            why = f"it fires on none of the {n_held_out:,} held-out tokens"
            nothing = Score(scorer=SCORER, why_not=why, n_negative=n_held_out)
            return Explanation(text=text, label=label, explainer=EXPLAINER, scores=[nothing], made_with=made_with)
        points = {"precision": scores.precision, "recall": scores.recall, "f1": scores.f1}
        values = {name: self._value(found, row, point, latent) for row, (name, point) in enumerate(points.items())}
        rolled_f1, swapped = (_spread(column[:, latent], unit, self.seed) for column, unit in ((found.rolled, "shuffles"), (found.swapped, "latents")))
        near = {name: reference.near(int(found.n_explain[latent]), self.seed) for name, reference in references.items()}
        controls = {"rolled_labels": rolled_f1, "shuffled": swapped, **near}
        evidence = Evidence(**values, control_f1=rolled_f1, threshold=float(found.choice.threshold[latent]), n_fires=int(scores.n_fires[latent]),
                            n_labelled=int(scores.n_labelled[latent]))
        result = Score(
            scorer=SCORER, values=values, controls={name: {"f1": value} for name, value in controls.items() if value is not None},
            n_positive=evidence.n_fires, n_negative=n_held_out - evidence.n_fires,
        )
        return Explanation(text=text, label=label, explainer=EXPLAINER, evidence=evidence, scores=[result], made_with=made_with)

    def _value(self, found: Found, row: int, point: np.ndarray, latent: int) -> MetricValue:
        low, high = (float(bound[row, latent]) if self.n_groups > 1 else None for bound in (found.scores.low, found.scores.high))
        return MetricValue(value=float(point[latent]), low=low, high=high, n=self.n_groups, seeds=[self.seed])


def _spread(values: Float[np.ndarray, " repetition"], unit: str, seed: int) -> MetricValue | None:
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    return MetricValue(value=float(values.mean()), low=float(values.min()), high=float(values.max()), n=len(values), unit=unit, seeds=[seed])


def _swapped(firing: sparse.csc_matrix, choice: Choice, columns: Columns, n_labelled: np.ndarray,
             rng: np.random.Generator) -> Float[np.ndarray, "swap latent"]:
    """Held-out F1 of each latent with the explanations of others of its file; nan where the other's is its own."""
    own = choice.hypothesis
    explained = np.flatnonzero(own >= 0)
    result = np.full((N_SWAPS, len(own)), np.nan)
    if len(explained) < 2:
        return result
    for swap in range(N_SWAPS):
        order = rng.permutation(explained)
        given = np.full_like(own, -1)
        given[order] = own[np.roll(order, 1)]
        other = (given >= 0) & (given != own)
        result[swap, other] = held_out_f1(firing, given, columns, n_labelled)[other]
    return result


def _n_examples(activations: sparse.csc_matrix, example: Int[np.ndarray, " token"]) -> Int[np.ndarray, " latent"]:
    """In how many examples each latent fires; entries of a latent come in order of tokens."""
    owner = example[activations.indices]
    new = np.ones(len(owner), dtype=np.int64)
    new[1:] = owner[1:] != owner[:-1]
    starts = activations.indptr[:-1][np.diff(activations.indptr) > 0]
    new[starts] = 1
    return np.diff(np.concatenate([[0], np.cumsum(new)])[activations.indptr])
