"""The solver against scikit-learn on the same data, and the three measures of separation against scikit-learn and by hand."""

import numpy as np
import pytest
from scipy import sparse
from sklearn import metrics
from sklearn.linear_model import LogisticRegression

from sparselight.errors import CorpusError, SaeError
from sparselight.evaluate.probes import DIRECT_FEATURES, accuracy, auroc, f1, fit_logistic, unit_weights
from sparselight.evaluate.statistics import Resamples


def data(n=200, d=5, n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) * rng.uniform(0.1, 3, d) + rng.normal(size=d)
    score = x @ rng.normal(size=(d, n_classes)) + rng.normal(size=(n, n_classes))
    return x, score > np.median(score, axis=0) + 0.5


def reference(x, y, **more):
    return LogisticRegression(tol=1e-10, max_iter=10_000, solver="newton-cg", **more).fit(x, y)


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("C", [0.1, 1.0, 10.0])
def test_weights_are_those_of_scikit_learn(C, balanced):
    x, y = data()
    probe = fit_logistic(x, y, C=C, balanced=balanced)
    assert probe.converged.all()
    for label in range(y.shape[1]):
        expected = reference(x, y[:, label], C=C, class_weight="balanced" if balanced else None)
        np.testing.assert_allclose(probe.weights[label], expected.coef_[0], atol=1e-5)
        np.testing.assert_allclose(probe.bias[label], expected.intercept_[0], atol=1e-5)
        np.testing.assert_allclose(probe.scores(x)[:, label], expected.decision_function(x), atol=1e-4)


def test_dense_sparse_and_single_problems_agree():
    x, y = data()
    x[np.abs(x) < 0.5] = 0
    shared = fit_logistic(x, y)
    for other in (sparse.csr_matrix(x), np.stack([x] * 3)):
        again = fit_logistic(other, y)
        np.testing.assert_allclose(again.weights, shared.weights, atol=1e-7)
        np.testing.assert_allclose(again.bias, shared.bias, atol=1e-7)
        np.testing.assert_allclose(again.scores(other), shared.scores(x), atol=1e-6)
    alone = fit_logistic(x, y[:, 1])
    np.testing.assert_allclose(alone.weights[0], shared.weights[1], atol=1e-9)


def test_many_features_go_by_conjugate_gradients_to_the_same_minimum():
    x, y = data(n=150, d=DIRECT_FEATURES + 40, n_classes=1)
    probe, expected = fit_logistic(x, y), reference(x, y[:, 0])
    assert probe.converged.all()
    np.testing.assert_allclose(probe.weights[0], expected.coef_[0], atol=2e-5)


def test_a_weight_of_zero_leaves_a_unit_out():
    x, y = data()
    keep = np.arange(len(x)) % 3 > 0
    masked = fit_logistic(x, y, balanced=True, weight=np.repeat(keep[:, None].astype(float), 3, 1))
    without = fit_logistic(x[keep], y[keep], balanced=True)
    np.testing.assert_allclose(masked.weights, without.weights, atol=1e-8)
    np.testing.assert_allclose(masked.bias, without.bias, atol=1e-8)


def test_separable_and_badly_scaled_data_converge():
    x = np.array([[0.0, 1e4], [0.0, 1.0001e4], [1e-3, 1e4], [1e-3, 1.0001e4]])
    probe = fit_logistic(x, np.array([False, False, True, True]), C=1e6)
    assert probe.converged.all()
    assert ((probe.scores(x)[:, 0] > 0) == [False, False, True, True]).all()
    flat = fit_logistic(np.zeros((4, 2)), np.array([False, True, True, True]))
    assert (flat.weights == 0).all()
    assert flat.bias[0] == pytest.approx(np.log(3))


@pytest.mark.parametrize(("x", "y", "error", "words"), [
    (np.ones((4, 1)), [True] * 4, CorpusError, "all of its units are of one class"),
    (np.array([[np.nan], [1.0]]), [True, False], SaeError, "a feature is not finite"),
])
def test_refusals(x, y, error, words):
    with pytest.raises(error, match=words):
        fit_logistic(x, np.array(y))


def test_measures_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    y, score, weight = rng.random(80) < 0.3, rng.normal(size=80).round(1), rng.integers(0, 3, (5, 80)).astype(float)
    for row in range(5):
        assert accuracy(score > 0, y, weight)[row] == pytest.approx(metrics.accuracy_score(y, score > 0, sample_weight=weight[row]))
        assert f1(score > 0, y, weight)[row] == pytest.approx(metrics.f1_score(y, score > 0, sample_weight=weight[row]))
        assert auroc(score, y, weight)[row] == pytest.approx(metrics.roc_auc_score(y, score, sample_weight=weight[row]))


def test_measures_without_a_class_are_not_defined():
    y, one = np.array([True, True, False]), np.ones((1, 3))
    assert auroc(np.array([1.0, 1.0, 1.0]), y, one)[0] == 0.5
    assert np.isnan(auroc(np.ones(3), np.ones(3, dtype=bool), one)[0])
    assert np.isnan(f1(np.ones(3, dtype=bool), np.zeros(3, dtype=bool), one)[0])
    assert np.isnan(accuracy(y, y, np.zeros((1, 3)))[0])
    assert accuracy(np.stack([y, ~y], 1), np.stack([y, y], 1), one).tolist() == [[1.0, 0.0]]


def test_units_count_as_often_as_their_group():
    resamples = Resamples.draw(3, 40, seed=0)
    weight = unit_weights(resamples, np.array([0, 0, 2]))
    assert weight[0].tolist() == [1, 1, 1]
    assert (weight[:, 0] == resamples.weights[:, 0]).all()
    assert (weight[:, 2] == resamples.weights[:, 2]).all()
