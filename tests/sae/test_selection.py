"""What each architecture selects while it trains, the thresholds it ends with, and the settings it refuses."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sparselight.errors import ConfigError
from sparselight.kernels import DenseSelection, Selection
from sparselight.sae import ARCHITECTURES, BatchTopK, Gated, JumpRelu, Relu, Sae, SaeConfig, TopK, TrainingPass, group_ends, initialize
from sparselight.train import TrainConfig, n_latents_for

MakeSae = Callable[..., Sae]


def fresh(d_in: int = 16, n_latents: int = 128) -> Sae:
    return initialize(Sae(d_in, n_latents), torch.zeros(d_in), torch.Generator().manual_seed(0))


def rows(n: int, d_in: int = 16, seed: int = 1) -> Tensor:
    return 2 * torch.randn(n, d_in, generator=torch.Generator().manual_seed(seed))


def dense(forward: TrainingPass) -> Tensor:
    """Latent activations [token latent]."""
    selection, values = forward.selection, forward.values.detach()
    if isinstance(selection, DenseSelection):
        return values
    return torch.zeros(selection.n_tokens, selection.n_latents).index_put((selection.tokens, selection.latents.long()), values)


def test_topk_keeps_k_of_each_token() -> None:
    sae, x = fresh(), rows(50)
    forward = TopK(sae, SaeConfig(k=5))(sae, x)
    assert ((dense(forward) > 0).sum(1) == 5).all()
    torch.testing.assert_close(dense(forward), dense_topk(sae.pre_activations(x).detach(), 5))


def dense_topk(pre: Tensor, k: int) -> Tensor:
    return torch.zeros_like(pre).scatter(1, pre.topk(k).indices, pre.topk(k).values.relu())


def test_topk_keeps_only_positive_ones() -> None:
    sae, x = fresh(), rows(50)
    with torch.no_grad():
        sae.b_enc.fill_(-4.5)
    forward = TopK(sae, SaeConfig(k=5))(sae, x)
    counts = (dense(forward) > 0).sum(1)
    assert (forward.values > 0).all()
    assert 0 <= int(counts.min()) < 5
    everything = TopK(sae, SaeConfig(k=128))(sae, x)
    assert torch.equal(dense(everything) > 0, sae.pre_activations(x) > 0)


def test_among_equal_ones_the_lowest_latents_are_kept() -> None:
    """Latents come in pairs of the same direction: 0 and 64, 1 and 65, ..."""
    sae, x = fresh(), rows(40)
    with torch.no_grad():
        sae.W_enc[:, 64:] = sae.W_enc[:, :64]
    best = sae.pre_activations(x)[:, :64].argmax(1)
    kept = TopK(sae, SaeConfig(k=1))(sae, x).selection
    assert isinstance(kept, Selection)
    assert torch.equal(kept.latents.long(), best)
    both = TopK(sae, SaeConfig(k=2))(sae, x).selection
    assert isinstance(both, Selection)
    assert torch.equal(both.latents.long().view(-1, 2), torch.stack([best, best + 64], 1))
    batch = BatchTopK(sae, SaeConfig(k=1))(sae, x)
    assert len(batch.values) == 40
    torch.testing.assert_close(batch.values.sort().values, sae.pre_activations(x).flatten().sort().values[-40:])


def test_batch_topk_keeps_k_a_token_on_average() -> None:
    sae, x = fresh(), rows(200)
    architecture = BatchTopK(sae, SaeConfig(k=4.5))
    run = architecture(sae, x)
    assert len(run.values) == 900
    assert run.cutoff == float(run.values.detach().min()) > 0
    counts = (dense(run) > 0).sum(1)
    assert counts.min() < 4 < 5 < counts.max()
    again = architecture(sae, x)  # now with a hint
    assert torch.equal(run.values, again.values)


def test_a_batch_with_fewer_positive_entries_than_wanted() -> None:
    sae, x = fresh(), rows(20)
    with torch.no_grad():
        sae.b_enc.fill_(-6)
    n_positive = int((sae.pre_activations(x) > 0).sum())
    assert 0 < n_positive < 80
    assert len(BatchTopK(sae, SaeConfig(k=4))(sae, x).values) == n_positive
    with torch.no_grad():
        sae.b_enc.fill_(-1e3)
    nothing = BatchTopK(sae, SaeConfig(k=4))(sae, x)
    assert (len(nothing.values), nothing.cutoff) == (0, 0.0)
    assert torch.equal(nothing.x_hat, torch.zeros(20, 16))


@pytest.mark.parametrize("k", [8, 0.5])
def test_threshold_reproduces_l0_on_fresh_data(k: float) -> None:
    sae, data = fresh(), rows(80_000)
    BatchTopK(sae, SaeConfig(k=k)).calibrate(sae, data[:40_000].split(1000))
    l0 = len(sae.encode(data[40_000:]).values) / 40_000
    assert l0 == pytest.approx(k, rel=0.02)


def test_topk_ends_with_the_threshold_that_lets_k_through_on_average() -> None:
    sae, data = fresh(), rows(60_000)
    TopK(sae, SaeConfig(k=8)).calibrate(sae, data[:30_000].split(1000))
    assert sae.k == 8
    codes = sae.encode(data[30_000:])
    assert (codes.indptr.diff() == 8).all()
    sae.k = None
    assert len(sae.encode(data[30_000:]).values) / 30_000 == pytest.approx(8, rel=0.02)


def test_the_running_mean_lags_behind_weights_that_change() -> None:
    """Pre-activations grow by 1 % a step: the mean over fresh batches is today's cutoff, the running mean one of the past."""
    sae = fresh()
    forwards = {name: BatchTopK(sae, SaeConfig(k=4, threshold=name)) for name in ("ema", "calibrated")}
    cutoffs = []
    for step in range(100):
        with torch.no_grad():
            sae.W_enc.mul_(1.01)
        run = forwards["ema"](sae, rows(200, seed=step))
        cutoffs.append(run.cutoff)
    expected = cutoffs[0]
    for cutoff in cutoffs[1:]:
        expected += 0.01 * (cutoff - expected)
    forwards["ema"].calibrate(sae, [])
    assert float(sae.threshold[0]) == pytest.approx(expected, rel=1e-5)
    fresh_batches = [rows(200, seed=step) for step in range(100, 140)]
    forwards["calibrated"].calibrate(sae, fresh_batches)
    assert float(sae.threshold[0]) == pytest.approx(cutoffs[-1], rel=0.05)
    assert expected < 0.8 * cutoffs[-1]


def test_the_running_mean_survives_a_checkpoint() -> None:
    sae = fresh()
    first, second = (BatchTopK(sae, SaeConfig(k=4)) for _ in range(2))
    for seed in range(3):
        first(sae, rows(50, seed=seed))
    for name, tensor in second.state().items():
        tensor.copy_(first.state()[name])
    assert first(sae, rows(50, seed=9)).cutoff == second(sae, rows(50, seed=9)).cutoff
    assert torch.equal(first.mean_cutoff, second.mean_cutoff) and first.mean_cutoff > 0


@pytest.mark.parametrize("within_token", [False, True])
def test_matryoshka_prefixes_decode_truncated_codes(within_token: bool) -> None:
    sae, x = fresh(), rows(50)
    with torch.no_grad():
        sae.b_dec.copy_(torch.linspace(-1, 1, 16))
    config = SaeConfig(architecture="matryoshka", k=6, group_fracs=(0.25, 0.25, 0.5), within_token=within_token)
    forward = ARCHITECTURES["matryoshka"].make(sae, config)(sae, x)
    z = dense(forward)
    assert forward.ends == (32, 64, 128)
    assert forward.x_hats.shape == (3, 50, 16)
    for end, x_hat in zip(forward.ends, forward.x_hats, strict=True):
        torch.testing.assert_close(x_hat, z[:, :end] @ sae.W_dec[:end] + sae.b_dec)
    counts = (z > 0).sum(1)
    assert (counts == 6).all() if within_token else (counts.sum() == 300 and counts.min() < 6)
    assert torch.equal(forward.x_hat, forward.x_hats[-1])


def test_groups_divide_the_latents() -> None:
    assert group_ends((1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 2), 36864) == (2304, 4608, 9216, 18432, 36864)
    assert group_ends((1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2 + 1 / 32), 65536) == (2048, 6144, 14336, 30720, 65536)
    assert group_ends((0.3, 0.3, 0.4), 7) == (2, 4, 7)
    assert group_ends((0.5, 0.5), 3) == (2, 3)
    assert group_ends((1.0,), 5) == (5,)
    with pytest.raises(ConfigError, match=r"divide 7 latents into groups.*group 1 has none"):
        group_ends((1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 2), 7)
    with pytest.raises(ConfigError, match="group 2 has none"):
        n_latents_for(TrainConfig(architecture="matryoshka", n_latents=4, k=2, group_fracs=(0.5, 0.05, 0.45)), 16)


def test_relu_is_dense_while_much_is_active_and_sparse_later() -> None:
    sae, x = fresh(), rows(60)
    forward, architecture = Relu(sae, SaeConfig())(sae, x), Relu(sae, SaeConfig())
    assert isinstance(forward.selection, DenseSelection)
    with torch.no_grad():
        sae.b_enc.fill_(-5)
    sparse = architecture(sae, x)
    assert isinstance(sparse.selection, Selection)
    for run, z in ((sparse, sae.pre_activations(x).relu()), (architecture(fresh(), x), fresh().pre_activations(x).relu())):
        torch.testing.assert_close(dense(run), z.detach())
    architecture.calibrate(sae, [])
    torch.testing.assert_close(sae.encode(x).to_dense(), dense(sparse))


@pytest.mark.parametrize("b_enc", [0.0, -5.0])
def test_gated_is_the_formula_and_folds_to_it(b_enc: float) -> None:
    sae, x = fresh(), rows(60)
    architecture = Gated(sae, SaeConfig())
    with torch.no_grad():
        sae.b_enc.copy_(b_enc + torch.linspace(-1, 1, 128))
        architecture.r_mag.copy_(torch.linspace(1, -1, 128))
        architecture.b_mag.copy_(torch.linspace(-4, 1, 128))
    product = (x @ sae.W_enc).detach()
    gate, magnitude = product + sae.b_enc, architecture.r_mag.exp() * product + architecture.b_mag
    z = torch.where(gate > 0, magnitude.relu(), 0).detach()
    forward = architecture(sae, x)
    assert isinstance(forward.selection, DenseSelection if b_enc == 0 else Selection)
    torch.testing.assert_close(dense(forward), z)
    assert forward.side is not None
    torch.testing.assert_close(forward.side.x_hat, (gate.relu() @ sae.W_dec).detach())
    torch.testing.assert_close(architecture.l1_values(forward).sum(), gate.relu().sum())
    architecture.calibrate(sae, [])
    torch.testing.assert_close(sae.encode(x).to_dense(), z)


@pytest.mark.parametrize("first_threshold", [0.5, 6.0])
def test_jump_relu_has_a_threshold_a_latent(first_threshold: float) -> None:
    sae, x = fresh(), rows(60)
    architecture = JumpRelu(sae, SaeConfig(first_threshold=first_threshold, bandwidth=0.4))
    with torch.no_grad():
        architecture.log_threshold.add_(torch.linspace(-0.3, 0.3, 128))
    pre, theta = sae.pre_activations(x).detach(), architecture.log_threshold.detach().exp()
    forward = architecture(sae, x)
    assert isinstance(forward.selection, DenseSelection if first_threshold < 1 else Selection)
    torch.testing.assert_close(dense(forward), pre * (pre > theta))
    assert torch.equal(architecture.n_active(forward), (pre > theta).sum(1).float())
    assert torch.equal(forward.selection.n_fires(forward.values), (pre > theta).sum(0))
    architecture.calibrate(sae, [])
    torch.testing.assert_close(sae.encode(x).to_dense(), dense(forward))


def test_bf16_products_select_nearly_the_same() -> None:
    sae, x = fresh(), rows(200)
    plain = dense(BatchTopK(sae, SaeConfig(k=4))(sae, x))
    sae.product_dtype = torch.bfloat16
    rounded = BatchTopK(sae, SaeConfig(k=4))(sae, x)
    assert rounded.values.dtype == rounded.x_hats.dtype == rounded.x.dtype == torch.float32
    assert not torch.equal(dense(rounded), plain)
    assert ((dense(rounded) > 0) == (plain > 0)).float().mean() > 0.99


@pytest.mark.parametrize(("data", "words"), [
    ({"architecture": "relu", "k": 4}, "k means nothing to the architecture 'relu'"),
    ({"architecture": "gated", "k": 4}, "k means nothing to the architecture 'gated'"),
    ({"architecture": "jump_relu", "k": 4}, "k means nothing to the architecture 'jump_relu'"),
    ({"architecture": "topk", "bandwidth": 0.1}, "bandwidth means nothing to the architecture 'topk'"),
    ({"architecture": "topk", "k": 4, "threshold": "ema"}, "threshold means nothing to the architecture 'topk'"),
    ({"architecture": "batch_topk", "group_fracs": [0.5, 0.5]}, "group_fracs means nothing"),
    ({"architecture": "topk", "k": 2.5}, "k = 2.5 must be whole"),
    ({"architecture": "matryoshka", "k": 2.5, "within_token": True}, "k = 2.5 must be whole"),
    ({"architecture": "matryoshka", "k": 2, "within_token": True, "threshold": "ema"}, "threshold means nothing with within_token"),
    ({"architecture": "matryoshka", "group_fracs": [0.5, 0.4]}, "positive shares that add up to 1"),
    ({"architecture": "jump_relu", "bandwidth": 0}, "bandwidth"),
    ({"skip": True}, "skip = true needs target_site"),
])
def test_settings_that_mean_nothing_are_refused(data: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TrainConfig.parse(data, "train")
