"""The SAE at inference: what it computes, folding, stitching, its training-time selection and threshold."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from sparselight.errors import SaeError
from sparselight.kernels import use_backend
from sparselight.records import SaeRecord, SubjectRef, TokenPolicy
from sparselight.sae import BatchTopK, Sae, initialize, stitch
from sparselight.testing import check_sparse_coder


def random_sae(d_in: int = 6, n_latents: int = 20, subtract_b_dec: bool = True, seed: int = 0) -> Sae:
    generator = torch.Generator().manual_seed(seed)
    sae = Sae(d_in, n_latents, subtract_b_dec)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        sae.W_dec.copy_(normalize(sae.W_dec))
        sae.threshold.copy_(torch.rand(n_latents, generator=generator))
    return sae


def record_of(sae: Sae, **changes: object) -> SaeRecord:
    subject = SubjectRef(name="tiny", fingerprint="f", token_policy=TokenPolicy(prepend_bos=True, context_tokens=64))
    values: dict = {
        "architecture": "batch_topk", "role": "base", "site": "resid_post.1", "subject": subject, "store_fingerprint": "s", "d_in": sae.d_in,
        "n_latents": sae.n_latents, "k": 4, "l0": 4.1, "n_dead": 1, "dead_after_tokens": 100, "n_tokens_seen": 1000, "normalization": "n", "loss_scale": "l",
        "config": {"k": 4}}
    return SaeRecord(**values | changes)


def rows(n: int = 50, d_in: int = 6, seed: int = 1) -> Tensor:
    return 2 * torch.randn(n, d_in, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("subtract_b_dec", [True, False])
def test_inference_is_the_formula(subtract_b_dec: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparselight.sae.base.CHUNK_ENTRIES", 100)  # several chunks
    sae, x = random_sae(subtract_b_dec=subtract_b_dec), rows()
    pre = (x - sae.b_dec * subtract_b_dec) @ sae.W_enc + sae.b_enc
    z = pre.relu() * (pre > sae.threshold)
    torch.testing.assert_close(sae.encode(x).to_dense(), z.detach())
    torch.testing.assert_close(sae.reconstruct(x), (z @ sae.W_dec + sae.b_dec).detach())


def test_contract() -> None:
    check_sparse_coder(random_sae(), rows())
    silent = random_sae()
    silent.threshold.fill_(1e9)
    check_sparse_coder(silent, rows())


def test_every_backend_gives_the_same() -> None:
    sae, x = random_sae(), rows()
    with use_backend("ref"):
        expected = sae.reconstruct(x)
    torch.testing.assert_close(sae.reconstruct(x), expected)


@pytest.mark.parametrize("subtract_b_dec", [True, False])
@pytest.mark.parametrize("scales", [(0.3, 0.3), (0.2, 7.0)])
@pytest.mark.parametrize("centered", [True, False])
def test_fold_changes_no_output(subtract_b_dec: bool, scales: tuple[float, float], centered: bool) -> None:
    scale_in, scale_out = scales
    sae, x = random_sae(subtract_b_dec=subtract_b_dec).double(), rows().double()
    mean = torch.linspace(-1, 1, 6, dtype=torch.float64) if centered else None
    seen = scale_in * (x if mean is None else x - mean)
    z, x_hat = sae.encode(seen).to_dense() / scale_out, sae.reconstruct(seen) / scale_out
    directions = sae.W_dec.detach().clone()
    sae.fold(scale_in, scale_out, mean)
    torch.testing.assert_close(sae.encode(x).to_dense(), z)
    torch.testing.assert_close(sae.reconstruct(x), x_hat)
    assert torch.equal(sae.W_dec, directions)


def test_fold_centering_changes_no_output() -> None:
    sae, x = random_sae().double(), rows().double()
    expected = sae.reconstruct(x)
    torch.testing.assert_close(sae.fold_centering().reconstruct(x), expected)
    assert not sae.subtract_b_dec


def test_weights_hash_follows_the_function() -> None:
    sae = random_sae()
    first = sae.weights_hash()
    assert first == random_sae().weights_hash()
    with torch.no_grad():
        sae.W_enc[0, 0] += 1e-6
    assert sae.weights_hash() != first
    assert random_sae(subtract_b_dec=False).weights_hash() != first


def test_wrong_width_is_refused() -> None:
    with pytest.raises(SaeError, match=r"shape \[50, 5\].*d_in = 6"):
        random_sae().encode(rows(d_in=5))


def test_shows_itself_and_nothing_runs_as_html() -> None:
    sae = random_sae()
    assert repr(sae) == "Sae(d_in 6, n_latents 20)"
    sae.record = record_of(sae, subject=SubjectRef(name="<script>", fingerprint="f", token_policy=TokenPolicy(prepend_bos=True, context_tokens=4)))
    assert "role base" in repr(sae)
    assert "<script>" not in sae._repr_html_()


def test_stitched_is_the_sum() -> None:
    base, residual, x = random_sae().double(), random_sae(n_latents=7, subtract_b_dec=False, seed=3).double(), rows().double()
    expected = base.reconstruct(x) + residual.reconstruct(x)
    whole = stitch(base, residual)
    torch.testing.assert_close(whole.reconstruct(x), expected)
    assert base.subtract_b_dec  # the parts stay as they were
    third = random_sae(n_latents=3, seed=4).double()
    torch.testing.assert_close(stitch(whole, third).reconstruct(x), expected + third.reconstruct(x))


def test_stitched_record_keeps_parents_and_sizes() -> None:
    base, residual, other = random_sae(), random_sae(n_latents=7, seed=3), random_sae(n_latents=3, seed=4)
    base.record = record_of(base)
    for part in (residual, other):
        part.record = record_of(part, role="residual", parents=[base.weights_hash()], k=1, l0=0.9)
    whole = stitch(stitch(base, residual), other)
    assert whole.record is not None
    assert whole.record.parents == [base.weights_hash(), residual.weights_hash(), other.weights_hash()]
    assert whole.record.part_sizes == [20, 7, 3]
    assert (whole.record.role, whole.record.n_latents, whole.record.k) == ("stitched", 30, 6)
    assert whole.record.l0 == pytest.approx(5.9)


@pytest.mark.parametrize(("changes", "words"), [
    ({"site": "resid_post.2"}, "trained at resid_post.1, the residual at resid_post.2"),
    ({"parents": ["abc"]}, "errors of another base"),
    ({"subject": SubjectRef(name="big", fingerprint="g", token_policy=TokenPolicy(prepend_bos=True, context_tokens=4))}, "on tiny, the residual on big"),
])
def test_parts_that_do_not_belong_together(changes: dict, words: str) -> None:
    base, residual = random_sae(), random_sae(n_latents=7)
    base.record = record_of(base)
    residual.record = record_of(residual, **{"parents": [base.weights_hash()], **changes})
    with pytest.raises(SaeError, match=words):
        stitch(base, residual)
    with pytest.raises(SaeError, match="d_in = 6, the residual 5"):
        stitch(base, random_sae(d_in=5))


def test_batch_topk_keeps_k_a_token_on_average() -> None:
    sae = initialize(Sae(16, 128), torch.zeros(16), torch.Generator().manual_seed(0))
    forward, x = BatchTopK(4.5), rows(200, 16)
    run = forward(sae, x)
    assert len(run.values) == 900
    assert forward.cutoff == run.values.min() > 0
    again = forward(sae, x)  # now with a hint
    assert torch.equal(run.values, again.values)


def test_threshold_reproduces_l0_on_fresh_data() -> None:
    sae = initialize(Sae(16, 128), torch.zeros(16), torch.Generator().manual_seed(0))
    data = rows(60_000, 16)
    forward = BatchTopK(8)
    forward.calibrate(sae, data[:30_000].split(1000))
    l0 = len(sae.encode(data[30_000:]).values) / 30_000
    assert l0 == pytest.approx(8, rel=0.02)


def test_initial_weights() -> None:
    sae = initialize(Sae(6, 20), torch.ones(6), torch.Generator().manual_seed(0))
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(20))
    assert torch.equal(sae.W_enc, sae.W_dec.T)
    assert torch.equal(sae.b_dec, torch.ones(6))
    assert not initialize(Sae(6, 20), None, torch.Generator()).b_dec.requires_grad
