"""Several SAEs on one stream: each as by itself, bit for bit."""

from pathlib import Path

import pytest
import torch
from planted import OUT_SITE, SITE, SUBJECT, MemoryStore, two_sites

from sparselight.errors import ConfigError, TrainingError
from sparselight.sae import Sae, load_sae
from sparselight.store import RowStream
from sparselight.train import TrainConfig, export_best, train_many, train_sae
from sparselight.train.data import Rows

SIZES: dict = {"n_latents": 48, "k": 3, "n_tokens": 4096, "batch_tokens": 256, "dead_after_tokens": 1024}
SWEEP: dict[str, dict] = {
    "k3": {},
    "longer": {"n_tokens": 6144, "seed": 5},
    "wider": {"n_latents": 80, "k": 6, "lr": 1e-2, "normalize": "whiten"},
    "topk": {"architecture": "topk", "normalize": "per_dimension"},
    "matryoshka": {"architecture": "matryoshka", "normalize": "none", "n_tokens": 3072},
    "orthogonal": {"objective": {"orthogonal": 0.25, "orthogonal_every": 2, "orthogonal_chunk": 16}},
    "tilted": {"objective": {"tilt": 5.0, "tilt_unit": "example"}},
    "bf16": {"autocast": "bf16"},
    "transcoder": {"target_site": OUT_SITE, "skip": True},
}
CONFIGS = {name: TrainConfig.parse({**SIZES, **settings}) for name, settings in SWEEP.items()}


@pytest.fixture(scope="module")
def store() -> MemoryStore:
    return MemoryStore(two_sites(2_500, 1))


@pytest.fixture(scope="module")
def alone(store: MemoryStore, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("alone")
    return {name: train_sae(store, None, SITE, config, folder / name, SUBJECT).weights_hash() for name, config in CONFIGS.items()}


@pytest.fixture(scope="module")
def base(store: MemoryStore, tmp_path_factory: pytest.TempPathFactory) -> Sae:
    return train_sae(store, None, SITE, CONFIGS["k3"], tmp_path_factory.mktemp("base"), SUBJECT)


def test_each_equals_itself_alone_bit_for_bit(store: MemoryStore, alone: dict[str, str], tmp_path: Path) -> None:
    found = train_many(store, None, SITE, CONFIGS, tmp_path, SUBJECT)
    assert {name: sae.weights_hash() for name, sae in found.items()} == alone
    assert len(set(alone.values())) == len(alone)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(CONFIGS)
    again = train_many(store, None, SITE, {name: CONFIGS[name] for name in ("k3", "topk")}, tmp_path, SUBJECT)
    assert again["topk"].weights_hash() == alone["topk"]


def test_they_are_resumed_from_different_steps(store: MemoryStore, alone: dict[str, str], tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def kill_at(tokens: int):
        def progress(done: float, total: float, note: str = "") -> None:
            if done >= tokens:
                raise KilledError

        return progress

    saving = {name: config.model_copy(update={"checkpoint_every_s": 0.0}) for name, config in CONFIGS.items()}
    for name, n_steps in (("k3", 3), ("wider", 9)):
        with pytest.raises(KilledError):
            train_sae(store, None, SITE, saving[name], tmp_path / name, SUBJECT, progress=kill_at(n_steps * 256))
    with pytest.raises(KilledError):
        train_many(store, None, SITE, saving, tmp_path, SUBJECT, progress=kill_at(40 * 256))
    found = train_many(store, None, SITE, saving, tmp_path, SUBJECT)
    assert {name: sae.weights_hash() for name, sae in found.items()} == alone


def test_residual_saes_share_their_bases_errors(store: MemoryStore, base: Sae, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = {name: CONFIGS[name] for name in ("k3", "wider", "tilted")}
    alone = {name: train_sae(store, None, SITE, config, tmp_path / "alone" / name, SUBJECT, base).weights_hash() for name, config in configs.items()}
    calls: list[int] = []
    real = Sae.reconstruct
    monkeypatch.setattr(Sae, "reconstruct", lambda sae, x: (calls.append(1), real(sae, x))[1])
    found = train_many(store, None, SITE, configs, tmp_path / "many", SUBJECT, base)
    assert {name: sae.weights_hash() for name, sae in found.items()} == alone
    n_estimates = sum(1 for name in configs for _ in range(8))  # whitening needs 32 * 10 rows, fewer than those 8 batches
    assert len(calls) == n_estimates + 4096 // 256


def test_some_may_have_a_base_of_their_own(store: MemoryStore, base: Sae, alone: dict[str, str], tmp_path: Path) -> None:
    found = train_many(store, None, SITE, {"k3": CONFIGS["k3"], "rest": CONFIGS["k3"]}, tmp_path, SUBJECT, {"rest": base})
    assert found["k3"].weights_hash() == alone["k3"]
    assert found["rest"].record is not None
    assert found["rest"].record.parents == [base.weights_hash()]


def test_a_steps_activations_and_targets_are_made_once(store: MemoryStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    reads: list[tuple[int, str]] = []
    real = Rows.read
    monkeypatch.setattr(Rows, "read", lambda rows, step, site: (reads.append((step, site)), real(rows, step, site))[1])
    configs = {name: CONFIGS[name] for name in ("k3", "topk", "transcoder")} | {"b": CONFIGS["transcoder"].model_copy(update={"seed": 3})}
    train_many(store, None, SITE, configs, tmp_path, SUBJECT)
    in_training = sorted(read for read in reads if 8 <= read[0] < 16)  # scales read the first 8 steps, calibration those from 16 on
    assert in_training == sorted((step, site) for step in range(8, 16) for site in (SITE, OUT_SITE))


def test_one_that_leaves_finite_numbers_stops_alone(tmp_path: Path) -> None:
    sites = two_sites(2_500, 1)
    first_of_step_9 = int(RowStream(MemoryStore(sites), SITE, None, 256, 0).batch_rows(9)[0])  # the scales read the first 8 steps
    spoiled = MemoryStore({**sites, OUT_SITE: sites[OUT_SITE].index_fill(0, torch.tensor([first_of_step_9]), torch.nan)})
    configs = {name: CONFIGS[name].model_copy(update={"checkpoint_every_s": 0.0}) for name in ("k3", "transcoder")}
    with pytest.raises(TrainingError, match=r"train 1 of 2 SAEs.*transcoder could not train on step 9: row \d+ .*the others are finished"):
        train_many(spoiled, None, SITE, configs, tmp_path, SUBJECT)
    assert load_sae(tmp_path / "k3" / "sae").record is not None
    assert not (tmp_path / "k3" / "checkpoints").exists()
    assert list((tmp_path / "transcoder" / "checkpoints").glob("step-*"))
    with pytest.raises(TrainingError, match="transcoder could not train on step"):
        train_many(spoiled, None, SITE, configs, tmp_path, SUBJECT)


@pytest.mark.parametrize(("settings", "words"), [
    ({"data_seed": 1}, r"their data_seed differ \(0, 1\)"), ({"batch_tokens": 128}, r"their batch_tokens differ \(128, 256\)"),
    ({"device": "cuda"}, r"their device differ \(auto, cuda\)"),
])
def test_what_cannot_share_a_stream(settings: dict, words: str, store: MemoryStore, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"train 2 SAEs on one stream of activations: {words}"):
        train_many(store, None, SITE, {"a": CONFIGS["k3"], "b": CONFIGS["k3"].model_copy(update=settings)}, tmp_path, SUBJECT)
    assert not list(tmp_path.iterdir())


def test_names_and_fit_are_checked_before_anything_is_written(store: MemoryStore, base: Sae, tmp_path: Path) -> None:
    for name in ("", "a/b", "..", ".hidden"):
        with pytest.raises(ConfigError, match="is no name of a folder"):
            train_many(store, None, SITE, {name: CONFIGS["k3"]}, tmp_path, SUBJECT)
    with pytest.raises(ConfigError, match="'b' has a base SAE and no settings"):
        train_many(store, None, SITE, {"a": CONFIGS["k3"]}, tmp_path, SUBJECT, {"b": base})
    with pytest.raises(ConfigError, match="there are none"):
        train_many(store, None, SITE, {}, tmp_path, SUBJECT)
    with pytest.raises(ConfigError, match=r"set train\.k to 300"):
        train_many(store, None, SITE, {"a": CONFIGS["k3"], "b": TrainConfig.parse({**SIZES, "n_latents": None, "expansion": 2, "k": 300})}, tmp_path, SUBJECT)
    assert not list(tmp_path.iterdir())


def test_the_best_state_can_be_exported(store: MemoryStore, tmp_path: Path) -> None:
    config = CONFIGS["k3"].model_copy(update={"best_every_steps": 4})
    last = train_sae(store, None, SITE, config, tmp_path, SUBJECT)
    assert last.weights_hash() == train_sae(store, None, SITE, CONFIGS["k3"], tmp_path / "plain", SUBJECT).weights_hash()
    best = export_best(store, None, SITE, config, tmp_path, SUBJECT)
    assert best.weights_hash() == last.weights_hash()  # the loss of a training that goes well falls to its end
    assert load_sae(tmp_path / "best").weights_hash() == best.weights_hash()
    diverging = config.model_copy(update={"lr": 0.3, "schedule": config.schedule.model_copy(update={"decay": "none", "warmup_frac": 1.0})})
    worse = train_sae(store, None, SITE, diverging, tmp_path / "diverging", SUBJECT)
    best = export_best(store, None, SITE, diverging, tmp_path / "diverging", SUBJECT)
    assert best.record is not None
    assert worse.record is not None
    assert best.record.n_tokens_seen < worse.record.n_tokens_seen
    with pytest.raises(TrainingError, match=r"no whole best\.safetensors.*train\.best_every_steps"):
        export_best(store, None, SITE, CONFIGS["k3"], tmp_path / "plain", SUBJECT)
