"""Statistics of a dose-response curve on curves whose answers are known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparselight.intervene.dose_response import Curve, change_at_kl, half_dose, isotonic, isotonic_r2, mean_of, spearman

STRENGTHS = np.array([0.0, 1.0, 2.0, 4.0])


def test_spearman_of_known_orders():
    effect = np.array([[1.0, 2.0, 3.0, 10.0], [4.0, 3.0, 2.0, 1.0], [1.0, 3.0, 2.0, 4.0], [5.0, 5.0, 5.0, 5.0]])
    assert spearman(STRENGTHS, effect) == pytest.approx([1, -1, 0.8, np.nan], nan_ok=True)


def test_a_monotone_curve_is_explained_whole_and_a_reverse_one_not_at_all():
    up, down = np.array([[0.0, 1.0, 2.0, 4.0]]), np.array([[4.0, 2.0, 1.0, 0.0]])
    assert isotonic_r2(up, "more") == pytest.approx([1])
    assert isotonic_r2(down, "more") == pytest.approx([0])
    assert isotonic_r2(down, "less") == pytest.approx([1])
    assert isotonic(np.array([[0.0, 3.0, 1.0, 4.0]]), "more")[0] == pytest.approx([0, 2, 2, 4])
    assert isotonic_r2(np.array([[0.0, 3.0, 1.0, 4.0]]), "more") == pytest.approx([1 - 2 / 10])
    assert np.isnan(isotonic_r2(np.ones((1, 4)), "more")[0])


def test_half_dose_lies_between_doses():
    assert half_dose(STRENGTHS, np.array([[0.0, 1.0, 2.0, 4.0]]), "more") == pytest.approx([2])
    assert half_dose(STRENGTHS, np.array([[0.0, 0.0, 0.0, 4.0]]), "more") == pytest.approx([3])
    assert half_dose(STRENGTHS, np.array([[1.0, 0.0, 0.0, 0.0]]), "less") == pytest.approx([0.5])
    assert np.isnan(half_dose(STRENGTHS, np.array([[4.0, 2.0, 1.0, 0.0]]), "more")[0])


def test_effect_at_equal_divergence():
    curve = Curve(STRENGTHS, np.array([[1.0, 2.0, 4.0, 4.0]]), np.array([[0.0, 0.1, 0.3, 0.2]]))
    assert change_at_kl(curve, np.array([0.1])) == pytest.approx([1])
    assert change_at_kl(curve, np.array([0.2])) == pytest.approx([2])
    assert change_at_kl(curve, np.array([0.0])) == pytest.approx([0])
    assert np.isnan(change_at_kl(curve, np.array([0.4]))[0])
    assert np.isnan(change_at_kl(curve, np.array([np.nan]))[0])


def test_a_kind_of_baselines_is_undefined_where_one_of_them_is():
    assert mean_of([np.array([1.0, 2.0]), np.array([3.0, np.nan])]) == pytest.approx([2, np.nan], nan_ok=True)


@given(st.lists(st.floats(-10, 10), min_size=3, max_size=9))
def test_the_monotone_curve_never_falls_and_never_loses_the_mean(values):
    fit = isotonic(np.array([values]), "more")[0]
    assert (np.diff(fit) >= -1e-9).all()
    assert fit.mean() == pytest.approx(np.mean(values), abs=1e-6)
    falling = isotonic(-np.array([values]), "less")[0]
    assert falling == pytest.approx(-fit, abs=1e-6)
