"""Intervals against normal theory, their coverage on synthetic data, pairing, and what is left out when it is undefined."""

import numpy as np
import pytest

from sparselight.evaluate.statistics import Resamples, ratio


def interval(values: np.ndarray, resamples: Resamples) -> tuple[float, float, float]:
    value, lacks = resamples.summarize(values)
    assert not lacks
    assert value is not None
    assert value.low is not None
    assert value.high is not None
    return value.value, value.low, value.high


def test_the_first_entry_is_the_whole_sample() -> None:
    per_group = np.array([1.0, 4.0, 7.0])
    resamples = Resamples.draw(3, 50, seed=0)
    assert resamples.totals(per_group)[0] == 12.0
    assert (resamples.weights[1:].sum(1) == 3).all()
    assert resamples.totals(np.ones((3, 2))).shape == (51, 2)


def test_the_interval_of_a_mean_is_close_to_normal_theory() -> None:
    x = np.random.default_rng(1).normal(5.0, 2.0, 400)
    resamples = Resamples.draw(400, 4000, seed=0)
    value, low, high = interval(resamples.totals(x) / resamples.totals(np.ones(400)), resamples)
    half = 1.96 * x.std() / np.sqrt(400)
    assert value == pytest.approx(x.mean(), rel=1e-12)
    assert low == pytest.approx(x.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(x.mean() + half, abs=0.15 * half)


def test_intervals_of_a_ratio_cover_its_true_value() -> None:
    rng, n_groups, covered, n_trials = np.random.default_rng(7), 60, 0, 400
    for trial in range(n_trials):
        size = rng.integers(5, 40, n_groups).astype(float)
        rate = rng.gamma(8.0, 0.3 / 8.0, n_groups)  # groups differ, so that tokens within one are not independent; mean rate 0.3
        total = size * rate + rng.normal(0, 0.1, n_groups) * np.sqrt(size)
        resamples = Resamples.draw(n_groups, 300, seed=trial)
        _, low, high = interval(ratio(resamples.totals(total), resamples.totals(size)), resamples)
        covered += low <= 0.3 <= high
    assert 0.9 <= covered / n_trials <= 0.98


def test_paired_differences_are_narrower_than_the_values() -> None:
    rng = np.random.default_rng(2)
    shared = rng.normal(10, 3, 100)
    resamples = Resamples.draw(100, 1000, seed=0)
    a, b = (resamples.totals(shared + rng.normal(offset, 0.1, 100)) / resamples.totals(np.ones(100)) for offset in (0.5, 0.0))
    value, low, high = interval(a - b, resamples)
    assert 0.4 < low < value < high < 0.6
    _, low_a, high_a = interval(a, resamples)
    assert high - low < 0.1 * (high_a - low_a)


def test_equal_seeds_give_equal_resamples_and_others_do_not() -> None:
    first, same, other = (Resamples.draw(20, 100, seed).weights for seed in (3, 3, 4))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_a_single_group_has_a_value_and_no_interval() -> None:
    resamples = Resamples.draw(1, 100, seed=0)
    value, lacks = resamples.summarize(resamples.totals(np.array([4.0])))
    assert value is not None
    assert (value.value, value.low, value.high, value.n) == (4.0, None, None, 1)
    assert not lacks
    assert "one group" in resamples.note()


def test_few_groups_are_pointed_out() -> None:
    assert "only 4 groups" in Resamples.draw(4, 40, seed=0).note()
    assert Resamples.draw(40, 40, seed=0).note() == ""


def test_an_undefined_value_is_left_out_with_its_reason() -> None:
    resamples = Resamples.draw(5, 50, seed=0)
    value, lacks = resamples.summarize(ratio(np.ones(51), np.zeros(51)))
    assert value is None
    assert "undefined" in lacks


def test_resamples_without_a_value_take_the_interval_away() -> None:
    resamples = Resamples.draw(3, 200, seed=0)
    values = ratio(resamples.totals(np.array([1.0, 0.0, 0.0])), resamples.totals(np.array([2.0, 0.0, 0.0])))
    value, lacks = resamples.summarize(values)
    assert value is not None
    assert (value.value, value.low) == (0.5, None)
    assert "of 200 resamples" in lacks


def test_ratio_is_nan_at_and_below_the_least_denominator() -> None:
    result = ratio(np.array([1.0, 1.0, 1.0, 1.0]), np.array([2.0, 0.0, -1.0, 1e-9]), least=1e-6)
    assert result[0] == 0.5
    assert np.isnan(result[1:]).all()
