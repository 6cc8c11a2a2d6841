"""Which contexts a card shows."""

from types import SimpleNamespace

import numpy as np

from sparselight.interpret.examples import card_contexts
from sparselight.interpret.strongest import Peak


class PlainWindows:
    """Windows that say which place was asked for; every `per_example` tokens are an example."""

    def __init__(self, per_example=1):
        self.per_example = per_example

    def example_of(self, token):
        return f"e{token // self.per_example}"

    def at_row(self, token_set, row, window, kind, whole=None):
        return SimpleNamespace(example=self.example_of(row), token=row, kind=kind, quantile=None)

    def at_token(self, token, fired, values, kind, quantile):
        return SimpleNamespace(example=self.example_of(token), token=token, kind=kind, quantile=quantile)


def shown(values, n_contexts, per_example=1):
    strongest = [Peak(float(values[token]), 0, int(token), np.zeros(1)) for token in np.argsort(-values, kind="stable")][::per_example][:8]
    contexts = card_contexts(strongest, np.arange(len(values)), values, PlainWindows(per_example), n_contexts)
    return [(context.token, context.kind, context.quantile) for context in contexts]


def test_the_strongest_come_first_then_lower_quantiles():
    values = np.arange(100, 0, -1, dtype=np.float32)
    lower = [(25, "quantile", 2), (50, "quantile", 1), (75, "quantile", 0)]
    assert shown(values, 8) == [*((token, "top", None) for token in range(5)), *lower]


def test_no_example_is_shown_twice():
    values = np.array([9, 8, 7, 6, 5, 4, 3, 2], dtype=np.float32)
    assert [token // 4 for token, _, _ in shown(values, 8, per_example=4)] == [0, 1]


def test_no_firing_gives_no_context_and_few_contexts_are_all_top():
    assert shown(np.zeros(0, dtype=np.float32), 8) == []
    assert shown(np.array([1, 2, 3], dtype=np.float32), 2) == [(2, "top", None), (1, "top", None)]
