"""Edits that stay in place while a model runs by itself."""

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sparselight.errors import ConfigError, SubjectError
from sparselight.intervene import edit_function, edit_functions, editing
from sparselight.protocols import Example
from sparselight.records import Edit, Where
from sparselight.sae import Sae
from sparselight.subjects import CausalLM, TokenSettings
from sparselight.testing import tiny_corpus, tiny_subject
from sparselight.testing.families import tiny_family

SITE = "resid_post.1"
PROMPT = "def make_key("


def make_edit(tokens: str = "counted", **fields: object) -> Edit:
    return Edit(**{"site": SITE, "latents": [3, 11], "operation": "add", "amount": 6.0, "where": Where(tokens=tokens), **fields})


@pytest.fixture(scope="module")
def subject() -> CausalLM:
    return tiny_subject()


def n_hooks(subject: CausalLM) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in subject.model.modules())


def write(subject: CausalLM, text: str | list[str] = PROMPT, n_tokens: int = 12, **settings: object) -> list[list[int]]:
    """New ids by the model's own generate, prompts padded on the left."""
    ids = [subject._tokens.prompt(one).ids.tolist() for one in ([text] if isinstance(text, str) else text)]
    width = max(map(len, ids))
    rows = torch.tensor([[0] * (width - len(own)) + own for own in ids])
    mask = torch.tensor([[0] * (width - len(own)) + [1] * len(own) for own in ids])
    arguments = {"max_new_tokens": n_tokens, "do_sample": False, "pad_token_id": 0, **settings}
    return subject.model.generate(rows, attention_mask=mask, **arguments)[:, width:].tolist()


def ours(subject: CausalLM, edits: object, text: str = PROMPT, n_tokens: int = 12) -> list[int]:
    return subject.generate_many([text], n_tokens, edits)[0].token_ids


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("tokens", ["counted", "generated", "prompt", "last"])
def test_the_models_own_generate_is_edited_as_ours(subject: CausalLM, make_sae: Callable[..., Sae], tokens: str, use_cache: bool) -> None:
    edit, sae = make_edit(tokens), make_sae()
    expected = ours(subject, edit_functions(edit, sae))
    with editing(subject, edit, sae) as model:
        assert model is subject.model
        assert write(subject, use_cache=use_cache)[0] == expected
        assert write(subject, use_cache=use_cache)[0] == expected, "a second prompt begins anew"
    assert n_hooks(subject) == 0
    if tokens == "counted":
        assert expected != ours(subject, None)
    assert write(subject)[0] == ours(subject, None)


def test_rows_that_are_padded_on_the_left(subject: CausalLM, make_sae) -> None:
    texts, sae = [PROMPT, "for items in value:\n    if", "class"], make_sae()
    for where in (Where(tokens="generated"), Where(positions=[1, 2]), Where(positions=[-1, 9]), Where()):
        edit = make_edit(where=where)
        with editing(subject, edit, sae):
            together = write(subject, texts)
        for text, row in zip(texts, together, strict=True):
            expected = ours(subject, edit_functions(edit, sae), text)
            assert row[:len(expected)] == expected


def test_beam_search(subject: CausalLM, make_sae) -> None:
    sae = make_sae()
    with editing(subject, make_edit("generated"), sae):
        cached, whole = (write(subject, [PROMPT, "class value:"], num_beams=3, use_cache=use_cache) for use_cache in (True, False))
    assert cached == whole
    assert cached != write(subject, [PROMPT, "class value:"], num_beams=3)


def test_passes_of_the_subject_are_edited_as_if_the_edits_were_given(subject: CausalLM, make_sae) -> None:
    batch, sae = subject.prepare(tiny_corpus(4).examples), make_sae()
    for where in (Where(), Where(tokens="last"), Where(positions=[0, 3]), Where(annotation="token_class"), Where(chars=[(0, 6)])):
        functions = edit_functions(make_edit(where=where), sae)
        expected, loss = subject.predict(batch, functions), subject.loss(batch, functions)
        with editing(subject, functions):
            assert torch.equal(subject.predict(batch), expected)
            assert torch.equal(subject.loss(batch), loss)
            text = subject.generate(PROMPT, 8)
        assert text == subject.generate(PROMPT, 8, functions)
        assert not torch.equal(subject.predict(batch), expected)


def test_an_edit_of_generated_tokens_is_refused_where_nothing_is_generated(subject: CausalLM, make_sae) -> None:
    batch, functions = subject.prepare(tiny_corpus(2).examples), edit_functions(make_edit("generated"), make_sae())
    for run in (subject.predict, subject.loss):
        with pytest.raises(SubjectError, match="acts on generated tokens, and predict, loss and capture run text that was given"):
            run(batch, functions)
    with editing(subject, functions):
        assert subject.generate(PROMPT, 8) == subject.generate(PROMPT, 8, {})
        with pytest.raises(SubjectError, match="acts on generated tokens"):
            subject.predict(batch)
    assert n_hooks(subject) == 0


def test_no_edit_changes_no_bit(subject: CausalLM, make_sae) -> None:
    batch = subject.prepare(tiny_corpus(4).examples)
    before = subject.predict(batch)
    for edits in ([], [make_edit(latents=[])]):
        with editing(subject, edits, make_sae()):
            assert torch.equal(subject.predict(batch), before)
            assert torch.equal(subject.model(batch.input_ids, attention_mask=batch.attention_mask.long()).logits[batch.counts], before)


def test_nested_sessions_act_one_after_another(subject: CausalLM, make_sae) -> None:
    batch, sae = subject.prepare(tiny_corpus(2).examples), make_sae()
    first, second = edit_function(make_edit(), sae), edit_function(make_edit(operation="clamp", amount=1.0), sae)
    expected = subject.predict(batch, {SITE: lambda x: second(first(x))})
    with editing(subject, {SITE: first}):
        with editing(subject, {SITE: second}):
            assert torch.equal(subject.predict(batch), expected)
        assert torch.equal(subject.predict(batch), subject.predict(batch, {}))
        assert torch.equal(subject.predict(batch, {SITE: second}), expected)
        captured = subject.capture(batch, [SITE])[SITE]
    torch.testing.assert_close(captured, first(subject.capture(batch, [SITE])[SITE]))
    assert n_hooks(subject) == 0


def test_nothing_is_left_after_an_exception(subject: CausalLM) -> None:
    def fail(x: Tensor) -> Tensor:
        raise KeyError("mine")

    batch = subject.prepare(tiny_corpus(1).examples)
    before = subject.predict(batch)
    with pytest.raises(KeyError), editing(subject, {SITE: fail}):
        write(subject)
    with pytest.raises(ZeroDivisionError), editing(subject, {SITE: lambda x: x + 1}):
        raise ZeroDivisionError
    assert n_hooks(subject) == 0
    assert torch.equal(subject.predict(batch), before)
    with editing(subject, {SITE: lambda x: x + 1}):
        with pytest.raises((TypeError, ValueError)):
            subject.model(torch.zeros(1, 3, dtype=torch.int64), attention_mask=torch.ones(1, 3, dtype=torch.int64), no_such_argument=1, labels="x")
        assert torch.equal(subject.predict(batch), subject.predict(batch, {}))
    with pytest.raises(SubjectError, match="no such site"):
        editing(subject, {"nowhere": lambda x: x}).__enter__()
    assert n_hooks(subject) == 0


def in_thread(run: Callable[[], object]) -> object:
    found: list[object] = []

    def keep() -> None:
        try:
            found.append(run())
        except Exception as err:
            found.append(err)

    thread = threading.Thread(target=keep)
    thread.start()
    thread.join()
    return found[0]


def test_another_thread_is_refused_or_let_in(subject: CausalLM, make_sae) -> None:
    sae, expected = make_sae(), None
    with editing(subject, make_edit(), sae):
        expected = write(subject)
        refused = in_thread(lambda: write(subject))
        assert isinstance(refused, SubjectError)
        assert "another thread" in str(refused)
        assert write(subject) == expected
    with editing(subject, make_edit(), sae, any_thread=True):
        assert in_thread(lambda: write(subject)) == expected


def test_threads_with_edits_of_their_own_do_not_meet(subject: CausalLM) -> None:
    batch = subject.prepare(tiny_corpus(2).examples)
    functions = [{SITE: lambda x, number=number: x + number} for number in range(4)]
    expected = [subject.predict(batch, own) for own in functions]
    found: dict[int, list[bool]] = {}

    def run(number: int) -> None:
        found[number] = [torch.equal(subject.predict(batch, functions[number]), expected[number]) for _ in range(8)]

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [True] * 8 for number in range(4)}
    assert n_hooks(subject) == 0


def test_passes_that_cannot_be_told_apart_are_refused(subject: CausalLM, make_sae) -> None:
    sae, ids = make_sae(), torch.tensor([[0, 5, 6, 7]])
    with editing(subject, make_edit("generated"), sae):
        with pytest.raises(SubjectError, match="does not begin at the model itself"):
            subject.model.model(ids)
        cache = subject.model(ids, use_cache=True).past_key_values
        subject.model(torch.tensor([[8]]), past_key_values=cache)
        with pytest.raises(SubjectError, match="several tokens at once"):
            subject.model(torch.tensor([[8, 9]]), past_key_values=cache)
    outside = subject.model(ids, use_cache=True).past_key_values
    with editing(subject, make_edit(where=Where(positions=[1])), sae), pytest.raises(SubjectError, match="made before the session"):
        subject.model(torch.tensor([[8]]), past_key_values=outside)
    embeds = subject.model.get_input_embeddings()(ids)
    with editing(subject, make_edit(where=Where(token_ids=[5])), sae), pytest.raises(ConfigError, match="given as embeddings"):
        subject.model(inputs_embeds=embeds)
    with editing(subject, make_edit(), sae), pytest.raises(SubjectError, match="attention mask"):
        subject.model(ids, attention_mask=torch.zeros(1, 1, 4, 4))
    with pytest.raises(SubjectError, match="not known to take hooks"):
        editing(object(), {}).__enter__()


def test_masked_models_and_token_policies(make_sae) -> None:
    bert, sae = tiny_family("bert"), make_sae(d_in=16)
    batch, functions = bert.prepare(tiny_corpus(3).examples), edit_functions(make_edit(), sae)
    expected = bert.predict(batch, functions)
    with editing(bert, functions):
        assert torch.equal(bert.predict(batch), expected)
        logits = bert.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask.long()).logits
    torch.testing.assert_close(logits[batch.counts], expected)
    skipping = tiny_family("llama", TokenSettings(context_tokens=64, skip_start_tokens=2))
    batch = skipping.prepare([Example("a", PROMPT, "g")])
    with editing(skipping, functions):
        logits = skipping.model(input_ids=batch.input_ids).logits
    torch.testing.assert_close(logits[batch.counts], skipping.predict(batch, functions))
