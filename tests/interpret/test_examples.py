"""Which firings a card shows."""

import numpy as np

from sparselight.interpret.examples import choose_peaks


def test_top_entries_come_one_an_example_then_lower_quantiles():
    values = np.arange(100, 0, -1, dtype=np.float32)
    peaks = choose_peaks(values, np.arange(100), 8)
    assert peaks == [0, 1, 2, 3, 4, 25, 50, 75]


def test_an_example_is_shown_once_with_its_strongest_firing():
    values = np.array([1, 5, 4, 3, 2], dtype=np.float32)
    assert choose_peaks(values, np.array([0, 0, 0, 1, 2]), 8) == [1, 3, 4]


def test_no_firing_gives_no_context():
    assert choose_peaks(np.array([], dtype=np.float32), np.array([], dtype=np.int64), 8) == []


def test_few_contexts_are_all_top():
    assert choose_peaks(np.array([1, 2, 3], dtype=np.float32), np.arange(3), 2) == [2, 1]
