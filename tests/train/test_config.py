"""Settings of a training: what is refused, what follows from them, the schedule."""

import pytest

from sparselight.errors import ConfigError
from sparselight.train import TrainConfig, n_latents_for
from sparselight.train.config import aux_k_for
from sparselight.train.schedule import lr_at


@pytest.mark.parametrize(("data", "words"), [
    ({"n_latents": 8, "k": 9}, "set train.k to 9.*is more than n_latents = 8"),
    ({"k": 0}, "train.k"),
    ({"architecture": "batchtopk"}, "train.architecture to 'batchtopk'.*use 'batch_topk'"),
    ({"architecture": "topk", "k": 2.5}, r"k = 2\.5 must be whole"),
    ({"architecture": "topk", "threshold": "ema"}, "threshold means nothing to the architecture 'topk'"),
    ({"skip": True}, "skip = true needs target_site"),
    ({"n_tokens": 100, "batch_tokens": 200}, "set train.batch_tokens to 200.*more than n_tokens = 100"),
    ({"lr": "fast"}, "train.lr"),
    ({"learning_rate": 1}, "there is no such setting"),
    ({"optimizer": {"clip_norm": -1}}, "set train.optimizer.clip_norm to -1"),
    ({"optimizer": {"weight_decay": 0.1}}, "weight_decay = 0.1 is for kind = 'adamw'"),
    ({"schedule": {"warmup_frac": 0.1, "warmup_steps": 5}}, "warmup_frac and warmup_steps say the same thing"),
    ({"schedule": {"decay_steps": 5, "decay_tokens": 500}}, "decay_steps and decay_tokens say the same thing"),
    ({"normalize": "zscore"}, "train.normalize"),
    ({"log_to": ["mlflow"]}, "train.log_to"),
])
def test_refusals(data: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TrainConfig.parse(data, "train")


@pytest.mark.parametrize("data", [{}, {"schedule": {"warmup_steps": 5, "decay_tokens": 500}}, {"architecture": "topk", "log_to": ["tensorboard"]},
                                  {"architecture": "relu", "objective": {"l1": 0.1}}])
def test_a_config_written_out_is_the_same_read_in(data: dict) -> None:
    config = TrainConfig.parse(data, "train")
    assert TrainConfig.parse(config.model_dump(mode="json"), "train") == config


def test_width_of_the_dictionary() -> None:
    assert n_latents_for(TrainConfig(n_latents=50), 6) == 50
    assert n_latents_for(TrainConfig(expansion=2.5, k=3), 6) == 15
    with pytest.raises(ConfigError, match=r"set train\.k to 16: the dictionary has 15 latents"):
        n_latents_for(TrainConfig(expansion=2.5, k=16), 6)
    assert aux_k_for(TrainConfig(), 256, 2048) == 128
    assert aux_k_for(TrainConfig(), 4096, 65536) == 512
    assert aux_k_for(TrainConfig.parse({"objective": {"aux_k": 3}}), 256, 2048) == 3


def rates(steps: tuple[int, ...], **schedule: object) -> list[float]:
    config = TrainConfig.parse({"n_tokens": 1000, "batch_tokens": 10, "lr": 2.0, "schedule": schedule}, "train")
    return [lr_at(step, config) for step in steps]


@pytest.mark.parametrize(("warmup", "decay"), [
    ({"warmup_frac": 0.1}, {"decay_frac": 0.2}), ({"warmup_steps": 10}, {"decay_steps": 20}), ({"warmup_tokens": 100}, {"decay_tokens": 200}),
    ({"warmup_tokens": 100}, {"decay_frac": 0.2}),
])
def test_learning_rate_by_share_steps_or_tokens(warmup: dict, decay: dict) -> None:
    assert rates((0, 4, 9, 50, 80, 90, 99), **warmup, **decay) == pytest.approx([0.2, 1.0, 2.0, 2.0, 2.0, 1.0, 0.1])


def test_forms_of_the_fall() -> None:
    assert set(rates(tuple(range(100)), warmup_frac=0, decay="none")) == {2.0}
    assert set(rates(tuple(range(100)), warmup_frac=0, decay_frac=0)) == {2.0}
    assert rates((80, 90, 99), warmup_frac=0, decay_frac=0.2, decay="cosine") == pytest.approx([2.0, 1.0, 0.0123], abs=1e-4)
    assert rates((50, 90, 99), warmup_frac=0, decay_frac=0.2, final_frac=0.5) == pytest.approx([2.0, 1.5, 1.05])
