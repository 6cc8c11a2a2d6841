import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparselight.errors import StoreError
from sparselight.store import Permutation, RowStream


class ArrayStore:
    """Row r holds [r, r]."""

    def __init__(self, n):
        self.n_tokens = n

    def read(self, rows, site):
        if site != "here":
            raise StoreError(asked="read", why="unknown", instead="no")
        return torch.from_numpy(np.stack([rows, rows], axis=1)).float()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5000), st.integers(0, 2**63))
def test_permutation_is_a_bijection(n, seed):
    assert np.array_equal(np.sort(Permutation(n, seed)(np.arange(n))), np.arange(n))


def test_permutation_is_elementwise_and_works_on_huge_domains():
    permutation = Permutation(10**12, 3)
    positions = np.array([0, 5, 10**12 - 1, 7])
    values = permutation(positions)
    assert ((values >= 0) & (values < 10**12)).all()
    assert np.array_equal(permutation(positions[::-1]), values[::-1])


@pytest.mark.parametrize("n", [4096, 5000])  # a power of two, and one that needs cycle walking
def test_permutation_looks_uniform(n):
    positions = np.arange(n)
    orders = np.stack([Permutation(n, seed)(positions) for seed in range(20)])
    assert (orders[0] != orders[1]).mean() > 0.99
    correlations = [np.corrcoef(positions, order)[0, 1] for order in orders] + [np.corrcoef(order[:-1], order[1:])[0, 1] for order in orders]
    assert np.abs(correlations).max() < 4 / np.sqrt(n)
    # |i - j| of independent uniform i, j has mean n / 3 and standard deviation n / sqrt(18)
    displacement = np.abs(orders - positions).mean()
    assert abs(displacement - n / 3) < 4 * n / np.sqrt(18 * orders.size)
    # 16 x 16 cells of (position, value) each expect n / 256 entries; chi-square over 255 degrees of freedom has standard deviation 22.6
    cells = np.stack([np.histogram2d(positions, order, bins=16)[0] for order in orders]).sum(axis=0)
    expected = orders.size / 256
    assert ((cells - expected) ** 2 / expected).sum() < 255 + 5 * 22.6


def test_every_epoch_visits_every_row_once_in_its_own_order():
    stream = RowStream(ArrayStore(101), "here", None, 20, seed=1)
    drawn = np.concatenate([stream.batch(step)[:, 0].numpy() for step in range(101)])
    epochs = drawn.astype(int).reshape(20, 101)
    assert (np.sort(epochs, axis=1) == np.arange(101)).all()
    assert (epochs[0] != epochs[1]).any()
    assert (epochs[0] != np.arange(101)).any()


def test_batch_is_a_pure_function_of_step_and_seed():
    rows = np.arange(0, 300, 3)
    one, two, other = (RowStream(ArrayStore(300), "here", rows, 32, seed) for seed in (4, 4, 5))
    late = one.batch(1_000_000)
    for step in (3, 0, 7):
        one.batch(step)
    assert torch.equal(one.batch(1_000_000), late)
    assert torch.equal(two.batch(1_000_000), late)
    assert not torch.equal(other.batch(1_000_000), late)
    assert set(late[:, 0].int().tolist()) <= set(rows.tolist())
    assert one.n_rows == 100


def test_too_few_rows_and_unknown_sites_are_refused():
    with pytest.raises(StoreError, match=r"train.batch_tokens = 11.*only 10 rows"):
        RowStream(ArrayStore(10), "here", None, 11, seed=0)
    with pytest.raises(StoreError):
        RowStream(ArrayStore(10), "there", None, 5, seed=0)
