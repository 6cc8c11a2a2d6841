"""Whole trainings on small planted data."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from sparselight.errors import ConfigError, RunError, StoreError, TrainingError
from sparselight.files import folder_lock
from sparselight.records import StoreManifest, SubjectRef, TokenPolicy
from sparselight.sae import Sae, initialize, load_sae, stitch
from sparselight.train import TrainConfig, train_sae, training

SITE = "resid_post.1"
SUBJECT = SubjectRef(name="planted", fingerprint="p", token_policy=TokenPolicy(prepend_bos=True, context_tokens=64))


class MemoryStore:
    """Activations in memory, as a Store."""

    def __init__(self, x: Float[Tensor, "token d_in"]):
        self.x, self.n_tokens = x, len(x)
        self.manifest = StoreManifest(
            subject=SUBJECT, corpus_fingerprint="c", sites={SITE: x.shape[1]}, dtype="float32", shards=[], n_tokens=len(x), n_examples=1, harvest_s=0)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.x.numpy().tobytes()).hexdigest()

    def read(self, rows: np.ndarray, site: str) -> Float[Tensor, "token d_in"]:
        if site not in self.manifest.sites:
            raise StoreError(asked=f"read {site}", why="that site is not in it", instead="another")
        return self.x[torch.from_numpy(rows)].clone()


def directions(n: int = 48, d_in: int = 32, seed: int = 0) -> Float[Tensor, "latent d_in"]:
    return normalize(torch.randn(n, d_in, generator=torch.Generator().manual_seed(seed)))


def planted(D: Tensor, n: int, seed: int) -> Float[Tensor, "token d_in"]:
    """Each row a sum of about 4 of the directions with amplitudes 3 to 9, off center."""
    generator = torch.Generator().manual_seed(seed)
    active = torch.rand(n, len(D), generator=generator) < 4 / len(D)
    return (active * (3 + 6 * torch.rand(n, len(D), generator=generator))) @ D + torch.linspace(-5, 5, D.shape[1])


CONFIG = TrainConfig(n_latents=64, k=4, n_tokens=300_000, batch_tokens=512, lr=3e-3, dead_after_tokens=20_000)
SHORT = TrainConfig(n_latents=64, k=4, n_tokens=4096, batch_tokens=256)


def fvu(sae: Sae, x: Tensor) -> float:
    return float((sae.reconstruct(x) - x).square().sum() / (x - x.mean(0)).square().sum())


@pytest.fixture(scope="module")
def base_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sae, Path]:
    folder = tmp_path_factory.mktemp("base")
    return train_sae(MemoryStore(planted(directions(), 30_000, 1)), None, SITE, CONFIG, folder, SUBJECT), folder


def test_planted_dictionary_is_found(base_run: tuple[Sae, Path]) -> None:
    sae, _ = base_run
    assert float((directions() @ sae.W_dec.T).max(1).values.mean()) >= 0.95
    assert fvu(sae, planted(directions(), 5_000, 2)) < 0.1
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(64))


def test_threshold_reproduces_l0_on_fresh_rows(base_run: tuple[Sae, Path]) -> None:
    sae, _ = base_run
    x = planted(directions(), 40_000, 3)
    assert len(sae.encode(x).values) / len(x) == pytest.approx(4, rel=0.02)
    assert sae.record is not None
    assert sae.record.l0 == pytest.approx(4, rel=0.02)


def test_folder_record_and_log(base_run: tuple[Sae, Path]) -> None:
    sae, folder = base_run
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "log.jsonl", "sae", "training.json"]
    assert load_sae(folder / "sae").weights_hash() == sae.weights_hash()
    record = sae.record
    assert record is not None
    assert (record.role, record.site, record.d_in, record.n_latents, record.k, record.parents) == ("base", SITE, 32, 64, 4, [])
    assert record.n_tokens_seen == 585 * 512
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [*range(10, 590, 10), 585]
    assert lines[0]["fvu"] > 3 * lines[-1]["fvu"]
    assert lines[-1]["mse"] == pytest.approx(lines[-1]["fvu"], rel=0.1)  # so scaled that they agree up to sampling
    assert lines[-1]["l0"] == 4


def test_run_again_it_gives_back_what_is_done(base_run: tuple[Sae, Path]) -> None:
    sae, folder = base_run
    before = (folder / "sae" / "sae_weights.safetensors").stat().st_mtime_ns
    again = train_sae(MemoryStore(planted(directions(), 30_000, 1)), None, SITE, CONFIG, folder, SUBJECT)
    assert again.weights_hash() == sae.weights_hash()
    assert (folder / "sae" / "sae_weights.safetensors").stat().st_mtime_ns == before


def test_residual_sae_finds_what_the_base_lacks(base_run: tuple[Sae, Path], tmp_path: Path) -> None:
    base, _ = base_run
    new = directions(8, seed=9)
    extra = torch.rand(30_000, 8, generator=torch.Generator().manual_seed(5)) < 0.2
    domain = planted(directions(), 30_000, 4) + (7.0 * extra) @ new
    config = TrainConfig(n_latents=16, k=2, n_tokens=150_000, batch_tokens=512, lr=3e-3, dead_after_tokens=20_000)
    residual = train_sae(MemoryStore(domain), None, SITE, config, tmp_path, SUBJECT, base)
    assert residual.record is not None
    assert (residual.record.role, residual.record.parents) == ("residual", [base.weights_hash()])
    assert not residual.subtract_b_dec
    assert not residual.b_dec.any()
    whole = stitch(base, residual)
    assert fvu(whole, domain) < 0.7 * fvu(base, domain)
    torch.testing.assert_close(whole.reconstruct(domain[:500]), base.reconstruct(domain[:500]) + residual.reconstruct(domain[:500]), rtol=1e-4, atol=1e-4)


def test_dead_latents_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """40 of 64 latents begin with a bias that keeps them out of every selection; only the dead latents' loss can raise them."""
    def handicapped(sae: Sae, b_dec: Tensor | None, generator: torch.Generator) -> Sae:
        sae = initialize(sae, b_dec, generator)
        with torch.no_grad():
            sae.b_enc[:40] = -6
        return sae

    monkeypatch.setattr(training, "initialize", handicapped)
    store, dead = MemoryStore(planted(directions(), 10_000, 1)), {}
    for weight in (0.0, 1 / 32):
        config = CONFIG.model_copy(update={"aux_weight": weight, "n_tokens": 100_000, "dead_after_tokens": 5_000})
        record = train_sae(store, None, SITE, config, tmp_path / str(weight), SUBJECT).record
        assert record is not None
        dead[weight] = record.n_dead
    assert dead[0.0] >= 20, dead
    assert dead[1 / 32] <= dead[0.0] / 2, dead


def test_same_seed_same_weights_other_seed_other_weights(tmp_path: Path) -> None:
    store = MemoryStore(planted(directions(), 2_000, 1))
    configs = [SHORT.model_copy(update={"seed": seed}) for seed in (0, 0, 1)]
    hashes = [train_sae(store, None, SITE, config, tmp_path / str(n), SUBJECT).weights_hash() for n, config in enumerate(configs)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_only_the_chosen_rows_are_read(tmp_path: Path) -> None:
    x = planted(directions(), 2_000, 1)
    x[1_000:] = torch.nan
    train_sae(MemoryStore(x), np.arange(1_000), SITE, SHORT, tmp_path, SUBJECT)


def test_progress_is_reported_in_tokens(tmp_path: Path) -> None:
    calls: list[tuple[float, float, str]] = []
    train_sae(MemoryStore(planted(directions(), 2_000, 1)), None, SITE, SHORT, tmp_path, SUBJECT, progress=lambda *call: calls.append(call))
    assert calls[0][:2] == (256, 4096)
    assert calls[-1][:2] == (4096, 4096)


def refuse(
    tmp_path: Path, kind: type[Exception], words: str, x: Tensor | None = None, config: TrainConfig = SHORT, base: Sae | None = None, **changes: object,
) -> None:
    x = planted(directions(), 2_000, 1) if x is None else x
    arguments = {"rows": None, "site": SITE, "config": config, "folder": tmp_path, "subject": SUBJECT, "base": base} | changes
    with pytest.raises(kind, match=words):
        train_sae(MemoryStore(x), **arguments)


def test_refusals(tmp_path: Path, base_run: tuple[Sae, Path]) -> None:
    base, _ = base_run
    narrow = planted(directions(d_in=16), 2_000, 1)
    refuse(tmp_path, TrainingError, "the base SAE has d_in = 32, the site 16", narrow, base=base)
    refuse(tmp_path, StoreError, "not in it", site="resid_post.9")
    refuse(tmp_path, StoreError, "train.batch_tokens = 256", planted(directions(), 255, 1))
    refuse(tmp_path, ConfigError, "set train.k to 300: the dictionary has 256 latents", config=TrainConfig(k=300, n_tokens=4096, batch_tokens=256))
    refuse(tmp_path, TrainingError, "the store was made from planted", subject=SUBJECT.model_copy(update={"fingerprint": "q"}))
    refuse(tmp_path, TrainingError, "all rows are the same", torch.ones(2_000, 32))
    elsewhere = load_sae(base_run[1] / "sae")
    assert elsewhere.record is not None
    elsewhere.record = elsewhere.record.model_copy(update={"site": "resid_post.0"})
    refuse(tmp_path / "b", TrainingError, "the base SAE was trained at resid_post.0", base=elsewhere)


def test_a_folder_of_another_training_is_refused(tmp_path: Path) -> None:
    x = planted(directions(), 2_000, 1)
    train_sae(MemoryStore(x), None, SITE, SHORT, tmp_path, SUBJECT)
    refuse(tmp_path, TrainingError, "differs in config", x, SHORT.model_copy(update={"lr": 1e-4}))
    refuse(tmp_path, TrainingError, "differs in store", x + 1)
    refuse(tmp_path, TrainingError, "differs in rows", x, rows=np.arange(1_500))
    train_sae(MemoryStore(x), None, SITE, SHORT.model_copy(update={"checkpoint_every_s": 1.0}), tmp_path, SUBJECT)


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with folder_lock(tmp_path, "hold"):
        refuse(tmp_path, RunError, "another process is writing")
