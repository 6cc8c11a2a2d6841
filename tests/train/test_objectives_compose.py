"""Every architecture with every term and with all at once: finite, gradients flow, resumed equals uninterrupted."""

import math

import pytest
import torch
from torch import Tensor

from sparselight.sae import ARCHITECTURES, Sae, initialize
from sparselight.train import TrainConfig
from sparselight.train.objectives import TERMS, make_objective
from sparselight.train.state import TrainState
from sparselight.train.step import take_step

D_IN, N_LATENTS, BATCH = 12, 40, 48
OBJECTIVES: dict[str, dict] = {
    "plain": {}, "sum": {"mse": "sum"}, "tilt": {"tilt": 500.0}, "largest tilt": {"tilt": 1e9}, "tilt of examples": {"tilt": 5.0, "tilt_unit": "example"},
    "l1": {"l1": 0.01, "sparsity_warmup_frac": 0.5}, "tanh": {"l0": 0.01, "l0_form": "tanh"}, "no aux": {"aux": 0.0},
    "orthogonal": {"orthogonal": 0.25, "orthogonal_chunk": 16, "orthogonal_every": 2},
    "all": {"tilt": 5.0, "l1": 0.01, "l0": 0.01, "l0_form": "tanh", "aux": 0.1, "aux_k": 3, "orthogonal": 0.25},
}


def config_for(architecture: str, objective: dict, free: bool = False) -> TrainConfig:
    own: dict = {"k": 4} if "k" in ARCHITECTURES[architecture].settings else {}
    if not own:
        objective = {"l1": 0.01} | objective
    if free:
        own["decoder_norm"] = "free"
        objective = objective | {"l1_decoder_norm": True} if {"l1", "l0"} & objective.keys() else objective
    sizes = {"architecture": architecture, "n_latents": N_LATENTS, "batch_tokens": BATCH, "n_tokens": 8 * BATCH, "dead_after_tokens": BATCH, "lr": 1e-2}
    return TrainConfig.parse({**sizes, **own, "objective": objective}, "train")


def fresh_state(config: TrainConfig, has_bias: bool = True) -> TrainState:
    sae = Sae(D_IN, N_LATENTS, subtract_b_dec=has_bias)
    return TrainState(initialize(sae, torch.zeros(D_IN) if has_bias else None, torch.Generator().manual_seed(config.seed)), config)


def take_steps(state: TrainState, config: TrainConfig, n: int) -> list[dict[str, float]]:
    """Steps from where the state stands; the rows are a function of the step. Latents 30 to 39 never fire, so some are dead."""
    objective, lines = make_objective(config, TERMS), []
    with torch.no_grad():
        if state.step == 0:
            state.sae.b_enc[30:] = -10
    for step in range(state.step, state.step + n):
        x = torch.randn(BATCH, D_IN, generator=torch.Generator().manual_seed(step))
        example = torch.arange(BATCH) // 7 if objective.needs_examples else None
        line = take_step(state, objective, config, x, x, example, want_line=True)
        assert line is not None
        lines.append(line)
    return lines


@pytest.mark.parametrize("free", [False, True], ids=["unit norms", "free norms"])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_with_every_objective(architecture: str, objective: str, free: bool) -> None:
    config = config_for(architecture, OBJECTIVES[objective], free)
    state = fresh_state(config)
    before = {name: tensor.clone() for name, tensor in state.tensors().items()}
    lines = take_steps(state, config, 6)
    wanted = {name for name, term in TERMS.items() if term.active(config)}
    assert wanted <= set().union(*lines)
    assert all(line["l0"] == round(line["l0"] * BATCH) / BATCH for line in lines)  # what is counted, not a term of that name
    assert all(math.isfinite(value) for line in lines for value in line.values() if value is not None)
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        assert (state.tensors()[f"sae.{name}"] != before[f"sae.{name}"]).any(), name
    norms = state.sae.W_dec.detach().norm(dim=1)
    assert bool((norms - 1).abs().max() > 1e-3) is free


@pytest.mark.parametrize("architecture", ["batch_topk", "relu"])
def test_an_sae_without_decoder_bias_has_all_terms_too(architecture: str) -> None:
    config = config_for(architecture, OBJECTIVES["all"])
    state = fresh_state(config, has_bias=False)
    take_steps(state, config, 3)
    assert not state.sae.b_dec.any()


@pytest.mark.parametrize("architecture", ["batch_topk", "jump_relu"])
def test_resumed_equals_uninterrupted(architecture: str) -> None:
    config = config_for(architecture, OBJECTIVES["orthogonal"] | {"tilt": 2.0})

    def copied(state: TrainState) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in state.tensors().items()}

    whole, first, second = (fresh_state(config) for _ in range(3))
    take_steps(whole, config, 7)
    take_steps(first, config, 3)
    second.restore(copied(first), 3)
    take_steps(second, config, 4)
    assert {name: tensor.tolist() for name, tensor in whole.tensors().items()} == {name: tensor.tolist() for name, tensor in second.tensors().items()}
