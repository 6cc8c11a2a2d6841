"""Latents of known meaning: a latent `w` fires on the word w and on nothing else."""

import numpy as np
import pytest

from sparselight.interpret.contexts import LatentExamples
from sparselight.interpret.llm import LlmConfig
from sparselight.records import Context

FILLERS = [f"{first}{second}" for first in ("ba", "de", "fi", "go", "ku") for second in ("lam", "nor", "pek", "rit", "sov")]


def make_context(words, active, name, kind="top", group=None):
    """Words as tokens with a space before each; `active` maps an index to an activation."""
    activations = [float(active.get(index, 0.0)) for index in range(len(words))]
    peak = max(range(len(words)), key=activations.__getitem__)
    return Context(example=name, group=group or name, tokens=[f" {word}" for word in words], activations=activations, peak=peak, kind=kind)


def make_latent(number, word, n=8, n_words=7, source="base"):
    """Examples of a latent that fires on one word; strength grows with the example's number."""
    rng = np.random.default_rng([number, n])
    fillers = [filler for filler in FILLERS if filler != word]

    def sentence(with_word):
        words = rng.choice(fillers, size=n_words).tolist()
        place = int(rng.integers(n_words))
        if with_word:
            words[place] = word
        return words, place

    def firing(name, index, kind):
        words, place = sentence(True)
        return make_context(words, {place: 1.0 + index}, f"{word}-{name}-{index}", kind)

    def silent(name, index, kind):
        return make_context(sentence(False)[0], {}, f"{word}-{name}-{index}", kind)

    return LatentExamples(
        latent=number, source=source, explain=[firing("explain", index, "quantile" if index % 2 else "top") for index in range(n)],
        score_positive=[firing("score", index, "quantile") for index in range(n)], score_negative=[silent("random", index, "random") for index in range(n)],
        near_miss=[silent("near", index, "near_miss") for index in range(3)], explain_near_miss=[silent("contrast", index, "near_miss") for index in range(3)])


@pytest.fixture
def context():
    return make_context


@pytest.fixture
def latent():
    return make_latent


@pytest.fixture
def fast():
    """Settings that wait for nothing."""
    def make(server, **settings):
        return LlmConfig(endpoint=server.url, model="test-model", **{"backoff_s": 0.01, "timeout_s": 120.0, **settings})
    return make
