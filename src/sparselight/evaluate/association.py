"""Association: which latent stands for which annotation label, chosen on the fit side and proven on the held-out side.

Every latent is searched against every label: labels of spans on tokens, labels of examples on pooled activations. Latent and firing threshold
are chosen by their scores on the fit side and carried over, unlike InterPLM (arXiv 2412.12101), whose grid of thresholds this is and which
takes the best threshold again on its test split. Beside each value stands what the same search finds with labels that were shuffled over
groups. Owns: settings, values and tables. Refuses: kinds of annotation that nobody carries; labels that are too rare are listed, not measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float
from pydantic import Field, field_validator
from scipy import sparse

from sparselight.config import Config
from sparselight.evaluate.association_tables import concept_table, latent_table
from sparselight.evaluate.case import Case, SideName
from sparselight.evaluate.concepts.chance import permutation_p
from sparselight.evaluate.concepts.firing import Firing, Pooling, Ranks, by_latent, largest, pooled
from sparselight.evaluate.concepts.marks import Concepts, Level, Marks, check_kinds, find_concepts, left_out_table
from sparselight.evaluate.concepts.pair_scores import Pairs, chosen_pairs, firing_of, mean_over, resampled_scores, score_pairs, spread, whole_scores
from sparselight.evaluate.concepts.search import Choice, Found, HeldOutSide, search, thresholds_of
from sparselight.evaluate.contender import Contender
from sparselight.evaluate.family import Family
from sparselight.evaluate.findings import Cell, Findings
from sparselight.evaluate.latents import stacked
from sparselight.evaluate.statistics import Resamples, benjamini_hochberg, ratio
from sparselight.protocols import Progress, no_progress
from sparselight.records import MetricValue


class AssociationConfig(Config):
    """Which annotations are searched, and when a label counts as found."""

    kinds: tuple[str, ...] = ()
    """Kinds of annotation (names of spans and of example labels); all where empty."""
    pooling: tuple[Pooling, ...] = ("max",)
    """How the activations of an example's tokens become one, for labels of examples: `max`, `mean`."""
    thresholds: tuple[float, ...] = (0.0, 0.15, 0.5, 0.6, 0.8)
    """Fractions of a latent's largest activation on the fit side above which it may count as firing."""
    min_positives: int = Field(20, ge=1)
    """Tokens (or examples) with the label, and as many without, that each side must hold; with fewer a label is listed as left out."""
    min_groups: int = Field(2, ge=1)
    """Groups of each side in which a label must occur."""
    f1_floor: float = Field(0.5, gt=0, le=1)
    """A label counts as found when its latent's held-out F1 is at least this."""
    q: float = Field(0.05, gt=0, lt=1)
    """False discovery rate: of all pairs (screen) and of the labels' best pairs (permutations)."""
    n_best: int = Field(5, ge=1)
    """Latents a label that the table lists."""
    n_shuffles: int = Field(5, ge=1)
    """Searches with shuffled labels."""
    n_permutations: int = Field(200, ge=19)
    """Permutations of groups behind each label's p-value, which cannot be smaller than 1 / (1 + n_permutations)."""
    seed: int = 0
    """Of shuffles and permutations."""

    @field_validator("thresholds")
    @classmethod
    def _ascending(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        return ascending_fracs(value)


def ascending_fracs(value: tuple[float, ...]) -> tuple[float, ...]:
    """Check a grid of thresholds."""
    if not value or list(value) != sorted(set(value)) or value[0] < 0 or value[-1] >= 1:
        raise ValueError("must hold ascending fractions of at least 0 and below 1")
    return value


METRICS = ("association_f1", "association_null_f1", "association_labels", "association_labels_frac", "association_supported_frac",
           "association_auroc", "association_latents_frac")


class View(NamedTuple):
    """One way to look at a dataset: its labels, and how activations meet them."""

    level: Level
    pooling: Pooling | None

    @property
    def setting(self) -> str:
        return self.level if self.pooling is None else f"{self.level}, {self.pooling}"


def measure_association(case: Case, contenders: Mapping[str, Contender], config: AssociationConfig, findings: Findings,
                        progress: Progress = no_progress) -> None:
    """Search every contender's latents against every label of every dataset.

    Raises:
        CorpusError: for a kind of annotation that no dataset carries.
    """
    check_kinds(case, config.kinds, "evaluate.association.kinds")
    views = [View("spans", None), *(View("examples", how) for how in config.pooling)]
    tables: dict[str, list[pa.Table]] = {"association_labels": [], "association_latents": []}
    left_out: list[dict[str, object]] = []
    unlabelled_notes: list[str] = []
    done, total = 0, len(case.datasets) * len(views) * len(contenders)
    for dataset in case.datasets:
        for view in views:
            concepts = case.once((FAMILY.name, dataset, view.level, config.kinds, config.min_positives, config.min_groups),
                                 lambda: find_concepts(case, dataset, view.level, config.kinds, config.min_positives, config.min_groups, True))  # noqa: B023
            if concepts is not None and view.pooling in (None, config.pooling[0]):
                left_out += [{"dataset": dataset, "level": view.level, **row} for row in concepts.left_out]
                unlabelled_notes += say_unlabelled(case, dataset, concepts)
            for name, contender in contenders.items():
                progress(done, total, f"{dataset}, {view.setting}: {name}")
                done += 1
                scene = _Scene(case, dataset, view, name, contender, config, findings)
                why = scene.missing(concepts)
                if why or concepts is None:
                    scene.lack(why)
                    continue
                for table, made in zip(tables.values(), scene.measure(concepts) or (), strict=False):
                    table.append(made)
    findings.tables |= {name: stacked(parts) for name, parts in tables.items() if parts}
    if left_out:
        findings.tables["association_left_out"] = left_out_table(left_out)
        findings.notes.append(f"{len(left_out)} labels are too rare or too common to be searched (see the table association_left_out)")
    findings.notes += list(dict.fromkeys(unlabelled_notes))
    progress(total, total)


def say_unlabelled(case: Case, dataset: str, concepts: Concepts) -> list[str]:
    """How many tokens of a dataset are left out, because nobody knows their labels."""
    n = {side: case.tokens(dataset, side).n_tokens for side in concepts.units}
    parts = [f"{n[side] - len(units):,} of {n[side]:,} tokens of the {side.replace('_', '-')} side" for side, units in concepts.units.items()]
    return [f"{dataset}: the labels of {' and '.join(parts)} are not known, and they are left out"] if parts else []


@dataclass(slots=True)
class _Null:
    """Held-out F1 of the same search with shuffled labels."""

    by_concept: dict[str, Float[np.ndarray, "shuffle concept"]]
    by_latent: Float[np.ndarray, "shuffle latent"]


@dataclass(slots=True)
class _Scene:
    """One contender on one view of one dataset."""

    case: Case
    dataset: str
    view: View
    name: str
    contender: Contender
    config: AssociationConfig
    findings: Findings

    def missing(self, concepts: Concepts | None) -> str:
        """Why nothing can be measured; empty where it can."""
        if self.contender.sparse is None:
            return "it has no latents"
        if concepts is None:
            asked = f" of the kinds {', '.join(self.config.kinds)} (evaluate.association.kinds)" if self.config.kinds else ""
            return f"the examples carry no annotation of {'spans' if self.view.level == 'spans' else 'whole examples'}{asked}"
        if not concepts.n_concepts:
            return f"none of its {len(concepts.left_out)} labels occurs often enough on both sides (evaluate.association.min_positives, min_groups)"
        return ""

    def lack(self, why: str) -> None:
        for metric in METRICS:
            self.findings.lacks(self._cell(metric), why)

    def measure(self, concepts: Concepts) -> tuple[pa.Table, pa.Table] | None:
        """All values of this contender.

        Returns:
            Tables of its best latents of each label and of the best label of each latent, None where no latent fires.
        """
        fit, held_out = self._activations("fit", concepts), self._activations("held_out", concepts)
        thresholds = thresholds_of(self.config.thresholds, largest(fit))
        firing = Firing.of(fit, thresholds)
        if not firing.n_fires[0].any():
            self.lack("no latent fires on the fit side")
            return None
        ranks, resamples = Ranks.of(fit, fit.shape[1]), self.case.resamples(self.dataset)
        proof = HeldOutSide(Firing.of(held_out, thresholds), concepts.held_out, self.config.q)
        found = search(firing, ranks, concepts.fit, self.config.n_best, self.view.level == "spans", proof)
        null = self._null(firing, concepts, held_out, thresholds)
        alive = (np.diff(fit.indptr) > 0) | (np.diff(held_out.indptr) > 0)
        p = self._permuted(found.by_concept["f1"], thresholds, held_out, concepts.held_out)
        self._report(found, null, p, thresholds, held_out, concepts.held_out, resamples)
        who = {"coder": self.name, "dataset": self.dataset, "level": self.view.setting}
        labels = concept_table(who, concepts, found, {key: (values.mean(axis=0), values.max(axis=0)) for key, values in null.by_concept.items()}, p,
                               self.config.thresholds, lambda pairs: score_pairs(held_out, concepts.held_out, pairs, resamples), thresholds)
        latents = latent_table(who, concepts, found, null.by_latent.max(axis=0), self.config.q, self.config.thresholds,
                                           lambda pairs: score_pairs(held_out, concepts.held_out, pairs, resamples), thresholds)
        self._report_latents(latents, alive)
        return labels, latents

    def _activations(self, side: SideName, concepts: Concepts) -> sparse.csr_matrix:
        activations = by_latent(self.case.codes(self.dataset, side, self.name, self.contender))
        if side in concepts.units:
            activations = activations[:, concepts.units[side]]
        return activations if self.view.pooling is None else pooled(activations, self.case.tokens(self.dataset, side).example, self.view.pooling)

    def _null(self, firing: Firing, concepts: Concepts, held_out: sparse.csr_matrix, thresholds: np.ndarray) -> _Null:
        rng, by_latent_f1 = np.random.default_rng(self.config.seed), []
        by_concept: dict[str, list[np.ndarray]] = {}
        for _ in range(self.config.n_shuffles):
            marks = concepts.fit.shuffled(rng), concepts.held_out.shuffled(rng)
            found = search(firing, None, marks[0], 1, self.view.level == "spans")
            for criterion, choice in found.by_concept.items():
                scores = whole_scores(held_out, marks[1], chosen_pairs(choice, 0, thresholds))
                by_concept.setdefault(criterion, []).append(spread(scores[criterion], choice.latent[0] >= 0))
            own = found.by_latent
            some = np.flatnonzero(own.concept >= 0)
            pairs = Pairs(some, own.concept[some], thresholds[own.threshold[some], some])
            by_latent_f1.append(spread(whole_scores(held_out, marks[1], pairs)["f1"], own.concept >= 0))
        return _Null({criterion: np.stack(values) for criterion, values in by_concept.items()}, np.stack(by_latent_f1))

    def _permuted(self, choice: Choice, thresholds: np.ndarray, held_out: sparse.csr_matrix, marks: Marks) -> Float[np.ndarray, " concept"]:
        """Permutation p-values of the labels' best pairs: 1 where no latent was found on the fit side."""
        pairs, some = chosen_pairs(choice, 0, thresholds), choice.latent[0] >= 0
        p = np.ones(len(some))
        p[some] = permutation_p(firing_of(held_out, pairs), marks.columns(pairs.concept), whole_scores(held_out, marks, pairs)["f1"],
                                self.config.n_permutations, self.config.seed)
        return p if marks.n_groups > 1 else np.full(len(some), np.nan)

    def _report(self, found: Found, null: _Null, p: np.ndarray, thresholds: np.ndarray, held_out: sparse.csr_matrix, marks: Marks,
                resamples: Resamples) -> None:
        present = resamples.totals(marks.by_group.toarray().astype(np.float64)) > 0
        for criterion, choice in found.by_concept.items():
            scores = resampled_scores(held_out, marks, chosen_pairs(choice, 0, thresholds), resamples, (criterion,))[criterion]
            values = spread(scores, choice.latent[0] >= 0)
            if criterion == "auroc":
                with_others = resamples.totals((marks.units_by_group[:, None] - marks.by_group.toarray()).astype(np.float64)) > 0
                self.findings.add(self._cell("association_auroc"), mean_over(values, present & with_others))
                continue
            suffix, n = ", by domain" if criterion == "f1_domain" else "", present.sum(axis=1)
            above = (values >= self.config.f1_floor) & present
            self.findings.add(self._cell("association_f1", suffix), mean_over(values, present))
            self.findings.add(self._cell("association_labels", suffix), above.sum(axis=1).astype(np.float64))
            self.findings.add(self._cell("association_labels_frac", suffix), ratio(above.sum(axis=1), n))
            shuffled = null.by_concept[criterion]
            self.findings.add(self._cell("association_null_f1", suffix), MetricValue(
                value=float(shuffled.mean()), n=len(shuffled), unit="shuffles", seeds=[self.config.seed]))
            if criterion == "f1":
                self._report_supported(above & (values > shuffled.max(axis=0)), p, n)

    def _report_supported(self, above: Bool[np.ndarray, "resample concept"], p: np.ndarray, n: np.ndarray) -> None:
        cell = self._cell("association_supported_frac")
        if np.isnan(p).any():
            self.findings.lacks(cell, "all held-out tokens come from one group, so labels cannot be permuted over groups")
        else:
            self.findings.add(cell, ratio((above & (benjamini_hochberg(p) <= self.config.q)).sum(axis=1), n))

    def _report_latents(self, latents: pa.Table, alive: Bool[np.ndarray, " latent"]) -> None:
        """Shares of the living latents that stand for a label, and that do so with an F1 of at least the floor."""
        associated = latents["associated"].to_numpy()
        strong = associated & (np.nan_to_num(latents["f1"].to_numpy()) >= self.config.f1_floor)
        n = int(alive.sum())
        for suffix, chosen in (("", associated), (f", F1 >= {self.config.f1_floor:g}", strong)):
            value = MetricValue(value=int(chosen.sum()) / n, n=n, unit="latents", seeds=[self.config.seed])
            self.findings.add(self._cell("association_latents_frac", suffix), value)

    def _cell(self, metric: str, suffix: str = "") -> Cell:
        return Cell(self.name, metric, self.dataset, self.view.setting + suffix)


FAMILY = Family("association", "Latents and annotations", measure_association, AssociationConfig, ("examples", "annotations"), ("full",))
