"""Side effects on texts whose answers are known, and against the slower way."""

import numpy as np
import pytest
import torch

from sparselight.errors import CorpusError
from sparselight.intervene import mean_kl
from sparselight.intervene.baselines import TextSample, difference_of_means, direction_method, latent_method, prompt_method, random_latents
from sparselight.intervene.generated import Generated, Request, continuations
from sparselight.intervene.goals import TokenGoal
from sparselight.intervene.side_effects import distinct, entropy_bits, measure_general, off_targets, text_measures
from sparselight.protocols import Example
from sparselight.testing import tiny_corpus, tiny_family, tiny_subject

SITE = "resid_post.1"


@pytest.fixture(scope="module")
def subject():
    return tiny_subject()


def push(strength):
    return {SITE: lambda x: x + strength * torch.ones_like(x)}


def test_one_pass_gives_divergence_cross_entropy_and_goal(subject):
    examples, goal = tiny_corpus(10).examples, TokenGoal((40, 41), "")
    found = measure_general(subject, examples, [push(0.0), push(1.0)], goal)
    assert found.kl[2].sum() / found.n_tokens.sum() == pytest.approx(mean_kl(subject, [push(1.0)], examples)[0].value, rel=1e-4)
    assert found.kl[:2] == pytest.approx(0, abs=1e-6)
    losses, batch = [], subject.prepare(examples)
    same = batch.example[1:] == batch.example[:-1]
    log_probs = subject.predict(batch, push(1.0)).log_softmax(-1)
    losses = -log_probs[:-1][same].gather(1, batch.token_id[1:][same][:, None])
    assert found.ce[2].sum() == pytest.approx(float(losses.sum()), rel=1e-4)
    assert found.n_targets.sum() == int(same.sum())
    assert found.goal[0].sum() == pytest.approx(float(subject.predict(batch).softmax(-1)[:, [40, 41]].sum()), rel=1e-4)
    joined = measure_general(subject, examples, [push(0.0)], goal).joined(measure_general(subject, examples, [push(1.0)], goal))
    assert joined.kl == pytest.approx(found.kl, abs=1e-9)


def test_a_masked_model_is_asked_for_the_tokens_that_are_hidden():
    masked = tiny_family("bert")
    examples = tiny_corpus(6).examples
    found = measure_general(masked, examples, [push(0.5)], TokenGoal((20,), ""))
    _, hidden = masked.masked_round(masked.prepare(examples), 0)
    assert found.n_tokens.sum() == int(hidden.sum()) == found.n_targets.sum()
    assert found.kl[1].sum() > 0


def test_a_prompt_is_compared_token_by_token(subject):
    examples = [Example("a", "def key(", "a"), Example("b", "class path:\n", "b")]
    found = measure_general(subject, examples, [{}], prefix="# digest\n")
    before = subject.predict(subject.prepare(examples)).log_softmax(-1)
    longer = subject.prepare([Example(example.id, "# digest\n" + example.text, example.group) for example in examples])
    behind = longer.char_start >= len("# digest\n")
    if torch.equal(longer.token_id[behind], subject.prepare(examples).token_id):
        after = subject.predict(longer).log_softmax(-1)[behind]
        assert found.kl[1].sum() == pytest.approx(float((before.exp() * (before - after)).sum()), rel=1e-4)
    assert found.n_tokens.sum() > 0


def test_text_without_tokens_is_refused(subject):
    with pytest.raises(CorpusError, match="no token of it"):
        measure_general(subject, [], [push(1.0)])


def test_repetition_in_closed_form():
    assert distinct([1, 1, 1, 1], 1) == 0.25
    assert distinct([1, 2, 1, 2, 1], 2) == 0.5
    assert distinct([1, 2], 4) == 1.0
    assert entropy_bits([1, 1, 2, 2]) == pytest.approx(1)
    assert entropy_bits([]) == 0


def test_measures_of_generated_text(subject):
    text = Generated("key", " key key key key key")
    found = text_measures(subject, [text])
    batch = subject.prepare([Example("a", text.prompt + text.text, "a")])
    new = batch.char_start.numpy() >= 3
    assert found["ce_nats"][0] == pytest.approx(float(np.nanmean(subject.loss(batch).numpy()[new])), rel=1e-5)
    assert found["repeated_4"][0] == pytest.approx(1 - distinct(batch.token_id.numpy()[new].tolist(), 4))
    assert text_measures(subject, [Generated("key", "")])["distinct_1"][0] == 1


def test_off_target_changes_are_tested_over_prompts():
    rng = np.random.default_rng(0)
    before = rng.random((12, 4)) / 10
    after = before + np.array([0.0, 0.5, 0.0, 0.5]) + rng.normal(0, 0.01, (12, 4))
    after[:, 0] = before[:, 0]
    unit = np.repeat(np.arange(6), 2)
    found = off_targets(before, after, unit, list("abcd"), list("ABCD"), [3], 2.0, "latents")
    assert found.n_tested == 3
    assert found.n_changed >= 1
    assert found.largest[0].name == "b"
    assert found.largest[0].after - found.largest[0].before == pytest.approx(float((after - before)[:, 1].mean()))
    alone = off_targets(before[:1], after[:1], np.zeros(1, int), list("abcd"), [""] * 4, [], 1.0, "latents")
    assert alone.n_changed == 0


def test_methods_push_as_they_say(make_sae, subject):
    sae, examples = make_sae(), tiny_corpus(12).examples
    sample = TextSample.take(subject, sae, SITE, examples)
    assert sample.n_tokens == sum(subject.n_tokens(examples))
    batch = subject.prepare(examples)
    x = subject.capture(batch, [SITE])[SITE]
    assert torch.allclose(sample.x, x, atol=1e-5)
    dense = sae.encode(x).to_dense().numpy()
    latent = int(np.argsort((dense > 0).sum(0))[-3])
    assert sample.activations(latent) == pytest.approx(dense[:, latent], abs=1e-4)
    assert sample.reference(latent, 1.0) == pytest.approx(dense[:, latent].max(), rel=1e-4)
    method = latent_method(sample, sae, SITE, "base", latent, "add", 0.9)
    assert method.amount(2.0) == pytest.approx(2 * sample.reference(latent, 0.9))
    assert torch.allclose(method.at(2.0)(x) - x, method.amount(2.0) * sae.W_dec[latent].expand_as(x), atol=1e-4)
    direction = difference_of_means(sample, dense[:, latent] > 0, "it")
    assert torch.allclose(direction, x[dense[:, latent] > 0].mean(0) - x[dense[:, latent] <= 0].mean(0), atol=1e-4)
    unit = direction / direction.norm()
    added = direction_method("d", "difference of means", SITE, direction, "add", 3.0, 0.0)
    assert torch.allclose(added.at(2.0)(x) - x, 6 * unit.expand_as(x), atol=1e-4)
    off = direction_method("d", "difference of means", SITE, direction, "ablate", 3.0, 0.7)
    assert torch.allclose(off.at(1.0)(x) @ unit, torch.full((len(x),), 0.7), atol=1e-4)
    controls = random_latents(sample, sae, SITE, "base", latent, "add", 0.9, 3, seed=0)
    assert len({control.name for control in controls}) == 3
    assert f"base/{latent}" not in {control.name for control in controls}
    assert prompt_method(SITE, "# key\n").prefix == "# key\n"


def test_each_text_has_its_own_edit_and_seed(subject):
    requests = [Request("def ", None, 0), Request("def ", push(3.0), 0), Request("def ", None, 0, "# key\n")]
    found = continuations(subject, requests, 6, 0.7)
    assert [text.prompt for text in found] == ["def "] * 3
    assert found[0].text == subject.generate("def ", 6, None, 0.7, 0)
    assert found[1].text == subject.generate("def ", 6, push(3.0), 0.7, 0)
    assert found[2].text == subject.generate("# key\ndef ", 6, None, 0.7, 0)
    assert continuations(subject, [], 6, 0.7) == []
