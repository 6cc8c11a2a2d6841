"""Intervals against normal theory and their coverage on synthetic data; paired tests; many comparisons and several seeds against scipy."""

import numpy as np
import pytest
from scipy import stats

from sparselight.errors import ConfigError
from sparselight.evaluate.statistics import Resamples, benjamini_hochberg, bonferroni, over_seeds, paired, ratio


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


def means(x: np.ndarray, resamples: Resamples) -> np.ndarray:
    return resamples.totals(x) / resamples.totals(np.ones(len(x)))


def test_paired_p_value_is_close_to_the_t_test() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.normal(0.12, 1, 300), rng.normal(0, 1, 300)
    resamples = Resamples.draw(300, 4000, seed=0)
    found = paired(means(first, resamples), means(second, resamples), resamples)
    expected = stats.ttest_rel(first, second)
    assert found.value is not None
    assert found.value.value == pytest.approx((first - second).mean())
    assert found.p == pytest.approx(float(expected.pvalue), abs=0.02)
    assert not found.lacks


def test_the_smallest_p_value_is_that_of_the_number_of_draws() -> None:
    resamples = Resamples.draw(50, 199, seed=0)
    clear = paired(means(np.full(50, 2.0), resamples), means(np.ones(50), resamples), resamples)
    assert clear.p == pytest.approx(2 / 200)
    same = paired(means(np.ones(50), resamples), means(np.ones(50), resamples), resamples)
    assert same.p == 1.0


def test_p_values_of_no_difference_are_uniform() -> None:
    rng, found = np.random.default_rng(5), []
    for trial in range(300):
        first, second = rng.normal(size=(2, 60))
        resamples = Resamples.draw(60, 300, seed=trial)
        found.append(paired(means(first, resamples), means(second, resamples), resamples).p)
    assert 0.02 <= float(np.mean(np.array(found) <= 0.05)) <= 0.09
    assert stats.kstest(found, "uniform").pvalue > 1e-3


def test_without_an_interval_there_is_no_p_value() -> None:
    one = Resamples.draw(1, 50, seed=0)
    found = paired(one.totals(np.array([2.0])), one.totals(np.array([1.0])), one)
    assert found.value is not None
    assert (found.value.value, found.p) == (1.0, None)
    assert "one group" in found.lacks
    undefined = paired(np.full(51, np.nan), np.ones(51), Resamples.draw(5, 50, seed=0))
    assert undefined.value is None
    assert "undefined" in undefined.lacks


@pytest.mark.parametrize("n", [1, 2, 7, 500])
def test_benjamini_hochberg_equals_scipy(n: int) -> None:
    p = np.round(np.random.default_rng(n).beta(0.4, 2, n), 3)  # with ties
    np.testing.assert_allclose(benjamini_hochberg(p), stats.false_discovery_control(p, method="bh"), rtol=1e-12)


def test_bonferroni_multiplies_by_the_number_of_tests() -> None:
    assert bonferroni(np.array([0.01, 0.04, 0.5])).tolist() == pytest.approx([0.03, 0.12, 1.0])
    assert len(benjamini_hochberg(np.array([]))) == 0


@pytest.mark.parametrize("wrong", [np.nan, -0.1, 1.5])
def test_what_is_no_p_value_is_refused(wrong: float) -> None:
    for adjust in (benjamini_hochberg, bonferroni):
        with pytest.raises(ConfigError, match="not between 0 and 1"):
            adjust(np.array([0.5, wrong]))


def test_seeds_get_the_t_interval_of_scipy() -> None:
    values = [0.71, 0.74, 0.69, 0.75]
    result, note = over_seeds(values, [0, 1, 2, 3])
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (result.value, result.low, result.high) == (pytest.approx(np.mean(values)), pytest.approx(low), pytest.approx(high))
    assert (result.n, result.unit, result.seeds, note) == (4, "seeds", [0, 1, 2, 3], "")


def test_few_seeds_are_pointed_out() -> None:
    one, note = over_seeds([0.5], [7])
    assert (one.value, one.low, one.n) == (0.5, None, 1)
    assert "one seed" in note
    two, note = over_seeds([0.5, 0.6], [7, 8])
    assert two.low is not None
    assert "only 2 seeds" in note


@pytest.mark.parametrize(("values", "seeds", "words"), [([], [], "needs one value"), ([1.0, 2.0], [3, 3], "needs one value"),
                                                        ([1.0, float("nan")], [3, 4], r"seeds \[4\] are not finite")])
def test_values_that_are_not_there_are_refused(values: list[float], seeds: list[int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        over_seeds(values, seeds)
