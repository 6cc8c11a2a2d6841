"""Residual SAEs that learn to stay silent on a second store, and domains side by side."""

from pathlib import Path
from typing import Any

import pytest
import torch
from planted import OUT_SITE, SITE, SUBJECT, MemoryStore, directions, fvu, planted, two_sites

from sparselight.errors import ConfigError, TrainingError
from sparselight.sae import Sae, stitch
from sparselight.train import TrainConfig, export_best, train_many, train_sae
from sparselight.train.data import Rows, TrainingData

SHORT: dict[str, Any] = {"n_latents": 16, "k": 2, "n_tokens": 8192, "batch_tokens": 256, "dead_after_tokens": 1024, "checkpoint_every_s": 0.0}


def domain_rows(seed: int) -> MemoryStore:
    extra = torch.rand(3_000, 8, generator=torch.Generator().manual_seed(seed)) < 0.2
    return MemoryStore(planted(directions(), 3_000, seed) + (7.0 * extra) @ directions(8, seed=seed + 40))


@pytest.fixture(scope="module")
def general() -> MemoryStore:
    return MemoryStore(planted(directions(), 3_000, 1))


@pytest.fixture(scope="module")
def base(general: MemoryStore, tmp_path_factory: pytest.TempPathFactory) -> Sae:
    config = TrainConfig.parse({**SHORT, "n_latents": 48, "k": 4, "n_tokens": 40_000})
    return train_sae(general, None, SITE, config, tmp_path_factory.mktemp("base"), SUBJECT)


def test_a_batch_ends_with_silent_rows_whose_target_is_zero(general: MemoryStore, base: Sae) -> None:
    domain, config = domain_rows(4), TrainConfig.parse({**SHORT, "silent_frac": 0.25})
    rows = Rows(domain, SITE, None, 256, 0, torch.device("cpu"), (), general, config.n_silent)
    batch = rows.batch(3)
    own, silent = rows.streams[SITE].batch_rows(3), rows.silent.streams[SITE].batch_rows(3)  # type: ignore[union-attr]
    assert (len(own), len(silent)) == (192, 64)
    assert torch.equal(batch.x, torch.cat([domain.sites[SITE][own], general.sites[SITE][silent]]))
    target = batch.target(base, None)
    assert torch.equal(target[:192], batch.x[:192] - base.reconstruct(batch.x[:192]))
    assert not target[192:].any()
    assert not set(batch.example[:192].tolist()) & set(batch.example[192:].tolist())
    data, plain = (TrainingData(Rows(domain, SITE, None, 192, 0, torch.device("cpu")), config, base), TrainingData(rows, config, base))
    assert str(data.scaling) == str(plain.scaling)  # of the domain's rows alone
    rows.close()


def test_a_silent_share_keeps_it_silent_off_its_domain(general: MemoryStore, base: Sae, tmp_path: Path) -> None:
    domain, norms = domain_rows(4), {}
    for share in (0.0, 0.5):
        config = TrainConfig.parse({**SHORT, "n_tokens": 40_000, "silent_frac": share})
        residual = train_sae(domain, None, SITE, config, tmp_path / str(share), SUBJECT, base, silent=general if share else None)
        norms[share] = float(residual.reconstruct(general.sites[SITE]).square().sum())
        assert fvu(stitch(base, residual), domain.sites[SITE]) < fvu(base, domain.sites[SITE])
        assert residual.record is not None
        assert any("50% of each batch were rows of the store" in note for note in residual.record.notes) == bool(share)
    assert norms[0.5] < 0.7 * norms[0.0], norms


def test_it_is_resumed_and_its_best_state_exported(general: MemoryStore, base: Sae, tmp_path: Path) -> None:
    domain, tilted = domain_rows(4), {"objective": {"tilt": 2.0, "tilt_unit": "example"}}
    config = TrainConfig.parse({**SHORT, "silent_frac": 0.25, "best_every_steps": 4, **tilted})

    def progress(done: float, total: float, note: str = "") -> None:
        if done >= 3_000:
            raise KeyboardInterrupt

    whole = train_sae(domain, None, SITE, config, tmp_path / "whole", SUBJECT, base, silent=general)
    with pytest.raises(KeyboardInterrupt):
        train_sae(domain, None, SITE, config, tmp_path / "again", SUBJECT, base, progress, silent=general)
    assert train_sae(domain, None, SITE, config, tmp_path / "again", SUBJECT, base, silent=general).weights_hash() == whole.weights_hash()
    assert export_best(domain, None, SITE, config, tmp_path / "again", SUBJECT, base, silent=general).n_latents == 16
    with pytest.raises(TrainingError, match="differs in silent"):
        train_sae(domain, None, SITE, config, tmp_path / "whole", SUBJECT, base, silent=domain_rows(6))


def test_domains_side_by_side(general: MemoryStore, base: Sae, tmp_path: Path) -> None:
    """One residual SAE a store, each as by itself; all are stitched to the base."""
    stores, config = {"law": domain_rows(4), "mail": domain_rows(5)}, TrainConfig.parse({**SHORT, "silent_frac": 0.25})
    configs, calls = {**dict.fromkeys(stores, config), "wide": TrainConfig.parse({**SHORT, "silent_frac": 0.25, "n_latents": 24})}, []
    stores["wide"] = stores["law"]
    found = train_many(stores, None, SITE, configs, tmp_path / "all", SUBJECT, base, progress=lambda *call: calls.append(call[:2]), silent=general)
    assert calls[-1][0] == calls[-1][1]
    assert [one[0] for one in calls] == sorted(one[0] for one in calls)
    for name in ("law", "mail", "wide"):
        assert train_sae(stores[name], None, SITE, configs[name], tmp_path / name, SUBJECT, base, silent=general).weights_hash() == found[name].weights_hash()
    x = stores["mail"].sites[SITE]
    whole = stitch(base, [found["law"], found["mail"]])
    expected = base.reconstruct(x) + found["law"].reconstruct(x) + found["mail"].reconstruct(x)
    torch.testing.assert_close(whole.reconstruct(x), expected, rtol=1e-4, atol=1e-4)
    assert whole.record is not None
    assert whole.record.part_sizes == [48, 16, 16]
    with pytest.raises(ConfigError, match="'mail' has no store"):
        train_many({"law": stores["law"]}, None, SITE, dict.fromkeys(("law", "mail"), config), tmp_path / "x", SUBJECT, base, silent=general)


def test_refusals(general: MemoryStore, base: Sae, tmp_path: Path) -> None:
    domain = domain_rows(4)

    def refuse(kind: type[Exception], words: str, share: float, base: Sae | None, silent: MemoryStore | None) -> None:
        with pytest.raises(kind, match=words):
            train_sae(domain, None, SITE, TrainConfig.parse({**SHORT, "silent_frac": share}), tmp_path, SUBJECT, base, silent=silent)

    refuse(ConfigError, "without a base SAE", 0.25, None, general)
    refuse(ConfigError, "no store says which rows", 0.25, base, None)
    refuse(ConfigError, r"train\.silent_frac is 0", 0.0, base, general)
    refuse(TrainingError, "does not hold resid_post.1 with d_in = 32", 0.25, base, MemoryStore({OUT_SITE: two_sites(500, 1)[OUT_SITE]}))
    with pytest.raises(ConfigError, match="leaves one of both without a row"):
        TrainConfig.parse({**SHORT, "silent_frac": 0.001})
    with pytest.raises(ConfigError, match="their silent_frac differ"):
        configs = {"a": TrainConfig.parse(SHORT), "b": TrainConfig.parse({**SHORT, "silent_frac": 0.5})}
        train_many(domain, None, SITE, configs, tmp_path, SUBJECT, base, silent=general)
    assert not list(tmp_path.iterdir())
