"""Controls on closed-form cases: the untrained SAE's shape and sparsity, the random decoder, the mean, and the sets by name."""

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from sparselight.errors import ConfigError, SaeError
from sparselight.evaluate import controls
from sparselight.evaluate.controls import MeanCoder, ZeroCoder, mean_only, random_decoder, standard_controls, untrained
from sparselight.sae import Sae

D, N = 8, 3000


def activations(n: int = N) -> Float[Tensor, "token d_in"]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, D, generator=generator) @ torch.randn(D, D, generator=generator) + 4.0


def trained(l0: float, n_latents: int = 40) -> Sae:
    """Some SAE whose mean l0 on `activations()` is `l0`."""
    generator, x = torch.Generator().manual_seed(5), activations()
    sae = Sae(D, n_latents)
    with torch.no_grad():
        sae.W_dec.copy_(torch.randn(n_latents, D, generator=generator))
        sae.W_enc.copy_(torch.randn(D, n_latents, generator=generator))
        sae.b_dec.copy_(x.mean(0))
        sae.threshold.fill_(float(sae.pre_activations(x).flatten().topk(int(l0 * N) + 1).values[-1]))
    return sae


def mean_l0(sae: Sae, x: Tensor) -> float:
    return float((sae.encode(x).to_dense() != 0).sum(1).double().mean())


def test_mean_and_zero() -> None:
    x = activations()
    assert isinstance(mean_only(x), MeanCoder)
    torch.testing.assert_close(mean_only(x).reconstruct(x), x.mean(0).expand(N, D))
    assert ZeroCoder().reconstruct(x).abs().max() == 0


@pytest.mark.parametrize("l0", [0.0, 0.5, 3.0, 10.0])
def test_the_untrained_sae_has_the_shape_and_sparsity_of_the_trained_one(l0: float) -> None:
    sae, x = trained(l0), activations()
    control = untrained(sae, x, seed=0)
    assert (control.d_in, control.n_latents) == (sae.d_in, sae.n_latents)
    assert mean_l0(sae, x) == pytest.approx(l0, abs=1 / N)
    assert mean_l0(control, x) == pytest.approx(mean_l0(sae, x), abs=2 / N)
    torch.testing.assert_close(control.W_dec.norm(dim=1), torch.ones(sae.n_latents))
    torch.testing.assert_close(control.W_enc, control.W_dec.T)
    torch.testing.assert_close(control.b_dec.detach(), x.mean(0))
    assert len(control.threshold.unique()) == 1


def test_a_denser_sae_than_random_weights_can_be_gets_threshold_zero() -> None:
    sae = trained(3.0)
    sae.b_enc.data.fill_(1e3)
    sae.threshold.zero_()
    control = untrained(sae, activations(), seed=0)
    assert control.threshold.max() == 0
    assert mean_l0(control, activations()) == pytest.approx(20, abs=2)


def test_the_untrained_sae_is_that_of_its_seed_and_leaves_the_trained_one_alone() -> None:
    sae, x = trained(3.0), activations()
    before = sae.weights_hash()
    first, same, other = (untrained(sae, x, seed).weights_hash() for seed in (0, 0, 1))
    assert first == same != other
    assert sae.weights_hash() == before


def test_the_untrained_sae_refuses_other_activations() -> None:
    with pytest.raises(SaeError, match="no activations"):
        untrained(trained(3.0), torch.zeros(0, D))
    with pytest.raises(SaeError, match="d_in = 8"):
        untrained(trained(3.0), torch.zeros(5, D + 1))
    with pytest.raises(SaeError, match="beside a transcoder"):
        untrained(Sae(D, 4, subtract_b_dec=False, d_out=3), torch.zeros(5, D))


def test_a_random_decoder_keeps_the_codes_and_the_mean() -> None:
    sae, x = trained(3.0), activations()
    control = random_decoder(sae, x, seed=1)
    codes, others = sae.encode(x).to_dense(), control.encode(x).to_dense()
    assert ((codes > 0) != (others > 0)).float().mean() < 1e-4  # b_dec moves into b_enc, which rounds
    torch.testing.assert_close(codes, others, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(control.W_dec.norm(dim=1), sae.W_dec.norm(dim=1))
    torch.testing.assert_close(control.reconstruct(x).mean(0), x.mean(0), rtol=1e-4, atol=1e-4)
    cosine = torch.nn.functional.cosine_similarity(control.W_dec, sae.W_dec, dim=1)
    assert abs(float(cosine.detach().mean())) < 0.2
    assert random_decoder(sae, x, seed=1).weights_hash() == control.weights_hash() != random_decoder(sae, x, seed=2).weights_hash()


@pytest.mark.parametrize(("l0", "k"), [(3.0, 3), (20.0, D)])
def test_standard_controls_match_the_sparsity_within_the_width(l0: float, k: int) -> None:
    x = activations()
    assert set(standard_controls(trained(l0), x)) == {"untrained SAE", f"PCA, {k} components"}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_full_set_has_every_control_with_codes_of_the_same_sparsity() -> None:
    x, notes = activations(), []
    found = standard_controls(trained(3.0), x, "full", notes=notes)
    assert set(found) == {"untrained SAE", "random decoder", "PCA, 3 components", "PCA, 3 largest", "ICA, 3 components", "ICA, 3 largest",
                          "raw channels, 3 largest"}
    for name, coder in found.items():
        codes = coder.encode(x)
        assert codes.n_latents == coder.n_latents, name
        assert float(codes.indptr.diff().double().mean()) == pytest.approx(3, abs=0.01), name
        assert (codes.values > 0).all(), name
    assert all("ICA" in note for note in notes)


def test_controls_by_name_and_what_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    sae, x, notes = trained(3.0), activations(), []
    assert set(standard_controls(sae, x, ["raw"])) == {"raw channels, 3 largest"}
    monkeypatch.setattr(controls, "ICA_MOST_DIMS", D - 1)
    assert standard_controls(sae, x, "ica", notes=notes) == {}
    assert "left out" in notes[0]
    with pytest.raises(ConfigError, match="make the control 'pcs'.*use 'pca'"):
        standard_controls(sae, x, "pcs")
