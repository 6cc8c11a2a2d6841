"""Reconstruction metrics on closed-form cases, and against the same formulas written directly in numpy."""

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from sparselight.errors import SaeError
from sparselight.evaluate.reconstruction import CoderSums, Contender, InputSums
from sparselight.evaluate.statistics import Resamples
from sparselight.protocols import Codes

N, D = 400, 6


class Noisy:
    """Adds given noise."""

    def __init__(self, noise: Tensor):
        self.noise = noise

    def reconstruct(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        return x + self.noise


class HandMade:
    """Four latents: 0 fires always, 1 on even tokens, 2 never, 3 is kept as an explicit zero."""

    d_in, n_latents = D, 4

    def encode(self, x: Float[Tensor, "token d_in"]) -> Codes:
        values, latents, indptr = [], [], [0]
        for token in range(len(x)):
            kept = [(0, 1.0), (1, 2.0), (3, 0.0)] if token % 2 == 0 else [(0, 1.0), (3, 0.0)]
            latents += [latent for latent, _ in kept]
            values += [value for _, value in kept]
            indptr.append(len(values))
        return Codes(torch.tensor(values), torch.tensor(latents), torch.tensor(indptr), self.n_latents)

    def decode(self, codes: Codes) -> Float[Tensor, "token d_in"]:
        return codes.to_dense() @ torch.ones(self.n_latents, D)

    def reconstruct(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        return self.decode(self.encode(x))


def activations(seed: int = 0, offset: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(N, D, generator=generator) * torch.tensor([1.0, 5.0, 0.1, 2.0, 1.0, 1.0]) + offset
    return x, torch.randint(0, 20, (N,), generator=generator)


def measured(x: Tensor, group: Tensor, x_hat: Tensor, codes: Codes | None = None, n_latents: int | None = None) -> tuple[dict[str, np.ndarray], CoderSums]:
    """Metrics of all 20 groups, added in three unequal batches."""
    inputs, sums = InputSums.empty(20, torch.full((D,), 2.0)), CoderSums.empty(20, n_latents)
    pieces = [slice(0, N)] if codes is not None else [slice(0, 1), slice(1, 250), slice(250, N)]
    for piece in pieces:
        inputs.add(x[piece], group[piece])
        sums.add(x[piece], x_hat[piece], codes, group[piece])
    return sums.metrics(inputs, Resamples.draw(20, 60, seed=0)), sums


def direct_fvu(x: Tensor, x_hat: Tensor) -> float:
    a, b = x.double().numpy(), x_hat.double().numpy()
    return float(((a - b) ** 2).sum() / ((a - a.mean(0)) ** 2).sum())


def test_a_perfect_coder() -> None:
    x, group = activations()
    metrics, _ = measured(x, group, x.clone())
    assert metrics["fvu"][0] == 0
    assert metrics["explained_variance"][0] == 1
    assert metrics["cosine"][0] == pytest.approx(1, abs=1e-12)
    assert "l0" not in metrics


def test_the_mean_has_fvu_one() -> None:
    x, group = activations()
    metrics, _ = measured(x, group, x.double().mean(0).float().expand_as(x))
    assert metrics["fvu"][0] == pytest.approx(1, abs=1e-6)


def test_zero_has_the_second_moment_as_error_and_no_direction() -> None:
    x, group = activations()
    metrics, _ = measured(x, group, torch.zeros_like(x))
    a = x.double().numpy()
    assert metrics["fvu"][0] == pytest.approx((a**2).sum() / ((a - a.mean(0)) ** 2).sum(), rel=1e-9)
    assert metrics["cosine"][0] == 0


def test_known_noise_gives_the_ratio_of_variances() -> None:
    x, group = activations()
    noise = 0.5 * torch.randn(N, D, generator=torch.Generator().manual_seed(1))
    x_hat, _ = Contender(Noisy(noise), is_control=False).apply(x, "test")
    metrics, _ = measured(x, group, x_hat)
    assert metrics["fvu"][0] == pytest.approx(float((noise.double() ** 2).sum()) / float(((x.double() - x.double().mean(0)) ** 2).sum()), rel=1e-4)


def test_values_and_resamples_equal_the_formula_on_the_repeated_tokens() -> None:
    x, group = activations()
    x_hat = x + 0.3 * torch.randn(N, D, generator=torch.Generator().manual_seed(2))
    metrics, _ = measured(x, group, x_hat)
    weights = Resamples.draw(20, 60, seed=0).weights
    for draw in (0, 1, 2, 60):
        repeats = torch.from_numpy(weights[draw]).long()[group]
        a, b = x.repeat_interleave(repeats, 0), x_hat.repeat_interleave(repeats, 0)
        assert metrics["fvu"][draw] == pytest.approx(direct_fvu(a, b), rel=1e-9)
        assert metrics["explained_variance"][draw] == pytest.approx(1 - direct_fvu(a, b), rel=1e-9)
        assert metrics["cosine"][draw] == pytest.approx(float(torch.nn.functional.cosine_similarity(a.double(), b.double()).mean()), rel=1e-9)


def test_a_large_common_offset_costs_no_precision() -> None:
    x, group = activations(offset=1000.0)
    inputs, sums = InputSums.empty(20, torch.full((D,), 1000.0)), CoderSums.empty(20, None)
    x_hat = x + 0.01
    inputs.add(x, group)
    sums.add(x, x_hat, None, group)
    assert sums.metrics(inputs, Resamples.draw(20, 40, 0))["fvu"][0] == pytest.approx(direct_fvu(x, x_hat), rel=1e-9)


def test_constant_activations_have_no_fvu() -> None:
    x = torch.full((N, D), 7.3)
    metrics, _ = measured(x, torch.zeros(N, dtype=torch.long), x + 1)
    assert np.isnan(metrics["fvu"][0])


def test_l0_and_dead_latents_of_hand_made_codes() -> None:
    x, group = activations()
    contender = Contender(HandMade(), is_control=False)
    x_hat, codes = contender.apply(x, "test")
    assert contender.n_latents == 4
    metrics, sums = measured(x, group, x_hat, codes, contender.n_latents)
    assert metrics["l0"][0] == 1.5
    assert sums.dead_frac() == 0.5
    assert torch.equal(x_hat[0], torch.full((D,), 3.0))


def test_a_coder_without_codes_has_neither() -> None:
    contender = Contender(Noisy(torch.zeros(N, D)), is_control=True)
    assert contender.n_latents is None
    assert CoderSums.empty(3, None).dead_frac() is None


@pytest.mark.parametrize(("noise", "why"), [(torch.full((N, D), float("inf")), "not finite for 400 of 400"), (torch.zeros(2, N, D), "returns")])
def test_a_faulty_reconstruction_is_refused(noise: Tensor, why: str) -> None:
    with pytest.raises(SaeError, match=f"cannot evaluate the coder 'x'.*{why}"):
        Contender(Noisy(noise), is_control=False).apply(activations()[0], "evaluate the coder 'x'")
