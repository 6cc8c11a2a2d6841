import math

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sparselight.errors import SubjectError
from sparselight.protocols import Example
from sparselight.subjects import CausalLM
from sparselight.subjects.hooks import capturing, editing
from sparselight.testing import check_subject, tiny_corpus, tiny_subject, tiny_tokenizer


def n_hooks(subject: CausalLM) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in subject.model.modules())


def count_layers(subject: CausalLM) -> list[int]:
    ran: list[int] = []
    for number, layer in enumerate(subject.model.model.layers):
        layer.register_forward_pre_hook(lambda *_, number=number: ran.append(number))
    return ran


def test_tiny_subject_passes_the_battery() -> None:
    examples = tiny_corpus(8).examples
    subject = tiny_subject(context_tokens=40)
    assert max(subject.n_tokens(examples)) > 2 * 40, "the battery should see an example of three rows"
    check_subject(subject, examples)
    assert n_hooks(subject) == 0


def test_tiny_subject_is_the_same_on_every_call() -> None:
    state = torch.random.get_rng_state()
    first, second = tiny_subject(seed=3), tiny_subject(seed=3)
    assert first.fingerprint == second.fingerprint
    assert torch.equal(torch.random.get_rng_state(), state)
    assert len({first.fingerprint, tiny_subject(seed=4).fingerprint, tiny_subject(seed=3, context_tokens=32).fingerprint,
                tiny_subject(seed=3, vocabulary=300).fingerprint}) == 4


def test_fingerprint_follows_every_weight() -> None:
    subject = tiny_subject()
    subject.model.model.norm.weight.data[5] += 1e-6
    assert CausalLM(subject.model, tiny_tokenizer(), "tiny", 64).fingerprint != subject.fingerprint
    subject.model.model.norm.weight.data[5] = 1.0
    assert CausalLM(subject.model, tiny_tokenizer(), "tiny", 64).fingerprint == subject.fingerprint


def test_logits_agree_with_the_bare_model() -> None:
    subject = tiny_subject()
    batch = subject.prepare(tiny_corpus(4).examples)
    with torch.no_grad():
        logits = subject.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask.long()).logits
    torch.testing.assert_close(subject.predict(batch), logits[batch.counts])


def test_long_examples_go_on_in_a_further_row_that_starts_with_bos() -> None:
    subject = tiny_subject(context_tokens=16)
    example = tiny_corpus(1)[0]
    batch = subject.prepare([example, Example("empty", "", "g"), Example("short", "def make", "g")])
    n = subject.n_tokens([example])[0]
    assert subject.n_tokens([example, Example("empty", "", "g")]) == [n, 0]
    assert batch.input_ids.shape == (math.ceil(n / 15) + 1, 16)
    assert (batch.input_ids[:, 0] == 0).all()
    assert not batch.counts[:, 0].any()
    own = batch.example == 0
    assert "".join(subject.token_text(token) for token in batch.token_id[own].tolist()) == example.text
    assert batch.char_start[own].tolist() == [0, *batch.char_end[own].tolist()[:-1]]
    assert batch.example[~own].unique().tolist() == [2]


def test_offsets_count_characters_and_bytes_show_as_escapes() -> None:
    subject = tiny_subject()
    text = "\u00e9\u2192 x"
    batch = subject.prepare([Example("a", text, "g")])
    texts = [subject.token_text(token) for token in batch.token_id.tolist()]
    assert texts[:2] == ["\\xc3", "\\xa9"]
    assert batch.char_start[:5].tolist() == [0, 0, 1, 1, 1]
    assert "".join(texts[5:]) == " x"
    assert subject.token_text(0) == "<|bos|>"
    assert subject.token_text(10**6) == "<unused 1000000>"


def test_special_tokens_inside_a_text_do_not_count() -> None:
    subject = tiny_subject()
    plain, marked = Example("a", "def make", "g"), Example("b", "def<|bos|> make", "g")
    assert subject.n_tokens([plain, marked]) == subject.n_tokens([plain, plain])
    batch = subject.prepare([marked])
    assert int(batch.attention_mask.sum()) == batch.n_tokens + 2
    assert batch.position.tolist() == list(range(batch.n_tokens))


def test_capture_stops_after_the_last_site() -> None:
    subject = tiny_subject()
    batch = subject.prepare(tiny_corpus(2).examples)
    ran = count_layers(subject)
    subject.capture(batch, ["resid_post.0", "mlp_out.0"])
    assert ran == [0]
    ran.clear()
    subject.capture(batch, ["resid_pre.1"])
    assert ran == [0, 1], "the counting hook stands before the capturing one"
    ran.clear()
    subject.predict(batch)
    assert ran == [0, 1, 2]


def test_captured_activations_may_be_used_later() -> None:
    subject = tiny_subject()
    x = subject.capture(subject.prepare(tiny_corpus(1).examples), ["resid_post.1"])["resid_post.1"]
    weight = torch.ones(32, requires_grad=True)
    (x @ weight).sum().backward()
    x += 1


def test_batches_without_tokens() -> None:
    subject = tiny_subject()
    for batch in (subject.prepare([]), subject.prepare([Example("empty", "", "g")])):
        assert batch.n_tokens == 0
        assert subject.capture(batch, ["resid_post.0"])["resid_post.0"].shape == (0, 32)
        assert subject.predict(batch).shape == (0, 400)
        assert subject.loss(batch).shape == (0,)


@pytest.mark.parametrize("site", ["embed", "resid_pre.1", "attn_out.1", "resid_post.1", "lm_head:input", "lm_head:output"])
def test_edits_touch_counted_tokens_only(site: str) -> None:
    subject = tiny_subject()
    batch = subject.prepare(tiny_corpus(3).examples)
    address = subject._table.resolve(site)

    def whole(edits: dict[str, object]) -> Tensor:
        # The probe hook is registered last, so it reads what the edit left.
        shape = (len(batch.counts), batch.counts.shape[1])
        reading = capturing([address], shape, lambda _site, value: value.clone(), stop=False)
        with torch.no_grad(), editing(subject._resolve_edits(edits), batch.counts), reading as found:
            subject.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask.long())
        return found[site]

    plain, zeroed = whole({}), whole({site: torch.zeros_like})
    assert (zeroed[batch.counts] == 0).all()
    assert torch.equal(zeroed[~batch.counts], plain[~batch.counts])
    assert not torch.equal(subject.predict(batch, {site: torch.zeros_like}), subject.predict(batch))


def test_edits_are_applied_in_the_forward_pass() -> None:
    subject = tiny_subject()
    batch = subject.prepare(tiny_corpus(3).examples)
    other = tiny_subject()
    other.model.model.layers[0].mlp.down_proj.weight.zero_()
    other_x = other.capture(batch, ["resid_post.0"])["resid_post.0"]
    seen: dict[str, Tensor] = {}
    subject.predict(batch, {"mlp_out.0": torch.zeros_like, "resid_post.0": lambda x: seen.setdefault("x", x)})
    assert torch.equal(seen["x"], other_x)


@pytest.mark.parametrize(("edit", "why"), [
    (lambda x: x[:, :-1], "returned"),
    (lambda x: None, "NoneType"),
    (lambda x: x / 0, "not finite"),
])
def test_faulty_edits_are_refused_and_leave_no_hook(edit, why: str) -> None:
    subject = tiny_subject()
    batch = subject.prepare(tiny_corpus(1).examples)
    before = subject.predict(batch)
    with pytest.raises(SubjectError, match=why):
        subject.predict(batch, {"resid_post.1": edit})
    assert n_hooks(subject) == 0
    assert torch.equal(subject.predict(batch), before)


def test_hooks_are_removed_when_an_edit_raises() -> None:
    subject = tiny_subject()

    def fail(x: Tensor) -> Tensor:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        subject.loss(subject.prepare(tiny_corpus(1).examples), {"embed": fail})
    assert n_hooks(subject) == 0


def test_loss_is_nan_where_nothing_stands_before() -> None:
    with_bos = tiny_subject()
    batch = with_bos.prepare(tiny_corpus(1).examples)
    assert not with_bos.loss(batch).isnan().any()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer().backend_tokenizer)
    without = CausalLM(tiny_subject().model, tokenizer, "no-bos", 64)
    batch = without.prepare(tiny_corpus(1).examples)
    assert not without.ref().token_policy.prepend_bos
    assert without.loss(batch).isnan().nonzero()[:, 0].tolist() == list(range(0, batch.n_tokens, 64))
    with pytest.raises(SubjectError, match="no BOS"):
        without.generate("", 3)


def test_generation_is_the_same_with_and_without_cache() -> None:
    subject = tiny_subject()
    edits = {"resid_post.1": lambda x: x + 1.0, "mlp_out.0": lambda x: 0.5 * x}
    for chosen in (None, edits):
        for temperature in (0.0, 1.0):
            texts = [subject.generate("def make_key(", 24, chosen, temperature, seed=5, use_cache=cache) for cache in (True, False)]
            assert texts[0] == texts[1]
            assert texts[0]
    assert subject.generate("def make_key(", 24, edits) != subject.generate("def make_key(", 24)
    assert subject.generate("def", 24, temperature=1.0, seed=1) != subject.generate("def", 24, temperature=1.0, seed=2)


def test_generation_takes_the_likeliest_token_and_starts_from_nothing() -> None:
    subject = tiny_subject()
    prompt = "for key in"
    logits = subject.predict(subject.prepare([Example("a", prompt, "g")]))[-1]
    first = subject.token_text(int(logits.argmax()))
    assert "\\x" in first or subject.generate(prompt, 1) == first
    assert isinstance(subject.generate("", 4, temperature=1.0), str)
    with pytest.raises(SubjectError, match="context_tokens = 64"):
        subject.generate(prompt, 64)


def test_output_effects_follow_the_formula() -> None:
    subject = tiny_subject()
    directions = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    gain = torch.linspace(0.5, 2.0, 32)
    subject.model.model.norm.weight.data.copy_(gain)
    expected = (directions * gain) @ subject.model.lm_head.weight.T
    torch.testing.assert_close(subject.output_effects(directions, "resid_post.1"), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(SubjectError, match="residual stream"):
        subject.output_effects(torch.zeros(1, 64), "model.layers.1.mlp.gate_proj:output")
