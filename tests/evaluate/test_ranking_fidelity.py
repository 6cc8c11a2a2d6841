"""Ranking of held-out interactions with coders in place, and the measures on lists, against values known by hand."""

import numpy as np
import pytest
import torch
from scipy import stats

from sparselight.evaluate import Case, Contender, Dataset
from sparselight.evaluate.config import CaseConfig
from sparselight.evaluate.controls import ZeroCoder, mean_only
from sparselight.evaluate.family import SUBJECT
from sparselight.evaluate.findings import Cell, Findings
from sparselight.evaluate.ranking import gini, list_tau, overlap, share_of
from sparselight.evaluate.ranking_fidelity import Ranked, RankingConfig, measure_ranking
from sparselight.subjects import RecommenderSubject
from sparselight.testing.recommender import tiny_interactions, tiny_recommender
from sparselight.testing.tiny import tiny_corpus

CORPUS = tiny_interactions(24)


class Same:
    """A perfect reconstruction."""

    def reconstruct(self, x: torch.Tensor) -> torch.Tensor:
        return x.clone()


def measured(subject: RecommenderSubject, config: RankingConfig) -> Findings:
    fit, held_out = CORPUS.split(0.5)
    case = Case("user_vector", {"general": Dataset("general", fit.examples, held_out.examples)}, CaseConfig(n_tokens=10_000, n_bootstrap=50), subject)
    findings = Findings()
    contenders = {"same": Contender(Same(), False), "zero": Contender(ZeroCoder(), True), "mean": Contender(mean_only(torch.randn(9, 16)), True)}
    measure_ranking(case, contenders, config, findings)
    return findings


@pytest.mark.parametrize("architecture", ["sasrec", "bpr_mf"])
@pytest.mark.parametrize("targets", ["test", "dev", "last"])
def test_the_values_are_those_of_a_plain_loop(architecture: str, targets: str) -> None:
    subject = tiny_recommender(architecture, CORPUS)
    findings = measured(subject, RankingConfig.parse({"k": [1, 5], "targets": targets}))
    held_out = CORPUS.split(0.5)[1]
    ranks = []
    for example in held_out:
        history = subject.history(example)
        t = {"test": len(history) - 1, "last": len(history) - 1, "dev": len(history) - 2}[targets]
        vector = subject.user_vectors(subject.prepare_at([history], [t - 1]))
        scores = subject.module.score(vector)[0]
        others = [item for item in range(1, subject.n_vocabulary) if item not in history.tokens.tolist()]
        ranks.append(1 + sum(bool(scores[item] >= scores[history.tokens[t]]) for item in others))
    rank = np.array(ranks)
    for k in (1, 5):
        assert findings.resampled[Cell(SUBJECT, "ranking_hr", "general", f"k={k}")][0] == pytest.approx((rank <= k).mean())
        assert findings.resampled[Cell(SUBJECT, "ranking_ndcg", "general", f"k={k}")][0] == pytest.approx(((rank <= k) / np.log2(rank + 1)).mean())
        assert findings.resampled[Cell("same", "ranking_hr", "general", f"k={k}")][0] == pytest.approx((rank <= k).mean())
        assert findings.resampled[Cell("zero", "ranking_hr", "general", f"k={k}")][0] == 0  # ties count against the target
    assert findings.resampled[Cell("same", "ranking_overlap", "general", "k=10")][0] == 1
    assert findings.resampled[Cell("mean", "ranking_overlap", "general", "k=10")][0] < 1


def test_what_ranks_nothing_is_not_defined() -> None:
    from sparselight.testing.tiny import tiny_subject

    corpus = tiny_corpus(16)
    fit, held_out = corpus.split(0.4)
    case = Case("resid_post.0", {"general": Dataset("general", fit.examples, held_out.examples)}, CaseConfig(n_tokens=200, n_bootstrap=50), tiny_subject())
    findings = Findings()
    measure_ranking(case, {}, RankingConfig(), findings)
    assert findings.undefined[Cell(SUBJECT, "ranking_hr", "general")] == "is not defined: the subject ranks no items"


def test_targets_of_each_part() -> None:
    subject = tiny_recommender("sasrec", CORPUS)
    assert len(Ranked(subject, CORPUS.examples, "test")) == len(CORPUS)
    assert Ranked(subject, CORPUS.examples, "dev").at == [int(len(example.text.split("\n")) - 2) for example in CORPUS]


def test_measures_on_lists_by_hand() -> None:
    first, second = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[4, 9, 1, 8]])
    assert overlap(first, second).tolist() == [0.5]
    assert share_of(first, torch.tensor([False, True, True, False, False])).tolist() == [0.5]
    before, after = torch.tensor([[4.0, 3.0, 2.0]]), torch.tensor([[1.0, 3.0, 2.0]])
    assert list_tau(before, after)[0] == pytest.approx(stats.kendalltau([4, 3, 2], [1, 3, 2]).statistic)
    assert gini(torch.ones(5)) == pytest.approx(0)
    assert gini(torch.tensor([0.0, 0, 0, 1])) == pytest.approx(0.75)
