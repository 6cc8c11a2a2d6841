"""The weights a training starts from.

Decoder rows have unit norm and W_enc = W_dec^T, as in the reference implementations of TopK and BatchTopK (Gao et al. 2024,
arXiv 2406.04093, appendix A.1), b_enc = 0. Rows are uniform on the sphere; rows drawn from the data did no better on a small model.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from sparselight.sae.base import Sae


@torch.no_grad()
def initialize(sae: Sae, b_dec: Float[Tensor, " d_in"] | None, generator: torch.Generator) -> Sae:
    """Set all weights of a fresh SAE.

    Args:
        b_dec: the decoder's bias to begin with, normally the mean of what is to be decoded; None for an SAE without one.
    """
    rows = torch.randn(sae.n_latents, sae.d_in, generator=generator)
    sae.W_dec.copy_(normalize(rows))
    sae.W_enc.copy_(sae.W_dec.T)
    sae.b_enc.zero_()
    if b_dec is None:
        sae.b_dec.zero_().requires_grad_(False)
    else:
        sae.b_dec.copy_(b_dec)
    return sae
