"""Each term against the same formula on dense tensors, through a whole step in float64: the gradient of every weight by plain autograd."""

import math
from collections.abc import Callable

import pytest
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from sparselight.errors import ConfigError
from sparselight.kernels import Selection, WeightGradients
from sparselight.sae import ARCHITECTURES, Sae, TrainingForward, TrainingPass, initialize
from sparselight.train import TrainConfig
from sparselight.train.objectives import TERMS, TermInputs, make_objective
from sparselight.train.objectives.reconstruction import mean_per_example, tilted_mean

D_IN, N_LATENTS, N_TOKENS = 6, 20, 30
DEAD = torch.tensor([4, 7, 11])
EXAMPLE = torch.tensor([5] * 12 + [2] * 7 + [9] * 10 + [3])
PLAIN = {"aux": 0.0}


def seeded(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def configured(objective: dict[str, object], architecture: str = "batch_topk", **settings: object) -> TrainConfig:
    """A config of ten steps without the dead latents' loss; k where the architecture knows it."""
    own = {"k": 3} if "k" in ARCHITECTURES[architecture].settings else {}
    sizes = {"architecture": architecture, "n_latents": N_LATENTS, "n_tokens": 300, "batch_tokens": 30}
    return TrainConfig.parse(own | sizes | settings | {"objective": PLAIN | objective}, "train")


class Step:
    """One forward pass and all gradients of an objective, in float64, of an SAE whose weights are not at their first values."""

    def __init__(self, config: TrainConfig, step: int = 0, n_latents: int = N_LATENTS):
        self.config, self.step = config, step
        self.sae = initialize(Sae(D_IN, n_latents), torch.zeros(D_IN), torch.Generator().manual_seed(0)).double()
        with torch.no_grad():
            self.sae.W_enc.add_(0.1 * seeded(D_IN, n_latents, seed=2))
            self.sae.b_enc.add_(0.1 * seeded(n_latents, seed=3))
            self.sae.b_dec.add_(0.1 * seeded(D_IN, seed=4))
            if config.decoder_norm == "free":
                self.sae.W_dec.mul_(seeded(n_latents, 1, seed=5).exp())
            else:
                self.sae.W_dec.copy_(normalize(self.sae.W_dec))
        self.x, self.target = seeded(N_TOKENS, D_IN), seeded(N_TOKENS, D_IN, seed=6)
        self.architecture: TrainingForward = ARCHITECTURES[config.architecture].make(self.sae, config)
        self.forward: TrainingPass = self.architecture(self.sae, self.x)
        inputs = TermInputs(self.sae, self.architecture, self.forward, self.target, DEAD, config, step, EXAMPLE)
        self.loss, self.terms = make_objective(config, TERMS)(inputs)
        self.loss.backward()
        buffers = (torch.full_like(like, torch.nan) for like in (self.sae.W_enc.T, self.sae.b_enc, self.sae.W_dec))
        self.forward.backward(self.sae, WeightGradients(*buffers))

    def gradients(self) -> dict[str, Tensor]:
        return {name: parameter.grad for name, parameter in self.sae.named_parameters() if parameter.grad is not None}


class Dense:
    """The same forward pass with [token latent] tensors; which latents are active is held constant."""

    def __init__(self, step: Step):
        self.weights = {name: parameter.detach().clone().requires_grad_() for name, parameter in step.sae.named_parameters()}
        W_enc, b_enc, self.W_dec, self.b_dec = (self.weights[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec"))
        self.pre = (step.x - self.b_dec) @ W_enc + b_enc
        self.dead_pre = (step.x - self.b_dec).detach() @ W_enc + b_enc
        self.z = torch.where(active(step.forward), self.pre.relu(), 0)
        self.x_hats = torch.stack([self.z[:, :end] @ self.W_dec[:end] + self.b_dec for end in step.forward.ends])
        self.errors = step.target - self.x_hats


def active(forward: TrainingPass) -> Bool[Tensor, "token latent"]:
    selection = forward.selection
    if not isinstance(selection, Selection):
        return forward.values > 0
    return torch.zeros(selection.n_tokens, selection.n_latents, dtype=torch.bool).index_put((selection.tokens, selection.latents.long()), torch.tensor(True))


def token_losses(dense: Dense, kind: str = "mean") -> Float[Tensor, " token"]:
    return dense.errors.square().mean((0, 2)) if kind == "mean" else dense.errors.square().sum(2).mean(0)


def softmax_mean(losses: Tensor, t: float) -> Tensor:
    return ((t * losses).logsumexp(0) - math.log(len(losses))) / t


def dead_loss(dense: Dense, k: int) -> Tensor:
    error, pre = dense.errors[-1].detach(), dense.dead_pre[:, DEAD]
    kept = torch.zeros_like(pre).scatter(1, pre.topk(k, dim=1).indices, 1.0)
    return (error - (kept * pre.relu()) @ dense.W_dec[DEAD]).square().sum() / error.square().sum()


def nearest_cosines(rows: Tensor) -> Tensor:
    unit = normalize(rows)
    return (unit @ unit.T - 2 * torch.eye(len(rows), dtype=rows.dtype)).max(1).values


def free(objective: dict[str, object]) -> TrainConfig:
    return configured(objective | {"l1_decoder_norm": True}, decoder_norm="free")


CASES: dict[str, tuple[TrainConfig, Callable[[Dense], Tensor]]] = {
    "mse, mean": (configured({}), lambda d: token_losses(d).mean()),
    "mse, sum": (configured({"mse": "sum"}), lambda d: token_losses(d, "sum").mean()),
    "tilted over tokens": (configured({"tilt": 2.0}), lambda d: softmax_mean(token_losses(d), 2.0)),
    "tilted over tokens, sum": (configured({"tilt": 0.5, "mse": "sum"}), lambda d: softmax_mean(token_losses(d, "sum"), 0.5)),
    "tilted over examples": (configured({"tilt": 3.0, "tilt_unit": "example"}),
                             lambda d: softmax_mean(torch.stack([part.mean() for part in token_losses(d).split([12, 7, 10, 1])]), 3.0)),
    "l1": (configured({"l1": 0.3}), lambda d: token_losses(d).mean() + 0.3 * d.z.sum(1).mean()),
    "l1 with norms": (free({"l1": 0.3}), lambda d: token_losses(d).mean() + 0.3 * (d.z * d.W_dec.norm(dim=1)).sum(1).mean()),
    "l0, tanh": (configured({"l0": 0.2, "l0_form": "tanh", "l0_scale": 2.0}), lambda d: token_losses(d).mean() + 0.2 * torch.tanh(2 * d.z).sum(1).mean()),
    "l0, tanh with norms": (free({"l0": 0.2, "l0_form": "tanh"}),
                            lambda d: token_losses(d).mean() + 0.2 * torch.tanh(4 * d.z * d.W_dec.norm(dim=1)).sum(1).mean()),
    "aux": (configured({"aux": 0.7, "aux_k": 2}), lambda d: token_losses(d).mean() + 0.7 * dead_loss(d, 2)),
    "orthogonal": (configured({"orthogonal": 0.4}), lambda d: token_losses(d).mean() + 0.4 * nearest_cosines(d.W_dec).square().mean()),
    "orthogonal, free norms": (configured({"orthogonal": 0.4}, decoder_norm="free"),
                               lambda d: token_losses(d).mean() + 0.4 * nearest_cosines(d.W_dec).square().mean()),
    "all": (free({"tilt": 2.0, "l1": 0.3, "aux": 0.7, "aux_k": 2, "orthogonal": 0.4}),
            lambda d: softmax_mean(token_losses(d), 2.0) + 0.3 * (d.z * d.W_dec.norm(dim=1)).sum(1).mean() + 0.7 * dead_loss(d, 2)
            + 0.4 * nearest_cosines(d.W_dec).square().mean()),
}


@pytest.mark.parametrize("architecture", ["topk", "batch_topk", "matryoshka"])
@pytest.mark.parametrize("case", CASES)
def test_value_and_all_gradients_equal_dense_autograd(case: str, architecture: str) -> None:
    config, formula = CASES[case]
    ours = Step(config.model_copy(update={"architecture": architecture}))
    dense = Dense(ours)
    loss = formula(dense)
    loss.backward()
    torch.testing.assert_close(ours.loss.detach(), loss.detach(), rtol=1e-12, atol=1e-12)
    found = ours.gradients()
    assert list(found) == list(dense.weights)
    for name, weight in dense.weights.items():
        torch.testing.assert_close(found[name], weight.grad, rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("case", ["mse, mean", "l1", "l1 with norms", "l0, tanh with norms"])
def test_relu_sae_gives_the_gradients_of_dense_autograd(case: str) -> None:
    config, formula = CASES[case]
    objective = config.objective if config.objective.reads_magnitudes else config.objective.model_copy(update={"l1": 0.3})
    ours = Step(config.model_copy(update={"architecture": "relu", "objective": objective}))
    dense = Dense(ours)
    (formula(dense) + (0.3 * dense.z.sum(1).mean() if case == "mse, mean" else 0)).backward()
    for name, weight in dense.weights.items():
        torch.testing.assert_close(ours.gradients()[name], weight.grad, rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")


def test_l1_of_a_gated_sae_reads_the_gate() -> None:
    step = Step(configured({"l1": 0.3}, architecture="gated"))
    gate = ((step.x - step.sae.b_dec) @ step.sae.W_enc + step.sae.b_enc).relu()
    assert step.terms["l1"].item() == pytest.approx(gate.sum(1).mean().item())


def test_step_l0_counts_and_its_target_is_a_relative_square() -> None:
    counted = Step(configured({"l0": 0.1}, architecture="jump_relu"))
    l0 = (counted.forward.values > 0).sum().item() / N_TOKENS
    assert counted.terms["l0_penalty"].item() == pytest.approx(l0)
    pulled = Step(configured({"l0": 0.1, "l0_target": 5.0}, architecture="jump_relu"))
    assert pulled.terms["l0_penalty"].item() == pytest.approx((l0 / 5 - 1) ** 2)
    slopes = [step.architecture.parameters()["log_threshold"].grad for step in (counted, pulled, Step(configured({"l1": 1e-9}, architecture="jump_relu")))]
    torch.testing.assert_close(slopes[1] - slopes[2], (slopes[0] - slopes[2]) * 2 * (l0 / 5 - 1) / 5)
    assert (slopes[0] - slopes[2]).abs().sum() > 0


def test_sparsity_weights_rise_from_nothing() -> None:
    config = configured({"l1": 2.0, "sparsity_warmup_frac": 0.4})  # of 10 steps
    assert [TERMS["l1"].weight(config, step) for step in range(6)] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 2.0])
    assert TERMS["l1"].weight(configured({"l1": 2.0}), 0) == 2.0


def test_aux_gradient_reaches_encoder_and_decoder_of_dead_latents_only() -> None:
    with_aux, without = (Step(configured({"aux": weight})).gradients() for weight in (0.7, 0.0))
    for name, of_latents in (("W_enc", lambda grad: grad.T), ("b_enc", lambda grad: grad.unsqueeze(1)), ("W_dec", lambda grad: grad)):
        difference = of_latents(with_aux[name] - without[name])
        assert difference.abs().sum(1).nonzero()[:, 0].tolist() == DEAD.tolist()
    torch.testing.assert_close(with_aux["b_dec"], without["b_dec"], rtol=0, atol=0)


def test_aux_is_nothing_without_dead_latents() -> None:
    step = Step(configured({}))
    inputs = TermInputs(step.sae, step.architecture, step.forward, step.target, DEAD[:0], step.config, 0, None)
    assert TERMS["aux"].value(inputs).item() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tilt_from_the_mean_to_the_maximum(dtype: torch.dtype) -> None:
    losses = seeded(4096).exp().to(dtype)
    assert tilted_mean(losses, 1e-6).item() == pytest.approx(losses.mean().item(), rel=1e-5)
    for tiny in (1e-12, 1e-100, 1e-310):
        assert tilted_mean(losses, tiny).item() == pytest.approx(losses.mean().item(), rel=1e-6)
    assert tilted_mean(losses, 1e9).item() == pytest.approx(losses.max().item(), rel=1e-6)
    values = [tilted_mean(losses, t).item() for t in (1e-9, 1e-3, 1e-1, 1.0, 10.0, 500.0, 1e5, 1e9)]
    assert values == sorted(values)
    assert values[3] == pytest.approx(losses.double().exp().mean().log().item(), rel=1e-6)


@pytest.mark.parametrize("t", [1e-310, 1e-6, 1.0, 500.0, 1e9])
def test_the_gradient_of_the_tilted_mean_is_a_softmax(t: float) -> None:
    losses = seeded(64).square().requires_grad_()
    tilted_mean(losses, t).backward()
    torch.testing.assert_close(losses.grad, (t * losses.detach()).softmax(0), rtol=1e-6, atol=1e-12)


def test_weights_are_no_denormal_numbers() -> None:
    losses = torch.linspace(0, 1, 2000).requires_grad_()
    tilted_mean(losses, 500.0).backward()
    assert losses.grad is not None
    assert losses.grad[losses.grad > 0].min() >= 1e-30
    assert 0 < int((losses.grad == 0).sum()) < 2000


def test_tilt_survives_losses_of_any_size() -> None:
    for scale in (1e-30, 1.0, 1e30):
        losses = (scale * torch.tensor([1.0, 2.0, 3.0])).requires_grad_()
        value = tilted_mean(losses, 1e9)
        value.backward()
        assert scale <= value.item() <= 3 * scale * (1 + 1e-6)
        assert losses.grad is not None
        assert losses.grad.sum().item() == pytest.approx(1)


def test_without_tilt_the_term_is_the_mean() -> None:
    assert list(Step(configured({})).terms) == ["mse"]
    assert list(Step(configured({"tilt": 1e-9})).terms) == ["tilted"]
    assert Step(configured({"tilt": 1e-9})).loss.item() == pytest.approx(Step(configured({})).loss.item(), rel=1e-7)


def test_examples_are_averaged_before_they_are_tilted() -> None:
    losses = torch.tensor([1.0, 5.0, 2.0, 4.0, 9.0])
    assert mean_per_example(losses, torch.tensor([7, 7, 3, 3, 3])).tolist() == [5.0, 3.0]  # by example, ascending
    assert make_objective(configured({"tilt": 1.0, "tilt_unit": "example"}), TERMS).needs_examples
    assert not make_objective(configured({"tilt": 1.0}), TERMS).needs_examples


def test_the_squared_errors_gradient_takes_the_memory_of_the_errors_and_only_once() -> None:
    step = Step(configured({}))
    forward = step.architecture(step.sae, step.x)
    inputs = TermInputs(step.sae, step.architecture, forward, step.target, DEAD, step.config, 0, None)
    loss = TERMS["mse"].value(inputs)
    loss.backward(retain_graph=True)
    assert forward.x_hats.grad is not None
    torch.testing.assert_close(forward.x_hats.grad, step.forward.x_hats.grad, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):  # no second, wrong gradient
        loss.backward()


@pytest.mark.parametrize(("data", "words"), [
    ({"objective": {"tilt": -1.0}}, r"set train\.objective\.tilt to -1"),
    ({"objective": {"tilt": 2e9}}, r"set train\.objective\.tilt to 2000000000"),
    ({"objective": {"orthogonal": 0.25, "orthogonal_chunk": 1}}, r"set train\.objective\.orthogonal_chunk to 1"),
    ({"objective": {"l0": 1.0}}, "objective.l0 = 1 counts by thresholds that learn: use the architecture 'jump_relu' or"),
    ({"objective": {"l0": 1.0, "l0_scale": 2.0}, "architecture": "jump_relu"}, "l0_scale = 2 is for l0_form = 'tanh'"),
    ({"objective": {"l0": 1.0, "l0_form": "tanh", "l0_target": 30.0}}, "l0_target = 30 is for l0_form = 'step'"),
    ({"objective": {"l0_target": 30.0}}, "l0_target = 30.0 means nothing while l0 is 0"),
    ({"objective": {"orthogonal_every": 5}}, "orthogonal_every = 5 means nothing while orthogonal is 0"),
    ({"objective": {"tilt_unit": "example"}}, "tilt_unit = example means nothing while tilt is 0"),
    ({"objective": {"aux": 0.0, "aux_k": 3}}, "aux_k = 3 means nothing while aux is 0"),
    ({"objective": {"sparsity_warmup_frac": 0.1}}, "sparsity_warmup_frac = 0.1 means nothing while l1 and l0 are 0"),
    ({"objective": {"l1": 1.0, "l1_decoder_norm": True}}, "l1_decoder_norm means nothing without decoder_norm = 'free'"),
    ({"objective": {"l1": 1.0}, "decoder_norm": "free"}, "decoder_norm = 'free' needs objective.l1_decoder_norm"),
    ({"architecture": "relu"}, "nothing keeps the latents of the architecture 'relu' few"),
])
def test_settings_that_mean_nothing_are_refused(data: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TrainConfig.parse(data, "train")


def test_a_resolved_config_is_accepted_again() -> None:
    config = TrainConfig.parse({"objective": {"l1": 1.0, "orthogonal": 0.25, "orthogonal_every": 5}}, "train").objective
    assert type(config).parse(config.model_dump(mode="json")) == config
