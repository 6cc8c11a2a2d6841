"""Planted latents with known answers, through the whole explainer."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from planted_text import CONFIG, PlantedCoder, PlantedStore, PlantedSubject, planted_examples

from sparselight.errors import ConfigError, CorpusError, SaeError, StoreError
from sparselight.interpret import ExplainConfig, TokenSet, domain_cards, explain, is_supported
from sparselight.interpret.contexts import Windows
from sparselight.interpret.tokens import SetTokens, make_frame
from sparselight.protocols import Codes, Example, Span


@pytest.fixture(scope="module")
def planted():
    vocabulary: dict[str, int] = {}
    stores = {
        name: PlantedStore(planted_examples(name, n_groups, seed), vocabulary)
        for seed, (name, n_groups) in enumerate({"train": 12, "train_domain": 6, "held": 10, "held_domain": 6}.items())
    }
    return stores, vocabulary


@pytest.fixture(scope="module")
def planted_cards(planted):
    stores, vocabulary = planted
    calls = []
    cards = explain(
        {"base": PlantedCoder(stores, vocabulary)}, [stores["train"].all("general"), stores["train_domain"].all("domain")],
        [stores["held"].all("general"), stores["held_domain"].all("domain")], "site", PlantedSubject(vocabulary), CONFIG,
        lambda done, total, note="": calls.append((done, total)),
    )
    assert calls[-1][0] == calls[-1][1] == len(calls)
    return cards


def test_planted_word_is_found_with_its_known_scores(planted, planted_cards):
    stores, vocabulary = planted
    explanation = planted_cards[0].explanation
    assert explanation.label == "word=secret"
    assert explanation.text == "the word `secret`"
    tp = fires = labelled = 0
    for store in (stores["held"], stores["held_domain"]):
        for row, token_id in enumerate(store.columns["token_id"]):
            is_secret = list(vocabulary)[token_id].strip() == "secret"
            fired = row * 7919 % 10 != 0 if is_secret else row * 7919 % 200 == 1
            tp, fires, labelled = tp + (fired and is_secret), fires + fired, labelled + is_secret
    evidence = explanation.evidence
    assert (evidence.n_labelled, evidence.n_fires) == (labelled, fires)
    assert evidence.precision.value == pytest.approx(tp / fires)
    assert evidence.recall.value == pytest.approx(tp / labelled)
    assert evidence.f1.value == pytest.approx(2 * tp / (fires + labelled))
    assert evidence.f1.low <= evidence.f1.value <= evidence.f1.high
    assert evidence.f1.n == 16
    assert evidence.f1.value > 0.85 > 0.3 > evidence.control_f1.high >= evidence.control_f1.value
    assert is_supported(planted_cards[0])


def test_random_latent_is_no_better_than_its_control(planted_cards):
    evidence = planted_cards[1].explanation.evidence
    assert evidence.f1.value < 0.3
    assert abs(evidence.f1.value - evidence.control_f1.value) < 0.12
    assert not is_supported(planted_cards[1])


def test_latent_that_never_fires_has_an_empty_card(planted_cards):
    card = planted_cards[2]
    assert (card.explanation, card.contexts, card.promotes, card.fire_rate, card.max_activation) == (None, [], [], 0.0, 0.0)
    assert not is_supported(card)


def test_threshold_is_chosen_where_the_label_begins(planted_cards):
    explanation = planted_cards[3].explanation
    assert explanation.label == "token= key"  # a ` key` is a token; the word also begins texts, without the space
    assert explanation.evidence.threshold == pytest.approx(2.5)
    assert explanation.evidence.precision.value == 1.0


def test_fire_rates_come_from_their_own_held_out_sets(planted, planted_cards):
    stores, _ = planted
    for name, rate in (("held", planted_cards[1].fire_rate), ("held_domain", planted_cards[1].domain_fire_rate)):
        n_tokens = stores[name].n_tokens
        assert rate == pytest.approx(sum(row * 104729 % 97 % 11 == 0 for row in range(n_tokens)) / n_tokens)


def test_contexts_show_the_peak_and_no_example_twice(planted_cards):
    for card in planted_cards:
        assert len({context.example for context in card.contexts}) == len(card.contexts) <= 8
        for context in card.contexts:
            assert context.activations[context.peak] > 0
            assert len(context.tokens) == len(context.activations) <= 10
    assert planted_cards[3].contexts[0].tokens[planted_cards[3].contexts[0].peak] == " key"
    assert planted_cards[3].contexts[0].activations[planted_cards[3].contexts[0].peak] == 10.0


def test_promoted_and_suppressed_tokens_follow_the_decoder(planted, planted_cards):
    texts = list(planted[1])
    assert planted_cards[0].promotes == texts[::-1][:6]
    assert planted_cards[1].promotes[0] == texts[0]
    assert planted_cards[0].suppresses[0] == texts[0]


def test_same_inputs_give_same_cards(planted, planted_cards):
    stores, vocabulary = planted
    again = explain(
        {"base": PlantedCoder(stores, vocabulary)}, [stores["train"].all("general"), stores["train_domain"].all("domain")],
        [stores["held"].all("general"), stores["held_domain"].all("domain")], "site", PlantedSubject(vocabulary), CONFIG,
    )
    assert again == planted_cards


def test_threshold_and_label_depend_on_the_explain_split_alone(planted, planted_cards):
    stores, vocabulary = planted
    other = PlantedStore(planted_examples("other", 4, 99, package="elsewhere"), vocabulary)
    cards = explain({"base": PlantedCoder(stores, vocabulary)}, [stores["train"].all("general"), stores["train_domain"].all("domain")],
                    [other.all("general")], "site", PlantedSubject(vocabulary), CONFIG)
    for card, before in zip(cards, planted_cards, strict=True):
        if before.explanation:
            assert card.explanation.label == before.explanation.label
            assert card.explanation.evidence.threshold == before.explanation.evidence.threshold
        assert card.domain_fire_rate == card.fire_rate


def test_shared_groups_between_splits_are_refused(planted):
    stores, vocabulary = planted
    coder, subject = {"base": PlantedCoder(stores, vocabulary)}, PlantedSubject(vocabulary)
    with pytest.raises(CorpusError, match="occur in both splits"):
        explain(coder, [stores["train"].all("general")], [stores["train"].all("general")], "site", subject, CONFIG)
    same_file = PlantedStore([Example("new", "a secret thing", "train0")], vocabulary)
    with pytest.raises(CorpusError, match=r"1 group\(s\) occur in both splits, for example 'train0'"):
        explain(coder, [stores["train"].all("general")], [same_file.all("general")], "site", subject, CONFIG)


def test_unusable_sets_and_coders_are_refused(planted):
    stores, vocabulary = planted
    coder, subject = {"base": PlantedCoder(stores, vocabulary)}, PlantedSubject(vocabulary)
    train, held = stores["train"], stores["held"]
    with pytest.raises(CorpusError, match="holds no token"):
        explain(coder, [train.all("general")], [TokenSet("general", held, np.array([], dtype=np.int64), {})], "site", subject, CONFIG)
    with pytest.raises(CorpusError, match="named `general`"):
        explain(coder, [train.all("general")], [held.all("domain")], "site", subject, CONFIG)
    with pytest.raises(StoreError, match="is not given"):
        explain(coder, [train.all("general")], [TokenSet("general", held, np.arange(5), {})], "site", subject, CONFIG)
    shorter = {example.id: Example(example.id, "x", example.group) for example in held.examples_given}
    with pytest.raises(StoreError, match="beyond the end"):
        explain(coder, [train.all("general")], [TokenSet("general", held, np.arange(5), shorter)], "site", subject, CONFIG)
    wide = PlantedCoder(stores, vocabulary)
    wide.d_in = 4
    with pytest.raises(SaeError, match="width 4, the site has 3"):
        explain({"base": wide}, [train.all("general")], [held.all("general")], "site", subject, CONFIG)
    with pytest.raises(ConfigError, match=r"explain\.thresholds"):
        ExplainConfig.parse({"thresholds": [1.5]}, "explain")


class RowCoder:
    """Latent 0 fires in the first example of each store; latent 1 behind row 860, which the held-out store does not have."""

    d_in, n_latents = 3, 2

    def encode(self, x):
        dense = torch.stack([x[:, 1] < 15, x[:, 1] > 860], dim=1).float()
        token, latent = dense.nonzero(as_tuple=True)
        counts = torch.bincount(token, minlength=len(x))
        return Codes(dense[token, latent], latent, torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)]), 2)


def test_where_nothing_can_be_said_the_card_says_why(planted, planted_cards):
    stores, vocabulary = planted
    train, held = stores["train"], stores["held"]
    assert held.n_tokens < 861 < train.n_tokens
    one, train_only = explain({"base": RowCoder()}, [train.all("general")], [held.all("general")], "site", PlantedSubject(vocabulary), CONFIG)
    assert (one.explanation, one.grade) == (None, "D")
    assert one.grade_why == "it fires in one example only, from which what it stands for cannot be told"
    assert (train_only.grade, train_only.explanation.evidence) == ("D", None)
    assert train_only.explanation.scores[0].why_not == f"it fires on none of the {held.n_tokens:,} held-out tokens"
    assert planted_cards[2].grade_why.startswith("it fires on none of the ")


def test_only_examples_that_are_looked_at_are_annotated():
    asked: list[str] = []

    def annotate(examples):
        asked.extend(example.id for example in examples)
        return [replace(example, spans=(Span(0, 1, "mark", "first"),)) for example in examples]

    def tokens_of(tag, seed):
        store = PlantedStore(planted_examples(tag, 30, seed), {})
        bare = {example.id: replace(example, spans=()) for example in store.examples_given}
        return SetTokens.of(TokenSet("general", store, np.arange(store.n_tokens), bare, annotate))

    train, held_out = tokens_of("train", 0), tokens_of("held_out", 1)
    assert not asked
    frame = make_frame([train], [held_out], len(train.rows) // 4, len(held_out.rows) // 4, 0)
    assert [example.id for example in frame.examples] == asked and len(asked) < 60
    assert all(example.spans for example in frame.examples)
    asked.clear()
    context = Windows([train, held_out], frame, str, 6, with_marks=True).at_row(0, 0, None, "random")
    assert asked == [context.example] and any(context.marks)


def test_rows_of_a_set_may_be_any():
    store = PlantedStore(planted_examples("train", 3, 0), {})
    given = {example.id: example for example in store.examples_given}
    for rows in ([5, 3, 9], [4, 5, 6]):
        tokens = SetTokens.of(TokenSet("general", store, np.array(rows), given))
        assert tokens.position.tolist() == [store.columns["position"][row] for row in sorted(rows)]
        assert tokens.annotated([*given.values()]) == [*given.values()]


def test_annotations_that_do_not_fit_the_text_are_refused(planted):
    stores, vocabulary = planted
    held = stores["held"]
    first = held.examples_given[0]
    wrong = {**{example.id: example for example in held.examples_given}, first.id: replace(first, spans=(Span(0, 10_000, "token_class", "comment"),))}
    with pytest.raises(CorpusError, match="covers the characters 0 to 10000"):
        explain({"base": PlantedCoder(stores, vocabulary)}, [stores["train"].all("general")], [TokenSet("general", held, np.arange(held.n_tokens), wrong)],
                "site", PlantedSubject(vocabulary), CONFIG)


def test_domain_cards_are_those_with_the_higher_domain_rate(planted_cards):
    base = planted_cards[2]
    cards = [base.model_copy(update={"latent": latent, "fire_rate": general, "domain_fire_rate": domain})
             for latent, (general, domain) in enumerate([(0.01, 0.02), (0.001, 0.01), (0.0, 0.0), (0.0, 0.001), (0.0, 1e-5)])]
    assert [card.latent for card in domain_cards(cards)] == [3, 1]
