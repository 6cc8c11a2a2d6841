"""The batteries see the faults that they are there for."""

from dataclasses import replace

import pytest
import torch

from sparselight.protocols import Codes
from sparselight.subjects import CausalLM
from sparselight.testing import check_sparse_coder, check_subject, tiny_corpus, tiny_subject


class WrongLoss(CausalLM):
    def loss(self, batch, edits=None):
        return super().loss(batch, edits) + 0.1


class CountsPadding(CausalLM):
    def prepare(self, examples):
        batch = super().prepare(examples)
        return replace(batch, counts=torch.ones_like(batch.counts))


class ShiftedOffsets(CausalLM):
    def prepare(self, examples):
        batch = super().prepare(examples)
        return replace(batch, char_start=batch.char_start.clamp(min=1) - 1)


class EditsEverything(CausalLM):
    def predict(self, batch, edits=None):
        return super().predict(batch, edits) + (1e-6 if edits else 0.0)


class SeesOtherRows(CausalLM):
    def capture(self, batch, sites):
        return {site: x + 0.01 * len(batch.input_ids) for site, x in super().capture(batch, sites).items()}


@pytest.mark.parametrize(("faulty", "words"), [
    (WrongLoss, "loss is not"),
    (CountsPadding, "padding counts"),
    (ShiftedOffsets, "covers"),
    (EditsEverything, "changes nothing changes"),
    (SeesOtherRows, "differ at embed"),
])
def test_a_faulty_subject_is_named(faulty: type[CausalLM], words: str) -> None:
    subject = tiny_subject()
    subject.__class__ = faulty
    with pytest.raises(AssertionError, match=words):
        check_subject(subject, tiny_corpus(4).examples)


class FixedCoder:
    """Gives out the codes that it was made with."""

    d_in, n_latents = 4, 5

    def __init__(self, latents, indptr):
        self.codes = Codes(torch.ones(len(latents)), torch.tensor(latents), torch.tensor(indptr), 5)

    def encode(self, x):
        return self.codes

    def decode(self, codes):
        return torch.zeros(codes.n_tokens, 4)


@pytest.mark.parametrize(("latents", "indptr", "words"), [
    ([3, 1, 2], [0, 2, 3], "do not ascend"),
    ([1, 1, 2], [0, 2, 3], "do not ascend"),
    ([1, 5, 2], [0, 2, 3], "out of range"),
    ([1, 2, 3], [0, 2, 2], "does not run"),
    ([1, 2, 3], [0, 3], "hold 1 tokens for 2"),
    ([1, 3, 2], [0, 2, 3], "no tokens at all"),
])
def test_a_faulty_coder_is_named(latents, indptr, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_sparse_coder(FixedCoder(latents, indptr), torch.zeros(2, 4))


def test_the_tiny_corpus_is_labelled() -> None:
    corpus = tiny_corpus()
    assert len(corpus.groups()) == 8
    assert {example.labels["package"] for example in corpus} == {"files", "shapes", "lists", "security"}
    assert all(example.spans for example in corpus)
    assert tiny_corpus().fingerprint() == corpus.fingerprint()
    train, held_out = tiny_corpus(64).split(0.5, seed=0)
    assert not set(train.groups()) & set(held_out.groups())
