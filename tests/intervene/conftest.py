"""A dictionary with random weights, in any of the two inference forms."""

from collections.abc import Callable

import pytest
import torch

from sparselight.sae import Sae


def random_sae(d_in: int = 32, n_latents: int = 48, k: int | None = None, seed: int = 0, subtract_b_dec: bool = True) -> Sae:
    generator = torch.Generator().manual_seed(seed)
    sae = Sae(d_in, n_latents, subtract_b_dec, k=k).requires_grad_(False)
    for tensor in (sae.W_enc, sae.W_dec):
        tensor.copy_(torch.randn(tensor.shape, generator=generator) / d_in**0.5)
    sae.b_enc.copy_(torch.randn(n_latents, generator=generator) / 10)
    sae.b_dec.copy_(torch.randn(d_in, generator=generator) / 10)
    if k is None:
        sae.threshold.copy_(torch.rand(n_latents, generator=generator) / 2)
    return sae


@pytest.fixture
def make_sae() -> Callable[..., Sae]:
    return random_sae
