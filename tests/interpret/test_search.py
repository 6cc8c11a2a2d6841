"""The search and its scores against slow direct counting."""

import numpy as np
import pytest
from scipy import sparse

from sparselight.interpret import search as search_module
from sparselight.interpret.scoring import held_out_f1, score
from sparselight.interpret.search import Choice, Columns, firing_matrix, maxima, roll_offsets, rolled, search

RANK = np.array([0, 0, 1, 1, 1])


def columns_of(values, rank=RANK):
    """Families of one slot each, as most are."""
    return Columns(np.asarray(values), rank, np.ones_like(rank), rank)


def random_case(seed, n_tokens=300, n_latents=12):
    rng = np.random.default_rng(seed)
    dense = np.where(rng.random((n_tokens, n_latents)) < 0.2, rng.random((n_tokens, n_latents)), 0).astype(np.float32)
    dense[:, -1] = 0
    columns = np.stack([rng.integers(-1, 2, n_tokens), rng.integers(1, 5, n_tokens)])
    columns[1][columns[1] == 1] = -1
    dense[:, 0] = np.where(columns[1] == 3, 1.0, dense[:, 0] / 4)
    return sparse.csc_matrix(dense), dense, columns


def test_search_equals_direct_counting(monkeypatch):
    monkeypatch.setattr(search_module, "BLOCK_ENTRIES", 25)  # several blocks of latents
    matrix, dense, columns = random_case(0)
    thresholds = [frac * maxima(matrix) for frac in (0.0, 0.25, 0.5)]
    choice = search(matrix, thresholds, columns_of(columns).matrix(), RANK)
    for latent in range(dense.shape[1]):
        f1 = np.zeros((3, 5))
        for level, threshold in enumerate(thresholds):
            fires = dense[:, latent] > threshold[latent]
            for hypothesis in range(5):
                label = columns[RANK[hypothesis]] == hypothesis
                f1[level, hypothesis] = 2 * (fires & label).sum() / max(1, fires.sum() + label.sum())
        near = [(RANK[hypothesis], -f1[level, hypothesis], level, hypothesis) for level in range(3) for hypothesis in range(5)
                if f1[level, hypothesis] > 0 and f1[level, hypothesis] >= f1.max() - min(0.01, 0.1 * f1.max())]
        if not near:
            assert choice.hypothesis[latent] == -1
            continue
        _, negative, level, hypothesis = min(near)
        assert (choice.hypothesis[latent], choice.threshold[latent]) == (hypothesis, thresholds[level][latent])
        assert choice.f1[latent] == pytest.approx(-negative)
    assert choice.hypothesis[0] == 3


def test_simpler_family_wins_a_tie_but_not_a_clear_difference():
    n_tokens = 1000
    columns = np.full((2, n_tokens), -1)
    columns[0, :100] = 0
    columns[1, :101] = 2
    exact = np.zeros((n_tokens, 2), dtype=np.float32)
    exact[:101, 0] = 1  # F1 of hypothesis 2 is 1, of the simpler 0 is 200/201: a tie
    exact[:90, 1] = 1
    exact[100, 1] = 1
    thresholds = [np.zeros(2)]
    choice = search(sparse.csc_matrix(exact), thresholds, columns_of(columns).matrix(), RANK)
    assert choice.hypothesis.tolist() == [0, 0]
    columns[0, 50:100] = -1
    assert search(sparse.csc_matrix(exact), thresholds, columns_of(columns).matrix(), RANK).hypothesis.tolist() == [2, 2]


def test_scores_and_interval_of_a_hand_counted_case():
    # Two groups. Latent 0 fires on tokens 0 1 2 | 4, the label holds on 0 1 3 | 5: TP 2, fires 4, labelled 4.
    dense = np.zeros((6, 1), dtype=np.float32)
    dense[[0, 1, 2, 4]] = 1
    columns = columns_of([[0, 0, -1, 0, -1, 0]], np.array([0]))
    choice = Choice(np.array([0]), np.array([0.0]), np.array([0.0]))
    firing = firing_matrix(sparse.csc_matrix(dense), choice.threshold)
    scores = score(firing, choice, columns, np.array([0, 0, 0, 0, 1, 1]), 400, 0)
    assert (scores.precision[0], scores.recall[0], scores.f1[0]) == (0.5, 0.5, 0.5)
    assert (scores.n_fires[0], scores.n_labelled[0]) == (4, 4)
    assert scores.low[:, 0].tolist() == [0, 0, 0]  # a quarter of the resamples hold group 1 twice
    assert scores.high[:, 0] == pytest.approx([2 / 3, 2 / 3, 2 / 3])  # and a quarter group 0 twice: 2/3 each
    assert held_out_f1(firing, choice.hypothesis, columns, columns.n_labelled()) == pytest.approx([0.5])


def test_scores_do_not_depend_on_the_block_size(monkeypatch):
    from sparselight.interpret import scoring

    matrix, _, values = random_case(1)
    columns = columns_of(values)
    choice = Choice(np.arange(12) % 5, np.full(12, 0.1), np.zeros(12))
    choice.hypothesis[3] = -1
    firing = firing_matrix(matrix, choice.threshold)
    group = np.arange(300) // 30
    whole = score(firing, choice, columns, group, 50, 0)
    monkeypatch.setattr(scoring, "BLOCK_COUNTS", 100)
    parts = score(firing, choice, columns, group, 50, 0)
    for name in whole.__dataclass_fields__:
        np.testing.assert_allclose(getattr(whole, name), getattr(parts, name), rtol=1e-6)
    assert whole.f1[3] == 0 == whole.precision[3]
    assert held_out_f1(firing, choice.hypothesis, columns, columns.n_labelled()) == pytest.approx(whole.f1)


def test_shuffle_is_a_circular_shift_of_the_labels_within_each_set():
    matrix, dense, values = random_case(3, n_tokens=100)
    parts = [slice(0, 60), slice(60, 100)]
    offsets = roll_offsets(parts, np.random.default_rng(0))
    assert all(0.1 * (part.stop - part.start) <= offset <= 0.9 * (part.stop - part.start) for part, offset in zip(parts, offsets, strict=True))
    shifted = np.concatenate([np.roll(values[:, part], offset, axis=1) for part, offset in zip(parts, offsets, strict=True)], axis=1)
    moved = rolled(matrix, parts, offsets)
    for hypothesis in range(5):
        there = (shifted[RANK[hypothesis]] == hypothesis).astype(np.float64)
        here = (values[RANK[hypothesis]] == hypothesis).astype(np.float64)
        np.testing.assert_allclose(moved.T @ here, dense.T @ there, rtol=1e-5)


def test_more_thresholds_than_fit_into_one_product(monkeypatch):
    matrix, _, values = random_case(4)
    thresholds = [frac * maxima(matrix) for frac in (0.0, 0.2, 0.4, 0.6, 0.8)]
    whole = search(matrix, thresholds, columns_of(values).matrix(), RANK)
    monkeypatch.setattr(search_module, "COUNT_BITS", 18)  # two thresholds of nine bits at once
    parts = search(matrix, thresholds, columns_of(values).matrix(), RANK)
    for name in ("hypothesis", "threshold", "f1"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))


def test_a_family_of_several_slots_holds_where_any_of_them_does():
    columns = Columns(np.array([[0, -1, 0], [2, -1, 1], [1, 1, -1]]), np.array([0, 1, 1]), np.array([1, 2, 2]), np.array([0, 1, 1]))
    hypothesis, token = np.array([0, 0, 1, 1, 1, 2, 2, -1]), np.array([0, 1, 0, 1, 2, 0, 1, 0])
    assert columns.holds(hypothesis, token).tolist() == [True, False, True, True, True, True, False, False]
    assert columns.n_labelled().tolist() == [2, 3, 1]
    assert columns.matrix().toarray().tolist() == [[1, 1, 1], [0, 1, 0], [1, 1, 0]]


def test_firing_matrix_is_strictly_above_the_threshold():
    matrix = sparse.csc_matrix(np.array([[0.5, 0.1], [0.6, 0.0]], dtype=np.float32))
    assert firing_matrix(matrix, np.array([0.5, 0.0])).toarray().tolist() == [[0, 1], [1, 0]]
    assert maxima(matrix).tolist() == pytest.approx([0.6, 0.1])
