import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_subject import ToySubject, toy_examples

from sparselight.errors import StoreError
from sparselight.kernels.rows import available
from sparselight.store import HarvestConfig, Permutation, RowStream, harvest
from sparselight.store.stream import _BatchMemory


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


def test_the_order_of_a_seed_never_changes():
    """Stored trainings go on with it."""
    assert Permutation(1000, 7)(np.arange(6)).tolist() == [739, 218, 614, 742, 399, 395]
    assert RowStream(ArrayStore(50), "here", None, 5, seed=3).batch_rows(9).tolist() == [34, 10, 46, 14, 31]


@pytest.mark.skipif(not available(), reason="the compiled kernels do not run here")
@pytest.mark.parametrize("n", [1, 2, 3, 17, 4096, 999_983, 10**12 + 39])
def test_the_compiled_permutation_is_the_slow_one(n: int) -> None:
    permutation, positions = Permutation(n, 7), np.arange(min(n, 3000))
    assert np.array_equal(permutation(positions), permutation.slowly(positions))


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


# Reading ahead.

@pytest.fixture
def store(tmp_path):
    config = HarvestConfig(dtype="bfloat16", shard_tokens=40, batch_tokens=32)
    return harvest(ToySubject(), toy_examples(60), ["resid_post.1"], tmp_path, config, "c")


@pytest.fixture
def stream_threads():
    """The threads of this test's streams; that of an earlier one may still be ending."""
    others = set(threading.enumerate())
    return lambda: [thread for thread in threading.enumerate() if thread.name.startswith("row-stream") and thread not in others]


@pytest.mark.parametrize("prefetch_bytes", [1, 4 * 2 * 16 * 12 * 4, 1 << 25])
def test_reading_ahead_changes_no_batch(store, stream_threads, prefetch_bytes):
    plain = RowStream(store, "resid_post.1", None, 16, 5, prefetch_bytes=0)
    with RowStream(store, "resid_post.1", None, 16, 5, prefetch_bytes=prefetch_bytes) as ahead:
        for step in [*range(40), *range(7, 30), 3, 4, 5, 1000, 1001, 1002, 2, 2, *range(3, 20)]:
            assert torch.equal(ahead.batch(step), plain.batch(step))
            assert torch.equal(plain.batch(step), store.read(plain.batch_rows(step), "resid_post.1"))
        assert len(stream_threads()) == 1
    assert not stream_threads()
    assert torch.equal(ahead.batch(40), plain.batch(40))  # closed, it still answers


def test_a_batch_is_the_callers_own(store):
    with RowStream(store, "resid_post.1", None, 16, 5) as stream:
        kept = [stream.batch(step) for step in range(30)]
        copies = [batch.clone() for batch in kept]
        views = [batch[3:5] for batch in kept]
        del kept
        for step in range(30, 60):
            stream.batch(step).zero_()
        assert all(torch.equal(view, copy[3:5]) for view, copy in zip(views, copies, strict=True))
        assert all(torch.equal(stream.batch(step), copy) for step, copy in enumerate(copies))
        assert stream.batch(1).data_ptr() % 64 == 0


def test_two_who_take_memory_at_once_get_each_their_own(monkeypatch):
    memory, lend, others, is_second = _BatchMemory(2, 3, 4), _BatchMemory._lend, list[Future](), threading.Event()
    memory.get()  # and let go of: it is free
    with ThreadPoolExecutor(1) as pool:
        def lend_late(self, number, own):
            if not is_second.is_set():
                is_second.set()
                others.append(pool.submit(memory.get))
                wait(others, timeout=0.5)  # it comes in between, if it can
            return lend(self, number, own)

        monkeypatch.setattr(_BatchMemory, "_lend", lend_late)
        one, other = memory.get(), others[0].result()
    assert one.data_ptr() != other.data_ptr()


def test_a_stream_that_is_let_go_of_ends_its_thread(store, stream_threads):
    stream = RowStream(store, "resid_post.1", None, 16, 5)
    for step in range(5):
        stream.batch(step)
    [thread] = stream_threads()
    stream._ahead._windows[next(iter(stream._ahead._windows))].result()
    del stream
    thread.join(timeout=120)
    assert not thread.is_alive()


def test_an_error_comes_up_at_the_step_that_meets_it(store):
    rows = RowStream(store, "resid_post.1", None, 16, 5)
    read, broken = store.read_batches, int(rows.batch_rows(6)[0])

    def failing(batches, site, outs):
        if any(broken in batch for batch in batches):
            raise StoreError(asked="read", why="row is damaged", instead="repair")
        read(batches, site, outs)

    store.read_batches = failing
    with RowStream(store, "resid_post.1", None, 16, 5) as stream:
        for step in range(6):
            stream.batch(step)
        with pytest.raises(StoreError, match="row is damaged"):
            stream.batch(6)
        stream.batch(7)


def test_memory_is_bounded_by_the_budget(store):
    stream = RowStream(store, "resid_post.1", None, 16, 5, prefetch_bytes=6 * 16 * 12 * 4)
    assert stream._ahead.n_batches == 3
    with stream:
        for step in range(50):
            stream.batch(step)
            assert len(stream._ahead._windows) <= 2
        assert len(stream._memory._kept) <= 8
