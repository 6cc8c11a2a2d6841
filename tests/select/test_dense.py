"""Dense retrieval: its arithmetic against plain numpy and faiss, and what it finds."""

import sys

import numpy as np
import pytest
from selectable import count, topic_vectors, toy_corpus

from sparselight.errors import ConfigError, MissingExtraError
from sparselight.select import SelectConfig, select_examples
from sparselight.select.dense import comparable, dense_scores, mean_of_best, save_index, unit

SEEDS = ("crypt/file0.py", "crypt/file1.py")
DENSE = SelectConfig(seeds=SEEDS, retrieve=("dense",), max_tokens=10_000)


def draw(n, seed=0, d=7):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


@pytest.mark.parametrize("pool", [1, 3, 9])
def test_scores_are_the_mean_of_the_best_inner_products(pool):
    examples, seeds = draw(9000), draw(5, seed=1)
    products = examples.astype(np.float64) @ seeds.T.astype(np.float64)
    expected = np.sort(products, axis=1)[:, ::-1][:, :pool].mean(axis=1)
    assert mean_of_best(examples, seeds, pool) == pytest.approx(expected, abs=1e-5)


def test_faiss_gives_the_same():
    pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    examples, seeds = draw(500, d=64), draw(6, seed=1, d=64)
    for pool in (1, 3, 10):
        assert mean_of_best(examples, seeds, pool, "faiss") == pytest.approx(mean_of_best(examples, seeds, pool), rel=1e-5, abs=1e-5)
    by_numpy = select_examples(toy_corpus(), DENSE, count, vectors=topic_vectors)
    by_faiss = select_examples(toy_corpus(), DENSE.model_copy(update={"search": "faiss"}), count, vectors=topic_vectors)
    assert set(by_faiss.examples) == set(by_numpy.examples)
    assert by_faiss.scores == pytest.approx(by_numpy.scores, rel=1e-5)


def test_the_index_that_is_kept_gives_the_scores_of_a_selection(tmp_path):
    faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    examples, seeds = draw(300, d=16), draw(2, seed=1, d=16)
    save_index(examples, DENSE, tmp_path / "kept.faiss")
    index = faiss.read_index(str(tmp_path / "kept.faiss"))
    assert (index.ntotal, index.d) == (300, 16)
    _, comparable_seeds = comparable(examples, seeds, DENSE)
    products, rows = index.search(np.ascontiguousarray(comparable_seeds, dtype=np.float32), 300)
    by_row = np.stack([one[np.argsort(order)] for one, order in zip(products, rows, strict=True)])
    assert by_row.mean(axis=0) == pytest.approx(dense_scores(examples, [], seeds, DENSE), abs=1e-5)


def test_vectors_of_the_subject_are_centered_and_of_unit_length():
    examples, outside = draw(50) + 40, draw(2, seed=1) + 40
    config = DENSE.model_copy(update={"pool": 1})
    about = examples - examples.mean(axis=0)
    lengths = np.linalg.norm(about, axis=1)
    cosines = (about @ about[3]) / (lengths * lengths[3])
    assert dense_scores(examples, [3], outside[:0], config) == pytest.approx(cosines, abs=1e-4)
    raw = dense_scores(examples, [3], outside, config.model_copy(update={"encoder": "some/encoder"}))
    assert raw == pytest.approx(np.maximum(examples @ examples[3], (examples @ outside.T).max(axis=1)), rel=1e-5)
    assert not unit(np.zeros((1, 3), dtype=np.float32)).any()


def test_texts_without_tokens_are_like_nothing():
    examples = draw(20) + 5
    examples[7] = 0
    scores = dense_scores(examples, [0], examples[:0], DENSE)
    assert scores[7] == 0
    with_seven, without = dense_scores(examples, [0], examples[:0], DENSE), dense_scores(np.delete(examples, 7, axis=0), [0], examples[:0], DENSE)
    assert np.delete(with_seven, 7) == pytest.approx(without, abs=1e-5)


def test_finds_the_domain_though_all_vectors_share_most():
    corpus = toy_corpus()
    selection = select_examples(corpus, DENSE, count, vectors=topic_vectors)
    assert {corpus[index].group for index in selection.examples} == {f"crypt/file{number}.py" for number in range(6)}
    assert selection.terms == []
    assert selection.scores_by["dense"] == selection.scores
    by_text = select_examples(corpus, SelectConfig(seed_texts=(corpus[0].text,), retrieve=("dense",), max_tokens=10_000), count, vectors=topic_vectors)
    assert {corpus[index].group for index in by_text.examples} == {f"crypt/file{number}.py" for number in range(6)}


def test_vectors_must_be_given_and_finite():
    with pytest.raises(ConfigError, match=r"select\.retrieve = 'dense': no function"):
        select_examples(toy_corpus(), DENSE, count)
    with pytest.raises(ConfigError, match=r"select\.encoder = 'subject'.*not finite"):
        select_examples(toy_corpus(), DENSE, count, vectors=lambda examples: np.full((len(examples), 2), np.nan, dtype=np.float32))


def test_without_faiss_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"sparselight\[retrieval\]"):
        mean_of_best(draw(3), draw(2), 1, "faiss")
