"""The token policy, setting by setting."""

import random

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from sparselight.errors import ConfigError, SubjectError
from sparselight.protocols import Batch, Example
from sparselight.records import TokenPolicy
from sparselight.subjects import CausalLM, HuggingFaceSubject, TokenSettings
from sparselight.subjects.tokens import fast_backend
from sparselight.testing import check_subject, tiny_corpus, tiny_esm_tokenizer, tiny_family, tiny_subject, tiny_tokenizer

TEMPLATE = ("{{ bos_token }}{% for message in messages %}{{ '[' + message['role'] + '] ' }}{{ message['content'] | trim }}{{ '\\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}")
SITE = "resid_post.1"


def subject_with(family: str = "llama", **settings: object) -> HuggingFaceSubject:
    return tiny_family(family, TokenSettings.parse({"context_tokens": 24, **settings}))


def text_of(subject: HuggingFaceSubject, batch: Batch, number: int = 0) -> str:
    return "".join(subject.token_text(token) for token in batch.token_id[batch.example == number].tolist())


@pytest.mark.parametrize("settings", [
    {"overlap_tokens": 5}, {"long_examples": "cut"}, {"skip_start_tokens": 2}, {"overlap_tokens": 5, "skip_start_tokens": 3}, {"count_specials": True},
    {"padding_side": "left"}, {"pack": True}, {"pack": True, "bos": "never"}, {"bos": "never"}, {"bos": "always"}, {"pack": True, "overlap_tokens": 4},
    {"max_norms": {SITE: 4.0}},
])
def test_every_policy_passes_the_battery(settings: dict[str, object]) -> None:
    check_subject(subject_with(**settings), [*tiny_corpus(4).examples, Example("short", "def make", "g"), Example("one", "key", "g")])


@pytest.mark.parametrize(("family", "settings"), [
    ("bert", {"overlap_tokens": 5}), ("bert", {"count_specials": True}), ("bert", {"bos": "never"}), ("bert", {"padding_side": "left"}),
    ("modernbert", {"padding_side": "left"}), ("t5_encoder", {"padding_side": "left", "long_examples": "cut"}), ("gpt2", {"padding_side": "left"}),
    ("opt", {"padding_side": "left"}), ("gpt2", {"pack": True}), ("gemma2", {"pack": True}), ("mistral", {"pack": True}), ("gpt_neox", {"pack": True}),
])
def test_policies_pass_the_battery_in_other_families(family: str, settings: dict[str, object]) -> None:
    check_subject(subject_with(family, **settings), [*tiny_corpus(3).examples, Example("short", "def make", "g")])


def test_overlapping_rows_count_each_token_once_and_give_it_context() -> None:
    plain, overlapping = subject_with(), subject_with(overlap_tokens=8)
    example = tiny_corpus(1)[0]
    assert plain.n_tokens([example]) == overlapping.n_tokens([example])
    batch = overlapping.prepare([example])
    assert text_of(overlapping, batch) == example.text
    assert batch.counts[0].sum() == 23
    assert not batch.counts[1, :9].any()
    assert batch.counts[1, 9]
    assert torch.equal(batch.input_ids[1, 1:9], batch.input_ids[0, -8:])
    # The first token that counts in a further row is predicted from 8 tokens, not from BOS alone.
    whole = tiny_family("llama").prepare([example])
    at = 23
    row = torch.cat([torch.zeros(1, dtype=torch.int64), whole.token_id[at - 8:at]])[None]
    expected = -plain.model(input_ids=row).logits[0, -1].log_softmax(-1)[whole.token_id[at]]
    torch.testing.assert_close(overlapping.loss(batch)[at], expected)


def test_cut_examples_end_with_their_row() -> None:
    subject, example = subject_with(long_examples="cut"), tiny_corpus(1)[0]
    batch = subject.prepare([example])
    assert batch.input_ids.shape == (1, 24)
    assert subject.n_tokens([example]) == [23] == [batch.n_tokens]
    assert example.text.startswith(text_of(subject, batch))


def test_tokens_at_the_start_of_rows_may_be_left_out() -> None:
    subject, plain, example = subject_with(skip_start_tokens=2), subject_with(), tiny_corpus(1)[0]
    batch, whole = subject.prepare([example]), plain.prepare([example])
    assert torch.equal(batch.input_ids, whole.input_ids)
    assert not batch.counts[:, :3].any()
    assert batch.n_tokens == whole.n_tokens - 2 * len(batch.input_ids)
    assert torch.equal(subject.capture(batch, [SITE])[SITE], plain.capture(whole, [SITE])[SITE][batch.counts[whole.counts]])


def test_special_tokens_count_where_asked() -> None:
    subject = subject_with("bert", count_specials=True)
    batch = subject.prepare([Example("a", "def make", "g")])
    texts = [subject.token_text(token) for token in batch.token_id.tolist()]
    assert (texts[0], texts[-1]) == ("[CLS]", "[SEP]")
    assert batch.counts.all()
    loss = subject.loss(batch)
    assert loss.isnan().nonzero()[:, 0].tolist() == [0, batch.n_tokens - 1], "specials count, but there is nothing to guess"
    plain = subject_with("bert").prepare([Example("a", "def make", "g")])
    assert plain.token_id.tolist() == batch.token_id.tolist()[1:-1]


def test_left_padding_changes_no_activation() -> None:
    examples = [*tiny_corpus(2).examples, Example("short", "def make", "g")]
    for family in ("llama", "gpt2", "opt", "bert", "roberta", "distilbert"):
        right, left = subject_with(family), subject_with(family, padding_side="left")
        batch = left.prepare(examples)
        assert not batch.attention_mask[-1, 0]
        assert batch.attention_mask[-1, -1]
        torch.testing.assert_close(left.capture(batch, [SITE])[SITE], right.capture(right.prepare(examples), [SITE])[SITE], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(left.loss(batch), right.loss(right.prepare(examples)), atol=1e-4, rtol=1e-4, equal_nan=True)
    with pytest.raises(SubjectError, match="depend on where a row begins"):
        subject_with("mpnet", padding_side="left")


def test_packed_rows_hold_several_examples_that_do_not_see_each_other() -> None:
    examples = [Example(str(number), text, "g") for number, text in enumerate(("def make", "key in path", "for a in b", "while x", "class circle"))]
    for family in ("llama", "gpt2", "mistral", "gemma2"):
        alone, packed = subject_with(family), subject_with(family, pack=True)
        batch, single = packed.prepare(examples), alone.prepare(examples)
        assert len(batch.input_ids) < len(single.input_ids)
        assert batch.segment is not None
        torch.testing.assert_close(packed.capture(batch, [SITE])[SITE], alone.capture(single, [SITE])[SITE], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(packed.loss(batch), alone.loss(single), atol=1e-4, rtol=1e-4, equal_nan=True)
        assert torch.equal(batch.token_id, single.token_id)


@pytest.mark.parametrize(("family", "why"), [
    ("bert", "for causal"), ("t5_encoder", "for causal"), ("bloom", "would see each other"), ("opt", "would see each other"),
])
def test_packing_that_would_leak_is_refused(family: str, why: str) -> None:
    with pytest.raises(SubjectError, match=why):
        subject_with(family, pack=True)


def chat_subject(**settings: object) -> CausalLM:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer().backend_tokenizer, bos_token="<|bos|>", eos_token="<|bos|>", chat_template=TEMPLATE)
    return CausalLM(tiny_subject().model, tokenizer, "chat", None, TokenSettings.parse({"context_tokens": 64, "chat_template": True, **settings}))


def test_the_chat_template_is_seen_and_does_not_count() -> None:
    subject = chat_subject()
    policy = subject.ref().token_policy
    assert (policy.chat_prefix, policy.chat_suffix) == ("[user] ", "\n[assistant]"), "BOS stands in the row already"
    examples = tiny_corpus(4).examples
    check_subject(subject, examples)
    batch = subject.prepare(examples)
    assert text_of(subject, batch).strip() == examples[0].text.strip()
    row = "".join(subject.token_text(token) for token in batch.input_ids[0][batch.attention_mask[0]].tolist())
    assert row.startswith("<|bos|>[user] ")
    assert row.endswith("\n[assistant]")
    assert row.count("<|bos|>") == 1
    assert isinstance(subject.generate("key", 4), str)


def test_a_chat_template_must_be_there_and_must_not_follow_the_calendar() -> None:
    with pytest.raises(SubjectError, match="the tokenizer has none"):
        subject_with(chat_template=True)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer().backend_tokenizer, bos_token="<|bos|>",
                                        chat_template="{{ date_string or strftime_now('%d %b %Y') }}: {{ messages[0]['content'] }}")
    subject = CausalLM(tiny_subject().model, tokenizer, "chat", None, TokenSettings(context_tokens=64, chat_template=True))
    assert subject.ref().token_policy.chat_prefix == "26 Jul 2024: "
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}: {{ messages[0]['content'] }}"
    with pytest.raises(SubjectError, match="date of the day"):
        CausalLM(tiny_subject().model, tokenizer, "chat", None, TokenSettings(context_tokens=64, chat_template=True))


def test_special_tokens_come_from_the_tokenizer() -> None:
    for family, ends in (("bert", (True, True)), ("llama", (True, False)), ("esm", (True, True))):
        policy = tiny_family(family).ref().token_policy
        assert (policy.prepend_bos, policy.append_eos) == ends
    assert not subject_with("bert", bos="never").ref().token_policy.append_eos
    without = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer().backend_tokenizer)
    with pytest.raises(SubjectError, match="no BOS token"):
        CausalLM(tiny_subject().model, without, "no-bos", None, TokenSettings(context_tokens=64, bos="always"))


def test_rows_without_room_are_refused() -> None:
    with pytest.raises(ConfigError, match="leaves no new token"):
        subject_with(overlap_tokens=23)
    with pytest.raises(SubjectError, match="leave no room"):
        subject_with("bert", overlap_tokens=22)


def test_the_policy_enters_the_fingerprint_only_where_it_differs() -> None:
    """Fingerprints of stores and SAEs from before a setting existed stay valid."""
    assert TokenPolicy(prepend_bos=True, context_tokens=64).canonical() == '{"prepend_bos":true,"context_tokens":64,"count_specials":false}'
    policies: tuple[dict[str, object], ...] = ({}, {"overlap_tokens": 3}, {"skip_start_tokens": 1}, {"pack": True}, {"padding_side": "left"})
    assert len({subject_with(**settings).fingerprint for settings in policies}) == len(policies)


def test_esm_text_is_split_as_by_its_own_tokenizer() -> None:
    tokenizer = tiny_esm_tokenizer()
    backend, generator = fast_backend(tokenizer), random.Random(0)
    alphabet = ["M", "K", "L", "X", "U", ".", "-", "J", "j", " ", "<mask>", "<cls>", "\n", "<pad"]
    for text in ["", "MKTAYIAKQR", *("".join(generator.choices(alphabet, k=generator.randrange(12))) for _ in range(200))]:
        assert backend.encode(text, add_special_tokens=False).ids == tokenizer(text, add_special_tokens=False)["input_ids"], text


def test_every_residue_is_one_token() -> None:
    subject = tiny_family("esm")
    batch = subject.prepare([Example("p", "MKTAYIAKQR", "g")])
    assert [subject.token_text(token) for token in batch.token_id.tolist()] == list("MKTAYIAKQR")
    assert batch.char_start.tolist() == list(range(10))
    assert batch.position.tolist() == list(range(10))
    assert [subject.token_text(token) for token in batch.input_ids[0].tolist()] == ["<cls>", *"MKTAYIAKQR", "<eos>"]
