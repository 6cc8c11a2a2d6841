"""Products with sparse codes, their gradients and the optimizer in pure PyTorch; the slow truth is ref.py.

Decoding is a bag of decoder rows a token (CSR), a weight gradient a bag of token rows a latent (CSC, so no atomics and the same order of
sums every time). Nothing of size [token latent] is made, but for an SAE that is not sparse yet (DenseSelection): then plain products.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag
from torch.optim.adamw import adamw

from sparselight.kernels.selection import AnySelection, DenseSelection, Selection, WeightGradients

ROWS_AT_ONCE = 1 << 22  # elements of the gathered decoder rows held at once


def decode(
    values: Float[Tensor, " entry"], selection: AnySelection, W_dec: Float[Tensor, "latent d_out"], ends: Sequence[int],
) -> Float[Tensor, "group token d_out"]:
    values = values.detach()
    if isinstance(selection, DenseSelection):
        starts = [0, *ends[:-1]]
        return torch.stack([values[:, start:end] @ W_dec[start:end] for start, end in zip(starts, ends, strict=True)]).cumsum_(0)
    x_hats = W_dec.new_empty(len(ends), selection.n_tokens, W_dec.shape[1])
    for group, x_hat in zip(groups(selection, ends), x_hats, strict=True):
        weights = values if group is None else values * group
        x_hat.copy_(_bags(W_dec, selection.latents.long(), selection.indptr, weights))
    return x_hats.cumsum_(0) if len(ends) > 1 else x_hats


def decode_gradient(
    grad: Float[Tensor, "group token d_out"], selection: AnySelection, W_dec: Float[Tensor, "latent d_out"], ends: Sequence[int],
) -> Float[Tensor, " entry"]:
    later = suffix_sums(grad)
    if isinstance(selection, DenseSelection):
        starts = [0, *ends[:-1]]
        return torch.cat([part @ W_dec[start:end].T for part, start, end in zip(later, starts, ends, strict=True)], 1)
    found = W_dec.new_zeros(len(selection.latents))
    for group, part in zip(groups(selection, ends), later, strict=True):
        dots = _row_dots(part.contiguous(), W_dec, selection)
        found += dots if group is None else dots * group
    return found


def weight_gradients(
    x: Float[Tensor, "token d_in"], grad_x_hat: Float[Tensor, "group token d_out"], values: Float[Tensor, " entry"], grad_pre: Float[Tensor, " entry"],
    selection: AnySelection, ends: Sequence[int], into: WeightGradients,
) -> None:
    values, later = values.detach(), suffix_sums(grad_x_hat)
    if isinstance(selection, DenseSelection):
        starts = [0, *ends[:-1]]
        W_dec = torch.cat([values[:, start:end].T @ part for part, start, end in zip(later, starts, ends, strict=True)])
        _give(into, grad_pre.T @ x, grad_pre.sum(0), W_dec)
        return
    order, bounds = selection.by_latent
    tokens, by_latent = selection.tokens[order], grad_pre[order]
    W_dec = torch.zeros_like(into.W_dec)
    for group, part in zip(groups(selection, ends), later, strict=True):
        W_dec += _bags(part, tokens, bounds, (values if group is None else values * group)[order])
    _give(into, _bags(x, tokens, bounds, by_latent), torch.segment_reduce(by_latent, "sum", offsets=bounds, initial=0), W_dec)


def nearest_in_chunk(rows: Float[Tensor, "latent d_out"], order: Int[Tensor, " latent"], chunk: int) -> Int[Tensor, " latent"]:
    partner = torch.arange(len(rows), device=rows.device)
    for members in order.split(chunk):
        if len(members) == 1:
            continue
        chosen = rows[members]
        step = max(1, ROWS_AT_ONCE // len(members))
        for first in range(0, len(members), step):
            cosines = chosen[first : first + step] @ chosen.T
            cosines.diagonal(first).fill_(-torch.inf)
            partner[members[first : first + step]] = members[cosines.argmax(1)]
    return partner


def adam_step(
    param: Float[Tensor, "..."], grad: Float[Tensor, "..."], exp_avg: Float[Tensor, "..."], exp_avg_sq: Float[Tensor, "..."], *, lr: float,
    betas: tuple[float, float], eps: float, weight_decay: float, step: int, grad_scale: float, unit_rows: bool, cache: dict[str, Any] | None = None,  # noqa: ARG001
) -> None:
    if unit_rows:
        grad = grad.addcmul(torch.linalg.vecdot(grad, param).unsqueeze(1), param, value=-1)
    before = torch.tensor(float(step - 1), device=param.device)
    adamw([param], [grad], [exp_avg], [exp_avg_sq], [], [before], fused=True, amsgrad=False, beta1=betas[0], beta2=betas[1], lr=lr,
          weight_decay=weight_decay, eps=eps, maximize=False, grad_scale=torch.tensor(1 / grad_scale, device=param.device))
    if unit_rows:
        param.div_(torch.linalg.vector_norm(param, dim=1, keepdim=True).clamp_(min=torch.finfo(param.dtype).tiny))


def grad_square(param: Float[Tensor, "..."], grad: Float[Tensor, "..."], unit_rows: bool) -> float:
    if not unit_rows:
        return float(torch.linalg.vector_norm(grad, dtype=torch.float64).square())
    squares = torch.linalg.vector_norm(grad, dim=1, dtype=torch.float64).square()
    along, length = torch.linalg.vecdot(grad, param).double(), torch.linalg.vecdot(param, param).double()
    return max(0.0, float((squares - along.square() * (2 - length)).sum()))  # ||g - (g.w) w||^2, for any ||w||


def groups(selection: Selection, ends: Sequence[int]) -> list[Float[Tensor, " entry"] | None]:
    """For each nested group 1 where an entry's latent is new in it, else 0; None for the only group, which holds all."""
    if len(ends) == 1:
        return [None]
    group = torch.bucketize(selection.latents, torch.tensor(ends, device=selection.latents.device, dtype=torch.int32), right=True)
    return [(group == n).float() for n in range(len(ends))]


def suffix_sums(grad: Float[Tensor, "group token d_out"]) -> Float[Tensor, "group token d_out"]:
    """What a latent that is new in a group adds to it and to all later ones."""
    return grad if len(grad) == 1 else grad.flip(0).cumsum(0).flip(0)


def _row_dots(left: Float[Tensor, "token d_out"], W_dec: Float[Tensor, "latent d_out"], selection: Selection) -> Float[Tensor, " entry"]:
    """left[token] . W_dec[latent] at every entry."""
    if left.device.type == "cpu" and left.dtype == torch.float32 and len(selection.latents):  # none of the gathered rows is written out
        return torch.ops.aten._embedding_bag_per_sample_weights_backward(
            left, W_dec, selection.latents.long(), selection.indptr[:-1], selection.tokens, 0, -1)
    step = max(1, ROWS_AT_ONCE // left.shape[1])
    pairs = zip(selection.tokens.split(step), selection.latents.split(step), strict=True)
    return torch.cat([left.new_zeros(0), *(torch.linalg.vecdot(left[tokens], W_dec[latents]) for tokens, latents in pairs)])


def _bags(rows: Float[Tensor, "row d"], indices: Int[Tensor, " entry"], bounds: Int[Tensor, " bag_plus_1"], weights: Float[Tensor, " entry"]) -> Tensor:
    """Weighted sums of rows, one a bag."""
    if not len(rows) or not len(indices):
        return rows.new_zeros(len(bounds) - 1, rows.shape[1])
    return embedding_bag(indices, rows.contiguous(), bounds, mode="sum", per_sample_weights=weights.to(rows.dtype), include_last_offset=True)


def _give(into: WeightGradients, W_enc: Tensor, b_enc: Tensor, W_dec: Tensor) -> None:
    for buffer, grad in ((into.W_enc, W_enc), (into.b_enc, b_enc), (into.W_dec, W_dec)):
        buffer.copy_(grad) if into.fresh else buffer.add_(grad)
