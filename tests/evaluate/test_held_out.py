"""Which examples are measured: whole, even over groups, the same for the same seed, in batches of bounded size."""

from collections import Counter
from collections.abc import Sequence

import pytest

from sparselight.errors import CorpusError
from sparselight.evaluate.held_out import COUNT_BLOCK, HeldOut
from sparselight.protocols import Example


def words(examples: Sequence[Example]) -> list[int]:
    return [len(example.text.split()) for example in examples]


def corpus_of(sizes: dict[str, int], n_words: int = 10) -> list[Example]:
    return [Example(f"{group}#{number}", "w " * n_words, group) for group, size in sizes.items() for number in range(size)]


def test_a_large_group_does_not_crowd_out_small_ones() -> None:
    part = HeldOut.draw("general", corpus_of({"large": 100, "a": 3, "b": 3, "c": 3}), 120, words, seed=0)
    assert part.n_tokens == 120
    assert Counter(part.groups[number] for number in part.group) == {"large": 3, "a": 3, "b": 3, "c": 3}


def test_small_groups_are_used_up_before_a_large_one_goes_on() -> None:
    part = HeldOut.draw("general", corpus_of({"large": 100, "a": 1}), 50, words, seed=0)
    assert Counter(part.groups[number] for number in part.group) == {"large": 4, "a": 1}


def test_the_budget_is_passed_by_less_than_one_example() -> None:
    part = HeldOut.draw("general", corpus_of({"a": 20, "b": 20}), 95, words, seed=0)
    assert part.n_tokens == 100
    assert part.lengths == [10] * 10


def test_everything_is_taken_where_there_is_less_than_the_budget() -> None:
    part = HeldOut.draw("general", corpus_of({"a": 5, "b": 2}), 10_000, words, seed=0)
    assert part.n_tokens == 70
    assert part.groups == ["a", "b"]


def test_the_draw_depends_on_the_seed_and_not_on_the_order_given() -> None:
    examples = corpus_of({"a": 30, "b": 30})
    first, reversed_order, other = (HeldOut.draw("x", part, 100, words, seed) for part, seed in ((examples, 0), (examples[::-1], 0), (examples, 1)))
    assert first == reversed_order
    assert first.examples != other.examples


def test_a_large_corpus_is_not_counted_beyond_the_budget() -> None:
    counted = []

    def count(examples: Sequence[Example]) -> list[int]:
        counted.extend(examples)
        return words(examples)

    HeldOut.draw("general", corpus_of({"a": 1000, "b": 1000}), 100, count, seed=0)
    assert len(counted) == COUNT_BLOCK


@pytest.mark.parametrize(("examples", "why"), [([], "no example"), ([Example("a#0", "", "a")], "no token")])
def test_an_empty_dataset_is_refused_by_name(examples: list[Example], why: str) -> None:
    with pytest.raises(CorpusError, match=f"'domain'.*{why}"):
        HeldOut.draw("domain", examples, 100, words, seed=0)


def test_empty_examples_are_passed_over() -> None:
    part = HeldOut.draw("general", [Example("a#0", "", "a"), Example("b#0", "w w", "b")], 100, words, seed=0)
    assert part.groups == ["b"]


def test_batches_hold_every_example_once_and_stay_in_bounds() -> None:
    examples = [Example(f"a#{number}", "w " * (1 + number % 17), "a") for number in range(60)] + [Example("long", "w " * 200, "b")]
    part = HeldOut.draw("general", examples, 10_000, words, seed=0)
    batches = list(part.batches(64))
    assert sorted(index for batch in batches for index in batch) == list(range(61))
    padded = [len(batch) * max(part.lengths[index] for index in batch) for batch in batches]
    assert max(padded[:-1]) <= 64
    assert padded[-1] == 200
