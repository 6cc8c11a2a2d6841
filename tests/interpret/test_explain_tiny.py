"""The explainer on a real (tiny) subject and corpus, with a coder that reads real activations."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from sparselight.interpret import ExplainConfig, TextRenderer, TokenSet, explain, is_supported, load_catalogue, save_catalogue
from sparselight.interpret.cache import ActivationCache
from sparselight.interpret.explain import iter_cards
from sparselight.protocols import Codes
from sparselight.testing import DOMAIN_GROUPS, tiny_corpus, tiny_subject

SITE = "resid_post.1"
HELD_OUT = ("files/paths.py", "shapes/circle.py", "lists/search.py", DOMAIN_GROUPS[1])


class MemoryStore:
    """A store that holds everything in memory."""

    def __init__(self, subject, examples):
        batch = subject.prepare(examples)
        self.activations = subject.capture(batch, [SITE])[SITE]
        self.table = pa.table({name: getattr(batch, name).numpy() for name in ("example", "position", "token_id", "char_start", "char_end")})
        self.given = examples
        self.n_tokens = batch.n_tokens

    def tokens(self):
        return self.table

    def examples(self):
        return pa.table({"example": range(len(self.given)), "id": [item.id for item in self.given], "group": [item.group for item in self.given]})

    def read(self, rows, site):
        assert site == SITE
        return self.activations[torch.from_numpy(rows)]


class RandomTopK:
    """Four of 48 random directions a token."""

    d_in, n_latents = 32, 48

    def __init__(self):
        self.W_dec = torch.randn(48, 32, generator=torch.Generator().manual_seed(0))

    def encode(self, x):
        values, latents = (x @ self.W_dec.T).topk(4, dim=1)
        latents, order = latents.sort(dim=1)
        return Codes(values.gather(1, order).flatten(), latents.flatten(), torch.arange(0, 4 * len(x) + 1, 4), 48)


@pytest.fixture(scope="module")
def tiny_setting():
    subject, corpus = tiny_subject(), tiny_corpus(64)

    def token_set(name, keep):
        examples = [example for example in corpus if keep(example.group)]
        return TokenSet(name, store := MemoryStore(subject, examples), np.arange(store.n_tokens), {example.id: example for example in examples})

    explain_on, score_on = (
        [token_set("general", lambda group, held=held: group not in DOMAIN_GROUPS and (group in HELD_OUT) == held),
         token_set("domain", lambda group, held=held: group in DOMAIN_GROUPS and (group in HELD_OUT) == held)]
        for held in (False, True)
    )
    return subject, explain_on, score_on


def test_every_latent_gets_a_card_with_evidence_and_effects(tiny_setting, tmp_path):
    subject, explain_on, score_on = tiny_setting
    config = ExplainConfig(min_support=10, min_groups=2, min_fires=5, n_bootstrap=50, n_shuffles=2)
    coder = RandomTopK()
    cards = explain({"base": coder, "residual": coder}, explain_on, score_on, SITE, subject, config)
    assert [(card.source, card.latent) for card in cards] == [(source, latent) for source in ("base", "residual") for latent in range(48)]
    explained = [card for card in cards if card.explanation]
    assert len(explained) > 24
    for card in explained:
        evidence = card.explanation.evidence
        assert 0 <= evidence.f1.low <= evidence.f1.value <= evidence.f1.high <= 1
        assert evidence.f1.n == len(HELD_OUT)
        assert len(card.promotes) == len(card.suppresses) == 6
        assert len(card.contexts) > 0
        assert not card.explanation.label.startswith("module=")
    assert sum(card.fire_rate for card in cards[:48]) <= 4 + 1e-9
    assert cards[0].explanation == cards[48].explanation
    assert cards[0].neighbours[0].source == "base" and cards[0].parents == []
    assert cards[48].parents[0].key == "base/0" and cards[48].parents[0].cosine == pytest.approx(1, abs=1e-4)
    assert {"rolled_labels", "shuffled", "raw_neuron"} <= explained[0].explanation.scores[0].controls.keys()
    assert all(card.n_tokens == sum(item.store.n_tokens for item in (*explain_on, *score_on)) for card in cards)
    assert not any(is_supported(card) for card in cards)  # random directions in an untrained subject stand for nothing
    f1, control = (np.mean([getattr(card.explanation.evidence, name).value for card in explained]) for name in ("f1", "control_f1"))
    assert f1 > control  # though they do follow token identity a little
    assert load_catalogue(save_catalogue(cards, tmp_path)) == cards
    assert "<span" in TextRenderer().html(explained[0].contexts[0])


def test_sites_and_coders_without_output_effects_leave_them_empty(tiny_setting):
    subject, explain_on, score_on = tiny_setting
    config = ExplainConfig(min_support=10, n_bootstrap=10, n_shuffles=1)

    class Bare:
        d_in, n_latents, encode = 32, 48, RandomTopK().encode

    assert all(card.promotes == [] for card in explain({"base": Bare()}, explain_on, score_on, SITE, subject, config))


def test_token_bounds_limit_the_sample_and_everything_is_read_once(tiny_setting, tmp_path):
    subject, explain_on, score_on = tiny_setting
    config = ExplainConfig(explain_tokens=300, score_tokens=200, min_support=3, min_fires=1, n_bootstrap=10, n_shuffles=1, controls=())
    read = []

    class Counting(RandomTopK):
        def encode(self, x):
            read.append(len(x))
            return super().encode(x)

    cards = [card for block in iter_cards({"base": Counting()}, explain_on, score_on, SITE, subject, config, tmp_path) for card in block]
    assert sum(read) == sum(item.store.n_tokens for item in (*explain_on, *score_on)) == cards[0].n_tokens
    cache = ActivationCache(tmp_path / "base")
    assert 0 < cache.n_tokens <= 2 * (300 + 200)
    general = score_on[0]
    codes = RandomTopK().encode(general.store.read(general.rows, SITE))
    positive = codes.latents[codes.values > 0]
    assert [card.fire_rate for card in cards] == [int((positive == latent).sum()) / general.store.n_tokens for latent in range(48)]
