"""TracIn scores against gradients that autograd finds example by example."""

import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from sparselight.errors import TrainingError
from sparselight.sae import Sae
from sparselight.train.influence import influence

D, N_LATENTS = 12, 40


def random_sae(seed: int = 0, **form: Any) -> Sae:
    generator = torch.Generator().manual_seed(seed)
    sae = Sae(D, N_LATENTS, **form).requires_grad_(False)
    for parameter in sae.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    sae.W_dec.copy_(normalize(sae.W_dec))
    if sae.k is None:
        sae.threshold.copy_(torch.rand(N_LATENTS, generator=generator))
    return sae


def examples(n: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(int(torch.randint(1, 9, (1,), generator=generator)), D, generator=generator) for _ in range(n)]


def gradient(sae: Sae, x: Tensor, l1: float, base: Sae | None) -> Tensor:
    """All of the loss of one example, by autograd in float64."""
    weights = [sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec]
    W_enc, b_enc, W_dec, b_dec = leaves = [weight.detach().double().requires_grad_() for weight in weights]
    x, active = x.double(), sae.encode(x).to_dense() > 0
    target = x if base is None else x - base.reconstruct(x.float()).double()
    z = torch.where(active, (x - b_dec if sae.subtract_b_dec else x) @ W_enc + b_enc, 0)
    loss = ((z @ W_dec + b_dec - target).square().mean(1) + l1 * z.sum(1)).mean()
    return torch.cat([grad.flatten() for grad in torch.autograd.grad(loss, leaves)])


@pytest.mark.parametrize("base", [None, random_sae(9)])
@pytest.mark.parametrize("l1", [0.0, 0.3])
@pytest.mark.parametrize("form", [{}, {"subtract_b_dec": False}, {"k": 5}])
def test_scores_are_products_of_gradients(form: dict, l1: float, base: Sae | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["sparselight.train.influence"], "CHUNK_TOKENS", 20)
    sae, candidates, seeds = random_sae(**form), examples(30, 1), examples(11, 2)
    of_seeds = torch.stack([gradient(sae, x, l1, base) for x in seeds]).mean(0)
    own = torch.stack([gradient(sae, x, l1, base) for x in candidates])
    dots, cosines = (influence(sae, candidates, seeds, l1=l1, kind=kind, base=base) for kind in ("dot", "cosine"))
    torch.testing.assert_close(dots.double(), own @ of_seeds, rtol=1e-4, atol=1e-4 * float((own @ of_seeds).abs().max()))
    torch.testing.assert_close(cosines.double(), normalize(own) @ normalize(of_seeds, dim=0), rtol=1e-4, atol=1e-4)


def test_an_example_is_most_like_itself_and_seeds_raise_their_likes() -> None:
    sae, seed = random_sae(), examples(1, 3)
    found = influence(sae, [*examples(10, 4), *seed], seed, kind="cosine")
    assert int(found.argmax()) == 10
    assert float(found[10]) == pytest.approx(1, abs=1e-5)


def test_refusals() -> None:
    sae = random_sae()
    with pytest.raises(TrainingError, match="there are no seeds"):
        influence(sae, examples(2, 1), [])
    with pytest.raises(TrainingError, match="example 1 has no tokens"):
        influence(sae, [torch.randn(2, D), torch.randn(0, D)], examples(1, 1))
    with pytest.raises(TrainingError, match="influence on a transcoder"):
        influence(Sae(D, 4, False, d_out=3), examples(2, 1), examples(1, 1))
    assert influence(sae, [], examples(1, 1)).shape == (0,)
