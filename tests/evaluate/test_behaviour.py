"""Cross-entropy metrics on hand-made losses."""

import numpy as np
import pytest
import torch

from sparselight.errors import SaeError, SubjectError
from sparselight.evaluate.behaviour import LossSums
from sparselight.evaluate.statistics import Resamples

NAN = float("nan")
OWN = torch.tensor([NAN, 1.0, 2.0, 3.0, NAN, 2.0])
GROUP = torch.tensor([0, 0, 0, 1, 1, 1])


def filled(coder: torch.Tensor) -> LossSums:
    """The subject's mean loss is 2; zero ablation adds 4, mean ablation adds 2."""
    sums = LossSums.empty(2)
    sums.add_own(OWN, GROUP)
    for name, loss in {"zero": OWN + 4, "mean": OWN + 2, "coder": coder}.items():
        sums.add_spliced(name, loss, OWN, GROUP, f"evaluate {name}")
    return sums


def values(coder: torch.Tensor) -> dict[str, float]:
    return {name: column[0] for name, column in filled(coder).metrics("coder", "zero", "mean", Resamples.draw(2, 40, 0)).items()}


def test_the_subject_alone_counts_only_predicted_tokens() -> None:
    sums = filled(OWN)
    assert sums.own_metrics(Resamples.draw(2, 40, 0))["ce_nats"][0] == 2
    assert sums.n_unscored == 2
    assert sums.scored.tolist() == [2, 2]


def test_a_perfect_coder_recovers_everything() -> None:
    assert values(OWN) == {"ce_nats": 2, "ce_increase_nats": 0, "ce_recovered_zero": 1, "ce_recovered_mean": 1}


def test_a_coder_half_way_to_the_mean() -> None:
    assert values(OWN + 1) == {"ce_nats": 3, "ce_increase_nats": 1, "ce_recovered_zero": 0.75, "ce_recovered_mean": 0.5}


def test_the_ablations_recover_nothing_of_themselves() -> None:
    assert values(OWN + 4)["ce_recovered_zero"] == 0
    assert values(OWN + 2)["ce_recovered_mean"] == 0


def test_recovery_is_undefined_where_the_ablation_costs_nothing() -> None:
    sums = LossSums.empty(2)
    sums.add_own(OWN, GROUP)
    for name in ("zero", "mean", "coder"):
        sums.add_spliced(name, OWN, OWN, GROUP, name)
    assert np.isnan(sums.metrics("coder", "zero", "mean", Resamples.draw(2, 40, 0))["ce_recovered_zero"]).all()


@pytest.mark.parametrize("fault", [NAN, float("inf")])
def test_a_loss_that_is_not_finite_is_refused(fault: float) -> None:
    with pytest.raises(SaeError, match="cannot evaluate coder: the cross entropy"):
        filled(OWN + torch.tensor([0, 0, fault, 0, 0, 0]))


def test_an_infinite_loss_of_the_subject_is_its_own_fault() -> None:
    with pytest.raises(SubjectError, match="infinite for 1 tokens"):
        LossSums.empty(2).add_own(OWN + torch.tensor([0, 0, float("inf"), 0, 0, 0]), GROUP)
