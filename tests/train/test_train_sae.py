"""Whole trainings on small planted data."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import OUT_SITE, SITE, SUBJECT, MemoryStore, directions, fvu, planted, two_sites
from torch import Tensor

from sparselight.errors import ConfigError, RunError, StoreError, TrainingError
from sparselight.files import folder_lock
from sparselight.sae import ARCHITECTURES, Sae, initialize, load_sae, stitch
from sparselight.store import LiveStore
from sparselight.testing import tiny_corpus, tiny_subject
from sparselight.train import TrainConfig, train_sae, training

CONFIG = TrainConfig(n_latents=64, k=4, n_tokens=300_000, batch_tokens=512, lr=3e-3, dead_after_tokens=20_000)
SHORT = TrainConfig(n_latents=64, k=4, n_tokens=4096, batch_tokens=256)


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
    def handicapped(sae: Sae, b_dec: Tensor | None, generator: torch.Generator, tied: bool = True) -> Sae:
        sae = initialize(sae, b_dec, generator, tied)
        with torch.no_grad():
            sae.b_enc[:40] = -6
        return sae

    monkeypatch.setattr(training, "initialize", handicapped)
    store, dead = MemoryStore(planted(directions(), 10_000, 1)), {}
    for weight in (0.0, 1 / 32):
        config = CONFIG.model_copy(update={"objective": CONFIG.objective.model_copy(update={"aux": weight}), "n_tokens": 100_000, "dead_after_tokens": 5_000})
        record = train_sae(store, None, SITE, config, tmp_path / str(weight), SUBJECT).record
        assert record is not None
        dead[weight] = record.n_dead
    assert dead[0.0] >= 20, dead
    assert dead[1 / 32] <= dead[0.0] / 2, dead


def test_same_seed_same_weights_other_seed_other_weights(tmp_path: Path) -> None:
    store = MemoryStore(planted(directions(), 2_000, 1))
    configs = [SHORT.model_copy(update=seeds) for seeds in ({}, {}, {"seed": 1}, {"data_seed": 1})]
    hashes = [train_sae(store, None, SITE, config, tmp_path / str(n), SUBJECT).weights_hash() for n, config in enumerate(configs)]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


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
    refuse(tmp_path, StoreError, "train on the activations of resid_post.9: that site is not in the store, which holds resid_post.1", site="resid_post.9")
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
    refuse(tmp_path, TrainingError, r"differs in train\.lr\.", x, SHORT.model_copy(update={"lr": 1e-4}))
    refuse(tmp_path, TrainingError, "differs in store", x + 1)
    refuse(tmp_path, TrainingError, "differs in rows", x, rows=np.arange(1_500))
    train_sae(MemoryStore(x), None, SITE, SHORT.model_copy(update={"checkpoint_every_s": 1.0}), tmp_path, SUBJECT)


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with folder_lock(tmp_path, "hold"):
        refuse(tmp_path, RunError, "another process is writing")


OBJECTIVES = {"relu": {"l1": 0.01}, "gated": {"l1": 0.01}, "jump_relu": {"l0": 0.005}}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_autocast_is_honored_by_every_architecture(architecture: str, tmp_path: Path) -> None:
    store, rank = MemoryStore(planted(directions(), 2_000, 1)), {"k": 4} if "k" in ARCHITECTURES[architecture].settings else {}
    settings = {"architecture": architecture, "n_latents": 64, "n_tokens": 8_192, "batch_tokens": 256, "objective": OBJECTIVES.get(architecture, {}), **rank}
    full, half = (train_sae(store, None, SITE, TrainConfig.parse({**settings, "autocast": kind}), tmp_path / kind, SUBJECT) for kind in ("none", "bf16"))
    assert full.weights_hash() != half.weights_hash()
    assert half.product_dtype is None
    assert {tensor.dtype for tensor in half.tensors().values()} == {torch.float32}
    assert fvu(half, store.sites[SITE]) == pytest.approx(fvu(full, store.sites[SITE]), rel=0.1)


def test_transcoder_gives_back_another_site(tmp_path: Path) -> None:
    sites, fresh = two_sites(20_000, 1), two_sites(4_000, 2)
    found = {}
    for skip in (False, True):
        config = CONFIG.model_copy(update={"n_tokens": 150_000, "target_site": OUT_SITE, "skip": skip})
        sae = train_sae(MemoryStore(sites), None, SITE, config, tmp_path / str(skip), SUBJECT)
        found[skip] = fvu(sae, fresh[SITE], fresh[OUT_SITE])
        assert (sae.d_in, sae.d_out, sae.subtract_b_dec) == (32, 20, False)
    assert found[False] < 0.3
    assert found[True] < found[False]


def test_what_is_written_for_a_refused_training_does_not_stand_in_the_way(tmp_path: Path) -> None:
    x = planted(directions(), 2_000, 1)
    refuse(tmp_path, StoreError, "there are only 2000 rows", x, SHORT.model_copy(update={"batch_tokens": 4096}))
    train_sae(MemoryStore(x), None, SITE, SHORT, tmp_path, SUBJECT)


def test_the_log_counts_l0_and_dead_latents_in_tokens(tmp_path: Path) -> None:
    config = SHORT.model_copy(update={"n_latents": 400, "dead_after_tokens": 1024, "log_every_steps": 1})
    train_sae(MemoryStore(planted(directions(), 2_000, 1)), None, SITE, config, tmp_path, SUBJECT)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["n_dead"] for line in lines[:4]] == [0, 0, 0, 0]  # nothing can be dead before 1024 tokens were seen
    assert lines[4]["n_dead"] > 0
    assert {"step", "tokens", "mse", "aux", "fvu", "l0", "n_dead", "lr", "threshold", "grad_norm", "tokens_per_s"} == lines[-1].keys()


def test_a_training_needs_no_disk(tmp_path: Path) -> None:
    """Activations computed when they are asked for; interrupted and gone on with as on a store."""
    subject, corpus = tiny_subject(), tiny_corpus(64)
    store = LiveStore(subject, corpus.examples, [SITE], corpus.fingerprint())
    config = TrainConfig.parse({"n_latents": 64, "k": 4, "n_tokens": 2_560, "batch_tokens": 128, "checkpoint_every_s": 0.0})
    whole = train_sae(store, None, SITE, config, tmp_path / "whole", subject.ref())

    def progress(done: float, total: float, note: str = "") -> None:
        if done == 9 * 128:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_sae(store, None, SITE, config, tmp_path / "again", subject.ref(), progress=progress)
    assert train_sae(store, None, SITE, config, tmp_path / "again", subject.ref()).weights_hash() == whole.weights_hash()
    with pytest.raises(StoreError, match="chosen rows without a store"):
        train_sae(store, np.arange(500), SITE, config, tmp_path / "rows", subject.ref())
