"""The SAE at inference: what it computes, its hash, its first weights, what it refuses, how it shows itself."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from sparselight.errors import SaeError
from sparselight.kernels import BACKENDS, torch_encode, use_backend
from sparselight.records import SaeRecord, SubjectRef, TokenPolicy
from sparselight.sae import Sae, initialize
from sparselight.testing import check_sparse_coder

MakeSae = Callable[..., Sae]


def rows(n: int = 50, d_in: int = 6, seed: int = 1) -> Tensor:
    return 2 * torch.randn(n, d_in, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("subtract_b_dec", [True, False])
def test_inference_is_the_formula(random_sae: MakeSae, subtract_b_dec: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(torch_encode.CHUNK_ENTRIES, "cpu", 100)  # several chunks
    sae, x = random_sae(subtract_b_dec=subtract_b_dec), rows()
    pre = (x - sae.b_dec * subtract_b_dec) @ sae.W_enc + sae.b_enc
    z = pre.relu() * (pre > sae.threshold)
    torch.testing.assert_close(sae.encode(x).to_dense(), z)
    torch.testing.assert_close(sae.reconstruct(x), z @ sae.W_dec + sae.b_dec)


def test_the_k_largest_of_each_token(random_sae: MakeSae) -> None:
    sae, x = random_sae(k=3), rows()
    pre = sae.pre_activations(x)
    z = torch.zeros_like(pre).scatter(1, pre.topk(3).indices, pre.topk(3).values.relu())
    torch.testing.assert_close(sae.encode(x).to_dense(), z)
    torch.testing.assert_close(sae.reconstruct(x), z @ sae.W_dec + sae.b_dec)


@pytest.mark.parametrize("skip", [True, False])
def test_a_transcoder_gives_back_other_activations(random_sae: MakeSae, skip: bool) -> None:
    sae, x = random_sae(subtract_b_dec=False, d_out=4, skip=skip), rows()
    codes = sae.encode(x)
    expected = codes.to_dense() @ sae.W_dec + sae.b_dec + (x @ sae.W_skip if sae.W_skip is not None else 0)
    assert expected.shape == (50, 4)
    torch.testing.assert_close(sae.reconstruct(x), expected)
    if skip:
        with pytest.raises(SaeError, match="needs what was encoded"):
            sae.decode(codes)


def test_thresholds_below_zero_let_no_negative_value_through(random_sae: MakeSae) -> None:
    sae, x = random_sae(), rows()
    sae.threshold.fill_(-1)
    torch.testing.assert_close(sae.encode(x).to_dense(), sae.pre_activations(x).relu())


def test_contract(random_sae: MakeSae) -> None:
    check_sparse_coder(random_sae(), rows())
    check_sparse_coder(random_sae(k=5), rows())
    silent = random_sae()
    silent.threshold.fill_(1e9)
    check_sparse_coder(silent, rows())


@pytest.mark.parametrize("k", [None, 4])
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_gives_the_same(random_sae: MakeSae, backend: str, k: int | None) -> None:
    sae, x = random_sae(k=k), rows()
    with use_backend("ref"):
        expected = sae.reconstruct(x)
    with use_backend(backend):
        torch.testing.assert_close(sae.reconstruct(x), expected)


def test_weights_hash_follows_the_function(random_sae: MakeSae) -> None:
    sae = random_sae()
    first = sae.weights_hash()
    assert first == random_sae().weights_hash()
    sae.W_enc[0, 0] += 1e-6
    assert sae.weights_hash() != first
    others = [random_sae(subtract_b_dec=False), random_sae(k=3), random_sae(k=4), random_sae(subtract_b_dec=False, skip=True)]
    assert len({first, *(other.weights_hash() for other in others)}) == 5
    ranked = random_sae(k=3)
    ranked.threshold.fill_(0.7)  # which it does not use
    assert ranked.weights_hash() == random_sae(k=3).weights_hash()


@pytest.mark.parametrize(("form", "words"), [
    ({"d_out": 4}, "it gives back 4, and so has b_dec"),
    ({"skip": True}, "its skip connection reads the whole input"),
    ({"k": 21}, "keeps k = 21 latents a token: it has 20"),
    ({"k": 0}, "keeps k = 0 latents a token: it has 20"),
])
def test_forms_that_make_no_sense_are_refused(form: dict, words: str) -> None:
    with pytest.raises(SaeError, match=words):
        Sae(6, 20, **form)


def test_wrong_width_is_refused(random_sae: MakeSae) -> None:
    with pytest.raises(SaeError, match=r"shape \[50, 5\].*d_in = 6"):
        random_sae().encode(rows(d_in=5))


def test_shows_itself_and_nothing_runs_as_html(random_sae: MakeSae, record_of: Callable[..., SaeRecord]) -> None:
    sae = random_sae()
    assert repr(sae) == "Sae(d_in 6, n_latents 20)"
    subject = SubjectRef(name="<script>", fingerprint="f", token_policy=TokenPolicy(prepend_bos=True, context_tokens=4))
    sae.record = record_of(sae, subject=subject, target_site="resid_post.2")
    assert "role base" in repr(sae)
    assert "target resid_post.2" in repr(sae)
    assert "<script>" not in sae._repr_html_()


def test_initial_weights() -> None:
    sae = initialize(Sae(6, 20), torch.ones(6), torch.Generator().manual_seed(0))
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(20))
    assert torch.equal(sae.W_enc, sae.W_dec.T)
    assert torch.equal(sae.b_dec, torch.ones(6))
    assert not initialize(Sae(6, 20), None, torch.Generator()).b_dec.requires_grad


def test_initial_weights_that_are_not_tied() -> None:
    apart = initialize(Sae(6, 20), torch.ones(6), torch.Generator().manual_seed(0), tied=False)
    transcoder = initialize(Sae(6, 20, False, d_out=4, skip=True), torch.ones(4), torch.Generator().manual_seed(0))
    for sae in (apart, transcoder):
        torch.testing.assert_close(sae.W_enc.norm(dim=0), torch.ones(20))
        torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(20))
        assert not torch.allclose(normalize(sae.W_enc.T[:, :4]), normalize(sae.W_dec[:, :4]))
    assert transcoder.W_skip is not None
    assert not transcoder.W_skip.any()


def test_normalizing_the_decoder_keeps_the_function(random_sae: MakeSae) -> None:
    sae, x = random_sae().double(), rows().double()
    scales = torch.linspace(0.2, 3, 20, dtype=torch.float64)
    sae.W_dec.mul_(scales.unsqueeze(1))
    sae.W_dec[7] = 0  # a row without a direction stays
    expected, codes = sae.reconstruct(x), sae.encode(x).to_dense()
    scales[7] = 1
    torch.testing.assert_close(sae.normalize_decoder().reconstruct(x), expected)
    torch.testing.assert_close(sae.encode(x).to_dense(), codes * scales)
    assert sae.W_dec.norm(dim=1).allclose((torch.arange(20) != 7).double())


def test_normalizing_keeps_which_latents_are_the_k_largest(random_sae: MakeSae) -> None:
    x = rows().double()
    for scales in (torch.full((20,), 3.0), torch.linspace(1, 2, 20)):
        sae = random_sae(k=3).double()
        sae.W_dec.mul_(scales.unsqueeze(1))
        expected, before = sae.reconstruct(x), sae.encode(x)
        torch.testing.assert_close(sae.normalize_decoder().reconstruct(x), expected)
        assert torch.equal(sae.encode(x).latents, before.latents)
