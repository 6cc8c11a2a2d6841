"""Scaling of inputs and targets: its statistics, what folding undoes, rows that are refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from planted import OUT_SITE, SITE, SUBJECT, MemoryStore, directions, planted, two_sites
from torch import Tensor

from sparselight.errors import StoreError, TrainingError
from sparselight.sae import Sae
from sparselight.train import TrainConfig, train_sae
from sparselight.train.data import Rows, TrainingData
from sparselight.train.objectives import TERMS, make_objective
from sparselight.train.step import take_step
from sparselight.train.training import make_state

KINDS = ["none", "scalar", "per_dimension", "whiten"]
SIZES = {"n_latents": 64, "k": 4, "n_tokens": 4096, "batch_tokens": 256}


def data_for(store: MemoryStore, config: TrainConfig, base: Sae | None = None) -> TrainingData:
    targets = (config.target_site,) if config.target_site else ()
    return TrainingData(Rows(store, SITE, None, config.batch_tokens, config.data_seed, torch.device("cpu"), targets), config, base)


def correlated(n: int = 6_000) -> Tensor:
    """Dimensions of different size, correlated, off center."""
    x = torch.randn(n, 16, generator=torch.Generator().manual_seed(0)) @ torch.diag(torch.logspace(-0.5, 0.5, 16))
    return x @ torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(1))).Q + torch.linspace(-3, 3, 16)


@pytest.mark.parametrize("kind", KINDS)
def test_scaled_rows_have_the_statistics_that_were_asked_for(kind: str) -> None:
    x = correlated()
    data = data_for(MemoryStore(x), TrainConfig.parse({**SIZES, "batch_tokens": 1024, "normalize": kind}))
    scaled, target = data.scaled(data.rows.batch(0))
    assert scaled is target
    everything = data.scaling.into(x)
    covariance = torch.cov(everything.T)
    if kind == "none":
        assert torch.equal(everything, x)
    elif kind == "scalar":
        assert float((everything - everything.mean(0)).square().sum(1).mean()) == pytest.approx(16, rel=0.05)
    else:
        assert everything.mean(0).abs().max() < 0.05
        torch.testing.assert_close(covariance.diag(), torch.ones(16), atol=0.1, rtol=0)
    if kind == "whiten":
        torch.testing.assert_close(covariance, torch.eye(16), atol=0.1, rtol=0)
    if kind in ("none", "scalar"):
        torch.testing.assert_close(data.scaling.b_dec, everything.mean(0), atol=0.1 * float(everything.std()), rtol=0)


def test_directions_without_variance_are_not_blown_up() -> None:
    flat = correlated()
    flat[:, 3] = 2.0
    flat[:, 5] = flat[:, 4]
    for kind in ("per_dimension", "whiten"):
        data = data_for(MemoryStore(flat), TrainConfig.parse({**SIZES, "normalize": kind}))
        scaled = data.scaled(data.rows.batch(0))[0]
        assert scaled.isfinite().all()
        assert scaled.abs().max() < 20


@pytest.mark.parametrize("case", ["plain", "residual", "transcoder", "skip transcoder", "residual of a transcoder"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["batch_topk", "topk"])
def test_the_folded_sae_does_on_raw_rows_what_training_did_on_scaled_ones(architecture: str, kind: str, case: str) -> None:
    sites = two_sites(3_000, 1)
    transcodes = "transcoder" in case
    settings = {**SIZES, "architecture": architecture, "normalize": kind}
    if transcodes:
        settings |= {"target_site": OUT_SITE, "skip": case == "skip transcoder"}
    config = TrainConfig.parse(settings)
    base = trained_a_little(MemoryStore(sites), TrainConfig.parse({**settings, "skip": False, "seed": 9}), None)[0] if "residual" in case else None
    sae, data = trained_a_little(MemoryStore(sites), config, base)
    x = sites[SITE][:500]
    target = sites[OUT_SITE][:500] if transcodes else x
    if base is not None:
        target = target - base.reconstruct(x)
    assert data.is_plain == (case == "plain")
    scaled_x, scaled_target = data.scaling.into(x), data.scaling.out_of(target)
    codes, x_hat = sae.encode(scaled_x), sae.reconstruct(scaled_x)
    scaled_error = data.scaling.out_of.undo_linear(scaled_target - x_hat)
    sae.fold(data.scaling.into, data.scaling.out_of)
    torch.testing.assert_close(target - sae.reconstruct(x), scaled_error, rtol=1e-3, atol=2e-3)
    assert len(codes.values) == pytest.approx(len(sae.encode(x).values), rel=0.01)
    if base is not None:
        assert not sae.b_dec.any() or data.scaling.into.mean is not None


def trained_a_little(store: MemoryStore, config: TrainConfig, base: Sae | None) -> tuple[Sae, TrainingData]:
    """An SAE in inference form before folding; a base comes folded."""
    data = data_for(store, config, base)
    state = make_state(config, data)
    for step in range(12):
        take_step(state, make_objective(config, TERMS), config, *data.scaled(data.rows.batch(step)))
    state.forward.calibrate(state.sae, data.inputs(12, 4))
    if base is None and config.seed == 9:
        state.sae.fold(data.scaling.into, data.scaling.out_of)
    return state.sae.requires_grad_(False), data


def test_a_residual_sae_has_no_decoder_bias(tmp_path: Path) -> None:
    store = MemoryStore(planted(directions(), 3_000, 1))
    base = train_sae(store, None, SITE, TrainConfig.parse(SIZES), tmp_path / "base", SUBJECT)
    for kind in KINDS:
        config = TrainConfig.parse({**SIZES, "n_latents": 16, "k": 2, "normalize": kind})
        residual = train_sae(store, None, SITE, config, tmp_path / kind, SUBJECT, base)
        assert not residual.b_dec.any()
        silent = residual.encode(store.sites[SITE]).indptr.diff() == 0
        assert not residual.reconstruct(store.sites[SITE])[silent].any()


def test_rows_that_are_not_finite_are_named_by_shard_and_row() -> None:
    x = planted(directions(), 2_500, 1)
    x[1_234, 5] = torch.inf
    rows = Rows(MemoryStore(x), SITE, np.arange(1_200, 1_300), 100, 0, torch.device("cpu"))
    with pytest.raises(TrainingError, match=rf"train on step 0: row 1234 of the store \(shard shard-00001, its row 234\).*not finite at {SITE}"):
        rows.batch(0)


def test_a_batch_knows_the_example_of_each_row() -> None:
    rows = Rows(MemoryStore(planted(directions(), 700, 1)), SITE, None, 100, 0, torch.device("cpu"))
    stream = rows.streams[SITE].batch_rows(3)
    assert rows.batch(3).example.tolist() == (stream // 7).tolist()


def test_refusals() -> None:
    with pytest.raises(TrainingError, match="scale the activations of resid_post.1: all rows are the same"):
        data_for(MemoryStore(torch.ones(2_000, 32)), TrainConfig.parse(SIZES))
    with pytest.raises(StoreError, match="draw batches of train.batch_tokens = 256 .*there are only 255 rows"):
        data_for(MemoryStore(planted(directions(), 255, 1)), TrainConfig.parse(SIZES))
