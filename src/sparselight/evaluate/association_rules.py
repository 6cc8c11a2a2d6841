"""Rules of association side by side: how many latents and labels each calls associated on the same activations, and how many by chance.

Rules that are published count latents in their own ways, and their counts are compared as if they were one measure. Here each is applied as it was
published, to the same counts, beside the same rule on labels that were shuffled over groups, and beside ours:

    precision or recall   TP / fires >= 0.8 or TP / labelled >= 0.8, at any of the activations 0.01, 0.1, 1; all tokens, none held out (arXiv 2502.09135)
    F1 by domain          best over thresholds > 0.5 on the fit side, and again best over thresholds > 0.5 on the held-out side (InterPLM, arXiv 2412.12101)
    F1 by domain, carried the same with the threshold of the fit side
    ours                  F1 by domain at the threshold of the fit side >= 0.5, above what any latent reaches for the label in any shuffle (the maximum over
                          latents keeps the search itself from finding something: Westfall and Young 1993), and Benjamini-Hochberg q <= 0.05

Owns: the settings, the rules as functions of counts, values and the table by label. Refuses: kinds of annotation that nobody carries.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int
from pydantic import Field, field_validator

from sparselight.config import Config
from sparselight.evaluate.association import ascending_fracs, say_unlabelled
from sparselight.evaluate.case import Case, SideName
from sparselight.evaluate.concepts.chance import FisherBound, Screen
from sparselight.evaluate.concepts.counts import PairCounts, count_pairs, largest_activations
from sparselight.evaluate.concepts.marks import Concepts, Marks, check_kinds, find_concepts
from sparselight.evaluate.contender import Contender
from sparselight.evaluate.family import Family
from sparselight.evaluate.findings import Cell, Findings
from sparselight.evaluate.latents import stacked
from sparselight.protocols import Progress, no_progress
from sparselight.records import MetricValue

Associated = Bool[np.ndarray, "latent concept"]
METRICS = ("rule_latents_frac", "rule_labels", "rule_pairs", "rule_chance_pairs", "rule_supported_frac")


class AssociationRulesConfig(Config):
    """Which annotations, and the constants of the rules; the defaults are the published ones."""

    kinds: tuple[str, ...] = ()
    """Kinds of annotation (names of spans); all where empty."""
    min_positives: int = Field(20, ge=1)
    """Tokens with the label, and as many without, that each side must hold."""
    min_groups: int = Field(2, ge=1)
    """Groups of each side in which a label must occur."""
    activations: tuple[float, ...] = Field((0.01, 0.1, 1.0), min_length=1)
    """Of precision or recall: activations, in the SAE's units, above which a latent counts as firing."""
    floor: float = Field(0.8, gt=0, le=1)
    """Of precision or recall: what either must reach."""
    thresholds: tuple[float, ...] = (0.0, 0.15, 0.5, 0.6, 0.8)
    """Of F1 by domain and ours: fractions of a latent's largest activation on the fit side."""
    f1_floor: float = Field(0.5, gt=0, le=1)
    """Of F1 by domain and ours: what F1 must exceed."""
    token_kinds: tuple[str, ...] = ("active site", "cofactor", "glycosylation", "modified residue", "disulfide bond")
    """Kinds whose recall is taken over tokens instead of spans (InterPLM's residue-level concepts)."""
    scale_tokens: int = Field(200_000, ge=1)
    """Evenly spaced tokens of the fit side over which a latent's largest activation is taken."""
    q: float = Field(0.05, gt=0, lt=1)
    """Of ours: false discovery rate over all pairs of living latents and labels."""
    n_shuffles: int = Field(5, ge=2)
    """Shuffles of the labels over groups: what a rule finds in one of them it finds by chance, and the others are ours' null there."""
    seed: int = 0
    """Of the shuffles."""

    @field_validator("thresholds")
    @classmethod
    def _ascending(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        return ascending_fracs(value)


# The rules.

def precision_or_recall(everything: PairCounts, floor: float) -> Associated:
    """Pairs whose precision or recall reaches the floor at any threshold."""
    found: Associated = np.zeros(everything.hits.shape[1:], dtype=bool)
    for hits, fires in zip(everything.hits, everything.n_fires, strict=True):
        found |= (hits > 0) & ((hits >= floor * fires[:, None]) | (hits >= floor * everything.n_labelled))
    return found


def f1_by_domain(counts: PairCounts, number: int, by_token: Bool[np.ndarray, " concept"]) -> Float[np.ndarray, "latent concept"]:
    """2 P R / (P + R) at one threshold: P = TP / fires over tokens, R the share of spans found (of tokens found, for concepts `by_token`)."""
    hits, fires = counts.hits[number], counts.n_fires[number][:, None]
    found = np.where(by_token, hits, counts.spans_found[number])
    precision, recall = hits / np.maximum(fires, 1), found / np.maximum(np.where(by_token, counts.n_labelled, counts.n_spans), 1)
    total = precision + recall
    return np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)


def best_f1(counts: PairCounts, by_token: Bool[np.ndarray, " concept"]) -> tuple[Float[np.ndarray, "latent concept"], Int[np.ndarray, "latent concept"]]:
    """The best F1 by domain of each pair, and the lowest threshold that reaches it."""
    best, chosen = f1_by_domain(counts, 0, by_token), np.zeros(counts.hits.shape[1:], dtype=np.int64)
    for number in range(1, len(counts.hits)):
        score = f1_by_domain(counts, number, by_token)
        better = score > best
        best[better], chosen[better] = score[better], number
    return best, chosen


def f1_at(counts: PairCounts, chosen: Int[np.ndarray, "latent concept"], by_token: Bool[np.ndarray, " concept"]) -> Float[np.ndarray, "latent concept"]:
    """F1 by domain of each pair at its own threshold."""
    result = np.zeros(chosen.shape)
    for number in range(len(counts.hits)):
        np.copyto(result, f1_by_domain(counts, number, by_token), where=chosen == number)
    return result


def proven(
    fit: PairCounts, held_out: PairCounts, null: Sequence[tuple[PairCounts, PairCounts]], by_token: Bool[np.ndarray, " concept"], f1_floor: float, q: float,
) -> Associated:
    """Pairs whose held-out F1 at the fit side's threshold reaches the floor, lies above the null, and whose p-value survives Benjamini-Hochberg.

    Args:
        null: both sides with shuffled labels; a label's bar is the best held-out F1 of any latent in any of them, found by the same search. With n of them a
            label has a pair by chance with a probability of about 1 / (n + 1).
    """
    _, chosen = best_f1(fit, by_token)
    f1 = f1_at(held_out, chosen, by_token)
    above: Associated = f1 >= f1_floor
    for shuffled_fit, shuffled_held_out in null:
        above &= f1 > f1_at(shuffled_held_out, best_f1(shuffled_fit, by_token)[1], by_token).max(axis=0)
    alive: Bool[np.ndarray, " latent"] = np.asarray((fit.n_fires > 0).any(axis=0))
    hits = np.take_along_axis(held_out.hits, chosen[None], axis=0)[0].astype(np.int64)
    fires = held_out.n_fires[chosen, np.arange(len(chosen))[:, None]]
    log_p = FisherBound.of(held_out.n_units).log_p(hits, fires, np.broadcast_to(held_out.n_labelled, hits.shape))
    tested = log_p[alive]
    adjusted = Screen.of(tested[tested <= np.log(q)], tested.size, q).q(log_p.ravel()).reshape(log_p.shape)
    return above & alive[:, None] & (np.nan_to_num(adjusted, nan=1.0) <= q)


# The family.

@dataclass(slots=True)
class _Counts:
    """Both sides with one version of the labels: at raw activations, and at fractions of the largest one."""

    fit: PairCounts
    held_out: PairCounts
    n_raw: int

    def raw(self) -> PairCounts:
        return (self.fit + self.held_out).take(range(self.n_raw))

    def scaled(self) -> tuple[PairCounts, PairCounts]:
        numbers = range(self.n_raw, len(self.fit.hits))
        return self.fit.take(numbers), self.held_out.take(numbers)


def rules_of(config: AssociationRulesConfig, by_token: Bool[np.ndarray, " concept"]) -> dict[str, Callable[[_Counts, Sequence[_Counts]], Associated]]:
    """Each rule by name: from counts, and those of other versions of the labels as its null, to associated pairs."""

    def interplm(counts: _Counts, _null: Sequence[_Counts]) -> Associated:
        fit, held_out = counts.scaled()
        return (best_f1(fit, by_token)[0] > config.f1_floor) & (best_f1(held_out, by_token)[0] > config.f1_floor)

    def carried(counts: _Counts, _null: Sequence[_Counts]) -> Associated:
        fit, held_out = counts.scaled()
        score, chosen = best_f1(fit, by_token)
        return (score > config.f1_floor) & (f1_at(held_out, chosen, by_token) > config.f1_floor)

    def ours(counts: _Counts, null: Sequence[_Counts]) -> Associated:
        return proven(*counts.scaled(), [other.scaled() for other in null], by_token, config.f1_floor, config.q)

    return {"precision or recall": lambda counts, _null: precision_or_recall(counts.raw(), config.floor), "F1 by domain": interplm,
            "F1 by domain, carried": carried, OURS: ours}


OURS = "ours"


def measure_association_rules(case: Case, contenders: Mapping[str, Contender], config: AssociationRulesConfig, findings: Findings,
                              progress: Progress = no_progress) -> None:
    """Apply every rule to every contender's latents and the spans of every dataset.

    Raises:
        CorpusError: for a kind of annotation that no dataset carries.
    """
    check_kinds(case, config.kinds, "evaluate.association_rules.kinds")
    tables, done = [], 0
    for dataset in case.datasets:
        concepts = find_concepts(case, dataset, "spans", config.kinds, config.min_positives, config.min_groups, labelled_only=True)
        if concepts is not None:
            findings.notes += say_unlabelled(case, dataset, concepts)
        for name, contender in contenders.items():
            progress(done, len(case.datasets) * len(contenders), f"{dataset}: {name}")
            done += 1
            if concepts is None or not concepts.n_concepts or contender.sparse is None:
                why = "it has no latents" if contender.sparse is None else "no label of spans occurs often enough on both sides"
                for metric in METRICS:
                    findings.lacks(Cell(name, metric, dataset), why)
                continue
            tables.append(_measure_one(case, dataset, concepts, name, contender, config, findings))
    if tables:
        findings.tables["association_rules"] = stacked(tables)
    progress(done, done)


def _measure_one(case: Case, dataset: str, concepts: Concepts, name: str, contender: Contender, config: AssociationRulesConfig, findings: Findings) -> pa.Table:
    counts = _count(case, dataset, concepts, contender, config)
    by_token = np.array([kind in config.token_kinds for kind in concepts.kinds])
    alive = int(sum(side.n_fires.sum(axis=0) for side in counts[0].scaled()).astype(bool).sum())
    in_place, shuffled = {}, {}
    for rule, apply in rules_of(config, by_token).items():
        in_place[rule] = apply(counts[0], counts[1:])
        shuffled[rule] = [apply(version, [*counts[1:number], *counts[number + 1:]]) for number, version in enumerate(counts[1:], 1)]
    for rule, pairs in in_place.items():
        chance, n = [int(found.sum()) for found in shuffled[rule]], int(pairs.sum())
        values = {"rule_latents_frac": pairs.any(axis=1).sum() / max(alive, 1), "rule_labels": pairs.any(axis=0).sum(), "rule_pairs": n}
        for metric, value in values.items():
            findings.add(Cell(name, metric, dataset, rule), MetricValue(value=float(value), n=alive, unit="latents", seeds=[config.seed]))
        by_chance = MetricValue(value=float(np.mean(chance)), n=len(chance), unit="shuffles", seeds=[config.seed])
        findings.add(Cell(name, "rule_chance_pairs", dataset, rule), by_chance)
        if n:
            supported = MetricValue(value=int((pairs & in_place[OURS]).sum()) / n, n=n, unit="pairs", seeds=[config.seed])
            findings.add(Cell(name, "rule_supported_frac", dataset, rule), supported)
        else:
            findings.lacks(Cell(name, "rule_supported_frac", dataset, rule), "the rule finds no pair")
    return _table(name, dataset, concepts, in_place, shuffled)


def _count(case: Case, dataset: str, concepts: Concepts, contender: Contender, config: AssociationRulesConfig) -> list[_Counts]:
    """Counts with the labels in place, then with each shuffle."""
    names: tuple[SideName, SideName] = ("fit", "held_out")
    tokens = [case.tokens(dataset, side).only(concepts.units[side]) if side in concepts.units else case.tokens(dataset, side) for side in names]
    rng = np.random.default_rng(config.seed)
    largest = largest_activations(tokens[0], contender, config.scale_tokens)
    raw = np.repeat(np.array(config.activations)[:, None], len(largest), axis=1)
    thresholds = np.concatenate([raw, np.array(config.thresholds)[:, None] * largest])
    versions: list[tuple[Marks, Marks]] = [(concepts.fit, concepts.held_out)]
    versions += [(concepts.fit.shuffled(rng), concepts.held_out.shuffled(rng)) for _ in range(config.n_shuffles)]
    sides = [count_pairs(side, contender, [pair[number] for pair in versions], thresholds) for number, side in enumerate(tokens)]
    return [_Counts(first, second, len(config.activations)) for first, second in zip(*sides, strict=True)]


def _table(name: str, dataset: str, concepts: Concepts, in_place: Mapping[str, Associated], shuffled: Mapping[str, Sequence[Associated]]) -> pa.Table:
    """One line for each label and rule: latents that it associates, and on average with shuffled labels."""
    parts = []
    for rule, pairs in in_place.items():
        n = len(concepts.names)
        parts.append(pa.table({
            "coder": [name] * n, "dataset": [dataset] * n, "rule": [rule] * n, "kind": concepts.kinds, "label": concepts.names,
            "n_latents": pairs.sum(axis=0), "n_latents_shuffled": np.mean([found.sum(axis=0) for found in shuffled[rule]], axis=0),
            "n_labelled": concepts.held_out.n_labelled, "n_spans": concepts.held_out.n_spans,
        }))
    return pa.concat_tables(parts)


FAMILY = Family("association_rules", "Rules of association", measure_association_rules, AssociationRulesConfig, ("examples", "annotations"), ())
