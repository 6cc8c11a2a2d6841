"""Rules of association: counts in one pass equal counts by hand, each rule calls what its definition says, and the dense latent fools one of them."""

import numpy as np
import pytest
import torch
from annotated import ReadOff, annotated_case
from test_association import D, chance, planted, with_unknown

from sparselight.errors import CorpusError
from sparselight.evaluate.association_rules import (
    OURS,
    AssociationRulesConfig,
    best_f1,
    f1_at,
    f1_by_domain,
    measure_association_rules,
    precision_or_recall,
)
from sparselight.evaluate.case import Case, Tokens
from sparselight.evaluate.concepts import counts as counting
from sparselight.evaluate.concepts.counts import PairCounts, count_pairs, group_chunks, largest_activations
from sparselight.evaluate.concepts.marks import find_concepts
from sparselight.evaluate.contender import Contender
from sparselight.evaluate.findings import Cell, Findings
from sparselight.evaluate.labels import span_labels
from sparselight.evaluate.suite import choose
from sparselight.protocols import Example, Span

CONFIG = AssociationRulesConfig(n_shuffles=5, activations=(0.5, 1.2), floor=0.8)


def measured(case: Case, config: AssociationRulesConfig = CONFIG) -> Findings:
    findings = Findings()
    measure_association_rules(case, {"sae": Contender(ReadOff(D), False)}, config, findings)  # type: ignore[arg-type]
    return findings


def value(findings: Findings, metric: str, rule: str) -> float:
    return findings.values[Cell("sae", metric, "some", rule)].value


def test_counts_are_those_by_hand_whatever_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    case = annotated_case(planted)
    concepts = find_concepts(case, "some", "spans", (), 5, 2)
    assert concepts is not None
    tokens, contender = case.tokens("some", "fit"), Contender(ReadOff(D), False)  # type: ignore[arg-type]
    x = tokens.read(slice(0, tokens.n_tokens)).numpy()
    thresholds = np.array([[1.5] * D, [0.0] * D, [1.2] * D])
    monkeypatch.setattr(counting, "CHUNK_TOKENS", 100)
    monkeypatch.setattr(counting, "BLOCK_PAIRS", 7)
    counts = count_pairs(tokens, contender, [concepts.fit], thresholds)[0]
    carried = concepts.fit.ones.toarray() > 0
    for number, row in enumerate(thresholds):
        fires = x > row
        assert np.array_equal(counts.n_fires[number], fires.sum(axis=0))
        assert np.array_equal(counts.hits[number], np.einsum("ul,uc->lc", fires.astype(int), carried.astype(int)))
        found = np.zeros((D, carried.shape[1]), dtype=int)
        for concept in range(carried.shape[1]):
            marks = concepts.fit.matrix[:, [concept]].toarray()[:, 0]
            for span in np.unique(marks[marks > 0]):
                found[:, concept] += fires[marks == span].any(axis=0)
        assert np.array_equal(counts.spans_found[number], found)
    assert np.allclose(largest_activations(tokens, contender, 10**6), np.maximum(x.max(axis=0), 0))


def test_chunks_hold_whole_groups_and_every_token_once() -> None:
    group = np.repeat([2, 0, 1, 0, 3], [4, 3, 5, 2, 1])
    chunks = list(group_chunks(group, 6))
    assert sorted(np.concatenate(chunks).tolist()) == list(range(15))
    assert [sorted(set(group[rows].tolist())) for rows in chunks] == [[0, 1], [2, 3]]


def counts(hits: list[list[int]], fires: list[int], labelled: int = 10, spans: int = 5, found: list[list[int]] | None = None) -> PairCounts:
    made = np.array(hits)[:, :, None]
    return PairCounts(made, np.array(found or hits)[:, :, None], np.array(fires).reshape(len(hits), -1), np.array([labelled]), np.array([spans]), 100)


def test_the_rules_by_hand() -> None:
    one = counts([[8, 2, 1, 0]], [90, 2, 5, 7])
    assert precision_or_recall(one, 0.8)[:, 0].tolist() == [True, True, False, False], "recall 0.8 of a dense latent, precision 1 of a rare one"
    domain = counts([[6], [4]], [8, 4], spans=5, found=[[5], [3]])
    by_token = np.array([False])
    assert f1_by_domain(domain, 0, by_token).item() == pytest.approx(2 * 0.75 * 1 / 1.75)
    assert f1_by_domain(domain, 0, ~by_token).item() == pytest.approx(2 * 0.75 * 0.6 / 1.35)
    score, chosen = best_f1(domain, by_token)
    assert (score.item(), chosen.item()) == (pytest.approx(2 * 0.75 / 1.75), 0)
    assert f1_at(domain, chosen + 1, by_token).item() == pytest.approx(2 * 1 * 0.6 / 1.6)


def test_planted_latents_are_found_and_the_dense_one_fools_one_rule() -> None:
    findings = measured(annotated_case(planted))
    table = {(row["rule"], row["label"]): row for row in findings.tables["association_rules"].to_pylist()}
    assert table["precision or recall", "alpha"]["n_latents"] >= 2, "the detector, and the latent that fires everywhere"
    for rule in ("F1 by domain", "F1 by domain, carried", OURS):
        assert table[rule, "beta"]["n_latents"] == 1
        assert table[rule, "gamma"]["n_latents"] == 1, "one token a span is enough by domain"
    assert value(findings, "rule_chance_pairs", "precision or recall") >= 3, "it fires everywhere, shuffled or not"
    assert value(findings, "rule_chance_pairs", OURS) <= 0.4 < value(findings, "rule_chance_pairs", "precision or recall")
    assert value(findings, "rule_supported_frac", OURS) == 1
    assert value(findings, "rule_supported_frac", "precision or recall") < 0.7


def test_chance_latents_prove_nothing() -> None:
    findings = measured(annotated_case(chance))
    assert value(findings, "rule_pairs", OURS) == 0
    assert findings.undefined[Cell("sae", "rule_supported_frac", "some", OURS)] == "the rule finds no pair"


def test_kinds_and_refusals() -> None:
    with pytest.raises(CorpusError, match="region"):
        measured(annotated_case(planted), AssociationRulesConfig(kinds=("regions",)))
    findings = measured(annotated_case(planted), AssociationRulesConfig(min_positives=10_000))
    assert all("no label of spans" in why for why in findings.undefined.values())


def test_it_is_a_family_that_is_asked_for_by_name() -> None:
    assert [choice.family.name for choice in choose("association_rules")] == ["association_rules"]
    assert "association_rules" not in [choice.family.name for choice in choose("full")]


def test_pieces_of_one_instance_are_one_span() -> None:
    pieces = (Span(0, 1, "bond", "bond", "1-4"), Span(3, 4, "bond", "bond", "1-4"), Span(2, 3, "bond", "bond", "3-6"), Span(5, 6, "bond", "bond", "3-6"))
    examples = [Example("a", "ACDEFG", "a", {}, pieces), Example("b", "ACDEFG", "b", {}, pieces[:2])]
    position = np.tile(np.arange(6), 2)
    tokens = Tokens("t", examples, np.repeat([0, 1], 6), np.repeat([0, 1], 6), ["a", "b"], position, position, position, position + 1, torch.zeros(12, 1),
                    np.arange(12), "s")
    labels = span_labels(tokens, "bond")
    assert labels.n_spans == 3
    assert labels.matrix.toarray()[:, 0].tolist() == [1, 0, 2, 1, 0, 2, 3, 0, 0, 3, 0, 0]


def test_tokens_whose_labels_nobody_knows_are_left_out_of_every_rule() -> None:
    case = with_unknown(annotated_case(planted))
    found = measured(case)
    assert any("are not known, and they are left out" in note for note in found.notes)
    concepts = find_concepts(case, "some", "spans", (), 5, 2, labelled_only=True)
    assert concepts is not None
    held = case.tokens("some", "held_out").only(concepts.units["held_out"])
    assert held.n_tokens == concepts.held_out.n_units < case.tokens("some", "held_out").n_tokens
    counts = count_pairs(held, Contender(ReadOff(D), False), [concepts.held_out], np.zeros((1, D)))[0]  # type: ignore[arg-type]
    alpha = concepts.names.index("alpha")
    assert counts.hits[0, 0, alpha] == counts.n_fires[0, 0] == concepts.held_out.n_labelled[alpha], "precision 1: no hidden alpha counts against latent 0"
