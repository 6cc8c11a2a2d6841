"""The dead latents' loss (AuxK) with its gradients, in token chunks, so that no [token dead] matrix is ever whole.

The loss is one number, so its gradients are known while it is computed: one pass makes both. The slow truth is ref.dead_latent_loss.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparselight.kernels.selection import WeightGradients

CHUNK_ENTRIES = 1 << 19


def dead_latent_loss(
    x: Float[Tensor, "token d_in"], W_enc: Float[Tensor, "d_in latent"], b_enc: Float[Tensor, " latent"], W_dec: Float[Tensor, "latent d_out"],
    error: Float[Tensor, "token d_out"], dead: Int[Tensor, " dead"], k: int,
) -> tuple[Float[Tensor, ""], WeightGradients]:
    encoder, bias, decoder = W_enc.detach().T[dead], b_enc.detach()[dead], W_dec.detach()[dead]
    found = WeightGradients(torch.zeros_like(encoder), torch.zeros_like(bias), torch.zeros_like(decoder))
    total = error.new_zeros(())
    step = max(1, CHUNK_ENTRIES // len(dead))
    for rows, gap in zip(x.split(step), error.split(step), strict=True):
        z = torch.addmm(bias, rows, encoder.T)
        if k < len(dead):
            z.masked_fill_(z < z.topk(k, dim=1).values[:, -1:], 0)
        z.clamp_(min=0)
        gap = torch.addmm(gap, z, decoder, beta=-1)
        total += torch.linalg.vector_norm(gap).square()
        grad_z = (gap @ decoder.T).masked_fill_(z <= 0, 0)
        found.W_dec.addmm_(z.T, gap)
        found.W_enc.addmm_(grad_z.T, rows)
        found.b_enc.add_(grad_z.sum(0))
    scale = error.square().sum().clamp_(min=torch.finfo(error.dtype).tiny)  # an error of exactly 0 is a loss of 0
    for gradient in (found.W_enc, found.b_enc, found.W_dec):
        gradient.mul_(2 / scale)
    return total / scale, found
