"""The parts of the engine, each by itself: config, schedule, dead latents, decoder norm, objective, checkpoint, log."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from sparselight.errors import ConfigError
from sparselight.kernels import Selection, use_backend
from sparselight.sae import BatchTopK, Sae, initialize
from sparselight.train import TrainConfig, n_latents_for
from sparselight.train.checkpoint import Checkpoints, read_checkpoint
from sparselight.train.config import aux_k_for
from sparselight.train.dead_latents import DeadLatents
from sparselight.train.decoder_norm import normalize_rows, remove_parallel_gradient
from sparselight.train.log import TrainingLog, read_log
from sparselight.train.objectives import TERMS, Objective, make_objective
from sparselight.train.schedule import lr_at
from sparselight.train.state import TrainState


def fresh_sae(d_in: int = 6, n_latents: int = 20) -> Sae:
    return initialize(Sae(d_in, n_latents), torch.zeros(d_in), torch.Generator().manual_seed(0))


def rows(n: int = 40, d_in: int = 6) -> torch.Tensor:
    return torch.randn(n, d_in, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("data", "words"), [
    ({"n_latents": 8, "k": 9}, "set train.k to 9.*is more than n_latents = 8"),
    ({"k": 0}, "train.k"),
    ({"architecture": "batchtopk"}, "train.architecture to 'batchtopk'.*use 'batch_topk'"),
    ({"n_tokens": 100, "batch_tokens": 200}, "set train.batch_tokens to 200.*more than n_tokens = 100"),
    ({"lr": "fast"}, "train.lr"),
    ({"learning_rate": 1}, "there is no such setting"),
])
def test_config_refuses(data: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TrainConfig.parse(data, "train")


def test_width_of_the_dictionary() -> None:
    assert n_latents_for(TrainConfig(n_latents=50), 6) == 50
    assert n_latents_for(TrainConfig(expansion=2.5, k=3), 6) == 15
    with pytest.raises(ConfigError, match=r"set train\.k to 16: the dictionary has 15 latents"):
        n_latents_for(TrainConfig(expansion=2.5, k=16), 6)
    assert aux_k_for(TrainConfig(), 256, 2048) == 128
    assert aux_k_for(TrainConfig(), 4096, 65536) == 512
    assert aux_k_for(TrainConfig(aux_k=3), 256, 2048) == 3


def test_learning_rate() -> None:
    config = TrainConfig(n_tokens=100, batch_tokens=1, lr=2.0, warmup_frac=0.1, decay_frac=0.2)
    found = [lr_at(step, config) for step in (0, 4, 9, 50, 80, 90, 99)]
    assert found == pytest.approx([0.2, 1.0, 2.0, 2.0, 2.0, 1.0, 0.1])
    flat = TrainConfig(n_tokens=100, batch_tokens=1, lr=2.0, warmup_frac=0, decay_frac=0)
    assert {lr_at(step, flat) for step in range(100)} == {2.0}


def test_dead_latents_are_counted_in_tokens() -> None:
    dead = DeadLatents(3, dead_after_tokens=8)
    for positions in ([0], [4], [1]):  # 4 tokens of 3 latents: latents 0, 1, 1
        dead.update(Selection.from_flat(torch.tensor(positions), 4, 3))
    assert dead.silent_tokens.tolist() == [8, 0, 12]
    assert dead.indices().tolist() == [0, 2]


def test_decoder_rows_stay_on_the_sphere() -> None:
    W = torch.nn.Parameter(normalize(rows()))
    W.grad = rows().flip(0)
    remove_parallel_gradient(W)
    torch.testing.assert_close(torch.linalg.vecdot(W.grad, W.detach()), torch.zeros(40), atol=1e-6, rtol=0)
    with torch.no_grad():
        W.mul_(3)
    normalize_rows(W.data)
    torch.testing.assert_close(W.detach().norm(dim=1), torch.ones(40))


def test_objective_is_the_weighted_sum_of_its_terms() -> None:
    sae, x = fresh_sae(), rows()
    forward = BatchTopK(3)(sae, x)
    objective = Objective({"mse": 1.0, "aux": 0.5}, aux_k=4)
    total, terms = objective(sae, forward, x, torch.tensor([1, 2]))
    assert list(terms) == ["mse", "aux"] == list(TERMS)
    assert terms["mse"] == pytest.approx((x - forward.x_hat).square().mean().item())
    assert total.item() == pytest.approx(terms["mse"] + 0.5 * terms["aux"])
    assert objective(sae, forward, x, torch.tensor([], dtype=torch.int64))[1]["aux"] == 0
    assert list(make_objective(TrainConfig(aux_weight=0), sae).weights) == ["mse"]


def test_target_may_differ_from_the_input() -> None:
    sae, x = fresh_sae(), rows()
    forward = BatchTopK(3)(sae, x)
    _, terms = Objective({"mse": 1.0}, aux_k=1)(sae, forward, x.flip(0), torch.tensor([], dtype=torch.int64))
    assert terms["mse"] == pytest.approx((x.flip(0) - forward.x_hat).square().mean().item())


def test_aux_gradient_reaches_encoder_and_decoder_of_dead_latents_only() -> None:
    sae, x = fresh_sae(), rows()
    forward = BatchTopK(3)(sae, x)
    total, _ = Objective({"aux": 1.0}, aux_k=2)(sae, forward, x, torch.tensor([4, 7, 11]))
    total.backward()
    assert sae.W_enc.grad is not None
    assert sae.b_enc.grad is not None
    assert sae.W_dec.grad is not None
    for grad in (sae.W_enc.grad.T, sae.b_enc.grad.unsqueeze(1), sae.W_dec.grad):
        assert grad.abs().sum(1).nonzero()[:, 0].tolist() == [4, 7, 11]
    assert sae.b_dec.grad is None


def test_a_training_step_is_the_same_with_the_slow_kernels() -> None:
    def gradients() -> list[torch.Tensor]:
        sae, x = fresh_sae().double(), rows().double()
        with torch.no_grad():
            sae.b_dec.fill_(0.1)
        forward = BatchTopK(3)(sae, x)
        Objective({"mse": 1.0, "aux": 0.1}, aux_k=2)(sae, forward, x, torch.tensor([4, 7, 11]))[0].backward()
        return [parameter.grad for parameter in sae.parameters() if parameter.grad is not None]

    fast = gradients()
    with use_backend("ref"):
        slow = gradients()
    assert len(fast) == len(slow) == 4
    for ours, truth in zip(fast, slow, strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-10, atol=1e-12)


def stepped_state(n_steps: int) -> TrainState:
    config = TrainConfig(k=3, n_latents=20)
    state = TrainState(fresh_sae(), config)
    for step in range(n_steps):
        x = rows() + step
        forward = state.forward(state.sae, x)
        make_objective(config, state.sae)(state.sae, forward, x, state.dead.indices())[0].backward()
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.dead.update(forward.selection)
        state.step += 1
    return state


def test_checkpoint_gives_everything_back(tmp_path: Path) -> None:
    state, checkpoints = stepped_state(3), Checkpoints(tmp_path, every_s=0)
    checkpoints.save_if_due(state)
    restored = stepped_state(0)
    checkpoints.restore(restored)
    assert restored.step == 3
    tensors = restored.tensors()
    assert {name: tensor.tolist() for name, tensor in state.tensors().items()} == {name: tensor.tolist() for name, tensor in tensors.items()}
    moments = restored.optimizer.state[restored.sae.W_enc]["exp_avg"]
    assert moments.stride() == restored.sae.W_enc.stride()


def test_the_last_two_checkpoints_are_kept_and_a_damaged_one_is_passed_over(tmp_path: Path) -> None:
    checkpoints, state = Checkpoints(tmp_path, every_s=1e9), stepped_state(1)
    checkpoints.save_if_due(state)
    assert checkpoints.files() == []
    for state.step in (1, 2, 3):
        checkpoints.save(state)
    assert [path.name for path in checkpoints.files()] == ["step-000000002.safetensors", "step-000000003.safetensors"]
    newest = checkpoints.files()[-1]
    content = bytearray(newest.read_bytes())
    content[-5] ^= 1  # one bit
    newest.write_bytes(content)
    assert read_checkpoint(newest) is None
    (tmp_path / ".step-000000004.safetensors.99.tmp").write_bytes(b"torn")
    restored = stepped_state(0)
    checkpoints.restore(restored)
    assert restored.step == 2
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000002.safetensors"]
    checkpoints.remove()
    assert not tmp_path.exists()


def test_log_has_no_line_twice_after_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with TrainingLog(path, 0) as log:
        for step in (10, 20, 30):
            log.write({"step": step, "tokens": step * 5})
    with path.open("a") as file:
        file.write('{"step": 40, "tok')  # killed here
    with TrainingLog(path, 20) as log:
        log.write({"step": 30, "tokens": 150})
    assert [line["step"] for line in read_log(path)] == [10, 20, 30]
    first, *_, last = [json.loads(line) for line in path.read_text().splitlines()]
    assert "tokens_per_s" in first
    assert "tokens_per_s" not in last  # how long the interruption took is no speed
