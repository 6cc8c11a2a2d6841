"""Where edits act: masks against plain loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparselight.errors import ConfigError
from sparselight.intervene.where import describe, during, matches, token_mask
from sparselight.protocols import Example, Places, Span
from sparselight.records import Where

TEXT = "abcdefghij" * 3


@st.composite
def passes(draw: st.DrawFn) -> Places:
    """Tokens of two or three examples, some of them given and the rest generated."""
    rows: list[tuple[int, ...]] = []
    examples = []
    for number in range(draw(st.integers(1, 3))):
        n_given, n_written = draw(st.integers(0, 5)), draw(st.integers(0, 4))
        start = 0
        for position in range(n_given):
            end = start + draw(st.integers(0, 3))
            rows.append((number, position, draw(st.integers(0, 4)), start, end, 0, n_given))
            start = end
        rows += [(number, n_given + extra, draw(st.integers(0, 4)), -1, -1, 1, n_given) for extra in range(n_written)]
        spans = [Span(begin, begin + draw(st.integers(1, 3)), "kind", draw(st.sampled_from("xy"))) for begin in draw(st.lists(st.integers(0, 10), max_size=2))]
        examples.append(Example(str(number), TEXT, "g", {"label": draw(st.sampled_from("xy"))}, tuple(spans)))
    columns = torch.tensor(rows, dtype=torch.int64).view(-1, 7).unbind(1)
    return Places(*columns[:5], columns[5].bool(), columns[6], examples)


WHERES = st.builds(
    Where, tokens=st.sampled_from(["counted", "prompt", "generated", "last"]), positions=st.none() | st.lists(st.integers(-3, 6), min_size=1, max_size=3),
    chars=st.none() | st.lists(st.tuples(st.integers(0, 5), st.integers(6, 12)), min_size=1, max_size=2),
    annotation=st.none() | st.sampled_from(["kind", "kind=x", "label=y", "nothing"]), token_ids=st.none() | st.lists(st.integers(0, 4), min_size=1, max_size=3),
    except_token_ids=st.lists(st.integers(0, 4), max_size=2),
)


def acts(where: Where, places: Places, index: int) -> bool:
    """One token, by the words of the record."""
    number, position, token_id, start, end = (int(column[index]) for column in (
        places.example, places.position, places.token_id, places.char_start, places.char_end))
    generated, n_given = bool(places.generated[index]), int(places.n_given[index])
    holds = [
        {"counted": True, "prompt": not generated, "generated": generated, "last": not generated and position == n_given - 1}[where.tokens],
        where.positions is None or position in where.positions or position - n_given in [one for one in where.positions if one < 0],
        where.chars is None or any(start < right and end > left for left, right in where.chars),
        where.token_ids is None or token_id in where.token_ids,
        token_id not in where.except_token_ids,
    ]
    if where.annotation is not None:
        example = places.examples[number]
        whole, spans = matches(example, where.annotation)
        holds.append(not generated and (whole or any(start < right and end > left for left, right in spans)))
    return all(holds)


@settings(max_examples=150, deadline=None)
@given(places=passes(), where=WHERES)
def test_a_mask_is_what_the_words_say_of_each_token(places: Places, where: Where) -> None:
    mask = token_mask(where, places)
    assert mask.tolist() == [acts(where, places, index) for index in range(len(places.position))]


@settings(max_examples=150, deadline=None)
@given(places=passes(), where=WHERES)
def test_what_is_left_in_a_phase_is_the_mask_there(places: Places, where: Where) -> None:
    for phase, kind in (("prompt", ~places.generated), ("generated", places.generated)):
        part, left = places.take(kind), during(where, phase)
        expected = token_mask(where, part)
        assert torch.equal(expected, torch.zeros_like(expected) if left is None else token_mask(left, part))


@settings(max_examples=50, deadline=None)
@given(places=passes(), where=WHERES, seed=st.integers(0, 99))
def test_a_mask_does_not_depend_on_which_tokens_come_together(places: Places, where: Where, seed: int) -> None:
    chosen = torch.rand(len(places.position), generator=torch.Generator().manual_seed(seed)) < 0.5
    assert torch.equal(token_mask(where, places)[chosen], token_mask(where, places.take(chosen)))


def test_labels_and_spans_are_found_by_name_and_value() -> None:
    example = Example("a", TEXT, "g", {"module": "ssl"}, (Span(2, 4, "kind", "x"), Span(6, 8, "kind", "y")))
    assert matches(example, "module") == (True, [])
    assert matches(example, "module=os") == (False, [])
    assert matches(example, "kind") == (False, [(2, 4), (6, 8)])
    assert matches(example, "kind=y") == (False, [(6, 8)])


def test_annotations_need_examples_and_characters_need_a_text() -> None:
    index = torch.arange(3)
    bare = Places(index * 0, index, index, index * 0 - 1, index * 0 - 1, torch.zeros(3, dtype=torch.bool), index * 0 + 3)
    with pytest.raises(ConfigError, match="does not say which examples"):
        token_mask(Where(annotation="kind"), bare)
    with pytest.raises(ConfigError, match="does not say which characters"):
        token_mask(Where(chars=[(0, 2)]), bare)


def test_words() -> None:
    assert describe(Where(tokens="generated", token_ids=[1, 2])) == "generated tokens, tokens 1, 2 of the vocabulary"
