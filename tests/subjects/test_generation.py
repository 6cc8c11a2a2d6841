"""Many rows at once: each as it would be alone, whatever stands beside it."""

import pytest
import torch
from torch import Tensor

from sparselight.errors import SubjectError
from sparselight.protocols import Example
from sparselight.subjects import CausalLM
from sparselight.testing import tiny_subject
from sparselight.testing.families import tiny_family

PROMPTS = ["def make_key(", "for items in value:", "class", "def make_key(", "while left != right and pivot == index:\n    left = "]
SITE = "resid_post.1"


def shift(amount: float, site: str = SITE) -> dict:
    return {site: lambda x: x + amount}


@pytest.fixture(scope="module")
def subject() -> CausalLM:
    return tiny_subject()


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_does_not_depend_on_the_rows_beside_it(subject: CausalLM, temperature: float, use_cache: bool) -> None:
    edits = [None, shift(1.0), shift(-2.0, "mlp_out.0"), shift(1.0), {}]
    seeds = [3, 1, 4, 1, 5]
    together = subject.generate_many(PROMPTS, 16, edits, temperature, seeds, use_cache)
    for text, own, seed, row in zip(PROMPTS, edits, seeds, together, strict=True):
        assert row.text == subject.generate(text, 16, own, temperature, seed)
    few = subject.generate_many(PROMPTS[1:4], 16, edits[1:4], temperature, seeds[1:4], use_cache, max_rows=2)
    assert few == together[1:4]


@pytest.mark.parametrize("family", ["gpt2", "mistral", "gemma2", "bloom", "opt", "gpt_neox"])
def test_families_continue_rows_of_different_lengths(family: str) -> None:
    subject, edits = tiny_family(family), [shift(0.5), None, shift(0.5), None, None]
    together = subject.generate_many(PROMPTS, 8, edits)
    assert [row.text for row in together] == [subject.generate(text, 8, own) for text, own in zip(PROMPTS, edits, strict=True)]


def test_a_model_that_bears_no_padding_gets_rows_of_one_length(subject: CausalLM) -> None:
    class Strict(CausalLM):
        left_padding = None

    strict = Strict(subject.model, tiny_subject_tokenizer(), "strict", 64)
    widths = []
    subject_call = strict.model.forward
    strict.model.forward = lambda *args, **kwargs: (widths.append(bool(kwargs["attention_mask"].all())), subject_call(*args, **kwargs))[1]
    try:
        rows = strict.generate_many(PROMPTS, 6)
    finally:
        strict.model.forward = subject_call
    assert all(widths)
    assert [row.text for row in rows] == [subject.generate(text, 6) for text in PROMPTS]


def tiny_subject_tokenizer():
    from sparselight.testing.tiny import tiny_tokenizer

    return tiny_tokenizer()


def count_passes(subject: CausalLM, *arguments, **settings) -> list[tuple[int, int]]:
    """Rows and positions of every forward pass of a generation."""
    shapes: list[tuple[int, int]] = []
    handle = subject.model.register_forward_pre_hook(lambda _m, _a, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True)
    try:
        subject.generate_many(*arguments, **settings)
    finally:
        handle.remove()
    return shapes


class Later:
    """Acts on generated tokens only."""

    needs_places = False

    def __init__(self, amount: float):
        self.amount = amount

    def __call__(self, x: Tensor) -> Tensor:
        return x + self.amount

    def during(self, phase: str):
        return self if phase == "generated" else None


def test_alike_prompts_run_once(subject: CausalLM) -> None:
    prompt = PROMPTS[1]
    many = [{SITE: Later(float(number))} for number in range(20)]
    shapes = count_passes(subject, [prompt] * 20, 5, many)
    width = len(subject._tokens.prompt(prompt).ids)
    assert shapes[0] == (1, width)
    assert all(rows <= 20 and positions == 1 for rows, positions in shapes[1:])
    shared = shift(1.0)
    assert count_passes(subject, [prompt] * 6, 3, [shared, None] * 3)[0] == (2, width), "one pass for each edit of the prompt"
    texts = [row.text for row in subject.generate_many([prompt] * 20, 8, many, 1.0, list(range(20)))]
    assert texts == [subject.generate(prompt, 8, own, 1.0, number) for number, own in enumerate(many)]


def test_rows_that_are_done_leave(subject: CausalLM) -> None:
    stop = next(iter(subject._tokens.vocabulary.stop_ids))

    def ends(x: Tensor) -> Tensor:
        """The output layer's logits, with the end of the text the likeliest."""
        return x.index_fill(1, torch.tensor([stop]), 1e4)

    edits = [None, {"lm_head:output": ends}, None, shift(1.0)]
    rows = subject.generate_many(PROMPTS[:4], 12, edits)
    assert rows[1].token_ids == [stop]
    assert rows[1].ended
    assert rows[1].text == ""
    assert [row.text for row in (rows[0], rows[2], rows[3])] == [subject.generate(PROMPTS[number], 12, edits[number]) for number in (0, 2, 3)]


def test_text_comes_in_pieces_as_it_is_written(subject: CausalLM) -> None:
    pieces: dict[int, list[str]] = {}
    rows = subject.generate_many(PROMPTS, 20, temperature=1.0, seeds=2, on_text=lambda row, text: pieces.setdefault(row, []).append(text))
    assert ["".join(pieces.get(number, [])) for number in range(len(PROMPTS))] == [row.text for row in rows]
    assert any(len(own) > 3 for own in pieces.values())


def test_whoever_listens_may_use_the_subject(subject: CausalLM) -> None:
    batch, edits = subject.prepare([Example("a", "def make_key(items):", "g")]), shift(2.0)
    before, seen = subject.predict(batch), []
    text = subject.generate(PROMPTS[0], 8, edits, on_text=lambda _row, _text: seen.append(torch.equal(subject.predict(batch), before)))
    assert text == subject.generate(PROMPTS[0], 8, edits)
    assert seen
    assert all(seen)


def test_an_edit_is_told_which_tokens_it_gets(subject: CausalLM) -> None:
    seen = []

    class Noting(Later):
        needs_places = True

        def during(self, phase: str):
            return self

        def at(self, places):
            def note(x: Tensor) -> Tensor:
                assert len(x) == len(places.position)
                seen.append(places)
                return x
            return note

    text = "def make_key(items):"
    for use_cache in (True, False):
        seen.clear()
        result = subject.generate_many([Example("a", text, "g")], 4, {SITE: Noting(0.0)}, use_cache=use_cache)[0]
        batch = subject.prepare([Example("a", text, "g")])
        first, last = seen[0], seen[-1]
        assert torch.equal(first.token_id, batch.token_id)
        assert torch.equal(first.char_start, batch.char_start)
        assert torch.equal(first.position, batch.position)
        assert not first.generated.any()
        assert first.n_given.tolist() == [batch.n_tokens] * batch.n_tokens
        assert last.position[-1] == batch.n_tokens + len(result.token_ids) - 2
        assert last.generated[-1]
        assert last.token_id[-1] == result.token_ids[-2]
        assert len(last.position) == (1 if use_cache else batch.n_tokens + 3)


def test_what_does_not_fit_is_refused(subject: CausalLM) -> None:
    assert subject.generate_many([], 4) == []
    assert subject.generate_many(["def"], 0)[0].text == ""
    with pytest.raises(SubjectError, match="2 edits are given"):
        subject.generate_many(["def"], 4, [None, None])
    with pytest.raises(SubjectError, match="2 seeds are given"):
        subject.generate_many(["def"], 4, seeds=[1, 2])
    with pytest.raises(SubjectError, match="negative"):
        subject.generate_many(["def"], 4, temperature=-1.0)
    with pytest.raises(SubjectError, match="context_tokens = 64"):
        subject.generate_many(["def", "def make_key(" * 20], 10)
    with pytest.raises(SubjectError, match="continuation of a text"):
        tiny_family("bert").generate_many(["def"], 4)
