import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from sparselight.errors import ConfigError, SubjectError
from sparselight.intervene import compare_rankings, ranking_change
from sparselight.protocols import Example
from sparselight.testing import tiny_corpus, tiny_subject


def test_lists_in_closed_form() -> None:
    before = torch.tensor([[4.0, 3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0, 4.0]])
    after = torch.tensor([[4.0, 2.0, 3.0, 1.0, 0.0], [4.0, 3.0, 2.0, 1.0, 0.0]])
    change = ranking_change(before, after, 3)
    assert change.before.tolist() == [[0, 1, 2], [4, 3, 2]]
    assert change.after.tolist() == [[0, 2, 1], [0, 1, 2]]
    assert change.overlap().tolist() == pytest.approx([1.0, 1 / 3])
    assert change.kendall().tolist() == pytest.approx([1 / 3, -1.0])
    share = change.shares([2, 4])
    assert share[0].tolist() == pytest.approx([1 / 3, 2 / 3])
    assert share[1].tolist() == pytest.approx([1 / 3, 1 / 3])
    assert change.rank_shift([2, 4]).tolist() == pytest.approx([-0.5, 2.0])


def test_ties_go_to_the_lower_number_and_seen_candidates_to_the_end() -> None:
    scores = torch.zeros(1, 4)
    seen = torch.tensor([[False, True, False, False]])
    change = ranking_change(scores, scores, 3, seen)
    assert change.before.tolist() == [[0, 2, 3]]
    assert change.rank_before.tolist() == [[1, 4, 2, 3]]
    assert change.kendall().tolist() == [1.0]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 8))
def test_kendall_is_that_of_scipy(seed: int, k: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    before, after = torch.randn(3, 12, generator=generator), torch.randn(3, 12, generator=generator)
    change = ranking_change(before, after, k)
    expected = [kendalltau(range(k), ranks[first]).statistic for ranks, first in zip(change.rank_after.numpy(), change.before.numpy(), strict=True)]
    assert change.kendall().tolist() == pytest.approx(expected)


def test_a_subjects_predictions_as_lists() -> None:
    subject = tiny_subject()
    examples = tiny_corpus(4).examples
    same = compare_rankings(subject, examples, {"resid_post.1": lambda x: x}, 5)
    assert torch.equal(same.rank_before, same.rank_after)
    other = compare_rankings(subject, examples, {"resid_post.1": lambda x: x + 3}, 5)
    assert other.overlap().mean() < 1
    with pytest.raises(SubjectError, match="no token"):
        compare_rankings(subject, [Example("a", "", "g")], {}, 5)


def test_lists_that_do_not_exist_are_refused() -> None:
    scores = torch.zeros(1, 4)
    with pytest.raises(ConfigError, match="there are 4"):
        ranking_change(scores, scores, 5)
    with pytest.raises(SubjectError, match="nan"):
        ranking_change(scores, scores / 0, 2)
