"""A recommender's part of the report: concepts with their confidence beside controls, ranking with the SAE in place, lists before and after, less popularity.

Owns the values of `recommender.html.j2`, which `report.html.j2` includes: nothing for runs on other subjects. What a run did not measure is said in a
sentence, never left as a gap. Refuses nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sparselight.interpret.item_concepts.labels import TITLE, group_of, verified
from sparselight.records import EvalRecord, EvalRow, MetricValue
from sparselight.records.item_concepts import ConceptDictionaryRecord, ConceptSummary, LatentConcept
from sparselight.records.recommendations import EditedList, RecommendationLists
from sparselight.records.tuning import BalanceDose, BalanceRecord, TuningDose, TuningRecord
from sparselight.report.numbers import DASH, fixed, interval, number, percent
from sparselight.report.recommender_figures import coder_name, quality_by_popularity, share_by_strength, verified_share

GROUPS = ("genre", "era", TITLE, "tag", "popularity")
PER_GROUP = 6
SUBJECT = "subject"
ROUTES = {"label": "one label", "terms": "words, TF-IDF", "items": "list of items"}
RANKING = (("ranking_hr", "k=10", "HR@10"), ("ranking_ndcg", "k=10", "NDCG@10"), ("ranking_overlap", "k=10", "overlap@10"))


@dataclass(frozen=True, slots=True)
class RecommenderFindings:
    """What a run on a recommender measured beyond other runs."""

    concepts: ConceptDictionaryRecord
    tunings: list[TuningRecord] = field(default_factory=list)
    lists: RecommendationLists | None = None
    balance: BalanceRecord | None = None


def recommender_values(found: RecommenderFindings | None, evaluation: EvalRecord) -> dict[str, Any] | None:
    """All that the template refers to; None for other subjects."""
    if found is None:
        return None
    labels = verified(found.concepts.concepts)
    return {
        "verdict": _verdict(found.concepts), "figure": verified_share(found.concepts), "coders": [_coder(row) for row in found.concepts.summaries],
        "n_found_on": found.concepts.n_found_on, "n_tested_on": found.concepts.n_tested_on, "notes": found.concepts.notes,
        "groups": [(group, rows) for group in _groups(labels) if (rows := _rows(group, labels))], "ranking": ranking_rows(evaluation),
        "ranking_titles": [title for _, _, title in RANKING], "tunings": [tuning_view(record, number_of) for number_of, record in enumerate(found.tunings)],
        "lists": None if found.lists is None else lists_view(found.lists), "balance": None if found.balance is None else balance_view(found.balance),
    }


def _verdict(record: ConceptDictionaryRecord) -> str:
    """The main sentence: verified latents by one label, beside the controls."""
    rows = {row.coder: row for row in record.summaries if row.route == "label"}
    own = rows.get("sae")
    if own is None or not own.n_scored:
        return "No latent had enough instances to test a concept on."
    others = [f"{_share(row)} for {name}" for name, row in rows.items() if name != "sae" and row.n_scored]
    beside = f"; the same share is {', '.join(others)} (controls)" if others else ""
    return (f"{own.n_at_80:,} of {own.n_scored:,} tested latents ({_share(own)}) stand for one label with a confidence of 0.8 or more on users that it was "
            f"not found on{beside}.")


def _share(row: ConceptSummary) -> str:
    return percent(row.n_at_80 / row.n_scored, 2) if row.n_scored else DASH


def _coder(row: ConceptSummary) -> dict[str, Any]:
    value = row.confidence
    return {
        "coder": coder_name(row.coder), "is_control": row.is_control, "route": ROUTES[row.route], "scored": f"{row.n_scored:,} of {row.n_latents:,}",
        "confidence": _two(None if value is None else value.value), "interval": "" if value is None else interval(value), "recall": _two(row.recall),
        "true_negative_rate": _two(row.true_negative_rate), "precision": _two(row.precision), "at_80": f"{row.n_at_80:,}", "at_90": f"{row.n_at_90:,}",
    }


def _groups(labels: dict[str, list[LatentConcept]]) -> list[str]:
    found = list(dict.fromkeys(map(group_of, labels)))
    return [*(group for group in GROUPS if group in found), *(group for group in found if group not in GROUPS)]


def _rows(group: str, labels: dict[str, list[LatentConcept]]) -> list[dict[str, Any]]:
    """The labels of a group that most latents stand for, each with its most confident latent."""
    rows = []
    for label, concepts in labels.items():
        if group_of(label) == group:
            best = concepts[0]
            rows.append({
                "name": name_of(label), "n": len(concepts), "latent": best.latent, "confidence": _two(best.confidence), "recall": _two(best.recall),
                "true_negative_rate": _two(best.true_negative_rate), "precision": _two(best.precision), "tested": f"{best.n_positive} + {best.n_negative}",
                "items": "; ".join(best.top_items[:3])})
    return rows[:PER_GROUP]


def name_of(label: str) -> str:
    """A label as people say it: `genre=Horror` is Horror, `decade=1980s` is 1980s, a tag or word of the title says that it is one."""
    kind, _, value = label.partition("=")
    plain = {"genre": value, "decade": value, "series": value, "term": f"\u201c{value}\u201d in the title", "recency": f"{value} by year"}
    return plain.get(kind, f"{kind} {value}")


def ranking_rows(evaluation: EvalRecord) -> list[dict[str, Any]]:
    """HR@10, NDCG@10 and overlap@10 of every coder in the order of the record, one row for each dataset."""
    found: dict[tuple[str, str], dict[str, EvalRow]] = {}
    for row in evaluation.rows:
        if any((row.metric, row.setting) == (metric, setting) for metric, setting, _ in RANKING):
            found.setdefault((row.dataset, row.coder), {})[row.metric] = row
    return [{"dataset": dataset, "coder": coder, "is_control": coder != SUBJECT and any(row.is_control for row in cells.values()),
             "cells": [_cell(cells[metric].value if metric in cells else None) for metric, _, _ in RANKING]} for (dataset, coder), cells in found.items()]


def tuning_view(record: TuningRecord, number_of: int = 0) -> dict[str, Any]:
    """One concept turned up and down."""
    neutral = 1.0 if record.operation == "scale" else 0.0
    return {
        "name": name_of(record.concept), "n_latents": len(record.latents), "n_users": record.n_users, "active": percent(record.active_frac), "k": record.k,
        "figure": share_by_strength(record, number_of), "how": "times" if record.operation == "scale" else "means added", "n_items": record.n_items,
        "rows": [_dose(dose, neutral, [doses[place] for doses in record.controls if place < len(doses)]) for place, dose in enumerate(record.doses)],
    }


def _dose(dose: TuningDose, neutral: float, controls: Sequence[TuningDose]) -> dict[str, Any]:
    return {
        "strength": number(dose.strength) + (" (unedited)" if dose.strength == neutral else ""), "share": _cell(dose.share, percent),
        "random": percent(sum(one.share.value for one in controls) / len(controls)) if controls else DASH, "overlap": number(dose.overlap.value, 2),
        "tau": number(dose.tau.value, 2), "ndcg": _cell(dose.ndcg), "change": _cell(dose.ndcg_change),
        "others": DASH if dose.ndcg_change_others is None else number(dose.ndcg_change_others.value, 2)}


def lists_view(record: RecommendationLists) -> dict[str, Any]:
    """One user's lists side by side; what was not in the first list before says where it stood."""
    return {
        "user": record.user, "concept": name_of(record.concept), "n_history": record.n_history, "chosen": record.chosen, "n_latents": len(record.latents),
        "history": list(zip(record.history, record.history_in_concept, strict=True)), "lists": [_list(one) for one in record.lists],
        "activation": number(record.lists[0].activation)}


def _list(one: EditedList) -> dict[str, Any]:
    items = [{"title": item.title, "in_concept": item.in_concept, "was": "" if item.rank_before == place else f"was {item.rank_before:,}"}
             for place, item in enumerate(one.items, start=1)]
    return {"name": one.name, "items": items, "n": sum(item.in_concept for item in one.items), "k": len(items)}


def balance_view(record: BalanceRecord) -> dict[str, Any]:
    """Less popularity by three ways, and what each costs."""
    ways = (("latents", "multiplied by", record.doses), ("random latents", "multiplied by", record.control),
            ("penalty on popular items", "weight", record.penalty))
    gap = f"NDCG@{record.k} of {record.segments[0]} less {record.segments[1]}" if record.segments else ""
    return {"figure": quality_by_popularity(record), "k": record.k, "n_users": record.n_users, "n_latents": len(record.latents), "gap": gap,
            "verdict": balance_verdict(record), "ways": [(name, how, [_balance(dose) for dose in doses]) for name, how, doses in ways]}


def balance_verdict(record: BalanceRecord) -> str:
    """What the furthest dose of the latents did, and which penalty got as far."""
    base, last = record.doses[0], record.doses[-1]
    change = last.popularity.value / max(base.popularity.value, 1e-30) - 1
    cost = last.ndcg.value / max(base.ndcg.value, 1e-30) - 1
    direction = "less" if change < 0 else "more"
    words = (f"With the {len(record.latents)} latents turned off, recommended items are {percent(abs(change), 2)} {direction} popular and NDCG@{record.k} "
             f"changes by {_signed(cost)}.")
    reached = [dose for dose in record.penalty if dose.popularity.value <= last.popularity.value]
    if change < 0 and reached:
        plain = max(reached, key=lambda dose: dose.ndcg.value)
        plain_cost = plain.ndcg.value / max(base.ndcg.value, 1e-30) - 1
        words += (f" The plain way, a penalty of weight {number(plain.strength)} on popular items, gets at least as far ({number(plain.popularity.value)} "
                  f"against {number(last.popularity.value)}) at {_signed(plain_cost)}.")
    elif change >= 0:
        words += " So on this recommender latents are no way to less popular recommendations."
    return words


def _balance(dose: BalanceDose) -> dict[str, Any]:
    return {"strength": number(dose.strength), "popularity": _cell(dose.popularity), "coverage": percent(dose.coverage), "gini": number(dose.gini, 2),
            "hr": number(dose.hr.value), "ndcg": _cell(dose.ndcg), "gap": _cell(dose.gap)}


def _cell(value: MetricValue | None, form: Any = number) -> dict[str, str]:
    return {"value": DASH, "interval": ""} if value is None else {"value": form(value.value), "interval": interval(value, form)}


def _two(value: float | None) -> str:
    return DASH if value is None else fixed(value, 2)


def _signed(change: float) -> str:
    return ("+" if change > 0 else "") + percent(change, 2)
