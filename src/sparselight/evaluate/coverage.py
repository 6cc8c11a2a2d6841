"""Coverage: of how many concepts, the rare ones above all, some latent is a detector: token ids, labels of spans, labels of examples.

The paper on specialized SAEs (arXiv 2411.00743) counts the tokens of each frequency bin that have a feature, and does not say when a token
has one. The rule here: among all latents and thresholds the one with the highest F1 on the fit side is taken, and the concept is covered
when, on the held-out side, its precision and its recall both reach a floor. Owns: coverage by frequency (M3), the cumulative curve (M4)
and their generalization to labels; what else the paper plots stands in `coverage_tokens`. Refuses: kinds of annotation that nobody carries.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int
from pydantic import Field, field_validator
from scipy import sparse

from sparselight.config import Config
from sparselight.evaluate.association import ascending_fracs
from sparselight.evaluate.case import Case, SideName
from sparselight.evaluate.concepts.firing import Firing, by_latent, largest, pooled
from sparselight.evaluate.concepts.marks import Concepts, Level, check_kinds, find_concepts, left_out_table
from sparselight.evaluate.concepts.pair_scores import chosen_pairs, mean_over, resampled_scores, spread
from sparselight.evaluate.concepts.search import Choice, best_per_concept, thresholds_of
from sparselight.evaluate.contender import Contender
from sparselight.evaluate.coverage_tokens import measure_tokens
from sparselight.evaluate.family import Family
from sparselight.evaluate.findings import Cell, Findings
from sparselight.evaluate.latents import stacked
from sparselight.evaluate.statistics import Resampled, ratio
from sparselight.protocols import Progress, no_progress


class CoverageConfig(Config):
    """When a concept counts as covered, and which concepts are rare."""

    kinds: tuple[str, ...] = ()
    """Kinds of annotation (names of spans and of example labels) whose labels are covered or not; all where empty. Token ids always are."""
    thresholds: tuple[float, ...] = (0.0, 0.15, 0.5, 0.6, 0.8)
    """Fractions of a latent's largest activation on the fit side above which it may count as firing."""
    min_precision: float = Field(0.5, gt=0, le=1)
    """Held-out precision that the latent of a covered concept must reach."""
    min_recall: float = Field(0.5, gt=0, le=1)
    """Held-out recall that the latent of a covered concept must reach."""
    min_positives: int = Field(5, ge=1)
    """Occurrences of a concept that each side must hold; rarer ones are counted, and not measured."""
    tail_frac: float = Field(0.1, gt=0, le=1)
    """The rarest concepts (or token ids): this share of them, and all that are as frequent as the most frequent of these."""
    reference: str = ""
    """Coder to whose activation counts the others are compared, latent by latent; the first that is no control where empty."""

    @field_validator("thresholds")
    @classmethod
    def _ascending(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        return ascending_fracs(value)


LEVELS: tuple[Level, ...] = ("token ids", "spans", "examples")
METRICS = ("coverage_frac", "coverage_tail_frac", "coverage_area", "coverage_tail_recall")
CURVE_POINTS = 200


def measure_coverage(case: Case, contenders: Mapping[str, Contender], config: CoverageConfig, findings: Findings, progress: Progress = no_progress) -> None:
    """Measure which concepts every contender covers, and the token statistics of `coverage_tokens`.

    Raises:
        CorpusError: for a kind of annotation that no dataset carries.
        ConfigError: for a reference that is not among the coders, or has no latents.
    """
    check_kinds(case, config.kinds, "evaluate.coverage.kinds")
    parts: dict[str, list[pa.Table]] = {}
    left_out: list[dict[str, object]] = []
    done, total = 0, len(case.datasets) * len(contenders) * (len(LEVELS) + 1)
    for dataset in case.datasets:
        for level in LEVELS:
            concepts = find_concepts(case, dataset, level, config.kinds, config.min_positives, 1)
            if concepts is not None and level != "token ids":
                left_out += [{"dataset": dataset, "level": level, **row} for row in concepts.left_out]
            for name, contender in contenders.items():
                progress(done, total, f"{dataset}, {level}: {name}")
                done += 1
                why = _missing(contender, concepts, level, config.kinds)
                if why or concepts is None:
                    for metric in METRICS:
                        findings.lacks(Cell(name, metric, dataset, level), why)
                    continue
                for table, made in _Scene(case, dataset, name, contender, config, findings, concepts).measure().items():
                    parts.setdefault(table, []).append(made)
        progress(done, total, f"{dataset}: tokens")
        for table, made in measure_tokens(case, dataset, contenders, config.tail_frac, config.reference, findings).items():
            parts.setdefault(table, []).append(made)
        done += len(contenders)
    findings.tables |= {name: stacked(tables) for name, tables in parts.items()}
    if left_out:
        findings.tables["coverage_left_out"] = left_out_table(left_out)
    progress(total, total)


def _missing(contender: Contender, concepts: Concepts | None, level: Level, kinds: Sequence[str]) -> str:
    if contender.sparse is None:
        return "it has no latents"
    if concepts is None:
        asked = f" of the kinds {', '.join(kinds)} (evaluate.coverage.kinds)" if kinds else ""
        return f"the examples carry no annotation of {'spans' if level == 'spans' else 'whole examples'}{asked}"
    if not concepts.n_concepts:
        return f"none of the {len(concepts.left_out)} concepts occurs often enough on both sides (evaluate.coverage.min_positives)"
    return ""


@dataclass(slots=True)
class _Scene:
    """One contender on the concepts of one level of a dataset."""

    case: Case
    dataset: str
    name: str
    contender: Contender
    config: CoverageConfig
    findings: Findings
    concepts: Concepts

    def measure(self) -> dict[str, pa.Table]:
        """Report the values, and give the tables."""
        fit, held_out = self._activations("fit"), self._activations("held_out")
        thresholds = thresholds_of(self.config.thresholds, largest(fit))
        choice = best_per_concept(Firing.of(fit, thresholds), self.concepts.fit)
        marks, resamples = self.concepts.held_out, self.case.resamples(self.dataset)
        scores = resampled_scores(held_out, marks, chosen_pairs(choice, 0, thresholds), resamples, ("precision", "recall"))
        found = choice.latent[0] >= 0
        precision, recall = (spread(scores[name], found) for name in ("precision", "recall"))
        covered = (precision >= self.config.min_precision) & (recall >= self.config.min_recall)
        present = resamples.totals(marks.by_group.toarray().astype(np.float64)) > 0
        tail = rarest(marks.n_labelled, self.config.tail_frac)
        area = cumulative_area(covered & present, marks.n_labelled)
        sure = np.where(precision >= self.config.min_precision, recall, 0.0)
        for metric, value in zip(METRICS, (mean_over(covered, present), mean_over(covered[:, tail], present[:, tail]), area,
                                           mean_over(sure[:, tail], present[:, tail])), strict=True):
            cell = Cell(self.name, metric, self.dataset, self.concepts.level)
            if metric == "coverage_area" and not covered[0].any():
                self.findings.lacks(cell, "it covers no concept, so there is no curve")
            else:
                self.findings.add(cell, value)
        return {"coverage_concepts": self._concept_table(choice, thresholds, precision[0], recall[0], covered[0], tail),
                "coverage_bins": self._bin_table(covered, present, sure[0]), "coverage_curve": self._curve_table(covered[0])}

    def _activations(self, side: SideName) -> sparse.csr_matrix:
        activations = by_latent(self.case.codes(self.dataset, side, self.name, self.contender))
        return pooled(activations, self.case.tokens(self.dataset, side).example, "max") if self.concepts.level == "examples" else activations

    def _concept_table(self, choice: Choice, thresholds: np.ndarray, precision: np.ndarray, recall: np.ndarray, covered: np.ndarray,
                       tail: np.ndarray) -> pa.Table:
        latent, number = choice.latent[0], choice.threshold[0]
        none = latent < 0
        return pa.table({
            **self._who(len(latent)), "kind": pa.array(self.concepts.kinds).dictionary_encode(), "concept": self._names(),
            "n_fit": self.concepts.fit.n_labelled, "n_held_out": self.concepts.held_out.n_labelled, "in_tail": tail, "latent": pa.array(latent, mask=none),
            "threshold": pa.array(thresholds[number, latent], mask=none), "fit_f1": choice.score[0], "precision": precision, "recall": recall,
            "covered": covered,
        })

    def _bin_table(self, covered: np.ndarray, present: np.ndarray, sure: np.ndarray) -> pa.Table:
        """By how often a concept occurs on the held-out side, in powers of 2; concepts that are not measured are counted too."""
        counts = np.array([*self.concepts.held_out.n_labelled.tolist(), *(row["n_held_out"] for row in self.concepts.left_out)], dtype=np.int64)
        numbers, n_measured = octave(counts), self.concepts.n_concepts
        rows = []
        for number in np.unique(numbers[counts > 0]).tolist():
            here = numbers[:n_measured] == number
            share = mean_over(covered[:, here], present[:, here])
            value, _ = self.case.resamples(self.dataset).summarize(share)
            rows.append({"from_count": 2**number, "to_count": 2 ** (number + 1) - 1, "n_concepts": int(((numbers == number) & (counts > 0)).sum()),
                         "n_measured": int(here.sum()), "n_covered": int(covered[0, here].sum()), "covered_frac": value.value if value else None,
                         "covered_frac_low": value.low if value else None, "covered_frac_high": value.high if value else None,
                         "mean_recall": float(sure[here].mean()) if here.any() else None})
        schema = {"from_count": pa.int64(), "to_count": pa.int64(), "n_concepts": pa.int64(), "n_measured": pa.int64(), "n_covered": pa.int64(),
                  "covered_frac": pa.float64(), "covered_frac_low": pa.float64(), "covered_frac_high": pa.float64(), "mean_recall": pa.float64()}
        return pa.table({**self._who(len(rows)), **{name: pa.array([row[name] for row in rows], kind) for name, kind in schema.items()}})

    def _curve_table(self, covered: Bool[np.ndarray, " concept"]) -> pa.Table:
        """The cumulative curve at up to CURVE_POINTS points, the rarest concepts first."""
        order = np.argsort(self.concepts.held_out.n_labelled, kind="stable")
        total = np.cumsum(covered[order])
        at = np.unique(np.linspace(0, len(order) - 1, min(CURVE_POINTS, len(order))).round().astype(np.int64))
        return pa.table({**self._who(len(at)), "concepts_frac": (at + 1) / len(order), "n_held_out": self.concepts.held_out.n_labelled[order][at],
                         "covered_frac": total[at] / len(order),
                         "covered_normalized": pa.array(total[at] / max(int(total[-1]), 1), mask=np.full(len(at), not total[-1]))})

    def _names(self) -> list[str]:
        return token_texts(self.case, self.dataset, self.concepts.names) if self.concepts.level == "token ids" else self.concepts.names

    def _who(self, n: int) -> dict[str, pa.Array]:
        return {name: pa.array([value] * n, pa.string()).dictionary_encode() for name, value in
                (("coder", self.name), ("dataset", self.dataset), ("level", self.concepts.level))}


def rarest(counts: Int[np.ndarray, " concept"], frac: float) -> Bool[np.ndarray, " concept"]:
    """The rarest `frac` of the concepts (one at least), and all that are as frequent as the most frequent of these."""
    last = max(1, int(np.ceil(frac * len(counts)))) - 1
    return counts <= np.partition(counts, last)[last]


def octave(counts: Int[np.ndarray, " concept"]) -> Int[np.ndarray, " concept"]:
    """Frequency bin: the power of 2 at or below the count; 0 for a count of 0."""
    return np.frexp(np.maximum(counts, 1))[1].astype(np.int64) - 1


def cumulative_area(covered: Bool[np.ndarray, "resample concept"], counts: Int[np.ndarray, " concept"]) -> Resampled:
    """Area under the cumulative share of covered concepts against the cumulative share of concepts, the rarest first, each up to 1 (M4).

    With n concepts the i-th adds (n - i + 1/2) / n to the area for each covered concept, by the trapezoidal rule; concepts that are equally
    frequent share their mean, so that their order is nothing. 1/2 where covered concepts are as frequent as the others, more where they are rarer.
    """
    n, (_, bin_of, size) = len(counts), np.unique(counts, return_inverse=True, return_counts=True)
    weight = (n - (np.cumsum(size) - size) - size / 2) / n
    return ratio((covered * weight[bin_of]).sum(axis=1), covered.sum(axis=1))


def token_texts(case: Case, dataset: str, ids: Sequence[str]) -> list[str]:
    """What each token id reads like where it first occurs in the evaluated text."""
    texts: dict[int, str] = {}
    for tokens in (case.tokens(dataset, "held_out"), case.tokens(dataset, "fit")):
        for number, first in zip(*np.unique(tokens.token_id, return_index=True), strict=True):
            text = tokens.examples[int(tokens.example[first])].text[int(tokens.char_start[first]) : int(tokens.char_end[first])]
            texts.setdefault(int(number), f"{number} {text!r}")
    return [texts[int(number)] for number in ids]


FAMILY = Family("coverage", "Coverage of rare tokens and labels", measure_coverage, CoverageConfig, ("examples",), ("full",))
