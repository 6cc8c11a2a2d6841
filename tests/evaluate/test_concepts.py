"""Marks, firings, ranks, the search and its p-values against slow twins, scikit-learn and scipy."""

import numpy as np
import pytest
import torch
from scipy import sparse, stats
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

from sparselight.evaluate.concepts import pair_scores
from sparselight.evaluate.concepts import search as search_module
from sparselight.evaluate.concepts.chance import FisherBound, Screen, permutation_p
from sparselight.evaluate.concepts.firing import Firing, Ranks, by_latent, largest, pooled
from sparselight.evaluate.concepts.marks import Marks, shuffled_units
from sparselight.evaluate.concepts.pair_scores import Pairs, PairSums, chosen_pairs, firing_of, score_pairs
from sparselight.evaluate.concepts.search import HeldOutSide, best_per_concept, search, thresholds_of
from sparselight.evaluate.statistics import Resamples
from sparselight.protocols import Codes

N_UNITS, N_LATENTS, N_CONCEPTS, N_GROUPS = 240, 17, 6, 12
GRID = (0.0, 0.3, 0.7)


def some_activations(seed: int = 0, signed: bool = False) -> sparse.csr_matrix:
    """[latent, unit] with many ties; latent 3 never fires."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-3 if signed else 1, 5, size=(N_LATENTS, N_UNITS)) * (rng.random((N_LATENTS, N_UNITS)) < rng.random((N_LATENTS, 1)))
    values[3] = 0
    return sparse.csr_matrix(values.astype(np.float32))


def some_marks(seed: int = 1) -> Marks:
    """Spans of 1 to 4 units; concepts overlap; group sizes differ."""
    rng = np.random.default_rng(seed)
    matrix = np.zeros((N_UNITS, N_CONCEPTS), dtype=np.int64)
    group, number = np.sort(rng.integers(0, N_GROUPS, N_UNITS)), 0
    group[:N_GROUPS] = np.arange(N_GROUPS)
    group.sort()
    for concept in range(N_CONCEPTS):
        for start in range(0, N_UNITS - 4, 5):
            if rng.random() < (concept + 1) / (N_CONCEPTS + 2):
                number += 1
                stop = start + int(rng.integers(1, 5))
                matrix[start:stop, concept][group[start:stop] == group[start]] = number
    return Marks(sparse.csr_matrix(matrix), group, N_GROUPS)


def slow_f1(fires: np.ndarray, carries: np.ndarray) -> float:
    return 2 * (fires & carries).sum() / max(fires.sum() + carries.sum(), 1)


def slow_domain(fires: np.ndarray, spans: np.ndarray) -> tuple[float, float]:
    precision = (fires & (spans > 0)).sum() / max(fires.sum(), 1)
    recall = len(set(spans[fires & (spans > 0)])) / len(set(spans[spans > 0]))
    return recall, 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def test_the_search_equals_a_loop_over_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    activations, marks = some_activations(), some_marks()
    thresholds, dense, labels = thresholds_of(GRID, largest(activations)), activations.toarray(), marks.matrix.toarray()
    firing, ranks = Firing.of(activations, thresholds), Ranks.of(activations, N_UNITS)
    monkeypatch.setattr(search_module, "BLOCK_PAIRS", 5 * N_CONCEPTS)
    found = search(firing, ranks, marks, 3, by_domain=True)
    fires = dense[None] > thresholds[:, :, None]
    for concept in range(N_CONCEPTS):
        f1 = np.array([[slow_f1(fires[t, latent], labels[:, concept] > 0) for latent in range(N_LATENTS)] for t in range(len(GRID))])
        domain = np.array([[slow_domain(fires[t, latent], labels[:, concept])[1] for latent in range(N_LATENTS)] for t in range(len(GRID))])
        for criterion, scores in (("f1", f1), ("f1_domain", domain)):
            choice, best = found.by_concept[criterion], np.argsort(-scores.max(axis=0), kind="stable")[:3]
            np.testing.assert_array_equal(choice.latent[:, concept], best)
            np.testing.assert_array_equal(choice.threshold[:, concept], scores.argmax(axis=0)[best])
            np.testing.assert_allclose(choice.score[:, concept], scores.max(axis=0)[best])
        np.testing.assert_allclose(found.by_concept["auroc"].score[0, concept],
                                   max(roc_auc_score(labels[:, concept] > 0, row) for row in dense), rtol=1e-12)
    assert found.by_latent.concept[3] == -1
    some = [latent for latent in range(N_LATENTS) if latent != 3]
    best_of_latent = [max(slow_f1(fires[t, latent], labels[:, concept] > 0) for t in range(len(GRID)) for concept in range(N_CONCEPTS)) for latent in some]
    np.testing.assert_allclose(found.by_latent.score[some], best_of_latent)


def test_the_sparse_search_chooses_as_the_dense_one() -> None:
    activations, marks = some_activations(), some_marks()
    firing = Firing.of(activations, thresholds_of(GRID, largest(activations)))
    dense, few = search(firing, Ranks.of(activations, N_UNITS), marks, 1, by_domain=False).by_concept["f1"], best_per_concept(firing, marks)
    np.testing.assert_allclose(few.score, dense.score)
    np.testing.assert_array_equal(few.latent, dense.latent)
    np.testing.assert_array_equal(few.threshold, dense.threshold)


@pytest.mark.parametrize("signed", [False, True])
def test_auroc_equals_scikit_learn_with_ties(signed: bool) -> None:
    activations, marks = some_activations(signed=signed), some_marks()
    ours = Ranks.of(activations, N_UNITS).auroc(slice(0, N_LATENTS), marks.ones, marks.n_labelled)
    carries = marks.matrix.toarray() > 0
    theirs = [[roc_auc_score(carries[:, concept], row) for concept in range(N_CONCEPTS)] for row in activations.toarray()]
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    assert ours[3] == pytest.approx(0.5)  # a latent that never fires orders nothing


@pytest.mark.parametrize("signed", [False, True])
def test_pair_scores_equal_scikit_learn_on_the_sample_and_on_resamples(signed: bool) -> None:
    activations, marks = some_activations(signed=signed), some_marks()
    rng = np.random.default_rng(3)
    pairs = Pairs(rng.integers(0, N_LATENTS, 25), rng.integers(0, N_CONCEPTS, 25), np.full(25, 1.5))
    resamples = Resamples.draw(N_GROUPS, 40, seed=0)
    scores, dense = PairSums.of(activations, marks, pairs).scores(resamples), activations.toarray()
    for draw in (0, 1, 7):
        repeat = np.repeat(np.arange(N_UNITS), resamples.weights[draw].astype(int)[marks.group])
        for index in range(25):
            truth, row = marks.matrix.toarray()[repeat, pairs.concept[index]] > 0, dense[pairs.latent[index], repeat]
            precision, recall, f1, _ = precision_recall_fscore_support(truth, row > 1.5, average="binary", zero_division=0)
            assert np.nan_to_num(scores["precision"][draw, index]) == pytest.approx(precision)
            assert scores["recall"][draw, index] == pytest.approx(recall)
            assert scores["f1"][draw, index] == pytest.approx(f1)
            exact = roc_auc_score(truth, row)
            assert scores["auroc"][draw, index] == pytest.approx(exact, abs=1e-12 if draw == 0 else 0.05)  # resamples: first order


def test_recall_by_domain_counts_a_span_once_however_many_of_its_units_fire() -> None:
    activations, marks = some_activations(), some_marks()
    pairs = Pairs(np.arange(N_LATENTS), np.arange(N_LATENTS) % N_CONCEPTS, np.full(N_LATENTS, 1.5))
    scores = score_pairs(activations, marks, pairs, Resamples.draw(N_GROUPS, 40, seed=0))
    for index in range(N_LATENTS):
        recall, f1 = slow_domain(activations.toarray()[index] > 1.5, marks.matrix.toarray()[:, pairs.concept[index]])
        assert scores["recall_domain"][index] == pytest.approx(recall)
        assert scores["f1_domain"][index] == pytest.approx(f1)


def test_scores_do_not_depend_on_the_size_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    activations, marks, resamples = some_activations(), some_marks(), Resamples.draw(N_GROUPS, 40, seed=0)
    pairs = Pairs(np.arange(N_LATENTS), np.arange(N_LATENTS) % N_CONCEPTS, np.zeros(N_LATENTS))
    whole = score_pairs(activations, marks, pairs, resamples)
    monkeypatch.setattr(pair_scores, "BLOCK_ENTRIES", 100)
    for name, values in score_pairs(activations, marks, pairs, resamples).items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-12)


def test_pooled_activations_are_the_maximum_and_the_mean_over_an_example() -> None:
    activations, example = some_activations(signed=True), np.repeat(np.arange(48), 5)
    dense = activations.toarray().reshape(N_LATENTS, 48, 5)
    np.testing.assert_allclose(pooled(activations, example, "max").toarray(), dense.max(axis=2))
    np.testing.assert_allclose(pooled(activations, example, "mean").toarray(), dense.mean(axis=2), atol=1e-7)


def test_codes_by_latent_leave_out_explicit_zeros() -> None:
    codes = Codes(torch.tensor([1.0, 0.0, 2.0]), torch.tensor([0, 2, 1]), torch.tensor([0, 2, 3]), 3)
    matrix = by_latent(codes)
    np.testing.assert_array_equal(matrix.toarray(), [[1, 0], [0, 2], [0, 0]])
    assert matrix.nnz == 2
    assert codes.values.tolist() == [1.0, 0.0, 2.0]


def test_the_bound_is_never_below_fishers_exact_p_and_close_where_it_matters() -> None:
    rng, n, worst = np.random.default_rng(0), 500, 1.0
    bound = FisherBound.of(n)
    for _ in range(2000):
        labelled, fires = rng.integers(1, n, 2) if rng.random() < 0.5 else rng.integers(1, 30, 2)
        hits = int(rng.integers(max(0, labelled + fires - n), min(labelled, fires) + 1))
        exact = stats.hypergeom.logsf(hits - 1, n, labelled, fires)
        ours = float(bound.log_p(np.array([hits]), np.array([fires]), np.array([labelled]))[0])
        assert ours >= min(exact, 0) - 1e-8
        if exact < np.log(0.05):
            worst = max(worst, float(np.exp(ours - exact)))
    assert worst < 1.5


def test_the_screen_gives_the_q_values_of_all_tests_from_the_small_ones_alone() -> None:
    p = np.concatenate([np.random.default_rng(0).random(3000), np.random.default_rng(1).random(300) ** 6])
    exact = stats.false_discovery_control(p)
    ours = Screen.of(np.log(p[p <= 0.05]), len(p), 0.05).q(np.log(p))
    np.testing.assert_allclose(ours[exact <= 0.05], exact[exact <= 0.05])
    assert np.isnan(ours[exact > 0.05]).all()


def test_every_pair_of_living_latents_is_a_test() -> None:
    activations, marks = some_activations(), some_marks()
    firing = Firing.of(activations, thresholds_of(GRID, largest(activations)))
    found = search(firing, Ranks.of(activations, N_UNITS), marks, 1, False, HeldOutSide(firing, marks, 1.0))
    assert found.screen is not None
    assert found.screen.n_tests == len(found.screen.log_p) == (N_LATENTS - 1) * N_CONCEPTS


def test_shuffling_moves_whole_groups() -> None:
    group = np.repeat(np.arange(8), 10)
    source = shuffled_units(group, 8, np.random.default_rng(0))
    assert sorted(source) == list(range(80))  # equal groups: a permutation
    np.testing.assert_array_equal(np.diff(source.reshape(8, 10), axis=1), 1)
    uneven, order = np.array([0, 1, 0, 0, 2, 0, 2]), np.random.default_rng(1)
    for _ in range(10):
        source = shuffled_units(uneven, 3, order)
        assert all(len(set(uneven[source[uneven == number]])) == 1 for number in range(3))
        assert sorted({int(uneven[source[uneven == number]][0]) for number in range(3)}) == [0, 1, 2]


def test_shuffled_labels_are_as_frequent_and_as_long_as_true_ones() -> None:
    """A span of 20 units begins every group: in short groups most of it, in long ones little. Were it stretched to any group's length, it would grow."""
    lengths = np.random.default_rng(0).integers(25, 900, 400)
    group = np.repeat(np.arange(400), lengths)
    starts = np.cumsum(lengths) - lengths
    number = np.zeros((len(group), 1), dtype=np.int64)
    for index, start in enumerate(starts.tolist()):
        number[start:start + 20, 0] = index + 1
    marks = Marks(sparse.csr_matrix(number), group, 400)
    for seed in range(3):
        shuffled = marks.shuffled(np.random.default_rng(seed))
        assert shuffled.n_labelled[0] == pytest.approx(marks.n_labelled[0], rel=0.05)
        assert shuffled.n_spans[0] == 400
    carriers = marks.matrix.toarray()[:, 0]
    assert (shuffled.matrix.toarray()[:, 0] != carriers)[carriers > 0].mean() > 0.9, "they are shuffled"


def test_permutations_tell_a_true_pair_from_a_chance_one() -> None:
    marks = some_marks()
    carries = marks.matrix.toarray()[:, 2] > 0
    noise = np.random.default_rng(5).random(N_UNITS) < carries.mean()
    activations = sparse.csr_matrix(np.stack([carries, noise]).astype(np.float32))
    pairs = Pairs(np.array([0, 1]), np.array([2, 2]), np.zeros(2))
    f1 = score_pairs(activations, marks, pairs, Resamples.draw(N_GROUPS, 40, 0))["f1"]
    p = permutation_p(firing_of(activations, pairs), marks.columns(pairs.concept), f1, 99, seed=0)
    assert f1[0] == 1
    assert p[0] == pytest.approx(0.01)
    assert p[1] > 0.05


def test_permutation_p_values_are_uniform_where_labels_are_random() -> None:
    rng, group, found = np.random.default_rng(0), np.repeat(np.arange(20), 6), []
    for trial in range(60):
        marks = Marks(sparse.csr_matrix((np.repeat(rng.random(20) < 0.5, 6)).astype(np.int64)[:, None]), group, 20)
        activations = sparse.csr_matrix(np.repeat(rng.random(20) < 0.5, 6).astype(np.float32)[None])
        pairs = Pairs(np.zeros(1, dtype=int), np.zeros(1, dtype=int), np.zeros(1))
        f1 = score_pairs(activations, marks, pairs, Resamples.draw(20, 40, 0))["f1"]
        found.append(permutation_p(firing_of(activations, pairs), marks, f1, 39, seed=trial)[0])
    assert np.mean(np.array(found) <= 0.1) < 0.25  # runs as long as the group do not make chance look like more


def test_a_single_group_has_no_permutations() -> None:
    marks = some_marks().ungrouped()
    assert np.isnan(permutation_p(sparse.csr_matrix((N_UNITS, 1), dtype=np.int32), marks.columns(np.array([0])), np.zeros(1), 19, 0)).all()


def test_concepts_without_a_latent_are_left_out_of_the_pairs() -> None:
    silent = sparse.csr_matrix((N_LATENTS, N_UNITS), dtype=np.float32)
    firing = Firing.of(silent, thresholds_of(GRID, largest(silent)))
    assert len(chosen_pairs(best_per_concept(firing, some_marks()), 0, thresholds_of(GRID, largest(silent)))) == 0
