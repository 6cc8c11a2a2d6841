"""The orthogonality penalty: sanity values of random rows, chunks, weights over the steps, gradients in chunks."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import betainc
from torch import Tensor
from torch.nn.functional import normalize

from sparselight.kernels import WeightGradients
from sparselight.sae import ARCHITECTURES, Sae, initialize
from sparselight.train import TrainConfig
from sparselight.train.objectives import TERMS, TermInputs
from sparselight.train.objectives.orthogonal import chunk_size, orthogonal, partition


def config_of(chunk: int, every: int = 1, decoder_norm: str = "unit") -> TrainConfig:
    return TrainConfig.parse({"k": 1, "decoder_norm": decoder_norm, "objective": {
        "orthogonal": 0.25, "orthogonal_chunk": chunk, "orthogonal_every": every}}, "train")


def penalty(rows: Tensor, chunk: int, step: int = 0, decoder_norm: str = "unit") -> tuple[Tensor, Tensor]:
    """The term's value for these decoder rows, and its gradient in them."""
    n, d = rows.shape
    sae = initialize(Sae(d, n), torch.zeros(d), torch.Generator().manual_seed(0)).to(rows.dtype)
    with torch.no_grad():
        sae.W_dec.copy_(rows)
    config = config_of(chunk, decoder_norm=decoder_norm)
    architecture = ARCHITECTURES["batch_topk"].make(sae, config)
    x = torch.ones(1, d, dtype=rows.dtype)
    forward = architecture(sae, x)
    value = orthogonal(TermInputs(sae, architecture, forward, x, torch.empty(0, dtype=torch.int64), config, step, None))
    value.backward()
    forward.x_hats.grad = None
    forward.backward(sae, WeightGradients(torch.zeros_like(sae.W_enc.T), torch.zeros_like(sae.b_enc), torch.zeros_like(sae.W_dec)))
    assert sae.W_dec.grad is not None
    return value.detach(), sae.W_dec.grad


def dense_penalty(rows: Tensor, chunk: int, step: int = 0) -> Tensor:
    unit, total = normalize(rows), rows.new_zeros(())
    for members in partition(len(rows), 0, step).split(chunk_size(len(rows), chunk)):
        if len(members) > 1:
            cosines = unit[members] @ unit[members].T - 2 * torch.eye(len(members), dtype=rows.dtype)
            total = total + cosines.max(1).values.square().sum()
    return total / len(rows)


def expected_maximum(n_others: int, d: int, power: int) -> float:
    """E[(max of the cosines of n_others random unit vectors with a fixed one)^power]: cosines are independent and P(cos > c) = I_{1-c^2}((d-1)/2, 1/2) / 2."""
    def largest_above(c: float) -> float:
        return -math.expm1(n_others * math.log1p(-betainc((d - 1) / 2, 0.5, 1 - c * c) / 2))

    return quad(lambda c: power * c ** (power - 1) * largest_above(c), 0, min(1.0, 12 / d**0.5), points=[2 / d**0.5, 4 / d**0.5], limit=200)[0]


def random_rows(n: int, d: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=dtype))


@pytest.mark.parametrize(("d", "chunk", "value"), [
    (2304, 1024, 0.00466), (2304, 2048, 0.00524), (2304, 4096, 0.00574), (2304, 8192, 0.00632), (2304, 16384, 0.00682),
    (4096, 1024, 0.00260), (4096, 2048, 0.00289), (4096, 4096, 0.00320), (4096, 8192, 0.00358), (4096, 16384, 0.00388),
])
def test_closed_form_gives_the_known_values_of_random_rows(d: int, chunk: int, value: float) -> None:
    assert expected_maximum(chunk - 1, d, power=2) == pytest.approx(value, rel=0.02)  # the known ones were sampled


@pytest.mark.parametrize(("d", "value"), [(2304, 0.0890), (4096, 0.0669)])
def test_closed_form_gives_the_known_mean_maximum_cosine(d: int, value: float) -> None:
    assert expected_maximum(65536 - 1, d, power=1) == pytest.approx(value, rel=0.003)


@pytest.mark.parametrize(("n", "d", "chunk"), [(2048, 2304, 1024), (3072, 64, 1024), (4096, 64, 256), (2048, 384, 4096)])
def test_penalty_of_random_rows(n: int, d: int, chunk: int) -> None:
    """Within 3 %: each row's squared maximum varies by about a fifth, and there are thousands."""
    assert penalty(random_rows(n, d), chunk)[0].item() == pytest.approx(expected_maximum(min(n, chunk) - 1, d, power=2), rel=0.03)


@pytest.mark.parametrize("decoder_norm", ["unit", "free"])
@pytest.mark.parametrize(("n", "chunk"), [(20, 2), (20, 6), (20, 8), (20, 20), (16, 3), (5000, 3000)])
def test_value_and_gradient_in_chunks_equal_dense_autograd(n: int, chunk: int, decoder_norm: str) -> None:
    rows = random_rows(n, 7, torch.float64)
    if decoder_norm == "free":
        rows = rows * torch.linspace(0.5, 3, n, dtype=torch.float64).unsqueeze(1)
    value, grad = penalty(rows, chunk, step=3, decoder_norm=decoder_norm)
    leaf = rows.clone().requires_grad_()
    dense = dense_penalty(leaf, chunk, step=3)
    dense.backward()
    torch.testing.assert_close(value, dense.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(grad, leaf.grad, rtol=1e-9, atol=1e-14)


def test_gradient_is_tangent_and_reaches_both_rows_of_a_pair() -> None:
    rows = normalize(torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.4, 0.0], [-1.0, 0.0, 0.1], [0.0, -0.3, -1.0]], dtype=torch.float64))
    value, grad = penalty(rows, 4)
    assert value > 0
    torch.testing.assert_close((grad * rows).sum(1), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-15)
    moved = normalize(rows - 0.05 * grad)
    assert penalty(moved, 4)[0] < value
    assert (grad[:2].abs().sum(1) > 0).all()


def test_float32_kernels_agree_with_dense() -> None:
    rows = random_rows(3000, 48)
    value, grad = penalty(rows, 1000)
    leaf = rows.double().requires_grad_()
    dense = dense_penalty(leaf, 1000)
    dense.backward()
    assert value.item() == pytest.approx(dense.item(), rel=1e-5)
    assert leaf.grad is not None
    assert float((grad - leaf.grad).norm() / leaf.grad.norm()) < 1e-5


def test_chunks_are_of_one_size_but_the_last() -> None:
    assert [chunk_size(65536, 8192), chunk_size(65536, 1024), chunk_size(2048, 8192), chunk_size(20, 8), chunk_size(16, 3)] == [8192, 1024, 2048, 7, 3]
    for n in range(2, 60):
        for at_most in range(2, 40):
            size = chunk_size(n, at_most)
            assert size <= at_most
            assert -(-n // size) <= -(-n // at_most)


def test_partition_is_fresh_each_step_and_a_function_of_seed_and_step() -> None:
    orders = [partition(1000, seed, step).numpy() for seed, step in ((0, 0), (0, 1), (1, 0), (0, 0))]
    for order in orders:
        assert np.array_equal(np.sort(order), np.arange(1000))
    assert np.array_equal(orders[0], orders[3])
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])
    assert not np.array_equal(partition(1000, 0, 10).numpy(), partition(1000, 10, 0).numpy())


def test_every_nth_step_weighs_n_times() -> None:
    weights = [TERMS["orthogonal"].weight(config_of(8192, every=5), step) for step in range(20)]
    assert weights == [1.25 if step % 5 == 4 else 0 for step in range(20)]
    assert sum(weights) == sum(TERMS["orthogonal"].weight(config_of(8192), step) for step in range(20))
