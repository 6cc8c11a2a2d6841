"""Grafting: which latents, what it computes, what the record says, what is refused."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from sparselight.errors import SaeError
from sparselight.records import SaeRecord
from sparselight.sae import Sae, graft, load_sae, save_stitched, stitch

MakeSae = Callable[..., Sae]
MakeRecord = Callable[..., SaeRecord]
X = 2 * torch.randn(200, 6, generator=torch.Generator().manual_seed(3))


def tuned_from(base: Sae) -> Sae:
    """All rows turned a little, 4 and 11 much; the decoder bias moved too."""
    tuned = copy.deepcopy(base)
    noise = torch.randn(base.W_dec.shape, generator=torch.Generator().manual_seed(1))
    noise[[4, 11]] *= 40
    tuned.W_dec.copy_(normalize(base.W_dec + 0.05 * noise))
    tuned.b_dec.add_(0.3)
    return tuned


@pytest.mark.parametrize("centers", [True, False])
def test_the_most_changed_latents_are_added(centers: bool, random_sae: MakeSae) -> None:
    base = random_sae(subtract_b_dec=centers)
    tuned = tuned_from(base)
    both = graft(base, tuned, 2, X)
    assert both.n_latents == 22
    added: Tensor = tuned.encode(X).to_dense()[:, [11, 4]]
    codes = both.encode(X).to_dense()
    torch.testing.assert_close(codes[:, :20], base.encode(X).to_dense(), rtol=1e-4, atol=1e-5)
    assert torch.allclose(codes[:, 20:], added, atol=1e-5) or torch.allclose(codes[:, 20:], added.flip(1), atol=1e-5)
    expected = base.reconstruct(X) + added @ tuned.W_dec[[11, 4]]
    torch.testing.assert_close(both.reconstruct(X), expected, rtol=1e-4, atol=1e-5)


def test_record_names_both_parents(random_sae: MakeSae, record_of: MakeRecord, tmp_path: Path) -> None:
    base = random_sae()
    base.record = record_of(base)
    tuned = tuned_from(base)
    tuned.record = record_of(tuned, parents=[base.weights_hash()])
    both = graft(base, tuned, 3, X)
    save_stitched(both, tmp_path / "grafted")
    record = load_sae(tmp_path / "grafted").record
    assert record is not None
    assert (record.role, record.parents, record.part_sizes) == ("grafted", [base.weights_hash(), tuned.weights_hash()], [20, 3])
    assert record.l0 == pytest.approx(len(both.encode(X).values) / 200)
    assert set(record.config["grafted"][:2]) == {4, 11}
    assert "The last 3 latents are grafted" in record.notes[0]
    residual = random_sae(n_latents=5, subtract_b_dec=False)
    residual.record = record_of(residual, parents=[base.weights_hash()])
    with pytest.raises(SaeError, match="errors of another base"):
        stitch(both, residual)


def test_parts_that_keep_the_k_largest(random_sae: MakeSae, record_of: MakeRecord) -> None:
    base = random_sae(k=3)
    tuned = tuned_from(base)
    with pytest.raises(SaeError, match="names no threshold"):
        graft(base, tuned, 2, X)
    base.record, tuned.record = record_of(base, topk_threshold=0.8), record_of(tuned, topk_threshold=0.9, parents=[base.weights_hash()])
    both = graft(base, tuned, 2, X)
    torch.testing.assert_close(both.threshold, torch.tensor([0.8] * 20 + [0.9] * 2))
    assert both.k is None


def test_refusals(random_sae: MakeSae, record_of: MakeRecord) -> None:
    base = random_sae()
    with pytest.raises(SaeError, match="d_in, d_out, n_latents"):
        graft(base, random_sae(n_latents=24), 2, X)
    with pytest.raises(SaeError, match="give a number from 1 to 20"):
        graft(base, tuned_from(base), 21, X)
    other = tuned_from(base)
    base.record, other.record = record_of(base), record_of(other)
    with pytest.raises(SaeError, match="did not begin from that base"):
        graft(base, other, 2, X)
