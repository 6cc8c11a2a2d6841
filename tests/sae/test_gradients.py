"""A whole training step's gradients equal plain autograd of each paper's formula on dense tensors; straight-through estimates equal hand-made values."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sparselight.kernels import BACKENDS, DenseSelection, Selection, WeightGradients, torch_encode, use_backend
from sparselight.sae import ARCHITECTURES, JumpRelu, Sae, SaeConfig, TrainingForward, TrainingPass
from sparselight.train import TrainConfig
from sparselight.train.objectives import TERMS, TermInputs, make_objective

MakeSae = Callable[..., Sae]
D_IN, D_OUT, N_LATENTS, N_TOKENS = 7, 5, 24, 40
FORMS: dict[str, dict[str, Any]] = {
    "sae": {}, "residual": {"subtract_b_dec": False}, "skip transcoder": {"subtract_b_dec": False, "d_out": D_OUT, "skip": True}}
DENSE_FRACTIONS = {"all entries": 0.0, "active entries": 1.0}  # of a ReLU-like SAE: from which share of active ones on products are dense
SETTINGS: dict[str, dict[str, Any]] = {
    "relu": {"objective": {"l1": 0.03, "aux": 0}},
    "jump_relu": {"bandwidth": 0.5, "first_threshold": 0.7, "objective": {"l0": 0.02, "aux": 0}},
    "gated": {"objective": {"l1": 0.03, "aux": 0}},
    "topk": {"k": 4, "objective": {"aux": 0}},
    "batch_topk": {"k": 3.5, "objective": {"aux": 0}},
    "matryoshka": {"k": 4, "group_fracs": (0.25, 0.25, 0.5), "objective": {"aux": 0}},
}
Weights = dict[str, Tensor]


class PaperJump(torch.autograd.Function):
    """arXiv 2407.14435: z = pre H(pre - theta) and H(pre - theta), with their pseudo-derivatives in theta."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, theta: Tensor, width: float) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(pre, theta)
        ctx.width = width
        active = (pre > theta).to(pre.dtype)
        return pre * active, active

    @staticmethod
    def backward(ctx: Any, grad_z: Tensor, grad_active: Tensor) -> tuple[Tensor, Tensor, None]:
        pre, theta = ctx.saved_tensors
        window = ((pre - theta) / ctx.width > -0.5) & ((pre - theta) / ctx.width < 0.5)
        grad_theta = -(theta / ctx.width * window * grad_z + window / ctx.width * grad_active).sum(0)
        return grad_z * (pre > theta), grad_theta, None


def encoder(w: Weights, x: Tensor, subtract: bool) -> tuple[Tensor, Tensor]:
    """Pre-activations with and without b_enc."""
    product = (x - w["b_dec"] if subtract else x) @ w["W_enc"]
    return product + w["b_enc"], product


def decode(w: Weights, x: Tensor, z: Tensor) -> Tensor:
    return z @ w["W_dec"] + w["b_dec"] + (x @ w["W_skip"] if "W_skip" in w else 0)


def relu_loss(w: Weights, x: Tensor, t: Tensor, subtract: bool, config: TrainConfig) -> Tensor:
    z = encoder(w, x, subtract)[0].relu()
    return (decode(w, x, z) - t).square().mean() + config.objective.l1 * z.sum(1).mean()


def jump_relu_loss(w: Weights, x: Tensor, t: Tensor, subtract: bool, config: TrainConfig) -> Tensor:
    z, active = PaperJump.apply(encoder(w, x, subtract)[0], w["log_threshold"].exp(), config.bandwidth)
    return (decode(w, x, z) - t).square().mean() + config.objective.l0 * active.sum(1).mean()


def gated_loss(w: Weights, x: Tensor, t: Tensor, subtract: bool, config: TrainConfig) -> Tensor:
    gate, product = encoder(w, x, subtract)
    z = (gate > 0) * (w["r_mag"].exp() * product + w["b_mag"]).relu()
    frozen = {name: tensor.detach() for name, tensor in w.items()}
    errors = [decode(w, x, z) - t, decode(frozen, x, gate.relu()) - t]
    return sum(error.square().mean() for error in errors) + config.objective.l1 * gate.relu().sum(1).mean()


def topk_loss(w: Weights, x: Tensor, t: Tensor, subtract: bool, config: TrainConfig) -> Tensor:
    top = encoder(w, x, subtract)[0].topk(int(config.k))
    z = torch.zeros(len(x), N_LATENTS, dtype=x.dtype).scatter(1, top.indices, top.values.relu())
    return (decode(w, x, z) - t).square().mean()


def matryoshka_loss(w: Weights, x: Tensor, t: Tensor, subtract: bool, config: TrainConfig, ends: tuple[int, ...] = (6, 12, 24)) -> Tensor:
    pre = encoder(w, x, subtract)[0]
    top = pre.flatten().topk(round(config.k * len(x)))
    z = torch.zeros_like(pre).flatten().scatter(0, top.indices, top.values.relu()).view_as(pre)
    kept = [torch.where(torch.arange(N_LATENTS) < end, z, 0) for end in ends]
    return sum((decode(w, x, part) - t).square().mean() for part in kept) / len(ends)


def batch_topk_loss(w: Weights, x: Tensor, t: Tensor, subtract: bool, config: TrainConfig) -> Tensor:
    return matryoshka_loss(w, x, t, subtract, config, (N_LATENTS,))


LOSSES = {"relu": relu_loss, "jump_relu": jump_relu_loss, "gated": gated_loss, "topk": topk_loss, "batch_topk": batch_topk_loss, "matryoshka": matryoshka_loss}


def test_every_architecture_is_here() -> None:
    assert LOSSES.keys() == ARCHITECTURES.keys() == SETTINGS.keys()


class Step:
    """One forward pass, objective and backward pass, next to the same numbers for the dense formula."""

    def __init__(self, sae: Sae, name: str, dtype: torch.dtype):
        self.config = TrainConfig.parse({"architecture": name, "n_latents": N_LATENTS, "n_tokens": 400, "batch_tokens": N_TOKENS, **SETTINGS[name]}, "train")
        self.sae = sae.to(dtype).requires_grad_(True)
        self.architecture: TrainingForward = ARCHITECTURES[name].make(self.sae, self.config)
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in self.architecture.parameters().values():
                parameter.add_(0.4 * torch.randn(N_LATENTS, generator=generator, dtype=dtype))
        self.x, self.target = (torch.randn(N_TOKENS, d, generator=generator, dtype=dtype) for d in (D_IN, sae.d_out))

    def ours(self) -> tuple[Tensor, Weights, TrainingPass]:
        forward = self.architecture(self.sae, self.x)
        none = torch.tensor([], dtype=torch.int64)
        loss, _ = make_objective(self.config, TERMS)(TermInputs(self.sae, self.architecture, forward, self.target, none, self.config, 0, None))
        loss.backward()
        sae = self.sae
        forward.backward(sae, WeightGradients(torch.empty_like(sae.W_enc.T), torch.empty_like(sae.b_enc), torch.empty_like(sae.W_dec)))
        return loss.detach(), {name: parameter.grad for name, parameter in self.parameters().items()}, forward

    def dense(self) -> tuple[Tensor, Weights]:
        weights = {name: parameter.detach().clone().requires_grad_() for name, parameter in self.parameters().items()}
        loss = LOSSES[self.config.architecture](weights, self.x, self.target, self.sae.subtract_b_dec, self.config)
        loss.backward()
        return loss.detach(), {name: weight.grad for name, weight in weights.items()}

    def parameters(self) -> Weights:
        return dict(self.sae.named_parameters()) | dict(self.architecture.parameters())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("work_on", DENSE_FRACTIONS)
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_the_paper(random_sae: MakeSae, name: str, work_on: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_encode, "DENSE_FRACTION", DENSE_FRACTIONS[work_on])
    step = Step(random_sae(D_IN, N_LATENTS, **FORMS[form]), name, torch.float64)
    with use_backend("torch"):
        loss, gradients, forward = step.ours()
    if "k" not in ARCHITECTURES[name].settings:
        assert isinstance(forward.selection, Selection if work_on == "active entries" else DenseSelection)
    assert (forward.values > 0).any()
    expected_loss, expected = step.dense()
    torch.testing.assert_close(loss, expected_loss)
    assert gradients.keys() == expected.keys()
    for weight, gradient in expected.items():
        assert gradient.abs().max() > 0, weight
        torch.testing.assert_close(gradients[weight], gradient, rtol=1e-9, atol=1e-12, msg=lambda text, weight=weight: f"{weight}: {text}")


@pytest.mark.parametrize("work_on", DENSE_FRACTIONS)
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("backend", sorted(BACKENDS.keys() - {"triton"}))  # that one needs a GPU
def test_every_backend_gives_these_gradients_in_float32(random_sae: MakeSae, name: str, work_on: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_encode, "DENSE_FRACTION", DENSE_FRACTIONS[work_on])
    step = Step(random_sae(D_IN, N_LATENTS), name, torch.float32)
    with use_backend(backend):
        loss, gradients, _ = step.ours()
    expected_loss, expected = step.dense()
    torch.testing.assert_close(loss, expected_loss)
    for weight, gradient in expected.items():
        torch.testing.assert_close(gradients[weight], gradient, rtol=1e-4, atol=1e-6, msg=lambda text, weight=weight: f"{weight}: {text}")


def one_latent(pre: list[float], theta: float, width: float) -> tuple[JumpRelu, TrainingPass]:
    sae = Sae(1, 1, subtract_b_dec=False)
    with torch.no_grad():
        sae.W_enc.fill_(1)
        sae.W_dec.fill_(1)
    architecture = JumpRelu(sae, SaeConfig(architecture="jump_relu", first_threshold=theta, bandwidth=width))
    return architecture, architecture(sae, torch.tensor(pre).unsqueeze(1))


def test_straight_through_gradients_by_hand() -> None:
    """theta = 2, window from 1.5 to 2.5: of these pre-activations 1.6, 1.9 and 2.4 lie in it; 2.4, 2.6 and 7 are active."""
    theta, width, pre = 2.0, 1.0, [-1.0, 1.4, 1.6, 1.9, 2.4, 2.6, 7.0]
    architecture, forward = one_latent(pre, theta, width)
    assert forward.x_hat[:, 0].tolist() == pytest.approx([0, 0, 0, 0, 2.4, 2.6, 7])
    assert architecture.n_active(forward).tolist() == [0, 0, 0, 0, 1, 1, 1]
    weights = torch.tensor([1.0, 2, 3, 5, 7, 11, 13])
    (by_count,) = torch.autograd.grad(architecture.n_active(forward) @ weights, architecture.log_threshold)
    assert by_count.item() == pytest.approx(-(3 + 5 + 7) / width * theta)  # the last theta: from theta to its logarithm
    assert forward.values.shape == forward.pre.shape
    kept = weights[:, None] if isinstance(forward.selection, DenseSelection) else weights[forward.selection.tokens]
    by_value, by_pre = torch.autograd.grad(forward.values, [architecture.log_threshold, forward.pre], kept)
    assert by_value.item() == pytest.approx(-(theta / width) * (3 + 5 + 7) * theta)
    assert torch.equal(by_pre, kept * (forward.pre > theta))


def test_a_threshold_learns_from_entries_below_it() -> None:
    """The only entry lies just under the threshold: the loss falls when the threshold does, the count rises."""
    architecture, forward = one_latent([0.95], 1.0, 0.2)
    assert architecture.log_threshold.requires_grad
    assert not forward.values.any()
    (gradient,) = torch.autograd.grad(forward.values.sum(), architecture.log_threshold)
    assert gradient.item() == pytest.approx(-1 / 0.2)
    far, outside = one_latent([0.85], 1.0, 0.2)
    (gradient,) = torch.autograd.grad(outside.values.sum() + far.n_active(outside).sum(), far.log_threshold)
    assert gradient.item() == 0


def test_first_threshold_is_where_it_begins() -> None:
    assert one_latent([1.0], 0.03, 0.03)[0].log_threshold.item() == pytest.approx(math.log(0.03))
