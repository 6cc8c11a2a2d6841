"""Controls on closed-form cases: PCA against a singular value decomposition, the untrained SAE's shape and sparsity, the mean."""

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from sparselight.errors import SaeError
from sparselight.evaluate.controls import MeanCoder, ZeroCoder, mean_only, pca, standard_controls, untrained
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


def test_pca_equals_the_truncated_singular_value_decomposition() -> None:
    x = activations()
    mean = x.double().mean(0)
    _, _, rows = torch.linalg.svd(x.double() - mean, full_matrices=False)
    for n_components in (0, 1, 3, D):
        top = rows[:n_components]
        expected = mean + (x.double() - mean) @ top.T @ top
        torch.testing.assert_close(pca(x, n_components).reconstruct(x).double(), expected, rtol=1e-4, atol=1e-4)


def test_pca_error_is_the_sum_of_the_dropped_eigenvalues() -> None:
    x = activations().double()
    eigenvalues = torch.linalg.eigvalsh(torch.cov(x.T))
    error = (x - pca(x.float(), 5).reconstruct(x)).square().sum() / (N - 1)
    assert float(error) == pytest.approx(float(eigenvalues[:3].sum()), rel=1e-4)


@pytest.mark.parametrize(("n_tokens", "n_components"), [(N, D + 1), (N, -1), (1, 1)])
def test_pca_refuses_what_it_cannot_fit(n_tokens: int, n_components: int) -> None:
    with pytest.raises(SaeError, match=f"fit PCA with {n_components} components"):
        pca(activations(n_tokens), n_components)


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


@pytest.mark.parametrize(("l0", "n_components"), [(3.0, 3), (20.0, D)])
def test_standard_controls_match_the_sparsity_within_the_width(l0: float, n_components: int) -> None:
    x = activations()
    assert set(standard_controls(trained(l0), x)) == {"untrained SAE", f"PCA, {n_components} components"}
