"""Random SAEs and records, as factories."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from sparselight.records import SaeRecord, SubjectRef, TokenPolicy
from sparselight.sae import Sae


def random_sae(d_in: int = 6, n_latents: int = 20, subtract_b_dec: bool = True, seed: int = 0, **form: Any) -> Sae:
    """Every weight random, decoder rows of unit norm, thresholds from 0 to 1; `form` has d_out, k and skip."""
    generator = torch.Generator().manual_seed(seed)
    sae = Sae(d_in, n_latents, subtract_b_dec, **form).requires_grad_(False)
    for parameter in sae.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    sae.W_dec.copy_(normalize(sae.W_dec))
    if sae.k is None:
        sae.threshold.copy_(torch.rand(n_latents, generator=generator))
    return sae


def record_of(sae: Sae, **changes: Any) -> SaeRecord:
    subject = SubjectRef(name="tiny", fingerprint="f", token_policy=TokenPolicy(prepend_bos=True, context_tokens=64))
    values: dict[str, Any] = {
        "architecture": "batch_topk" if sae.k is None else "topk", "role": "base", "site": "resid_post.1", "subject": subject, "store_fingerprint": "s",
        "d_in": sae.d_in, "n_latents": sae.n_latents, "k": 4, "l0": 4.1, "n_dead": 1, "dead_after_tokens": 100, "n_tokens_seen": 1000,
        "normalization": "n", "loss_scale": "l", "config": {"k": 4}}
    return SaeRecord(**values | changes)


@pytest.fixture(scope="session", name="random_sae")
def random_sae_fixture() -> Callable[..., Sae]:
    return random_sae


@pytest.fixture(scope="session", name="record_of")
def record_of_fixture() -> Callable[..., SaeRecord]:
    return record_of
