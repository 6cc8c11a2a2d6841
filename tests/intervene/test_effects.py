import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sparselight.errors import ConfigError, CorpusError
from sparselight.intervene import edit_function, edit_result, kl_nats, mean_kl
from sparselight.intervene.effects import ratio_interval
from sparselight.protocols import Codes
from sparselight.records import Card, Edit
from sparselight.testing import tiny_corpus, tiny_subject

SITE = "resid_post.1"


class ReadoutCoder:
    """Latent i is relu(x[i]) and writes to x[i]; the last latent never fires."""

    def __init__(self, d_in: int):
        self.d_in = self.n_latents = d_in
        self.W_dec = torch.eye(d_in)

    def encode(self, x: Tensor) -> Codes:
        z = torch.relu(x)
        z[:, -1] = 0.0
        tokens, latents = z.nonzero().unbind(1)
        return Codes(z[tokens, latents], latents, torch.nn.functional.pad((z != 0).sum(1).cumsum(0), (1, 0)), self.n_latents)

    def decode(self, codes: Codes) -> Tensor:
        return codes.to_dense()


def make_card(latent: int) -> Card:
    return Card(latent=latent, source="base", fire_rate=0.5, domain_fire_rate=0.5, max_activation=1.0, explanation=None,
                contexts=[], promotes=[], suppresses=[])


def test_kl_in_closed_form() -> None:
    p, q = torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    expected = [0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75), math.log(2)]
    assert kl_nats((p + 1e-30).log(), q.log()).tolist() == pytest.approx(expected)
    assert kl_nats(q.log(), q.log()).tolist() == [0.0, 0.0]


def test_interval_of_a_ratio() -> None:
    same = ratio_interval(np.array([2.0, 4.0, 6.0]), np.array([1.0, 2.0, 3.0]), seed=0)
    assert (same.value, same.low, same.high, same.n) == (2.0, 2.0, 2.0, 3)
    value = ratio_interval(np.array([0.0, 30.0, 10.0, 0.0]), np.array([10.0, 10.0, 10.0, 0.0]), seed=1)
    assert value.value == pytest.approx(40 / 30)
    assert value.n == 3
    assert value.low == 0.0
    assert value.high == 3.0
    assert value == ratio_interval(np.array([0.0, 30.0, 10.0]), np.array([10.0, 10.0, 10.0]), seed=1)
    alone = ratio_interval(np.array([3.0]), np.array([2.0]), seed=0)
    assert (alone.value, alone.low, alone.high, alone.n) == (1.5, None, None, 1)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        sums = rng.exponential(1.0, 60)
        interval = ratio_interval(sums, np.ones(60), seed=trial, n_resamples=300)
        hits += interval.low <= 1.0 <= interval.high
    assert 0.88 <= hits / 200 <= 0.99


def test_mean_kl_is_the_mean_over_tokens_however_the_text_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, coder, examples = tiny_subject(), ReadoutCoder(32), tiny_corpus(10).examples
    edits = {SITE: edit_function(Edit(site=SITE, latents=[4], operation="scale", amount=3.0), coder)}
    batch = subject.prepare(examples)
    expected = float(kl_nats(subject.predict(batch).log_softmax(-1), subject.predict(batch, edits).log_softmax(-1)).mean())
    together, nothing = mean_kl(subject, [edits, {}], examples)
    assert together.value == pytest.approx(expected, rel=1e-4)
    assert together.n == 8
    assert together.low < together.value < together.high
    assert (nothing.value, nothing.low, nothing.high) == (0.0, 0.0, 0.0)
    monkeypatch.setattr("sparselight.intervene.effects.CHUNK_VALUES", 1)
    assert mean_kl(subject, [edits], examples)[0].value == pytest.approx(expected, rel=1e-4)
    with pytest.raises(CorpusError, match="no tokens"):
        mean_kl(subject, [edits], [])


def test_edit_result_shows_the_effect_at_one_token() -> None:
    subject, coder, examples = tiny_subject(), ReadoutCoder(32), tiny_corpus(9).examples
    edit = Edit(site=SITE, latents=[4], operation="clamp", amount=6.0)
    example = examples[0]
    batch = subject.prepare([example])
    result = edit_result(subject, coder, edit, make_card(4), example, 20, examples[1:], control_latent=31, seed=2)
    before = subject.predict(batch)[20].softmax(-1)
    after = subject.predict(batch, {SITE: edit_function(edit, coder)})[20].softmax(-1)
    assert result.kl_nats == pytest.approx(float((before * (before / after).log()).sum()), rel=1e-4)
    assert result.card == "base/4"
    assert Edit.model_validate(result.edit) == edit
    assert len(result.next_tokens) == 6
    texts = [token.text for token in result.next_tokens]
    assert subject.token_text(int(before.argmax())) == texts[0]
    assert subject.token_text(int(after.argmax())) in texts
    assert result.next_tokens[0].before == pytest.approx(float(before.max()), rel=1e-5)
    assert result.next_actual == subject.token_text(int(batch.token_id[21]))
    context = result.context
    assert context.tokens[context.peak] == subject.token_text(int(batch.token_id[20]))
    assert len(context.tokens) == len(context.activations) == 17
    x = subject.capture(batch, [SITE])[SITE]
    assert context.activations[context.peak] == pytest.approx(max(0.0, float(x[20, 4])))
    assert result.side_effect_kl_nats.value > 0
    assert result.control_kl_nats.value > 0, "clamp acts on a silent control as well"
    assert result == edit_result(subject, coder, edit, make_card(4), example, 20, examples[1:], control_latent=31, seed=2)


def test_a_silent_control_of_an_ablation_does_nothing() -> None:
    subject, coder, examples = tiny_subject(), ReadoutCoder(32), tiny_corpus(6).examples
    edit = Edit(site=SITE, latents=[4], operation="ablate")
    result = edit_result(subject, coder, edit, make_card(4), examples[0], 0, examples[1:], control_latent=31)
    assert result.control_kl_nats.value == 0.0
    assert result.context.peak == 0


def test_the_last_token_has_no_actual_next_one_and_positions_are_checked() -> None:
    subject, coder, examples = tiny_subject(), ReadoutCoder(32), tiny_corpus(3).examples
    edit = Edit(site=SITE, latents=[4], operation="ablate")
    n = subject.n_tokens(examples[:1])[0]
    assert edit_result(subject, coder, edit, make_card(4), examples[0], n - 1, examples[1:], 5).next_actual == ""
    with pytest.raises(ConfigError, match=f"has {n} tokens"):
        edit_result(subject, coder, edit, make_card(4), examples[0], n, examples[1:], 5)
