"""Callables and arrays as coders: what they return becomes codes, what they must not return is refused, evaluate takes them."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import sparselight as sl
from sparselight.errors import SaeError
from sparselight.evaluate import Contender
from sparselight.evaluate.controls import standard_controls
from sparselight.sae import Sae

GENERATOR = torch.Generator().manual_seed(0)
W, D, B = torch.randn(6, 20, generator=GENERATOR), torch.randn(20, 6, generator=GENERATOR), torch.randn(6, generator=GENERATOR)
X = torch.randn(40, 6, generator=GENERATOR)


def z_of(x: Any) -> Any:
    return np.maximum((np.asarray(x) - B.numpy()) @ W.numpy(), 0)


def x_of(z: Any) -> Any:
    return np.asarray(z) @ D.numpy() + B.numpy()


def reference() -> Sae:
    return sl.sae_from_arrays(W, D, b_dec=B, subtract_b_dec=True)


@pytest.mark.parametrize("numpy", [False, True])
def test_callables(numpy: bool) -> None:
    coder = sl.wrap_coder(z_of, x_of, 6, 20, numpy=numpy, W_dec=D.numpy())
    codes, ours = coder.encode(X), reference().encode(X)
    assert torch.equal(codes.latents, ours.latents)
    assert torch.equal(codes.indptr, ours.indptr)
    assert torch.allclose(codes.values, ours.values, atol=1e-5)
    assert torch.allclose(coder.reconstruct(X), reference().reconstruct(X), atol=1e-5)
    assert torch.equal(coder.W_dec, D)


def test_sparse_outputs() -> None:
    coder = sl.wrap_coder(lambda x: torch.from_numpy(z_of(x)).to_sparse(), lambda z: torch.from_numpy(x_of(z)), 6, 20)
    assert torch.allclose(coder.encode(X).to_dense(), reference().encode(X).to_dense(), atol=1e-5)
    ours = reference()
    assert torch.equal(sl.wrap_coder(ours.encode, x_of, 6, 20).encode(X).values, ours.encode(X).values)


def test_evaluation_takes_it() -> None:
    contender = Contender(sl.wrap_coder(z_of, x_of, 6, 20), is_control=False)
    x_hat, codes = contender.apply(X, "measure")
    assert codes is not None
    assert contender.n_latents == 20
    assert torch.allclose(x_hat, reference().reconstruct(X), atol=1e-5)
    controls = standard_controls(sl.wrap_coder(z_of, x_of, 6, 20), X)  # type: ignore[arg-type]
    assert [type(control).__name__ for control in controls.values()] == ["Sae", "LinearCoder"]


def test_a_decoder_that_needs_its_input() -> None:
    """A library that normalizes each vector, and so cannot be folded, is measured through `reconstruct`."""
    def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mean(1, keepdim=True), x.std(1, keepdim=True) + 1e-5

    def encode(x: Tensor) -> Any:
        mean, std = statistics(x)
        return z_of((x - mean) / std)

    def reconstruct(x: Tensor) -> Tensor:
        mean, std = statistics(x)
        return torch.from_numpy(x_of(encode(x))) * std + mean

    coder = sl.wrap_coder(encode, x_of, 6, 20, reconstruct=reconstruct)
    codes = coder.encode(X)
    assert torch.allclose(coder.decode(codes), reconstruct(X), atol=1e-5)
    assert torch.allclose(coder.decode(coder.encode(X[:5]), X[:5]), reconstruct(X[:5]), atol=1e-5)
    with pytest.raises(SaeError, match="needs what was encoded"):
        coder.decode(codes)


@pytest.mark.parametrize(("encode", "words"), [
    (lambda x: z_of(x)[:, 1:], r"shape \[40, 19\].*give shape \[40, 20\]"), (lambda x: z_of(x) - 1, "negative activations"),
    (lambda x: z_of(x) * np.nan, "not finite"), (lambda x: reference().encode(x[:3]), "codes of 3 tokens"),
])
def test_refusals(encode: Any, words: str) -> None:
    with pytest.raises(SaeError, match=words):
        sl.wrap_coder(encode, x_of, 6, 20).encode(X)


def test_more_refusals() -> None:
    with pytest.raises(SaeError, match="width d_in = 6"):
        sl.wrap_coder(z_of, x_of, 6, 20).encode(X[:, :5])
    with pytest.raises(SaeError, match="what decode returns has shape"):
        sl.wrap_coder(z_of, lambda z: x_of(z)[1:], 6, 20).reconstruct(X)
    with pytest.raises(SaeError, match=r"W_dec has shape \[6, 20\]"):
        sl.wrap_coder(z_of, x_of, 6, 20, W_dec=D.T)


@pytest.mark.parametrize(("change", "words"), [
    ({"W_dec": D.T}, r"W_dec has shape \[6, 20\]"), ({"b_enc": B}, r"b_enc has shape \[6\]"), ({"W_enc": B}, "are matrices"),
    ({"threshold": np.ones(3)}, r"threshold has shape \[3\]"), ({"k": 21}, "k = 21"), ({"W_enc": W * torch.nan}, "not finite"),
])
def test_arrays_of_a_wrong_shape(change: dict[str, Any], words: str) -> None:
    with pytest.raises(SaeError, match=words):
        sl.sae_from_arrays(**{"W_enc": W, "W_dec": D, "b_dec": B, "subtract_b_dec": True, **change})


def test_arrays_of_any_precision() -> None:
    sae = sl.sae_from_arrays(W.double().numpy(), D.half().numpy(), np.zeros(20, dtype=np.float64), B.tolist(), threshold=np.full(20, 0.5), subtract_b_dec=False)
    assert torch.equal(sae.W_enc, W)
    assert float(sae.threshold.min()) == 0.5
    assert sl.sae_from_arrays(W, D, k=3, subtract_b_dec=False).k == 3
