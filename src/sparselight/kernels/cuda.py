"""Kernels for GPUs: tensor-core products screen, Triton kernels decide and add up; what each operation means is in ref.py.

Encoding in float32 is exact though its product is in bfloat16: the rounding of both factors, of the sum and of the result bounds how far a
pre-activation can be from its approximation (Cauchy-Schwarz on the row norms), every entry that could be selected is computed again in float32
by one routine, and only those values decide. Where more entries than places are found, places are doubled and the chunk is done again.
Half-precision activations and weights (train.autocast) are taken at their word: their product is not refined.
"""

import importlib.util
import itertools
import os
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparselight.kernels import dead, torch_encode, torch_sparse
from sparselight.kernels.selection import AnySelection, DenseSelection, Selected, Selection, WeightGradients

CHUNK_ENTRIES = 1 << 28
SEGMENT_ENTRIES = 256  # a latent that fires more often is summed in parts, so that no program runs long
MAX_ROW = 1 << 14  # a row of a weight matrix that fits into the registers of a program
ROUNDING = 2.0**-8  # of bfloat16, both factors or the result, with room to spare
Cache = dict[str, Any]
dead_latent_loss = dead.dead_latent_loss
grad_square = torch_sparse.grad_square


def available() -> str | None:
    """Why these kernels cannot run here; None when they can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if not torch.cuda.is_available() and not interpreted():
        return "there is no CUDA device"
    return None


def interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET", "") == "1"


def encode_topk(
    x: Float[Tensor, "token d_in"], W_enc: Float[Tensor, "d_in latent"], b_enc: Float[Tensor, " latent"], k: int, cache: Cache,  # noqa: ARG001
) -> Selected:
    screen = Screen(x, W_enc, b_enc)
    parts = []
    for first, approx in screen.chunks():
        floor = torch_encode.kth_group_maximum(approx.float() + b_enc, k) - screen.largest_error(first, approx)
        rows = screen.refined(first, approx, floor.clamp_(min=0), None)
        kept, which = torch_encode.largest_per_token(rows.values, rows.sparse, k)
        parts.append(_subset(rows.sparse, which, kept))
    return _stacked(parts, len(b_enc), x.device)


def encode_batch_topk(
    x: Float[Tensor, "token d_in"], W_enc: Float[Tensor, "d_in latent"], b_enc: Float[Tensor, " latent"], n_keep: int, cache: Cache,
) -> Selected:
    screen = Screen(x, W_enc, b_enc)
    floor = 0.0
    if len(x):
        sample = (x[:64].float() @ W_enc.float() + b_enc).flatten() if cache.get("cutoff") is None else None
        rank = round(1.5 * n_keep * min(64, len(x)) / len(x)) + 8
        floor = max(0.0, cache["cutoff"] * torch_encode.HINT_MARGIN if sample is None else float(sample.topk(min(rank, len(sample))).values[-1]))
    for tries in itertools.count():
        parts = [screen.refined(first, approx, torch.full((len(approx),), floor, device=x.device), None, floor) for first, approx in screen.chunks()]
        found = _stacked(parts, len(b_enc), x.device)
        if len(found.values) >= n_keep or floor <= 0:
            break
        floor = floor / 2 if tries == 0 else 0.0
    if len(found.values) > n_keep:
        keep = torch_encode.largest(found.values, n_keep)
        found = _subset(found.sparse, keep, found.values[keep])
    cache["cutoff"] = found.cutoff
    return found


def encode_above(
    x: Float[Tensor, "token d_in"], W_enc: Float[Tensor, "d_in latent"], b_enc: Float[Tensor, " latent"], threshold: Float[Tensor, " latent"],
    cache: Cache, allow_dense: bool = False,
) -> Selected:
    if allow_dense and len(x) and torch_encode.share_above(x, W_enc, b_enc, threshold) > torch_encode.DENSE_FRACTION:
        return torch_encode.encode_above(x, W_enc, b_enc, threshold, cache, allow_dense=True)
    screen = Screen(x, W_enc, b_enc)
    parts = []
    for first, approx in screen.chunks():
        rows = screen.refined(first, approx, torch.full((len(approx),), -torch.inf, device=x.device), threshold)
        which = (rows.values > threshold[rows.sparse.latents]).nonzero()[:, 0]
        parts.append(_subset(rows.sparse, which, rows.values[which]))
    return _stacked(parts, len(b_enc), x.device)


class Screen:
    """The encoder's product in bfloat16, chunk by chunk, and the exact values of what it lets through."""

    def __init__(self, x: Tensor, W_enc: Tensor, b_enc: Tensor):
        self.x, self.W, self.b, self.exact = x.contiguous(), W_enc.T.contiguous(), b_enc, x.dtype == torch.float32
        self.low_x, self.low_W = self.x.bfloat16(), self.W.bfloat16().T
        norms = torch.linalg.vector_norm(self.x, dim=1, dtype=torch.float32), torch.linalg.vector_norm(self.W, dim=1, dtype=torch.float32)
        share = 2 * ROUNDING * 1.02 + self.x.shape[1] * 2.0**-23 if self.exact else 0.0
        self.row_error, self.norms = norms[0] * share, norms[1]
        self.n_places = 64

    def chunks(self) -> Any:
        """First token and approximate products of each chunk."""
        step = max(1, CHUNK_ENTRIES // max(1, len(self.b)))
        for first in range(0, len(self.x), step):
            yield first, self.low_x[first : first + step] @ self.low_W

    def largest_error(self, first: int, approx: Float[Tensor, "token latent"]) -> Float[Tensor, " token"]:
        """How far any of a row's approximate products can be from the exact one."""
        if not self.exact:
            return approx.new_zeros(len(approx), dtype=torch.float32)
        return self.row_error[first : first + len(approx)] * self.norms.max() + ROUNDING * approx.abs().amax(1).float()

    def refined(
        self, first: int, approx: Float[Tensor, "token latent"], row_floor: Float[Tensor, " token"], column_floor: Float[Tensor, " latent"] | None,
        above: float | None = None,
    ) -> Selected:
        """All entries that can reach the floors, with their exact values; with `above` only those beyond that number."""
        from sparselight.kernels import triton_ops

        n_tokens, n_latents = approx.shape
        floor = column_floor if column_floor is not None else torch.full_like(self.b, -torch.inf)
        while True:
            latents = torch.empty(n_tokens, self.n_places, dtype=torch.int32, device=approx.device)
            counts = torch.empty(n_tokens, dtype=torch.int32, device=approx.device)
            triton_ops.candidates[(n_tokens,)](
                approx, self.b, self.row_error[first:], self.norms, row_floor.float(), floor, latents, counts, n_latents, self.n_places,
                rounding=ROUNDING if self.exact else 0.0, BLOCK=min(4096, triton_power(n_latents)))
            most = int(counts.max())
            if most <= self.n_places:
                break
            self.n_places = min(n_latents, triton_power(most))
        inside = torch.arange(self.n_places, device=approx.device) < counts.unsqueeze(1)
        selection = Selection(latents[inside], torch.cat([counts.new_zeros(1), counts.cumsum(0)]).long(), n_latents)
        if self.exact:
            values = entry_dots(self.x[first : first + n_tokens], self.W, selection, self.b)
        else:
            values = approx[selection.tokens, selection.latents].float() + self.b[selection.latents]
        if above is None:
            return Selected(selection, values)
        which = (values > above).nonzero()[:, 0]
        return _subset(selection, which, values[which])


def entry_dots(
    left: Float[Tensor, "*group token d"], right: Float[Tensor, "latent d"], selection: Selection, bias: Float[Tensor, " latent"] | None = None,
    group: Int[Tensor, " entry"] | None = None,
) -> Float[Tensor, " entry"]:
    """left[token] . right[latent] at every entry, in float32; the order of sums depends on the width only."""
    from sparselight.kernels import triton_ops

    d = right.shape[1]
    out = torch.empty(len(selection.latents), dtype=torch.float32, device=right.device)
    if len(out):
        triton_ops.entry_dots[(selection.n_tokens,)](
            left.contiguous(), right.contiguous(), right if bias is None else bias, selection.latents, selection.indptr, out if group is None else group, out,
            selection.n_tokens, d, HAS_BIAS=bias is not None, HAS_GROUP=group is not None, ENTRIES=16, BLOCK=min(256, triton_power(d)))
    return out


def decode(
    values: Float[Tensor, " entry"], selection: AnySelection, W_dec: Float[Tensor, "latent d_out"], ends: Sequence[int],
) -> Float[Tensor, "group token d_out"]:
    if isinstance(selection, DenseSelection):
        return torch_sparse.decode(values, selection, W_dec, ends)
    from sparselight.kernels import triton_ops

    d = W_dec.shape[1]
    out = torch.zeros(len(ends), selection.n_tokens, d, dtype=torch.float32, device=W_dec.device)
    if selection.n_tokens:
        block = min(1024, triton_power(d))
        triton_ops.decode[(selection.n_tokens, -(-d // block))](
            values.detach().contiguous(), selection.latents, _edges(selection, ends), W_dec.contiguous(), out, selection.n_tokens, d,
            GROUPS=len(ends), BLOCK=block)
    return out


def decode_gradient(
    grad: Float[Tensor, "group token d_out"], selection: AnySelection, W_dec: Float[Tensor, "latent d_out"], ends: Sequence[int],
) -> Float[Tensor, " entry"]:
    if isinstance(selection, DenseSelection):
        return torch_sparse.decode_gradient(grad, selection, W_dec, ends)
    return entry_dots(torch_sparse.suffix_sums(grad), W_dec, selection, group=_group_of(selection, ends))


def weight_gradients(
    x: Float[Tensor, "token d_in"], grad_x_hat: Float[Tensor, "group token d_out"], values: Float[Tensor, " entry"], grad_pre: Float[Tensor, " entry"],
    selection: AnySelection, ends: Sequence[int], into: WeightGradients,
) -> None:
    if isinstance(selection, DenseSelection):
        torch_sparse.weight_gradients(x, grad_x_hat, values, grad_pre, selection, ends, into)
        return
    order, bounds = selection.by_latent
    tokens, group = selection.tokens[order], _group_of(selection, ends)
    _segment_sums(x, tokens, grad_pre[order], None, bounds, into.W_enc, into.fresh)
    _segment_sums(torch_sparse.suffix_sums(grad_x_hat), tokens, values.detach()[order], None if group is None else group[order], bounds, into.W_dec, into.fresh)
    b_enc = torch.segment_reduce(grad_pre[order], "sum", offsets=bounds, initial=0)
    into.b_enc.copy_(b_enc if into.fresh else into.b_enc + b_enc)


def nearest_in_chunk(rows: Float[Tensor, "latent d_out"], order: Int[Tensor, " latent"], chunk: int) -> Int[Tensor, " latent"]:
    """Cosines in bfloat16 screen; those within twice the error bound of a row's largest are computed again."""
    partner = torch.arange(len(rows), device=rows.device)
    for members in order.split(chunk):
        if len(members) == 1:
            continue
        chosen = rows[members].contiguous()
        screen = Screen(chosen, chosen.T, chosen.new_zeros(len(chosen)))
        for first, approx in screen.chunks():
            approx.diagonal(first).fill_(-4)  # below every cosine
            found = screen.refined(first, approx, approx.amax(1).float() - screen.row_error[first : first + len(approx)] - 2 * ROUNDING, None)
            best, which = torch_encode.largest_per_token(found.values + 4, found.sparse, 1)  # shifted: only positive values are picked
            assert len(best) == len(approx)
            partner[members[first : first + len(approx)]] = members[found.sparse.latents[which].long()]
    return partner


def adam_step(
    param: Float[Tensor, "..."], grad: Float[Tensor, "..."], exp_avg: Float[Tensor, "..."], exp_avg_sq: Float[Tensor, "..."], *, lr: float,
    betas: tuple[float, float], eps: float, weight_decay: float, step: int, grad_scale: float, unit_rows: bool, cache: Cache | None = None,
) -> None:
    if param.ndim != 2 or param.shape[1] > MAX_ROW:
        torch_sparse.adam_step(param, grad, exp_avg, exp_avg_sq, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, step=step, grad_scale=grad_scale,
                               unit_rows=unit_rows, cache=cache)
        return
    from sparselight.kernels import triton_ops

    block = triton_power(param.shape[1])
    triton_ops.adam_rows[(len(param),)](
        param, grad, exp_avg, exp_avg_sq, param.shape[1], lr, betas[0], betas[1], eps, weight_decay, 1 - betas[0] ** step, 1 - betas[1] ** step, grad_scale,
        torch.finfo(param.dtype).tiny, UNIT=unit_rows, BLOCK=block, num_warps=8 if block >= 2048 else 4)


def triton_power(n: int) -> int:
    """The least power of two that is not below n."""
    return 1 << max(0, n - 1).bit_length()


def _segment_sums(
    rows: Float[Tensor, "*group token d"], tokens: Int[Tensor, " entry"], weights: Float[Tensor, " entry"], group: Int[Tensor, " entry"] | None,
    bounds: Int[Tensor, " latent_plus_1"], out: Float[Tensor, "latent d"], fresh: bool,
) -> None:
    """Weighted sums of rows, one a latent; latents with many entries in parts that are added up in order."""
    parts = ((bounds.diff() + SEGMENT_ENTRIES - 1) // SEGMENT_ENTRIES).clamp_(min=1)
    latent = torch.repeat_interleave(torch.arange(len(parts), device=out.device), parts)
    number = torch.arange(len(latent), device=out.device) - (parts.cumsum(0) - parts)[latent]
    start = bounds[latent] + number * SEGMENT_ENTRIES
    end = torch.minimum(start + SEGMENT_ENTRIES, bounds[latent + 1])
    single = parts[latent] == 1
    _launch(rows, tokens, weights, group, start[single], end[single], latent[single], out, not fresh)
    if bool(single.all()):
        return
    scratch = torch.empty(int((~single).sum()), out.shape[1], dtype=torch.float32, device=out.device)
    _launch(rows, tokens, weights, group, start[~single], end[~single], torch.arange(len(scratch), device=out.device), scratch, False)
    long = (parts > 1).nonzero()[:, 0]
    edge = torch.cat([long.new_zeros(1), parts[long].cumsum(0)])
    pieces = torch.arange(len(scratch), device=out.device)
    _launch(scratch, pieces, scratch.new_ones(len(scratch)), None, edge[:-1], edge[1:], long, out, not fresh)


def _launch(rows: Tensor, tokens: Tensor, weights: Tensor, group: Tensor | None, start: Tensor, end: Tensor, place: Tensor, out: Tensor, add: bool) -> None:
    from sparselight.kernels import triton_ops

    if not len(start):
        return
    d = out.shape[1]
    block = min(1024, triton_power(d))
    n_tokens = rows.shape[-2]
    triton_ops.segment_sums[(len(start), -(-d // block))](
        rows.contiguous(), tokens, weights.contiguous(), tokens if group is None else group, start.contiguous(), end.contiguous(), place.contiguous(), out,
        n_tokens, d, HAS_GROUP=group is not None, ADD=add, BLOCK=block)


def _group_of(selection: Selection, ends: Sequence[int]) -> Int[Tensor, " entry"] | None:
    """The first nested group that holds each entry; None where there is only one."""
    if len(ends) == 1:
        return None
    return torch.bucketize(selection.latents, torch.tensor(ends, dtype=torch.int32, device=selection.latents.device), right=True)


def _edges(selection: Selection, ends: Sequence[int]) -> Int[Tensor, "token group_plus_1"]:
    """Where each nested group's new entries begin in each token."""
    if len(ends) == 1:
        return torch.stack([selection.indptr[:-1], selection.indptr[1:]], 1).contiguous()
    keys = selection.tokens * selection.n_latents + selection.latents
    borders = torch.tensor([0, *ends], device=keys.device) + torch.arange(selection.n_tokens, device=keys.device).unsqueeze(1) * selection.n_latents
    return torch.searchsorted(keys, borders)


def _subset(selection: Selection, which: Int[Tensor, " kept"], values: Float[Tensor, " kept"]) -> Selected:
    counts = torch.bincount(selection.tokens[which], minlength=selection.n_tokens)
    return Selected(Selection(selection.latents[which], torch.cat([counts.new_zeros(1), counts.cumsum(0)]), selection.n_latents), values)


def _stacked(parts: Sequence[Selected], n_latents: int, device: torch.device) -> Selected:
    """Selections of consecutive tokens as one."""
    if not parts:
        nothing = torch.empty(0, dtype=torch.int32, device=device)
        return Selected(Selection(nothing, torch.zeros(1, dtype=torch.int64, device=device), n_latents), torch.empty(0, device=device))
    selections = [part.sparse for part in parts]
    counts = torch.cat([selection.indptr.diff() for selection in selections])
    indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return Selected(Selection(torch.cat([selection.latents for selection in selections]), indptr, n_latents), torch.cat([part.values for part in parts]))
