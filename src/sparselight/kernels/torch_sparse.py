"""Fast kernels in pure PyTorch: selection by a warm-started threshold, and products with sparse codes by embedding_bag.

Only the k-sparse entries are touched after the encoder product: decoding is a bag of decoder rows a token (CSR), both weight
gradients are a bag of token rows a latent (CSC, so no atomics and the same sum order every time). Beside `pre` nothing of size
[token latent] is made. The slow truth is ref.py.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag

from sparselight.kernels.selection import Selected, Selection

HINT_MARGIN = 0.95  # candidates start this far under the last cutoff: a step moves it by about a percent
SAMPLE_ENTRIES = 1 << 16
CHUNK_ENTRIES = 1 << 20  # of pre scanned at once: the comparison's result stays in cache


def select_batch_topk(pre: Float[Tensor, "token latent"], n_keep: int, hint: float | None = None) -> Selected:
    """The n_keep largest positive entries of the whole matrix, fewer when fewer are positive.

    Exact: candidates are all entries above a floor, which is lowered until there are n_keep of them or it is 0. Among equal
    entries those at the lowest flat position are kept.

    Args:
        hint: a cutoff near the expected one (the last step's); it changes the time taken, never the result.
    """
    floor = _sampled_floor(pre, n_keep) if hint is None else max(0.0, hint * HINT_MARGIN)
    positions = _positions_above(pre, floor)
    while len(positions) < n_keep and floor > 0:
        floor = min(floor / 2, _sampled_floor(pre, 2 * n_keep))
        if floor < 1e-6:
            floor = 0.0
        positions = _positions_above(pre, floor)
    values = pre.view(-1)[positions]
    if len(values) > n_keep:
        keep = _largest(values, n_keep)
        positions, values = positions[keep], values[keep]
    return Selected(Selection.from_flat(positions, *pre.shape), values)


def select_above(pre: Float[Tensor, "token latent"], threshold: Float[Tensor, " latent"]) -> Selected:
    """All positive entries above their latent's threshold."""
    positions = _positions_above(pre, threshold.clamp(min=0))
    return Selected(Selection.from_flat(positions, *pre.shape), pre.view(-1)[positions])


def sparse_encode(
    x: Float[Tensor, "token d_in"], W_enc: Float[Tensor, "d_in latent"], b_enc: Float[Tensor, " latent"], selected: Selected,
) -> Float[Tensor, " entry"]:
    """The selected pre-activations x @ W_enc + b_enc, with their gradients."""
    return _SparseEncode.apply(x, W_enc, b_enc, selected.selection, selected.values)


def sparse_decode(values: Float[Tensor, " entry"], selection: Selection, W_dec: Float[Tensor, "latent d_in"]) -> Float[Tensor, "token d_in"]:
    """x_hat = z @ W_dec for sparse z, with its gradients."""
    return _SparseDecode.apply(values, W_dec, selection)


class _SparseEncode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, W_enc: Tensor, b_enc: Tensor, selection: Selection, values: Tensor) -> Tensor:  # noqa: ARG004
        ctx.save_for_backward(x, W_enc)
        ctx.selection = selection
        return values.view_as(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None, None]:
        x, W_enc = ctx.saved_tensors
        selection: Selection = ctx.selection
        order, bounds = selection.by_latent
        by_latent = grad[order]
        grad_W = _bags(x, selection.tokens[order], bounds, by_latent).T
        grad_b = torch.segment_reduce(by_latent, "sum", offsets=bounds, initial=0)
        grad_x = _bags(W_enc.T, selection.latents, selection.indptr, grad) if ctx.needs_input_grad[0] else None
        return grad_x, grad_W, grad_b, None, None


class _SparseDecode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, W_dec: Tensor, selection: Selection) -> Tensor:
        ctx.save_for_backward(values, W_dec)
        ctx.selection = selection
        return _bags(W_dec, selection.latents, selection.indptr, values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        values, W_dec = ctx.saved_tensors
        selection: Selection = ctx.selection
        grad, grad_values, grad_W = grad.contiguous(), None, None
        if ctx.needs_input_grad[0]:  # the dot products grad[token] . W_dec[latent], none of the gathered rows written out
            grad_values = torch.ops.aten._embedding_bag_per_sample_weights_backward(
                grad, W_dec, selection.latents, selection.indptr[:-1], selection.tokens, 0, -1,
            )
        if ctx.needs_input_grad[1]:
            order, bounds = selection.by_latent
            grad_W = _bags(grad, selection.tokens[order], bounds, values[order])
        return grad_values, grad_W, None


def _bags(rows: Float[Tensor, "row d_in"], indices: Int[Tensor, " entry"], bounds: Int[Tensor, " bag_plus_1"], weights: Float[Tensor, " entry"]) -> Tensor:
    """Weighted sums of rows, one a bag."""
    if not len(rows) or not len(indices):
        return rows.new_zeros(len(bounds) - 1, rows.shape[1])
    return embedding_bag(indices, rows.contiguous(), bounds, mode="sum", per_sample_weights=weights, include_last_offset=True)


def _largest(values: Float[Tensor, " entry"], n_keep: int) -> Int[Tensor, " kept"]:
    """Indices, ascending, of the n_keep largest values; among equal ones the first."""
    if n_keep == 0:
        return torch.empty(0, dtype=torch.int64, device=values.device)
    cut = values.kthvalue(len(values) - n_keep + 1).values
    keep = values > cut
    ties = (values == cut).nonzero()[:, 0]
    keep[ties[: n_keep - int(keep.sum())]] = True
    return keep.nonzero()[:, 0]


def _sampled_floor(pre: Float[Tensor, "token latent"], n_keep: int) -> float:
    """A floor that about 1.5 n_keep entries exceed, judged from evenly spaced ones; never below 0."""
    if not pre.numel():
        return 0.0
    sample = pre.view(-1)[:: max(1, pre.numel() // SAMPLE_ENTRIES)]
    rank = round(1.5 * n_keep * len(sample) / pre.numel()) + 8
    return max(0.0, float(sample.kthvalue(len(sample) - rank + 1).values)) if rank <= len(sample) else 0.0


def _positions_above(pre: Float[Tensor, "token latent"], floor: float | Float[Tensor, " latent"]) -> Int[Tensor, " entry"]:
    """Flat positions, ascending, of the entries above a floor."""
    if pre.device.type != "cpu":
        return (pre > floor).view(-1).nonzero()[:, 0]
    # numpy's scan is several times as fast as torch's on a CPU
    matrix, bound = pre.detach().numpy(), floor.numpy() if isinstance(floor, Tensor) else np.asarray(floor, dtype=pre.detach().numpy().dtype)
    step = max(1, CHUNK_ENTRIES // max(1, matrix.shape[1]))
    parts = [np.flatnonzero(matrix[start : start + step] > bound) + start * matrix.shape[1] for start in range(0, len(matrix), step)]
    return torch.from_numpy(np.concatenate(parts) if parts else np.empty(0, dtype=np.int64))
