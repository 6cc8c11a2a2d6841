"""Trainings that older versions left unfinished are gone on with."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from planted import SITE, MemoryStore
from safetensors.torch import load_file

from sparselight.errors import TrainingError
from sparselight.records import SubjectRef, TokenPolicy
from sparselight.sae import Sae
from sparselight.train import TrainConfig, train_sae

FROZEN = Path(__file__).with_name("frozen")
SUBJECT = SubjectRef(name="frozen", fingerprint="f", token_policy=TokenPolicy(prepend_bos=True, context_tokens=64))
CONFIG = TrainConfig.parse({
    "n_latents": 24, "k": 2, "n_tokens": 16_000, "batch_tokens": 64, "dead_after_tokens": 2_000, "seed": 3, "data_seed": 3,
    "objective": {"aux": 0.0625}, "optimizer": {"clip_norm": 0.5}, "schedule": {"warmup_frac": 0.1},
})
VERSIONS = [path.name for path in sorted(FROZEN.iterdir()) if path.is_dir()]


class FrozenStore(MemoryStore):
    fingerprint = "frozen-rows"

    def __init__(self, folder: Path):
        super().__init__(load_file(folder / "rows.safetensors")["x"].float())
        self.manifest = self.manifest.model_copy(update={"subject": SUBJECT})


def copied(version: str, folder: Path) -> Path:
    return shutil.copytree(FROZEN / version, folder / version)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_older_checkpoint_is_gone_on_with(version: str, tmp_path: Path) -> None:
    folder, steps = copied(version, tmp_path), []
    sae = train_sae(FrozenStore(folder), None, SITE, CONFIG, folder, SUBJECT, progress=lambda done, *_: steps.append(done / 64))
    assert steps[0] == 121
    assert [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()] == list(range(10, 251, 10))
    expected = Sae(8, 24)
    with torch.no_grad():
        for name, tensor in load_file(folder / "expected.safetensors").items():
            getattr(expected, name).copy_(tensor)
    x = FrozenStore(folder).sites[SITE]
    rounding = (sae.reconstruct(x) - expected.reconstruct(x)).square().sum() / (x - x.mean(0)).square().sum()
    assert rounding < 1e-4  # sums are taken in another order, nothing else
    torch.testing.assert_close(sae.W_dec, expected.W_dec, atol=2e-2, rtol=0)


def test_weights_moments_and_counters_are_restored(tmp_path: Path) -> None:
    """What a version 1 checkpoint held stands in today's state before the next step."""
    from sparselight.train import training
    from sparselight.train.checkpoint import read_checkpoint
    from sparselight.train.data import TrainingData

    path = next((FROZEN / "v1" / "checkpoints").iterdir())
    found = read_checkpoint(path)
    assert found is not None
    store = FrozenStore(FROZEN / "v1")
    job = training.Job(store, None, SITE, SUBJECT, "", CONFIG, tmp_path, None)
    state = training.make_state(CONFIG, TrainingData(training.stream([job], torch.device("cpu")), CONFIG, None))
    state.restore(*found)
    ours = state.tensors()
    assert state.step == state.optimizer.n_steps == 120
    shared = ours.keys() & found[0].keys()
    assert len(shared) == 5 + 2 * 4 + 1
    assert all(torch.equal(ours[name], found[0][name]) for name in shared)


def test_a_frozen_folder_of_other_settings_is_refused_by_their_new_names(tmp_path: Path) -> None:
    folder = copied("v1", tmp_path)
    other = TrainConfig.parse({**CONFIG.model_dump(mode="json"), "objective": {"aux": 0.5}})
    with pytest.raises(TrainingError, match=r"differs in train\.objective\.aux\. Instead"):
        train_sae(FrozenStore(folder), None, SITE, other, folder, SUBJECT)
    (folder / "training.json").write_text((folder / "training.json").read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(TrainingError, match="its training.json has format 99.*upgrade"):
        train_sae(FrozenStore(folder), None, SITE, CONFIG, folder, SUBJECT)
    (folder / "training.json").write_text("{torn")
    with pytest.raises(TrainingError, match="its training.json is damaged"):
        train_sae(FrozenStore(folder), None, SITE, CONFIG, folder, SUBJECT)
    assert len(list((folder / "checkpoints").iterdir())) == 1
