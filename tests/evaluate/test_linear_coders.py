"""Linear dictionaries: PCA against a singular value decomposition, ICA on mixed sources, codes split by sign, sparsity."""

import warnings

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from sparselight.errors import SaeError
from sparselight.evaluate import linear_coders
from sparselight.evaluate.linear_coders import LinearCoder, first_components, ica, pca, raw_channels

D, N = 8, 3000


def activations(n: int = N) -> Float[Tensor, "token d_in"]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, D, generator=generator) @ torch.randn(D, D, generator=generator) + 4.0


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


def test_first_components_are_those_of_a_smaller_fit() -> None:
    x = activations()
    torch.testing.assert_close(first_components(pca(x, D), 3).reconstruct(x), pca(x, 3).reconstruct(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("keep", [None, 1, 3, D])
def test_codes_are_split_by_sign_and_decode_to_the_kept_components(keep: int | None) -> None:
    x = activations(50)
    coder = pca(activations(), D)
    coder = coder if keep is None else coder.keeping(keep)
    codes = coder.encode(x)
    dense, y = codes.to_dense(), (x - coder.mean) @ coder.analysis
    order = y.abs().argsort(1, descending=True)
    kept = y.clone()
    if keep is not None:
        kept.scatter_(1, order[:, keep:], 0.0)
    torch.testing.assert_close(dense[:, :D] - dense[:, D:], kept)
    assert (dense >= 0).all()
    assert (codes.indptr.diff() == (keep or D)).all()
    assert all((part.diff() > 0).all() for part in codes.latents.split(codes.indptr.diff().tolist()))
    torch.testing.assert_close(coder.decode(codes), coder.mean + kept @ coder.synthesis, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(coder.decode(codes), coder.b_dec + dense @ coder.W_dec, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close((x - coder.b_dec) @ coder.W_enc, torch.cat([y, -y], 1))


def test_components_that_are_exactly_zero_do_not_fire() -> None:
    coder = LinearCoder(torch.zeros(3), torch.eye(3), torch.eye(3))
    codes = coder.encode(torch.tensor([[0.0, -2.0, 0.0], [0.0, 0.0, 0.0]]))
    assert (codes.latents.tolist(), codes.values.tolist(), codes.indptr.tolist()) == ([4], [2.0], [0, 1, 1])
    torch.testing.assert_close(coder.keeping(1).decode(codes), torch.tensor([[0.0, -2.0, 0.0], [0.0, 0.0, 0.0]]))


def test_ica_finds_mixed_sources() -> None:
    generator = torch.Generator().manual_seed(1)
    sources = torch.distributions.Laplace(0.0, 1.0).icdf(torch.rand(5000, 4, generator=generator) * 0.998 + 0.001)
    mixing = torch.nn.functional.normalize(torch.randn(4, 4, generator=generator), dim=1)
    x = sources @ mixing + 2.0
    coder = ica(x, 4)
    cosine = (coder.synthesis @ mixing.T).abs()
    assert (cosine.amax(0) > 0.99).all()
    assert coder.note == ""
    torch.testing.assert_close(coder.synthesis.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(coder.reconstruct(x), x, rtol=1e-3, atol=1e-3)


def test_ica_of_a_rank_spans_what_pca_of_that_rank_spans() -> None:
    x = activations()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.testing.assert_close(ica(x, 3).reconstruct(x), pca(x, 3).reconstruct(x), rtol=1e-2, atol=5e-2)


def test_ica_says_when_it_did_not_converge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_coders, "ICA_ITERATIONS", 1)
    coder = ica(activations(), D)
    assert "did not converge in 1 iterations" in coder.note
    assert torch.isfinite(coder.synthesis).all()


@pytest.mark.parametrize(("n_components", "words"), [(0, "ask for 1 to 8"), (D + 1, "there are 8 dimensions")])
def test_ica_refuses_what_it_cannot_fit(n_components: int, words: str) -> None:
    with pytest.raises(SaeError, match=words):
        ica(activations(), n_components)


def test_ica_refuses_many_dimensions() -> None:
    with pytest.raises(SaeError, match="many minutes above 1024"):
        ica(torch.zeros(5, 1025), 5)


def test_raw_channels_are_the_activations_themselves() -> None:
    x = activations(100)
    torch.testing.assert_close(raw_channels(x).reconstruct(x), x)
    assert raw_channels(x).n_latents == 2 * D
    with pytest.raises(SaeError, match="d_in = 8"):
        raw_channels(x).encode(torch.zeros(2, D + 1))
