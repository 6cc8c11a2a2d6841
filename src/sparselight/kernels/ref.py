"""The slow truth: every kernel as plain dense PyTorch, in the fewest words; gradients by autograd.

Tests compare the fast paths with these. They materialize [token latent] as often as they like. What each operation means is said here.
`W_enc` has shape [d_in, latent] and lies latent by latent in memory. `cache` belongs to the caller, one a weight matrix: backends keep in
it what makes the next call fast; it never changes a result.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparselight.kernels.selection import AnySelection, DenseSelection, Selected, Selection, WeightGradients

Cache = dict[str, Any]


def encode_topk(
    x: Float[Tensor, "token d_in"], W_enc: Float[Tensor, "d_in latent"], b_enc: Float[Tensor, " latent"], k: int, cache: Cache,  # noqa: ARG001
) -> Selected:
    """Each token's k largest positive pre-activations, fewer when fewer are positive; among equal ones those of the lowest latents."""
    pre = _pre(x, W_enc, b_enc)
    keep = torch.zeros_like(pre, dtype=torch.bool)
    keep.scatter_(1, pre.sort(dim=1, descending=True, stable=True).indices[:, :k], True)
    return _selected(pre, keep & (pre > 0))


def encode_batch_topk(
    x: Float[Tensor, "token d_in"], W_enc: Float[Tensor, "d_in latent"], b_enc: Float[Tensor, " latent"], n_keep: int, cache: Cache,  # noqa: ARG001
) -> Selected:
    """The n_keep largest positive pre-activations of the whole batch; among equal ones those at the lowest flat position."""
    pre = _pre(x, W_enc, b_enc)
    keep = torch.zeros_like(pre, dtype=torch.bool)
    keep.view(-1)[pre.flatten().sort(descending=True, stable=True).indices[:n_keep]] = True
    return _selected(pre, keep & (pre > 0))


def encode_above(
    x: Float[Tensor, "token d_in"], W_enc: Float[Tensor, "d_in latent"], b_enc: Float[Tensor, " latent"], threshold: Float[Tensor, " latent"],
    cache: Cache, allow_dense: bool = False,  # noqa: ARG001
) -> Selected:
    """All pre-activations above their latent's threshold, which may be any number.

    Args:
        allow_dense: where many pass, a backend may answer with all entries (DenseSelection) instead.
    """
    pre = _pre(x, W_enc, b_enc)
    return _selected(pre, pre > threshold)


def decode(
    values: Float[Tensor, " entry"], selection: AnySelection, W_dec: Float[Tensor, "latent d_out"], ends: Sequence[int],
) -> Float[Tensor, "group token d_out"]:
    """Group g is z @ W_dec over the latents below ends[g]; ends ascend to n_latents. An SAE without nested groups has one."""
    z = _dense(values, selection)
    return torch.stack([z[:, :end] @ W_dec[:end] for end in ends])


@torch.enable_grad()
def decode_gradient(
    grad: Float[Tensor, "group token d_out"], selection: AnySelection, W_dec: Float[Tensor, "latent d_out"], ends: Sequence[int],
) -> Float[Tensor, " entry"]:
    """Gradient of decode in its values."""
    z = W_dec.new_zeros(selection.n_tokens, selection.n_latents, requires_grad=True)
    whole = DenseSelection(*z.shape)
    (grad_z,) = torch.autograd.grad(decode(z, whole, W_dec.detach(), ends), z, grad)
    return grad_z if isinstance(selection, DenseSelection) else grad_z[selection.tokens, selection.latents]


@torch.enable_grad()
def weight_gradients(
    x: Float[Tensor, "token d_in"], grad_x_hat: Float[Tensor, "group token d_out"], values: Float[Tensor, " entry"], grad_pre: Float[Tensor, " entry"],
    selection: AnySelection, ends: Sequence[int], into: WeightGradients,
) -> None:
    """Gradients in the weights: of encoding, given the gradient in its pre-activations, and of decode in W_dec; added to `into`."""
    dense = _dense(grad_pre, selection)
    W_dec = torch.zeros_like(into.W_dec, requires_grad=True)
    (grad_W_dec,) = torch.autograd.grad(decode(values.detach(), selection, W_dec, ends), W_dec, grad_x_hat)
    for buffer, grad in ((into.W_enc, dense.T @ x), (into.b_enc, dense.sum(0)), (into.W_dec, grad_W_dec)):
        buffer.copy_(grad if into.fresh else buffer + grad)


def dead_latent_loss(
    x: Float[Tensor, "token d_in"], W_enc: Float[Tensor, "d_in latent"], b_enc: Float[Tensor, " latent"], W_dec: Float[Tensor, "latent d_out"],
    error: Float[Tensor, "token d_out"], dead: Int[Tensor, " dead"], k: int,
) -> tuple[Float[Tensor, ""], WeightGradients]:
    """sum ||e - e_hat||^2 / sum ||e||^2, e_hat decoded without bias from each token's k largest positive dead latents.

    Returns:
        The loss, and its gradients in the dead latents' weights ([dead d_in], [dead], [dead d_out]); `x` and `error` are constants.
    """
    with torch.enable_grad():
        weights = [tensor.detach().requires_grad_() for tensor in (W_enc.T[dead], b_enc[dead], W_dec[dead])]
        pre = x @ weights[0].T + weights[1]
        if k < len(dead):
            pre = pre * (pre >= pre.topk(k, dim=1).values[:, -1:])
        loss = (error - pre.relu() @ weights[2]).square().sum() / error.square().sum().clamp(min=torch.finfo(error.dtype).tiny)
        W_enc, b_enc, W_dec = torch.autograd.grad(loss, weights)
        return loss.detach(), WeightGradients(W_enc, b_enc, W_dec)


def nearest_in_chunk(rows: Float[Tensor, "latent d_out"], order: Int[Tensor, " latent"], chunk: int) -> Int[Tensor, " latent"]:
    """For each row of unit norm the other row of its chunk with the largest cosine; chunks are runs of `order`, the last may be shorter.

    The only row of a chunk has itself.
    """
    partner = torch.arange(len(rows), device=rows.device)
    for members in order.split(chunk):
        if len(members) > 1:
            cosines = rows[members] @ rows[members].T
            partner[members] = members[cosines.fill_diagonal_(-torch.inf).argmax(1)]
    return partner


def adam_step(
    param: Float[Tensor, "..."], grad: Float[Tensor, "..."], exp_avg: Float[Tensor, "..."], exp_avg_sq: Float[Tensor, "..."], *, lr: float,
    betas: tuple[float, float], eps: float, weight_decay: float, step: int, grad_scale: float, unit_rows: bool, cache: Cache | None = None,  # noqa: ARG001
) -> None:
    """One step of Adam (Kingma and Ba 2015) with decoupled weight decay (AdamW), in place; `step` counts from 1; `grad` may be overwritten.

    Args:
        grad_scale: the gradient is multiplied by it.
        unit_rows: rows of `param` have norm 1: the gradient first loses its part along the row, and the row is normalized afterwards.
    """
    grad = _without_parallel(param, grad) * grad_scale if unit_rows else grad * grad_scale
    exp_avg.copy_(betas[0] * exp_avg + (1 - betas[0]) * grad)
    exp_avg_sq.copy_(betas[1] * exp_avg_sq + (1 - betas[1]) * grad.square())
    moment, scale = exp_avg / (1 - betas[0] ** step), (exp_avg_sq / (1 - betas[1] ** step)).sqrt()
    param.copy_(param * (1 - lr * weight_decay) - lr * moment / (scale + eps))
    if unit_rows:
        param.div_(torch.linalg.vector_norm(param, dim=1, keepdim=True).clamp(min=torch.finfo(param.dtype).tiny))


def grad_square(param: Float[Tensor, "..."], grad: Float[Tensor, "..."], unit_rows: bool) -> float:
    """The gradient's squared norm, after its part along each row is removed where rows have unit norm."""
    return float((_without_parallel(param, grad) if unit_rows else grad).double().square().sum())


def _without_parallel(param: Float[Tensor, "latent d"], grad: Float[Tensor, "latent d"]) -> Float[Tensor, "latent d"]:
    return grad - (grad * param).sum(1, keepdim=True) * param


def _pre(x: Tensor, W_enc: Tensor, b_enc: Tensor) -> Float[Tensor, "token latent"]:
    return (x @ W_enc + b_enc).detach()


def _dense(values: Tensor, selection: AnySelection) -> Float[Tensor, "token latent"]:
    if isinstance(selection, DenseSelection):
        return values
    return values.new_zeros(selection.n_tokens, selection.n_latents).index_put((selection.tokens, selection.latents.long()), values)


def _selected(pre: Float[Tensor, "token latent"], keep: Bool[Tensor, "token latent"]) -> Selected:
    positions = keep.flatten().nonzero()[:, 0]
    return Selected(Selection.from_flat(positions, *pre.shape), pre.flatten()[positions])
