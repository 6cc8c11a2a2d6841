"""The comparison says equal where two SAEs are, different where they are not, and does not take rounding at an edge for a difference."""

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sparselight.sae import Sae
from sparselight.sae.formats import verify
from sparselight.sae.formats.verify import compare, compare_saes, compare_with_library, probe_vectors


@pytest.mark.parametrize("k", [None, 3])
def test_equal(k: int | None, random_sae: Callable[..., Sae]) -> None:
    sae = random_sae(k=k)
    x = probe_vectors(sae)
    found = compare_saes("a copy", sae, copy.deepcopy(sae), x)
    assert found.equal
    assert (found.latents, found.reconstruction, found.support_differs) == (0, 0, 0)
    assert "same latents fire" in found.line()
    fired = torch.zeros(sae.n_latents, dtype=torch.bool)
    fired[sae.encode(x).latents] = True
    assert fired.all(), "the vectors reach every latent"


@pytest.mark.parametrize(("change", "what"), [
    (lambda sae: sae.b_enc.add_(0.01), "latents"), (lambda sae: sae.b_dec.add_(0.01), "reconstruction"),
    (lambda sae: sae.threshold.mul_(1.5), "support_differs"), (lambda sae: setattr(sae, "subtract_b_dec", False), "latents"),
])
def test_different(change: Callable[[Sae], Any], what: str, random_sae: Callable[..., Sae]) -> None:
    sae = random_sae()
    other = copy.deepcopy(sae)
    change(other)
    found = compare_saes("another", sae, other, probe_vectors(sae))
    assert not found.equal
    assert getattr(found, what) > verify.TOLERANCE


@pytest.mark.parametrize("k", [None, 3])
def test_rounding_at_an_edge_is_no_difference(k: int | None, random_sae: Callable[..., Sae]) -> None:
    sae = random_sae(k=k)
    x = probe_vectors(sae, n=20)
    codes = sae.encode(x)
    latents = codes.to_dense()
    pre = sae.pre_activations(x)
    edge = verify.cutoff(sae, pre).expand_as(pre)
    token, latent = (pre - edge).abs().argmin() // sae.n_latents, (pre - edge).abs().argmin() % sae.n_latents
    if k is None:
        sae.threshold[latent] = pre[token, latent] + 1e-6  # the other side fires just above it
        latents[token, latent] = pre[token, latent]
        sae.cache.clear()
    else:
        latents[token, latent] = 0  # among the k largest by no more than rounding
    found = compare("rounding", sae, latents, latents @ sae.W_dec + sae.b_dec, x)
    assert found.support_differs >= 1
    assert found.decided_by_rounding == found.support_differs


def test_a_library_that_is_not_there(random_sae: Callable[..., Sae], tmp_path: Path) -> None:
    sae = random_sae()
    assert compare_with_library("openai", sae, tmp_path, probe_vectors(sae)) is None
    assert all(name in verify.LIBRARIES for name in ("saelens", "sparsify", "dictionary_learning"))


def test_a_library_that_is_there(random_sae: Callable[..., Sae], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How its outputs are compared; the libraries themselves stand in tests/peers."""
    sae = random_sae()
    module = SimpleNamespace(__spec__=SimpleNamespace(), SAE=SimpleNamespace(load_from_disk=lambda folder: FakeSaeLens(sae)))
    monkeypatch.setitem(sys.modules, "sae_lens", module)
    found = compare_with_library("saelens", sae, tmp_path, probe_vectors(sae))
    assert found is not None
    assert found.equal
    assert found.of == f"sae_lens on {tmp_path}"


class FakeSaeLens:
    def __init__(self, sae: Sae):
        self.sae = sae

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.sae.encode(x).to_dense()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.sae.reconstruct(x)
