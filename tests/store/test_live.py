"""Activations without a disk: the same rows as a store, in an order of their own."""

import numpy as np
import pytest
import torch
from toy_subject import ToySubject, toy_examples

from sparselight.errors import StoreError
from sparselight.protocols import Example
from sparselight.store import HarvestConfig, LiveStore, LiveStream, harvest

SITE = "resid_post.1"
EXAMPLES = [Example("empty", "", "g"), *toy_examples(), Example("blank", "  ", "g")]


@pytest.fixture
def live():
    return LiveStore(ToySubject(), EXAMPLES, [SITE], "corpus0", batch_tokens=32)


@pytest.fixture
def store(tmp_path):
    return harvest(ToySubject(), EXAMPLES, [SITE], tmp_path, HarvestConfig(dtype="float32", shard_tokens=40, batch_tokens=32), "corpus0")


def test_it_reads_like_the_store(live, store):
    rows = np.random.default_rng(0).permutation(store.n_tokens)[:60]
    assert live.n_tokens == store.n_tokens
    assert torch.equal(live.read(rows, SITE), store.read(rows, SITE))
    assert live.read(np.empty(0, dtype=int), SITE).shape == (0, 12)
    assert live.tokens().equals(store.tokens())
    assert live.examples().equals(store.examples())
    assert live.rows_of(["doc3", "doc1"]).tolist() == store.rows_of(["doc3", "doc1"]).tolist()
    assert live.manifest.sites == store.manifest.sites
    assert LiveStore(ToySubject(), EXAMPLES, [SITE], "corpus1").fingerprint != live.fingerprint


@pytest.mark.parametrize("window_tokens", [1, 30, 10**6])
def test_every_epoch_visits_every_row_once_with_the_right_values(live, store, window_tokens):
    stream = LiveStream(live, SITE, 11, seed=3, window_tokens=window_tokens)
    n = stream.n_rows
    rows = np.concatenate([stream.batch_rows(step) for step in range(2 * n)])
    epochs = rows[:n * 22 // n * n].reshape(-1, n)
    assert (np.sort(epochs, axis=1) == np.arange(n)).all()
    assert (epochs[0] != epochs[1]).any()
    for step in (0, 5, n // 11, 3 * n):
        assert torch.equal(stream.batch(step), store.read(stream.batch_rows(step), SITE))


def test_a_batch_is_a_pure_function_of_step_and_seed(live):
    one, two, other = (LiveStream(live, SITE, 20, seed, window_tokens=40) for seed in (1, 1, 2))
    late = one.batch(1000)
    for step in (3, 0, 7):
        one.batch(step)
    assert torch.equal(one.batch(1000), late)
    assert torch.equal(two.batch(1000), late)
    assert not torch.equal(other.batch(1000), late)


def test_a_window_holds_few_examples_and_few_windows_are_held(live):
    stream = LiveStream(live, SITE, 10, 0, window_tokens=30)
    column = live.tokens().column("example").to_numpy()
    for step in range(30):
        stream.batch(step)
        assert len(np.unique(column[stream.batch_rows(step)])) < 15
        assert len(stream._windows) <= 2


def test_what_cannot_be_streamed(live):
    with pytest.raises(StoreError, match="use 'resid_post.1'"):
        LiveStream(live, "resid_post.2", 10, 0)
    with pytest.raises(StoreError, match=r"train.batch_tokens = 1000"):
        LiveStream(live, SITE, 1000, 0)
    with pytest.raises(StoreError, match="no token"):
        LiveStore(ToySubject(), [Example("a", "", "g")], [SITE], "c")
    with pytest.raises(StoreError, match="chosen rows"):
        live.stream(SITE, np.arange(20), 10, 0)
    assert live.stream(SITE, None, 10, 0).batch(0).shape == (10, 12)

    class Broken(ToySubject):
        def activation(self, token_id, position, site):
            return super().activation(token_id, position, site) / 0

    with pytest.raises(StoreError, match="example 'doc.*not finite"):
        LiveStore(Broken(), EXAMPLES, [SITE], "c").stream(SITE, None, 10, 0).batch(0)
