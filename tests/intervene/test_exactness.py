"""An empty edit is the unedited model, bit for bit, whatever the model, the format and the way it runs."""

import copy
import warnings
from collections.abc import Callable

import pytest
import torch

from sparselight.intervene import edit_functions
from sparselight.records import Edit, EditSet, Where
from sparselight.sae import Sae, stitch
from sparselight.subjects import CausalLM, TokenSettings
from sparselight.testing import tiny_corpus, tiny_subject
from sparselight.testing.families import tiny_family

SITE = "resid_post.1"
NOTHING = [
    [], [Edit(site=SITE, latents=[], operation="clamp", amount=3.0)], [Edit(site=SITE, latents=[3], operation="scale", amount=1.0)],
    [Edit(site=SITE, latents=[3], operation="add", amount=0.0)], [Edit(site=SITE, latents=[3], operation="clamp", amount=9.0, where=Where(token_ids=[99_999]))],
    [Edit(site=SITE, latents=[3, 4], operation="add", amount=1.0), Edit(site=SITE, latents=[3, 4], operation="add", amount=-1.0, where=Where(token_ids=[9**6])),
     Edit(site=SITE, latents=[3, 4], operation="add", amount=-1.0)],
]


def in_format(dtype: torch.dtype) -> CausalLM:
    subject = tiny_subject()
    model = copy.deepcopy(subject.model).to(dtype)
    return CausalLM(model, subject_tokenizer(), f"tiny-{dtype}", 64)


def subject_tokenizer():
    from sparselight.testing.tiny import tiny_tokenizer

    return tiny_tokenizer()


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "bert", "esm"])
def test_predictions_and_losses(make_sae: Callable[..., Sae], family: str) -> None:
    subject = tiny_family(family)
    batch, both = subject.prepare(tiny_corpus(5).examples), stitch(make_sae(16), make_sae(16, 8, seed=1))
    before, loss = subject.predict(batch), subject.loss(batch)
    for edits in NOTHING[:-1]:
        functions = edit_functions(EditSet(edits=edits), both)
        assert torch.equal(subject.predict(batch, functions), before)
        assert torch.equal(subject.loss(batch, functions).nan_to_num(-1), loss.nan_to_num(-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_precision_and_generation(make_sae, dtype: torch.dtype) -> None:
    subject = in_format(dtype)
    batch, prompts = subject.prepare(tiny_corpus(5).examples), ["def make_key(", "for items in", "class"]
    before = subject.predict(batch)
    plain = [subject.generate_many(prompts, 10, None, temperature, use_cache=use_cache) for temperature, use_cache in ((0.0, True), (1.0, False))]
    for edits in NOTHING[:-1]:
        functions = edit_functions(EditSet(edits=edits), make_sae())
        assert torch.equal(subject.predict(batch, functions), before)
        again = [subject.generate_many(prompts, 10, functions, temperature, use_cache=use_cache) for temperature, use_cache in ((0.0, True), (1.0, False))]
        assert again == plain


def test_an_encoder_is_left_as_it_is(make_sae) -> None:
    subject = tiny_family("bert_encoder", TokenSettings(context_tokens=64))
    batch = subject.prepare(tiny_corpus(3).examples)
    before = subject.capture(batch, ["resid_post.0", SITE])
    from sparselight.intervene import editing

    with editing(subject, NOTHING[1] + NOTHING[2], make_sae(16)):
        after = subject.capture(batch, ["resid_post.0", SITE])
    assert all(torch.equal(before[site], after[site]) for site in before)


def test_a_dose_that_half_precision_cannot_hold_is_said_and_cut_off(make_sae) -> None:
    subject, sae = in_format(torch.float16), make_sae()
    batch = subject.prepare(tiny_corpus(2).examples)
    huge = edit_functions(Edit(site=SITE, latents=[3], operation="clamp", amount=1e6), sae)
    with pytest.warns(RuntimeWarning, match=r"clamp to 1e\+06 latents 3 at resid_post.1.*more than torch.float16 holds.*dose .* times smaller"):
        logits = subject.predict(batch, huge)
    assert logits.shape[0] == batch.n_tokens
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        subject.predict(batch, edit_functions(Edit(site=SITE, latents=[3], operation="clamp", amount=1e3), sae))
