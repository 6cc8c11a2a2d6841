"""Folding the scaling of training into the weights changes no output, whatever the scaling, the form of the SAE and the architecture."""

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparselight.sae import ARCHITECTURES, IDENTITY, Affine, Sae, SaeConfig

MakeSae = Callable[..., Sae]
D_IN, D_OUT, N_LATENTS = 5, 4, 16
KINDS = ("none", "scalar", "per_dimension", "whiten")
FORMS: dict[str, dict] = {"sae": {}, "residual": {"subtract_b_dec": False}, "transcoder": {"subtract_b_dec": False, "d_out": D_OUT},
                          "skip transcoder": {"subtract_b_dec": False, "d_out": D_OUT, "skip": True}}


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scaling(kind: str, d: int, seed: int, centered: bool) -> Affine:
    mean = drawn(seed, d) if centered else None
    if kind == "whiten":
        values, vectors = torch.linalg.eigh(drawn(seed + 1, d, d) @ drawn(seed + 1, d, d).T + 0.1 * torch.eye(d))
        return Affine((vectors * values.rsqrt()) @ vectors.T, mean, (vectors * values.sqrt()) @ vectors.T)
    return {"none": Affine(1.0, mean), "scalar": Affine(0.1 + abs(float(drawn(seed, 1))), mean),
            "per_dimension": Affine(0.1 + drawn(seed, d).abs(), mean)}[kind]


def undone(y: Tensor, scale: Affine) -> Tensor:
    """The x with scale(x) = y, solved for."""
    linear = scale.linear(torch.eye(y.shape[1], dtype=y.dtype))
    return torch.linalg.solve(linear, y, left=False) + (0 if scale.mean is None else scale.mean)


def check_fold(sae: Sae, into: Affine, out_of: Affine, x: Tensor) -> None:
    seen = into(x)
    codes, x_hat = sae.encode(seen), undone(sae.reconstruct(seen), out_of)
    lengths = undone(sae.W_dec, Affine(out_of.A)).norm(dim=1)  # of decoder rows among raw activations
    unit = sae.k is None or bool(torch.allclose(lengths, lengths[0], rtol=1e-5))
    folded = copy.deepcopy(sae).fold(into, out_of)
    torch.testing.assert_close(folded.reconstruct(x), x_hat, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(folded.encode(x).to_dense(), codes.to_dense() * (lengths if unit else 1), rtol=1e-6, atol=1e-8)
    if unit:
        torch.testing.assert_close(folded.W_dec.norm(dim=1), torch.ones(N_LATENTS, dtype=torch.float64))


@given(form=st.sampled_from(sorted(FORMS)), kind=st.sampled_from(KINDS), k=st.sampled_from([None, 1, 3]), centered=st.booleans(), seed=st.integers(0, 10**6))
@settings(max_examples=150, deadline=None)
def test_fold_changes_no_output(random_sae: MakeSae, form: str, kind: str, k: int | None, centered: bool, seed: int) -> None:
    sae, x = random_sae(D_IN, N_LATENTS, seed=seed, k=k, **FORMS[form]).double(), 2 * drawn(seed + 7, 40, D_IN)
    into = scaling(kind, D_IN, seed, centered or form != "sae")
    if form == "sae":
        check_fold(sae, into, into, x)
    else:  # an error has no mean to put back, a transcoder's output has
        check_fold(sae, into, scaling(kind, sae.d_out, seed + 3, form != "residual"), x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_fold_of_every_architectures_inference_form(random_sae: MakeSae, name: str, kind: str) -> None:
    """The form that calibrate finds reconstructs what training did, and so does its fold."""
    sae, x = random_sae(D_IN, N_LATENTS).double().requires_grad_(True), drawn(3, 60, D_IN)
    settings = {"k": 3.0} if "k" in ARCHITECTURES[name].settings else {}
    forward = ARCHITECTURES[name].make(sae, SaeConfig(architecture=name, **settings))
    with torch.no_grad():
        for number, parameter in enumerate(forward.parameters().values()):
            parameter.add_(0.5 * drawn(number, N_LATENTS))
    seen = forward(sae, x)
    forward.calibrate(sae, [x])
    sae.requires_grad_(False)
    if name in ("batch_topk", "matryoshka"):  # the entry at the threshold itself is left out
        assert len(sae.encode(x).values) == len(seen.values) - 1
    else:
        torch.testing.assert_close(sae.reconstruct(x), seen.x_hat.detach())
    check_fold(sae, scaling(kind, D_IN, 11, True), scaling(kind, D_IN, 11, True), x)


def test_nothing_to_fold_changes_no_bit(random_sae: MakeSae) -> None:
    sae = random_sae()
    sae.W_dec.copy_(torch.eye(6).repeat(4, 1)[:20])  # norms of exactly 1
    sae.b_dec.zero_()
    before = sae.weights_hash()
    assert sae.fold(IDENTITY, IDENTITY).weights_hash() == before


def test_fold_centering_changes_no_output(random_sae: MakeSae) -> None:
    for k in (None, 3):
        sae, x = random_sae(k=k).double(), drawn(1, 50, 6)
        expected = sae.reconstruct(x)
        torch.testing.assert_close(sae.fold_centering().reconstruct(x), expected)
        assert not sae.subtract_b_dec
