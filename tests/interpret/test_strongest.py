"""Streaming top-k against the plain sort, and the activations that the pass keeps."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from sparselight.errors import RunError
from sparselight.interpret import cache as cache_module
from sparselight.interpret.cache import ActivationCache, CacheWriter
from sparselight.interpret.strongest import Peaks, Strongest, find_peaks, load_strongest, save_strongest

N_LATENTS = 3


def windows(peaks):
    """What a window must hold can be told from its peak."""
    return np.stack([peaks.value, peaks.row.astype(np.float32)], axis=1)


peak_lists = st.lists(st.tuples(st.integers(0, N_LATENTS - 1), st.sampled_from([0.25, 0.5, 1.0, 2.0]), st.integers(0, 1), st.integers(0, 50)), max_size=60,
                      unique_by=lambda peak: (peak[0], peak[2], peak[3]))


@given(peak_lists, st.integers(1, 5), st.lists(st.integers(0, 60), max_size=6), st.randoms(use_true_random=False))
def test_streaming_top_k_is_the_plain_sort_in_any_order_and_any_blocks(peaks, k, cuts, random):
    state = Strongest(N_LATENTS, k, 2)
    arrived = list(peaks)
    random.shuffle(arrived)
    edges = sorted({0, len(arrived), *(cut for cut in cuts if cut < len(arrived))})
    for start, stop in pairwise(edges):
        for token_set in (0, 1):
            block = [peak for peak in arrived[start:stop] if peak[2] == token_set]
            latent, value, _, row = (np.array(column) for column in zip(*block, strict=True)) if block else (np.zeros(0, dtype=np.int64),) * 4
            state.add(Peaks(latent.astype(np.int64), value.astype(np.float32), token_set, row.astype(np.int64)), windows)
    for latent in range(N_LATENTS):
        expected = sorted((-value, token_set, row) for number, value, token_set, row in peaks if number == latent)[:k]
        kept = state.of(latent)
        assert [(-peak.value, peak.token_set, peak.row) for peak in kept] == expected
        assert all(peak.window.tolist() == [peak.value, peak.row] for peak in kept)


@given(st.integers(0, 1000))
def test_a_peak_is_the_first_largest_of_a_latent_in_an_example(seed):
    rng = np.random.default_rng(seed)
    dense = np.where(rng.random((12, N_LATENTS)) < 0.5, rng.integers(1, 4, (12, N_LATENTS)), 0).astype(np.float32)
    example = np.sort(rng.integers(0, 4, 12))
    codes = sparse.csc_matrix(dense)
    latent = np.repeat(np.arange(N_LATENTS), np.diff(codes.indptr))
    peaks = find_peaks(latent, codes.data, codes.indices, example, np.arange(12) + 100, 1)
    expected = []
    for number in range(N_LATENTS):
        for owner in np.unique(example):
            tokens = np.flatnonzero((example == owner) & (dense[:, number] > 0))
            if len(tokens):
                best = tokens[np.argmax(dense[tokens, number])]
                expected.append((number, float(dense[best, number]), int(best) + 100))
    assert list(zip(peaks.latent.tolist(), peaks.value.tolist(), peaks.row.tolist(), strict=True)) == expected


def test_the_strongest_are_read_as_they_were_saved(tmp_path):
    state = Strongest(N_LATENTS, 2, 2)
    state.add(Peaks(np.array([0, 0, 2, 0]), np.array([1, 3, 2, 2], dtype=np.float32), 1, np.array([5, 6, 7, 8])), windows)
    save_strongest({"explain": state, "score": Strongest(N_LATENTS, 2, 2)}, tmp_path / "strongest.parquet")
    found = load_strongest(tmp_path / "strongest.parquet", [0, 1])
    assert set(found) == {("explain", 0)}
    assert [(peak.value, peak.token_set, peak.row, peak.window.tolist()) for peak in found["explain", 0]] == [(3, 1, 6, [3, 6]), (2, 1, 8, [2, 8])]
    with pytest.raises(RunError, match="run the stage `explain` again"):
        load_strongest(tmp_path / "nothing.parquet", [0])


def test_cached_activations_come_back_by_file_and_by_latent(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "BIN_LATENTS", 4)
    monkeypatch.setattr(cache_module, "FLUSH_ENTRIES", 20)
    rng = np.random.default_rng(0)
    dense = np.where(rng.random((30, 10)) < 0.3, rng.random((30, 10)), 0).astype(np.float32)
    dense[:, 7] = 0
    with CacheWriter(tmp_path, 10, 30, "these tokens") as writer:
        for start in range(0, 30, 5):
            codes = sparse.csc_matrix(dense[start : start + 5])
            writer.add(np.repeat(np.arange(10), np.diff(codes.indptr)), codes.indices + start, codes.data)
        assert not list(tmp_path.glob("latents-*"))  # nothing stands there until all of it does
    cache = ActivationCache(tmp_path, "these tokens")
    parts = list(cache.bins())
    assert [(start, part.shape[1]) for start, part in parts] == [(0, 4), (4, 4), (8, 2)]
    np.testing.assert_array_equal(np.concatenate([part.toarray() for _, part in parts], axis=1), dense)
    assert all(part.has_sorted_indices for _, part in parts)
    np.testing.assert_array_equal(cache.read(np.array([9, 0, 7])).toarray(), dense[:, [9, 0, 7]])
    with pytest.raises(RunError, match="another sample of tokens"):
        ActivationCache(tmp_path, "other tokens")
    (tmp_path / "latents-00001.parquet").write_bytes(b"damaged")
    with pytest.raises(RunError, match=r"latents-00001.parquet is missing or damaged"):
        list(cache.bins())
    with pytest.raises(RunError, match="missing or damaged"):
        ActivationCache(tmp_path / "nowhere")


def test_a_pass_that_fails_leaves_no_activations(tmp_path):
    with pytest.raises(RuntimeError), CacheWriter(tmp_path, 4, 4, "") as writer:
        writer.add(np.array([0]), np.array([0]), np.ones(1, dtype=np.float32))
        raise RuntimeError("stopped")
    assert not list(tmp_path.iterdir())
