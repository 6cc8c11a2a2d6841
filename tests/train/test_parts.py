"""The parts of the engine, each by itself: dead latents, optimizer, the best loss, checkpoint, log."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from sparselight.errors import TrainingError
from sparselight.kernels import Selection
from sparselight.sae import Sae, initialize
from sparselight.train import TrainConfig, checkpoint
from sparselight.train.best import MEAN_STEPS, BestLoss
from sparselight.train.checkpoint import Checkpoints, read_checkpoint
from sparselight.train.config import OptimizerConfig
from sparselight.train.dead_latents import DeadLatents
from sparselight.train.log import TrainingLog, read_log
from sparselight.train.objectives import TERMS, make_objective
from sparselight.train.optimizer import Adam
from sparselight.train.state import TrainState
from sparselight.train.step import take_step


def rows(n: int = 40, d_in: int = 6) -> torch.Tensor:
    return torch.randn(n, d_in, generator=torch.Generator().manual_seed(1))


def test_dead_latents_are_counted_in_tokens() -> None:
    dead = DeadLatents(3, dead_after_tokens=8)
    for positions, values in (([0], [1.0]), ([4, 2], [1.0, 0.0]), ([1], [1.0])):  # of 3 latents: 0, then 1 (and 2 with value 0), then 1
        selection = Selection.from_flat(torch.tensor(sorted(positions)), 4, 3)
        dead.update(selection.n_fires(torch.tensor([value for _, value in sorted(zip(positions, values, strict=True))])), 4)
    assert dead.silent_tokens.tolist() == [8, 0, 12]
    assert dead.indices().tolist() == [0, 2]


def adam(parameter: torch.nn.Parameter, unit: bool = False, **settings: object) -> Adam:
    return Adam({"W_dec": parameter}, OptimizerConfig.parse(settings), unit, {})


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_optimizer_is_pytorchs(kind: str) -> None:
    ours, theirs = (torch.nn.Parameter(rows()) for _ in range(2))
    decay = {"weight_decay": 0.1} if kind == "adamw" else {}
    optimizer = adam(ours, kind=kind, clip_norm=0, **decay)
    reference = (torch.optim.AdamW if kind == "adamw" else torch.optim.Adam)([theirs], eps=1e-10, **decay)
    for step in range(4):
        ours.grad, theirs.grad = (rows().flip(0) * (step + 1) for _ in range(2))
        norm = optimizer.grad_norm()
        assert norm == pytest.approx(float(theirs.grad.norm()))
        optimizer.step(0.01, norm)
        reference.param_groups[0]["lr"] = 0.01
        reference.step()
        assert ours.grad is None
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_the_gradient_is_clipped_to_its_norm_and_0_is_no_limit() -> None:
    moments = {}
    for clip in (0, 1e-3, 1e9):
        parameter = torch.nn.Parameter(rows())
        parameter.grad = rows().flip(0)
        optimizer = adam(parameter, clip_norm=clip)
        optimizer.step(0.01, optimizer.grad_norm())
        moments[clip] = optimizer.moments["W_dec"][0]
    torch.testing.assert_close(moments[0], 0.1 * rows().flip(0))
    assert torch.equal(moments[0], moments[1e9])
    assert float(moments[1e-3].norm()) == pytest.approx(1e-4, rel=1e-2)


def test_decoder_rows_stay_on_the_sphere() -> None:
    W = torch.nn.Parameter(normalize(rows()))
    optimizer, grad = adam(W, unit=True, clip_norm=0), rows().flip(0)
    tangent = grad - (grad * W.detach()).sum(1, keepdim=True) * W.detach()
    W.grad = grad.clone()
    norm = optimizer.grad_norm()
    assert norm == pytest.approx(float(tangent.norm()), rel=1e-5)
    optimizer.step(0.1, norm)
    torch.testing.assert_close(optimizer.moments["W_dec"][0], 0.1 * tangent, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(W.detach().norm(dim=1), torch.ones(40))


def test_the_best_loss_is_a_moving_mean() -> None:
    best = BestLoss()
    assert not best.is_lowest()
    for loss in (4.0, 2.0):
        best.update(loss)
    assert best.values[1] == 3.0  # a plain mean to begin with
    assert best.is_lowest()
    assert not best.is_lowest()
    for _ in range(3 * MEAN_STEPS):
        best.update(1.0)
    assert best.values[1] == pytest.approx(1.0, abs=0.1)
    assert best.is_lowest()
    best.update(100.0)
    assert not best.is_lowest()


CONFIG = TrainConfig(k=3, n_latents=20, n_tokens=4000, batch_tokens=40)


def stepped_state(n_steps: int) -> TrainState:
    state = TrainState(initialize(Sae(6, 20), torch.zeros(6), torch.Generator().manual_seed(0)), CONFIG)
    for step in range(n_steps):
        x = rows() + step
        take_step(state, make_objective(CONFIG, TERMS), CONFIG, x, x)
    return state


def test_checkpoint_gives_everything_back(tmp_path: Path) -> None:
    state, checkpoints = stepped_state(3), Checkpoints(tmp_path, every_s=0)
    checkpoints.save_if_due(state)
    restored = stepped_state(0)
    checkpoints.restore(restored)
    assert (restored.step, restored.optimizer.n_steps) == (3, 3)
    tensors = restored.tensors()
    assert {name: tensor.tolist() for name, tensor in state.tensors().items()} == {name: tensor.tolist() for name, tensor in tensors.items()}
    assert {"sae.W_enc", "adam.W_dec.exp_avg_sq", "forward.mean_cutoff", "dead.silent_tokens", "best.loss"} <= tensors.keys()
    assert restored.optimizer.moments["W_enc"][0].stride() == restored.sae.W_enc.stride()


def test_the_last_checkpoints_are_kept_and_a_damaged_one_is_passed_over(tmp_path: Path) -> None:
    checkpoints, state = Checkpoints(tmp_path, every_s=1e9, keep=3), stepped_state(1)
    checkpoints.save_if_due(state)
    assert checkpoints.files() == []
    for state.step in (1, 2, 3, 4):
        checkpoints.save(state)
    assert [path.name for path in checkpoints.files()] == ["step-000000002.safetensors", "step-000000003.safetensors", "step-000000004.safetensors"]
    newest, next_newest = checkpoints.files()[-1], checkpoints.files()[-2]
    content = bytearray(newest.read_bytes())
    content[-5] ^= 1  # one bit
    newest.write_bytes(content)
    next_newest.write_bytes(next_newest.read_bytes()[:-10])
    assert read_checkpoint(newest) is None
    (tmp_path / ".step-000000005.safetensors.99.tmp").write_bytes(b"torn")
    restored = stepped_state(0)
    checkpoints.restore(restored)
    assert restored.step == 2
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000002.safetensors"]
    checkpoints.remove()
    assert not tmp_path.exists()


def test_a_checkpoint_of_a_newer_version_is_refused_and_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path, every_s=0)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "VERSION", 99)
        checkpoints.save(stepped_state(1))
    with pytest.raises(TrainingError, match=r"step-000000001.*it has version 99.*upgrade sparselight"):
        checkpoints.restore(stepped_state(0))
    assert len(checkpoints.files()) == 1


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
