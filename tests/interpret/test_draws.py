"""Draws of examples: what explainers and scorers see, and what cards show."""

from functools import cache, partial

import numpy as np
import pytest
from planted_text import CONFIG, PlantedCoder, PlantedStore, PlantedSubject, planted_examples

from sparselight.errors import ConfigError
from sparselight.interpret.cache import ActivationCache
from sparselight.interpret.contexts import Windows, marks_of
from sparselight.interpret.examples import CoderMaterial, ExamplesConfig, draw_examples
from sparselight.interpret.explain import iter_cards
from sparselight.interpret.strongest import load_strongest
from sparselight.interpret.tokens import SetTokens, make_frame
from sparselight.protocols import Codes, Example, Span

DRAW = ExamplesConfig(n_top=3, n_quantile=4, n_importance=3, n_positive=6, n_negative=5, n_near_miss=4, n_quantiles=2)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder, vocabulary = tmp_path_factory.mktemp("activations"), {}
    stores = [PlantedStore(planted_examples(name, n_groups, seed), vocabulary) for seed, (name, n_groups) in enumerate({"train": 12, "held": 10}.items())]
    coder, subject = PlantedCoder(stores, vocabulary), PlantedSubject(vocabulary)
    cards = [card for block in iter_cards({"base": coder}, [stores[0].all("general")], [stores[1].all("general")], "site", subject, CONFIG, folder)
             for card in block]
    sets = [SetTokens.of(store.all("general")) for store in stores]
    frame = make_frame(sets[:1], sets[1:], CONFIG.explain_tokens, CONFIG.score_tokens, CONFIG.seed)
    windows = Windows(sets, frame, cache(subject.token_text), CONFIG.context_tokens, with_marks=True)
    strongest = partial(load_strongest, folder / "base" / "strongest.parquet")
    material = {"base": CoderMaterial(ActivationCache(folder / "base", frame.digest()), strongest, coder.W_dec)}
    return cards, material, windows, draw_examples([("base", latent) for latent in range(4)], material, windows, DRAW)


def test_sides_share_no_example_and_no_group(drawn):
    _, _, _, examples = drawn
    for item in examples.values():
        explain = [*item.explain, *item.explain_near_miss]
        score = [*item.score_positive, *item.score_negative, *item.near_miss]
        for name in ("example", "group"):
            assert not {getattr(context, name) for context in explain} & {getattr(context, name) for context in score}
        for listed in (item.explain, item.score_positive, item.score_negative, item.near_miss, item.explain_near_miss):
            assert len({context.example for context in listed}) == len(listed)


def test_counts_kinds_and_silence(drawn):
    _, _, _, examples = drawn
    item = examples["base", 0]
    assert [context.kind for context in item.explain] == ["top"] * 3 + ["quantile"] * 4 + ["importance"] * 3
    assert [len(item.score_positive), len(item.score_negative), len(item.near_miss)] == [6, 5, 4]
    assert {context.quantile for context in item.score_positive} == {0, 1}
    for context in (*item.explain, *item.score_positive):
        assert context.activations[context.peak] > 0 and not context.is_silent
    for context in (*item.score_negative, *item.near_miss, *item.explain_near_miss):
        assert context.is_silent
    assert {context.tokens[context.peak].strip() for context in item.near_miss if context.kind == "near_miss"} <= {"secret"}


def test_a_latent_that_never_fires_has_negatives_only(drawn):
    item = drawn[3]["base", 2]
    assert item.explain == item.score_positive == []
    assert len(item.score_negative) == 5


def test_a_draw_depends_on_the_latent_and_the_seed_alone(drawn):
    _, material, windows, examples = drawn
    assert draw_examples([("base", 3), ("base", 0)], material, windows, DRAW)["base", 0] == examples["base", 0]
    assert draw_examples([("base", 0)], material, windows, DRAW.model_copy(update={"seed": 1}))["base", 0] != examples["base", 0]
    with pytest.raises(ConfigError, match="it has the latents 0 to 3"):
        draw_examples([("base", 4)], material, windows, DRAW)
    with pytest.raises(ConfigError, match="use one of base"):
        draw_examples([("other", 0)], material, windows, DRAW)


def test_contexts_hold_the_activations_of_their_own_tokens(drawn):
    cards, _, windows, examples = drawn
    activations = {}
    for tokens in windows.sets:
        codes = PlantedCoder((), {windows.token_text(number): number for number in range(int(max(part.token_id.max() for part in windows.sets)) + 1)}).encode(
            tokens.store.read(tokens.rows, "site")).to_dense()
        for row, number in enumerate(tokens.example.tolist()):
            activations[tokens.examples[number].id, int(tokens.position[row])] = codes[row].tolist()
    shown = [(card.latent, context) for card in cards for context in card.contexts]
    shown += [(item.latent, context) for item in examples.values() for context in (*item.explain, *item.score_positive, *item.score_negative, *item.near_miss)]
    assert len(shown) > 60
    for latent, context in shown:
        own = [activations[context.example, context.start + index][latent] for index in range(len(context.tokens))]
        assert context.activations == pytest.approx(own)
        assert len(context.tokens) <= CONFIG.context_tokens


class GradedCoder(PlantedCoder):
    """The same with no two firings alike, so that the copies of an example stand side by side."""

    def encode(self, x):
        codes = super().encode(x)
        return Codes(codes.values * (1 + x[codes.tokens(), 1] / 10_000), codes.latents, codes.indptr, codes.n_latents)


def test_an_example_that_two_sets_hold_is_shown_once_and_counts_in_both(tmp_path):
    vocabulary = {}
    stores = [PlantedStore(planted_examples(name, n_groups, seed), vocabulary) for seed, (name, n_groups) in enumerate({"train": 12, "held": 10}.items())]
    coder, subject = GradedCoder(stores, vocabulary), PlantedSubject(vocabulary)

    def made(names, folder):
        explain_on, score_on = ([store.all(name) for name in names] for store in stores)
        cards = [card for block in iter_cards({"base": coder}, explain_on, score_on, "site", subject, CONFIG, folder) for card in block]
        sets = [SetTokens.of(one) for one in (*explain_on, *score_on)]
        frame = make_frame(sets[:len(names)], sets[len(names):], CONFIG.explain_tokens, CONFIG.score_tokens, CONFIG.seed)
        windows = Windows(sets, frame, cache(subject.token_text), CONFIG.context_tokens)
        strongest = partial(load_strongest, folder / "base" / "strongest.parquet")
        material = {"base": CoderMaterial(ActivationCache(folder / "base", frame.digest()), strongest, None)}
        return cards, draw_examples([("base", 0)], material, windows, DRAW)["base", 0]

    once, _ = made(["general"], tmp_path / "once")
    twice, drawn_twice = made(["general", "domain"], tmp_path / "twice")
    for one, two in zip(once, twice, strict=True):
        tops = [[(context.example, context.start) for context in card.contexts if context.kind == "top"] for card in (one, two)]
        assert tops[0] == tops[1]
        assert len({context.example for context in two.contexts}) == len(two.contexts)
        assert two.domain_fire_rate == one.fire_rate == two.fire_rate
    for listed in (drawn_twice.explain, drawn_twice.score_positive, drawn_twice.score_negative):
        assert listed
        assert len({context.example for context in listed}) == len(listed)


def test_marks_are_the_annotations_of_each_token():
    example = Example("p", "MKVCC", "g", {}, (Span(1, 3, "region", "zinc finger"), Span(2, 4, "site", "binding")))
    starts = np.arange(5)
    assert marks_of(example, starts, starts + 1) == ["", "zinc finger", "zinc finger; binding", "binding", ""]
    assert marks_of(example, starts[4:], starts[4:] + 1) == []
