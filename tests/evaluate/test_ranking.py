"""Ranks, hits and gains on cases whose values are known, with ties and with candidates left out."""

import numpy as np
import pytest
import torch
from scipy import stats

from sparselight.errors import ConfigError, SubjectError
from sparselight.evaluate.ranking import gains, hits, ranks

SCORES = torch.tensor([[3.0, 1.0, 2.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 5.0, 5.0, 5.0]])


def test_ranks_by_hand() -> None:
    assert ranks(SCORES, torch.tensor([2, 0, 1])).tolist() == [2.0, 2.5, 2.0]
    assert ranks(SCORES, torch.tensor([2, 0, 1]), "worst").tolist() == [2.0, 4.0, 3.0]


@pytest.mark.parametrize(("ties", "method"), [("middle", "average"), ("worst", "max")])
def test_ranks_equal_scipy(ties: str, method: str) -> None:
    scores = torch.randint(0, 6, (40, 12), generator=torch.Generator().manual_seed(0)).float()
    targets = torch.randint(0, 12, (40,), generator=torch.Generator().manual_seed(1))
    expected = stats.rankdata(-scores.numpy(), method=method, axis=1)[np.arange(40), targets]
    np.testing.assert_array_equal(ranks(scores, targets, ties), expected)


def test_a_model_that_tells_nothing_does_not_come_out_first() -> None:
    flat = torch.zeros(5, 101)
    assert hits(ranks(flat, torch.zeros(5, dtype=torch.long)), 10).sum() == 0


def test_seen_candidates_are_left_out_but_never_the_target() -> None:
    seen = torch.tensor([[True, False, True, False]])
    assert ranks(SCORES[:1], torch.tensor([2]), seen=seen).tolist() == [1.0]
    assert ranks(SCORES[:1], torch.tensor([3]), seen=seen).tolist() == [2.0]
    tied = torch.tensor([[True, True, False, False]])
    assert ranks(SCORES[1:2], torch.tensor([0]), "worst", seen=tied).tolist() == [3.0]


def test_hits_and_gains() -> None:
    rank = torch.tensor([1.0, 2.0, 2.5, 10.0, 11.0])
    assert hits(rank, 10).tolist() == [1, 1, 1, 1, 0]
    assert hits(rank, 2).tolist() == [1, 1, 0, 0, 0]
    assert gains(rank, 10).tolist() == pytest.approx([1.0, 1 / np.log2(3), 1 / np.log2(3.5), 1 / np.log2(11), 0.0])


def test_gains_equal_scikit_learn() -> None:
    ndcg_score = pytest.importorskip("sklearn.metrics").ndcg_score
    scores = torch.randn(30, 20, generator=torch.Generator().manual_seed(2))
    targets = torch.randint(0, 20, (30,), generator=torch.Generator().manual_seed(3))
    truth = torch.nn.functional.one_hot(targets, 20).numpy()
    for k in (1, 5, 20):
        assert float(gains(ranks(scores, targets), k).double().mean()) == pytest.approx(ndcg_score(truth, scores.numpy(), k=k), rel=1e-6)


def test_refusals() -> None:
    with pytest.raises(SubjectError, match="some scores are nan"):
        ranks(torch.tensor([[1.0, float("nan")]]), torch.tensor([0]))
    with pytest.raises(ConfigError, match="first 0 candidates"):
        hits(torch.tensor([1.0]), 0)
