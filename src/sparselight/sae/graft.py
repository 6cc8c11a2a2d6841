"""Grafting: latents that full fine-tuning changed most, added to the SAE it began from (a baseline of arXiv 2507.12990, there "SAE stitching").

How much a latent changed is 1 - cosine of its decoder rows before and after: our measure, the paper's is not known. The old latents stay as they
are, so the graft adds to what they give. Both are taken in threshold form with centering folded, as for stitching.
Refuses: SAEs of other shapes, sites or subjects, and a fine-tuned SAE that did not begin from the base.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cosine_similarity

from sparselight.errors import SaeError
from sparselight.records import SaeRecord
from sparselight.sae.base import Sae
from sparselight.sae.stitched import threshold_form


@torch.no_grad()
def graft(base: Sae, finetuned: Sae, n: int, x: Float[Tensor, "token d_in"]) -> Sae:
    """The base with the n latents of the fine-tuned SAE that changed most behind its own.

    Args:
        finetuned: trained on from the base, with as many latents.
        n: how many are grafted.
        x: activations, normally of the domain, on which l0 and dead latents are counted for the record.

    Raises:
        SaeError: when the two do not belong together, or there are not n latents.
    """
    check_parts(base, finetuned, n)
    chosen = most_changed(base, finetuned, n)
    own, other = (threshold_form(part).fold_centering() for part in (base, finetuned))
    sae = Sae(base.d_in, base.n_latents + n, subtract_b_dec=False, d_out=base.d_out, skip=base.W_skip is not None).to(base.W_dec)
    sae.W_enc.copy_(torch.cat([own.W_enc, other.W_enc[:, chosen]], 1))
    for name in ("b_enc", "W_dec", "threshold"):
        getattr(sae, name).copy_(torch.cat([getattr(own, name), getattr(other, name)[chosen]]))
    sae.b_dec.copy_(own.b_dec)
    if sae.W_skip is not None and own.W_skip is not None:
        sae.W_skip.copy_(own.W_skip)
    if base.record is not None and finetuned.record is not None:
        sae.record = grafted_record(sae, base, finetuned, chosen, x)
    return sae.requires_grad_(False)


def most_changed(base: Sae, finetuned: Sae, n: int) -> Int[Tensor, " chosen"]:
    """The n latents with the largest 1 - cosine of their decoder rows, the most changed first, ties by number."""
    return (1 - cosine_similarity(base.W_dec, finetuned.W_dec, dim=1)).argsort(descending=True, stable=True)[:n]


def check_parts(base: Sae, finetuned: Sae, n: int) -> None:
    """Refuse parts that do not belong together."""
    def refuse(why: str, instead: str) -> SaeError:
        return SaeError(asked=f"graft {n} latents of a fine-tuned SAE into its base", why=why, instead=instead)

    shapes = [(part.d_in, part.d_out, part.n_latents) for part in (base, finetuned)]
    if shapes[0] != shapes[1]:
        raise refuse(f"they have d_in, d_out, n_latents = {shapes[0]} and {shapes[1]}", "fine-tune the base without new latents")
    if not 1 <= n <= base.n_latents:
        raise refuse(f"it has {base.n_latents}", f"give a number from 1 to {base.n_latents}")
    if base.record is None or finetuned.record is None:
        return
    if base.record.site != finetuned.record.site:
        raise refuse(f"the base was trained at {base.record.site}, the other at {finetuned.record.site}", "give SAEs of one site")
    if base.weights_hash() not in finetuned.record.parents:
        raise refuse("the fine-tuned SAE did not begin from that base", "give the SAE that it was trained on from (its record: parents)")


def grafted_record(sae: Sae, base: Sae, finetuned: Sae, chosen: Int[Tensor, " chosen"], x: Float[Tensor, "token d_in"]) -> SaeRecord:
    """The base's word, with both as parents, and counts on x."""
    ours, theirs = base.record, finetuned.record
    assert ours is not None
    assert theirs is not None
    latents = sae.encode(x).latents
    turned = [f"The {name} keeps the {part.k} largest latents of each token by itself; here it has a threshold, which lets as many through on average."
              for name, part in (("base", base), ("fine-tuned SAE", finetuned)) if part.k is not None]
    first = f"The last {len(chosen)} latents are grafted: those whose decoder rows full fine-tuning turned most. l0 and dead latents: of {len(x):,} rows."
    return ours.model_copy(update={
        "role": "grafted", "n_latents": sae.n_latents, "k": None, "l0": len(latents) / len(x), "n_dead": sae.n_latents - len(latents.unique()),
        "dead_after_tokens": len(x), "n_tokens_seen": ours.n_tokens_seen + theirs.n_tokens_seen, "topk_threshold": None,
        "config": {"base": ours.config, "finetuned": theirs.config, "grafted": chosen.tolist()},
        "parents": [base.weights_hash(), finetuned.weights_hash()], "part_sizes": [base.n_latents, len(chosen)], "notes": [*ours.notes, first, *turned],
    })
