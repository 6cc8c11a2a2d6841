"""Stitching: a base SAE and the residual SAE trained on its errors as one dictionary.

SAE Boost (arXiv 2507.12990, section 3.1): both encoders read x, so base(x) + residual(x) is the SAE with W_enc = [W_enc, W_enc_res],
W_dec = [W_dec; W_dec_res] and the base's b_dec (transcoders: W_skip is the sum). A stitched SAE can be stitched again, one residual a domain.
A part that keeps the k largest of each token cannot do so beside others: it gets the threshold that training found for it, which lets k
through on average, and the record says so. Refuses parts that do not belong together.
"""

import copy
from collections.abc import Sequence
from functools import reduce

import torch

from sparselight.errors import SaeError
from sparselight.records import SaeRecord
from sparselight.sae.base import Sae


@torch.no_grad()
def stitch(base: Sae, residual: Sae | Sequence[Sae]) -> Sae:
    """One SAE whose reconstruction is base.reconstruct(x) + residual.reconstruct(x); parts with `k` are taken in threshold form.

    Args:
        residual: or several, one a domain, in the order in which their latents then stand.

    Raises:
        SaeError: when the two do not belong together: other widths, sites or subjects, or a residual of another base; or when a part keeps the
            k largest of each token and no threshold is known for it.
    """
    if not isinstance(residual, Sae):
        return reduce(stitch, residual, base)
    check_parts(base, residual)
    parts = [threshold_form(part).fold_centering() for part in (base, residual)]
    skips = [part.W_skip for part in parts if part.W_skip is not None]
    both = Sae(base.d_in, base.n_latents + residual.n_latents, subtract_b_dec=False, d_out=base.d_out, skip=bool(skips)).to(base.W_dec)
    both.W_enc.copy_(torch.cat([part.W_enc for part in parts], 1))
    both.b_enc.copy_(torch.cat([part.b_enc for part in parts]))
    both.W_dec.copy_(torch.cat([part.W_dec for part in parts]))
    both.b_dec.copy_(parts[0].b_dec + parts[1].b_dec)
    both.threshold.copy_(torch.cat([part.threshold for part in parts]))
    if both.W_skip is not None:
        both.W_skip.copy_(sum(skips[1:], start=skips[0]))
    if base.record is not None and residual.record is not None:
        both.record = stitched_record(base, base.record, residual, residual.record)
    return both


def threshold_form(sae: Sae) -> Sae:
    """A copy that selects by thresholds: equal, but for an SAE that keeps the k largest of each token.

    Raises:
        SaeError: for such an SAE without a record of its threshold.
    """
    sae, k = copy.deepcopy(sae), sae.k
    if k is None:
        return sae
    if sae.record is None or sae.record.topk_threshold is None:
        raise SaeError(asked=f"stitch an SAE that keeps the {k} largest latents of each token", why="its record names no threshold in place of that",
                       instead="use an SAE that was trained here, or one with thresholds (architecture batch_topk)")
    sae.k = None
    sae.threshold.fill_(sae.record.topk_threshold)
    return sae


def check_parts(base: Sae, residual: Sae) -> None:
    """Refuse parts that do not belong together."""
    def refuse(why: str, instead: str) -> SaeError:
        return SaeError(asked="stitch a base SAE and a residual SAE", why=why, instead=instead)

    if base.d_in != residual.d_in:
        raise refuse(f"the base has d_in = {base.d_in}, the residual {residual.d_in}", "stitch SAEs of one site")
    if base.d_out != residual.d_out:
        raise refuse(f"the base gives back {base.d_out} dimensions, the residual {residual.d_out}", "stitch SAEs of one target")
    if base.record is None or residual.record is None:
        return
    ours, theirs = base.record, residual.record
    if ours.site != theirs.site:
        raise refuse(f"the base was trained at {ours.site}, the residual at {theirs.site}", "stitch SAEs of one site")
    if ours.target_site != theirs.target_site:
        names = [record.target_site or f"{record.site} itself" for record in (ours, theirs)]
        raise refuse(f"the base gives back {names[0]}, the residual {names[1]}", "stitch SAEs of one target")
    if ours.subject.fingerprint != theirs.subject.fingerprint:
        raise refuse(f"the base was trained on {ours.subject.name}, the residual on {theirs.subject.name} or another revision", "stitch SAEs of one subject")
    if not set(theirs.parents) & {base.weights_hash(), *(ours.parents if ours.role == "stitched" else ())}:
        raise refuse("the residual was trained on the errors of another base", "give the base SAE that the residual was trained with")


def stitched_record(base: Sae, ours: SaeRecord, residual: Sae, theirs: SaeRecord) -> SaeRecord:
    """The record of the whole: sums where parts add up, the base's word elsewhere, one parent a part."""
    first = list(zip(ours.parents, ours.part_sizes, strict=True)) if ours.part_sizes else [(base.weights_hash(), base.n_latents)]
    parts = [*first, (residual.weights_hash(), residual.n_latents)]
    turned = [
        f"Part {number} keeps the {part.k} largest latents of each token by itself; here it has the threshold {record.topk_threshold:.6g}, which lets as many "
        "through on average." for number, part, record in ((1, base, ours), (len(parts), residual, theirs)) if part.k is not None
    ]
    return ours.model_copy(update={
        "role": "stitched", "n_latents": base.n_latents + residual.n_latents, "k": None if ours.k is None or theirs.k is None else ours.k + theirs.k,
        "l0": ours.l0 + theirs.l0, "n_dead": ours.n_dead + theirs.n_dead, "n_tokens_seen": ours.n_tokens_seen + theirs.n_tokens_seen,
        "config": {"base": ours.config, "residual": theirs.config},
        "parents": [parent for parent, _ in parts], "part_sizes": [size for _, size in parts], "topk_threshold": None,
        "notes": [*ours.notes, *theirs.notes, *turned],
    })
