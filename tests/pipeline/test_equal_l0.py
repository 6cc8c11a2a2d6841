"""Moving thresholds to one l0: the count is met, the order of what fires is kept, and where nothing can be moved it is said."""

import pytest
import torch

from sparselight.pipeline.specialise import at_l0, l0_on
from sparselight.sae import Sae


def make_sae(k: int | None = None, thresholds: float | torch.Tensor = 0.5) -> Sae:
    drawn = torch.Generator().manual_seed(0)
    sae = Sae(12, 64, subtract_b_dec=False, k=k)
    with torch.no_grad():
        sae.W_enc.copy_(torch.randn(12, 64, generator=drawn))
        sae.W_dec.copy_(sae.W_enc.T)
        sae.threshold.copy_(torch.as_tensor(thresholds).expand(64))
    return sae.requires_grad_(False)


X = torch.randn(500, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("l0", [1.0, 3.5, 9.0])
@pytest.mark.parametrize("thresholds", [0.5, torch.linspace(0.2, 2.0, 64)], ids=["shared", "one each"])
def test_the_count_is_met_by_one_factor(l0: float, thresholds: float | torch.Tensor):
    sae = make_sae(thresholds=thresholds)
    moved, words = at_l0(sae, l0, X)
    assert moved is not None
    assert l0_on(moved, X) == pytest.approx(l0, abs=2 / len(X))
    factors = moved.threshold / sae.threshold
    assert factors == pytest.approx(torch.full((64,), float(factors[0])), rel=1e-5)
    assert words.startswith("thresholds times")
    assert torch.equal(moved.W_enc, sae.W_enc)


def test_what_keeps_the_k_largest_gets_another_k():
    moved, words = at_l0(make_sae(k=4), 6.4, X)
    assert moved is not None
    assert (moved.k, l0_on(moved, X)) == (6, 6.0)
    assert "6 largest" in words


def test_where_nothing_can_be_moved():
    assert at_l0(make_sae(thresholds=0.0), 3.0, X) == (None, "it has latents without a threshold")
    moved, why = at_l0(make_sae(), 60.0, X)  # half of all pre-activations are below 0
    assert moved is None
    assert "60.0 a token" in why
