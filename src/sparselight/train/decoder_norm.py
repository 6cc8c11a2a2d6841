"""Decoder rows stay on the unit sphere: no gradient along them, and unit norm after every step.

Otherwise the loss could be lowered by small activations on long rows, which says nothing of features (Bricken et al. 2023,
"Towards Monosemanticity", appendix on training).
"""

import torch
from jaxtyping import Float
from torch import Tensor


@torch.no_grad()
def remove_parallel_gradient(W_dec: Float[Tensor, "latent d_in"]) -> None:
    """grad -= (grad . w) w for every unit row w."""
    assert W_dec.grad is not None
    along = torch.linalg.vecdot(W_dec.grad, W_dec).unsqueeze(1)
    W_dec.grad.addcmul_(along, W_dec, value=-1)


@torch.no_grad()
def normalize_rows(W_dec: Float[Tensor, "latent d_in"]) -> None:
    W_dec.div_(torch.linalg.vector_norm(W_dec, dim=1, keepdim=True).clamp_(min=torch.finfo(W_dec.dtype).tiny))
