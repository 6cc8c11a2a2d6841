"""The weights a training starts from.

Decoder rows have unit norm and W_enc = W_dec^T, as in the reference implementations of TopK and BatchTopK (Gao et al. 2024,
arXiv 2406.04093, appendix A.1), b_enc = 0. Rows are uniform on the sphere; rows drawn from the data did no better on a small model.
A transcoder's encoder and decoder live in different spaces, so they are drawn apart; its skip connection begins at 0.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from sparselight.sae.base import Sae


@torch.no_grad()
def initialize(sae: Sae, b_dec: Float[Tensor, " d_out"] | None, generator: torch.Generator, tied: bool = True) -> Sae:
    """Set all weights of a fresh SAE.

    Args:
        b_dec: the decoder's bias to begin with, normally the mean of what is to be decoded; None for an SAE without one.
        tied: begin with W_enc = W_dec^T where the widths allow it.
    """
    sae.W_dec.copy_(normalize(torch.randn(sae.n_latents, sae.d_out, generator=generator)))
    if tied and sae.d_in == sae.d_out and sae.W_skip is None:
        sae.W_enc.copy_(sae.W_dec.T)
    else:
        sae.W_enc.copy_(normalize(torch.randn(sae.n_latents, sae.d_in, generator=generator)).T)
    sae.b_enc.zero_()
    if b_dec is None:
        sae.b_dec.zero_().requires_grad_(False)
    else:
        sae.b_dec.copy_(b_dec)
    return sae
