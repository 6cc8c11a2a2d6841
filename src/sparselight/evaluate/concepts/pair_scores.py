"""Held-out scores of chosen (latent, concept) pairs with intervals over groups: precision, recall, F1, recall by domain, AUROC.

Formulas, over units: precision = TP / fires, recall = TP / labelled, F1 = 2 TP / (fires + labelled). By domain (InterPLM, arXiv 2412.12101):
recall_domain = spans of which at least one unit fires / spans, f1_domain = the harmonic mean of precision and recall_domain.
AUROC = P(positive > negative) + P(tie) / 2. All but AUROC are ratios of sums over groups; AUROC is resampled by its first-order terms for
clustered data (Obuchowski 1997, Biometrics 53, 567-578). Refuses nothing; what has no denominator is nan.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse

from sparselight.evaluate.concepts.firing import Ranks
from sparselight.evaluate.concepts.marks import Marks
from sparselight.evaluate.concepts.search import Choice
from sparselight.evaluate.statistics import Resampled, Resamples, ratio

BLOCK_CELLS = 400_000  # of a group x pair or resample x pair table held at once
BLOCK_ENTRIES = 1_000_000  # activations of the latents held at once
SCORES = ("precision", "recall", "f1", "recall_domain", "f1_domain", "auroc")


@dataclass(frozen=True, slots=True)
class Pairs:
    """Latents with the concepts that they are tested against, and the activations above which they count as firing."""

    latent: Int[np.ndarray, " pair"]
    concept: Int[np.ndarray, " pair"]
    threshold: Float[np.ndarray, " pair"]

    def __len__(self) -> int:
        return len(self.latent)

    def __getitem__(self, part: slice) -> "Pairs":
        return Pairs(self.latent[part], self.concept[part], self.threshold[part])


Cells = Float[np.ndarray, "group pair"]


@dataclass(frozen=True, slots=True)
class PairSums:
    """Sums over the units of each group for some pairs. `below` and `above` sum over positives the share of negatives below them, and over
    negatives the share of positives above them; a tie counts half."""

    hits: Cells
    fires: Cells
    labelled: Cells
    others: Cells
    spans_found: Cells
    spans: Cells
    below: Cells | None
    above: Cells | None

    @classmethod
    def of(cls, activations: sparse.csr_matrix, marks: Marks, pairs: Pairs, with_auroc: bool = True) -> "PairSums":
        """Sum up [latent, unit] activations."""
        rows = activations[pairs.latent]
        pair, n_groups = np.repeat(np.arange(len(pairs)), np.diff(rows.indptr)), marks.n_groups
        number = marks.numbers(rows.indices, pairs.concept[pair])
        fires, group = rows.data > pairs.threshold[pair], marks.group[rows.indices]
        both = fires & (number > 0)
        labelled = marks.by_group[:, pairs.concept].toarray().astype(np.float64)
        others = marks.units_by_group[:, None] - labelled
        spans = np.unique(pair[both] * (marks.of_span.shape[0] + 1) + number[both])
        span_pair, span = np.divmod(spans, marks.of_span.shape[0] + 1)
        below, above = _orderings(rows, number > 0, pair, group, labelled, others) if with_auroc else (None, None)
        shape = (n_groups, len(pairs))
        return cls(_cells(group[both], pair[both], shape), _cells(group[fires], pair[fires], shape), labelled, others,
                   _cells(marks.group_of_span[span - 1], span_pair, shape), marks.spans_by_group[:, pairs.concept].toarray().astype(np.float64), below, above)

    def scores(self, resamples: Resamples) -> dict[str, Float[np.ndarray, "resample pair"]]:
        """SCORES over all resamples; nan where a resample holds no unit with the concept, for precision where the latent does not fire."""
        hits, fires, labelled, found, spans = (resamples.totals(cells) for cells in (self.hits, self.fires, self.labelled, self.spans_found, self.spans))
        precision, recall_domain = ratio(hits, fires), ratio(found, spans)
        product = np.nan_to_num(precision) * recall_domain
        total = np.nan_to_num(precision) + recall_domain
        f1_domain = np.divide(2 * product, total, out=np.where(np.isnan(recall_domain), np.nan, 0.0), where=total > 0)
        result = {"precision": precision, "recall": ratio(hits, labelled), "f1": ratio(2 * hits, np.where(labelled > 0, fires + labelled, 0)),
                  "recall_domain": recall_domain, "f1_domain": f1_domain}
        if self.below is not None and self.above is not None:
            whole = ratio(self.below.sum(axis=0), self.labelled.sum(axis=0))
            first, second = ratio(resamples.totals(self.below), labelled), ratio(resamples.totals(self.above), resamples.totals(self.others))
            result["auroc"] = np.clip(first + second - whole, 0, 1)
        return result


def score_pairs(activations: sparse.csr_matrix, marks: Marks, pairs: Pairs, resamples: Resamples) -> dict[str, Float[np.ndarray, " pair"]]:
    """Value and 95 % percentile interval of every score of every pair: `f1`, `f1_low`, `f1_high` and so on, and counts. In bounded memory.

    An interval is nan where the score is undefined in any resample, and for a single group.
    """
    parts = []
    for part in _blocks(activations, pairs, marks.n_groups, len(resamples.weights)):
        sums = PairSums.of(activations, marks, pairs[part])
        columns = {"n_fires": sums.fires.sum(axis=0), "n_labelled": sums.labelled.sum(axis=0), "n_hits": sums.hits.sum(axis=0),
                   "n_spans": sums.spans.sum(axis=0)}
        for name, values in sums.scores(resamples).items():
            bounds = np.quantile(values[1:], [0.025, 0.975], axis=0) if resamples.n_groups > 1 else np.full((2, values.shape[1]), np.nan)
            columns |= {name: values[0].copy(), f"{name}_low": bounds[0], f"{name}_high": bounds[1]}
        parts.append(columns)
    if not parts:
        return {name: np.zeros(0) for score in SCORES for name in (score, f"{score}_low", f"{score}_high")} | {
            name: np.zeros(0) for name in ("n_fires", "n_labelled", "n_hits", "n_spans")}
    return {name: np.concatenate([columns[name] for columns in parts]) for name in parts[0]}


def resampled_scores(activations: sparse.csr_matrix, marks: Marks, pairs: Pairs, resamples: Resamples, names: tuple[str, ...],
                     ) -> dict[str, Float[np.ndarray, "resample pair"]]:
    """Scores over all resamples, where an aggregate over pairs needs them."""
    parts = [PairSums.of(activations, marks, pairs[part], "auroc" in names).scores(resamples)
             for part in _blocks(activations, pairs, marks.n_groups, len(resamples.weights))]
    return {name: np.concatenate([scores[name] for scores in parts], axis=1) if parts else np.zeros((len(resamples.weights), 0)) for name in names}


def whole_scores(activations: sparse.csr_matrix, marks: Marks, pairs: Pairs) -> dict[str, Float[np.ndarray, " pair"]]:
    """Scores without intervals and without AUROC: what each shuffle of a null yields."""
    once, whole = Resamples(np.ones((1, 1)), 0), marks.ungrouped()
    return {name: values[0] for name, values in resampled_scores(activations, whole, pairs, once, ("f1", "f1_domain")).items()}


def firing_of(activations: sparse.csr_matrix, pairs: Pairs) -> sparse.csr_matrix:
    """[unit, pair]: 1 where the latent of the pair is above its threshold."""
    rows = activations[pairs.latent]
    pair = np.repeat(np.arange(len(pairs)), np.diff(rows.indptr))
    fires = rows.data > pairs.threshold[pair]
    shape = (activations.shape[1], len(pairs))
    return sparse.coo_matrix((np.ones(int(fires.sum()), dtype=np.int32), (rows.indices[fires], pair[fires])), shape=shape).tocsr()


def chosen_pairs(choice: Choice, rank: int, thresholds: Float[np.ndarray, "threshold latent"]) -> Pairs:
    """The pairs at one rank of a choice, concepts without a latent left out."""
    concept = np.flatnonzero(choice.latent[rank] >= 0)
    latent = choice.latent[rank][concept]
    return Pairs(latent, concept, thresholds[choice.threshold[rank][concept], latent])


def spread(values: Float[np.ndarray, "*resample pair"], some: Bool[np.ndarray, " item"]) -> Float[np.ndarray, "*resample item"]:
    """Scores of the items that have a pair, 0 for the others and where a score is undefined: nothing was found there."""
    result = np.zeros((*values.shape[:-1], len(some)))
    result[..., some] = np.nan_to_num(values)
    return result


def mean_over(values: Float[np.ndarray, "resample concept"], present: Bool[np.ndarray, "resample concept"]) -> Resampled:
    """Mean over the concepts that occur in each resample."""
    return ratio(np.where(present, values, 0).sum(axis=1), present.sum(axis=1))


def _blocks(activations: sparse.csr_matrix, pairs: Pairs, n_groups: int, n_resamples: int) -> Iterator[slice]:
    """Runs of pairs that are few enough, and whose latents hold few enough activations, to be worked on at once."""
    if not len(pairs):
        return
    size = max(1, BLOCK_CELLS // max(n_groups, n_resamples))
    number = np.cumsum(np.diff(activations.indptr)[pairs.latent]) // BLOCK_ENTRIES + np.arange(len(pairs)) // size
    starts = np.flatnonzero(np.diff(number, prepend=-1))
    yield from (slice(start, stop) for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(pairs)], strict=True))


def _orderings(rows: sparse.csr_matrix, positive: Bool[np.ndarray, " entry"], pair: Int[np.ndarray, " entry"], group: Int[np.ndarray, " entry"],
               labelled: Cells, others: Cells) -> tuple[Cells, Cells]:
    """`below` and `above` of PairSums: the rank of a value among all minus its rank among its own class counts the other class below it."""
    n_positive, n_negative = labelled.sum(axis=0), others.sum(axis=0)
    everyone = Ranks.of(rows, n_positive + n_negative)
    rank, sides = everyone.above_zeros.data + everyone.zeros[pair], []
    for chosen, n_own, n_rest, units in ((positive, n_positive, n_negative, labelled), (~positive, n_negative, n_positive, others)):
        own = Ranks.of(_entries(rows, chosen), n_own)
        others_below = rank[chosen] - own.above_zeros.data - own.zeros[pair[chosen]]
        stored = _cells(group[chosen], pair[chosen], labelled.shape)
        total = _cells(group[chosen], pair[chosen], labelled.shape, others_below) + (units - stored) * (everyone.zeros - own.zeros)
        sides.append(ratio(total, np.broadcast_to(n_rest, total.shape)))
    return sides[0], others - sides[1]


def _entries(rows: sparse.csr_matrix, kept: Bool[np.ndarray, " entry"]) -> sparse.csr_matrix:
    indptr = np.concatenate([[0], np.cumsum(kept)])[rows.indptr]
    return sparse.csr_matrix((rows.data[kept], rows.indices[kept], indptr), shape=rows.shape)


def _cells(group: np.ndarray, pair: np.ndarray, shape: tuple[int, int], weights: np.ndarray | None = None) -> Cells:
    return np.bincount(group * shape[1] + pair, weights=weights, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)
