"""A base SAE and a residual SAE as one: the sum of both, the record of both, and what does not belong together."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sparselight.errors import SaeError
from sparselight.records import SaeRecord, SubjectRef, TokenPolicy
from sparselight.sae import Sae, SaeConfig, TopK, load_sae, save_sae, save_stitched, stitch

MakeSae = Callable[..., Sae]
MakeRecord = Callable[..., SaeRecord]


def rows(n: int = 50) -> Tensor:
    return 2 * torch.randn(n, 6, generator=torch.Generator().manual_seed(1))


def test_stitched_is_the_sum(random_sae: MakeSae) -> None:
    base, residual, x = random_sae().double(), random_sae(n_latents=7, subtract_b_dec=False, seed=3).double(), rows().double()
    expected = base.reconstruct(x) + residual.reconstruct(x)
    whole = stitch(base, residual)
    torch.testing.assert_close(whole.reconstruct(x), expected)
    assert base.subtract_b_dec  # the parts stay as they were
    third = random_sae(n_latents=3, seed=4).double()
    torch.testing.assert_close(stitch(whole, third).reconstruct(x), expected + third.reconstruct(x))


@pytest.mark.parametrize("skips", [(False, False), (True, False), (False, True), (True, True)])
def test_transcoders_of_one_target_are_stitched(random_sae: MakeSae, skips: tuple[bool, bool]) -> None:
    x = rows().double()
    base, residual = (random_sae(n_latents=n, subtract_b_dec=False, d_out=4, skip=skip, seed=n).double() for n, skip in zip((20, 7), skips, strict=True))
    whole = stitch(base, residual)
    assert (whole.W_skip is not None) == any(skips)
    torch.testing.assert_close(whole.reconstruct(x), base.reconstruct(x) + residual.reconstruct(x))


def test_record_keeps_parents_and_sizes(random_sae: MakeSae, record_of: MakeRecord) -> None:
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
    assert whole.record.notes == []
    residual.record = record_of(residual, role="residual", parents=[base.weights_hash()], k=None, architecture="relu")
    aimless = stitch(base, residual).record
    assert aimless is not None
    assert aimless.k is None


@pytest.mark.parametrize("ranked", ["base", "residual", "both"])
def test_parts_that_keep_the_k_largest_become_thresholds(random_sae: MakeSae, record_of: MakeRecord, ranked: str, tmp_path: Path) -> None:
    """Each as sparse as before on fresh rows, and the record says so; base and record come from disk, as in a run."""
    x = 2 * torch.randn(40_000, 6, generator=torch.Generator().manual_seed(2))
    parts: list[Sae] = []
    for name, n_latents in (("base", 20), ("residual", 12)):
        sae = random_sae(n_latents=n_latents, subtract_b_dec=name == "base", seed=n_latents)
        changes = {} if not parts else {"role": "residual", "parents": [parts[0].weights_hash()]}
        if ranked in (name, "both"):
            TopK(sae, SaeConfig(k=2)).calibrate(sae, x[:20_000].split(1000))
            changes |= {"topk_threshold": float(sae.threshold[0])}
        save_sae(sae, record_of(sae, **changes), tmp_path / name)
        parts.append(load_sae(tmp_path / name))
    whole = stitch(*parts)
    save_stitched(whole, tmp_path / "stitched")
    codes = load_sae(tmp_path / "stitched").encode(x[20_000:])
    for part, latents in zip(parts, (range(20), range(20, 32)), strict=True):
        own = ((codes.latents >= latents.start) & (codes.latents < latents.stop)).sum() / 20_000
        assert float(own) == pytest.approx(len(part.encode(x[20_000:]).values) / 20_000, rel=0.03)
    assert whole.record is not None
    assert whole.record.topk_threshold is None
    assert len(whole.record.notes) == (2 if ranked == "both" else 1)
    assert "keeps the 2 largest latents of each token by itself; here it has the threshold" in whole.record.notes[0]
    assert [part.k for part in parts] == [2 if ranked in (name, "both") else None for name in ("base", "residual")]


def test_k_largest_without_a_threshold_is_refused(random_sae: MakeSae, record_of: MakeRecord) -> None:
    base = random_sae(k=3)
    with pytest.raises(SaeError, match="keeps the 3 largest latents.*names no threshold"):
        stitch(base, random_sae(n_latents=7))
    base.record = record_of(base)
    with pytest.raises(SaeError, match="names no threshold"):
        stitch(base, random_sae(n_latents=7))


@pytest.mark.parametrize(("changes", "words"), [
    ({"site": "resid_post.2"}, "trained at resid_post.1, the residual at resid_post.2"),
    ({"target_site": "resid_post.2"}, "gives back resid_post.1 itself, the residual resid_post.2"),
    ({"parents": ["abc"]}, "errors of another base"),
    ({"subject": SubjectRef(name="big", fingerprint="g", token_policy=TokenPolicy(prepend_bos=True, context_tokens=4))}, "on tiny, the residual on big"),
])
def test_parts_that_do_not_belong_together(random_sae: MakeSae, record_of: MakeRecord, changes: dict, words: str) -> None:
    base, residual = random_sae(), random_sae(n_latents=7)
    base.record = record_of(base)
    residual.record = record_of(residual, **{"parents": [base.weights_hash()], **changes})
    with pytest.raises(SaeError, match=words):
        stitch(base, residual)


def test_other_widths_are_refused(random_sae: MakeSae) -> None:
    with pytest.raises(SaeError, match="d_in = 6, the residual 5"):
        stitch(random_sae(), random_sae(d_in=5))
    with pytest.raises(SaeError, match="gives back 6 dimensions, the residual 4"):
        stitch(random_sae(), random_sae(subtract_b_dec=False, d_out=4))
