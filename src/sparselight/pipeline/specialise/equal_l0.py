"""One l0 for all: an SAE whose thresholds are moved so that, on given tokens, it uses a wanted number of latents.

All thresholds are multiplied by one factor: a latent fires where pre / threshold exceeds it, so the factor is a quantile of those ratios and needs no
search. For a shared threshold that is the threshold itself; for several (a stitched SAE, jump_relu) their proportions stay. An SAE that keeps the k
largest gets another k. Refuses nothing: where there is no threshold to move (relu, gated) it says why.
"""

import copy

import torch
from jaxtyping import Float
from torch import Tensor

from sparselight.sae import Sae

CHUNK = 1024  # tokens at once
ROOM = 8  # so many times the wanted l0 are looked at a token


def l0_on(sae: Sae, x: Float[Tensor, "token d_in"]) -> float:
    """Mean number of active latents a token."""
    return sum(len(sae.encode(part).values) for part in x.split(CHUNK)) / len(x)


@torch.no_grad()
def at_l0(sae: Sae, l0: float, x: Float[Tensor, "token d_in"]) -> tuple[Sae | None, str]:
    """A copy that uses `l0` latents a token on average over x.

    Returns:
        The copy, None where there is nothing to move; and why not, or what was done, in words.
    """
    if sae.k is not None:
        moved = copy.deepcopy(sae)
        moved.k = max(1, min(sae.n_latents, round(l0)))
        return moved, f"the {moved.k} largest latents of each token in place of {sae.k}"
    thresholds = sae.threshold.clamp(min=0)
    if not bool((thresholds > 0).all()):
        return None, "it has latents without a threshold"
    n_kept = round(l0 * len(x))
    most = min(sae.n_latents, int(ROOM * l0) + 1)
    ratios = torch.cat([(sae.pre_activations(part) / thresholds).topk(most, dim=1, sorted=False).values.flatten() for part in x.split(CHUNK)])
    factor = float(ratios.topk(n_kept + 1).values[-1]) if n_kept < len(ratios) else 0.0
    if factor <= 0:
        return None, f"not so many latents have a positive pre-activation ({l0:.1f} a token are wanted)"
    moved = copy.deepcopy(sae)
    moved.threshold.mul_(factor)
    return moved, f"thresholds times {factor:.3g}"
