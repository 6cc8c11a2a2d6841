"""The dead latents' loss (AuxK) with its gradients, in token chunks, so that no [token dead] matrix is ever whole.

The loss is one number, so its gradients are known while it is computed: one pass makes both. The slow truth is ref.dead_latent_loss.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_ENTRIES = 1 << 20


def dead_latent_loss(
    x: Float[Tensor, "token d_in"], W_enc: Float[Tensor, "d_in latent"], b_enc: Float[Tensor, " latent"], W_dec: Float[Tensor, "latent d_in"],
    pre: Float[Tensor, "token latent"], error: Float[Tensor, "token d_in"], dead: Int[Tensor, " dead"], k: int,
) -> Float[Tensor, ""]:
    """sum ||e - e_hat||^2 / sum ||e||^2, e_hat decoded without bias from each token's k largest positive dead latents.

    The gradient goes to the dead columns of W_enc and b_enc and the dead rows of W_dec; `x` and `error` are taken as constants.

    Args:
        pre: x @ W_enc + b_enc.
    """
    return _DeadLatentLoss.apply(W_enc, b_enc, W_dec, x.detach(), pre.detach(), error.detach(), dead, k)


class _DeadLatentLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, W_enc: Tensor, b_enc: Tensor, W_dec: Tensor, x: Tensor, pre: Tensor, error: Tensor, dead: Tensor, k: int,  # noqa: ARG004
    ) -> Tensor:
        decoder = W_dec[dead]
        grad_decoder, grad_encoder, grad_bias = torch.zeros_like(decoder), torch.zeros_like(decoder), decoder.new_zeros(len(dead))
        total = error.new_zeros(())
        for span in torch.arange(len(x), device=x.device).split(max(1, CHUNK_ENTRIES // len(dead))):
            rows = slice(int(span[0]), int(span[-1]) + 1)
            z = pre[rows].index_select(1, dead)
            if k < len(dead):
                z.masked_fill_(z < z.topk(k, dim=1).values[:, -1:], 0)
            z.clamp_(min=0)
            gap = z @ decoder - error[rows]
            total += gap.square().sum()
            grad_z = (gap @ decoder.T).masked_fill_(z <= 0, 0)
            grad_decoder.addmm_(z.T, gap)
            grad_encoder.addmm_(grad_z.T, x[rows])
            grad_bias += grad_z.sum(0)
        scale = error.square().sum().clamp_(min=torch.finfo(error.dtype).tiny)  # an error of exactly 0 is a loss of 0
        ctx.save_for_backward(dead, scale, grad_encoder, grad_bias, grad_decoder)
        ctx.n_latents = len(b_enc)
        return total / scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        dead, scale, *parts = ctx.saved_tensors
        grad_W_enc, grad_b_enc, grad_W_dec = (
            part.new_zeros(ctx.n_latents, *part.shape[1:]).index_copy_(0, dead, part * (2 * grad / scale)) for part in parts
        )
        return grad_W_enc.T, grad_b_enc, grad_W_dec, None, None, None, None, None
