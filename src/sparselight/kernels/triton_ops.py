"""Triton kernels for GPUs; cuda.py says what they add up to. One program a token, a latent or a row, sums in a fixed order, no atomics.

They also run under Triton's interpreter on a CPU (TRITON_INTERPRET=1), slowly: so the tests reach them without a GPU.
"""

# mypy: disable-error-code="no-untyped-def"
import triton
import triton.language as tl


@triton.jit
def candidates(
    approx, bias, row_error, column_norm, row_floor, column_floor, latents, counts, n_latents, n_places,
    rounding: tl.constexpr, BLOCK: tl.constexpr,
):
    """Latents, ascending, whose largest possible pre-activation reaches the floor of their row and of their column.

    At most n_places of a row are written; all are counted.
    """
    row = tl.program_id(0).to(tl.int64)
    error, floor = tl.load(row_error + row), tl.load(row_floor + row)
    n_found = 0
    for first in range(0, n_latents, BLOCK):
        column = first + tl.arange(0, BLOCK)
        inside = column < n_latents
        value = tl.load(approx + row * n_latents + column, mask=inside, other=0.0).to(tl.float32)
        b = tl.load(bias + column, mask=inside, other=0.0)
        largest = value + b + tl.abs(value) * rounding + tl.abs(b) * 1e-6 + error * tl.load(column_norm + column, mask=inside, other=0.0)
        bound = tl.maximum(tl.load(column_floor + column, mask=inside, other=0.0), floor)
        keep = inside & (largest >= bound)
        place = n_found + tl.cumsum(keep.to(tl.int32), 0) - 1
        tl.store(latents + row * n_places + place, column, mask=keep & (place < n_places))
        n_found += tl.sum(keep.to(tl.int32), 0)
    tl.store(counts + row, n_found)


@triton.jit
def entry_dots(
    left, right, bias, latents, indptr, group, out, n_tokens, d,
    HAS_BIAS: tl.constexpr, HAS_GROUP: tl.constexpr, ENTRIES: tl.constexpr, BLOCK: tl.constexpr,
):
    """left[group of the entry, token] . right[latent] (+ bias[latent]) for every entry."""
    token = tl.program_id(0).to(tl.int64)
    start, end = tl.load(indptr + token), tl.load(indptr + token + 1)
    for first in range(start, end, ENTRIES):
        entry = first + tl.arange(0, ENTRIES)
        inside = entry < end
        latent = tl.load(latents + entry, mask=inside, other=0).to(tl.int64)
        left_row = token + tl.zeros([ENTRIES], tl.int64)
        if HAS_GROUP:
            left_row += tl.load(group + entry, mask=inside, other=0).to(tl.int64) * n_tokens
        total = tl.zeros([ENTRIES], tl.float32)
        for begin in range(0, d, BLOCK):
            column = begin + tl.arange(0, BLOCK)
            here = inside[:, None] & (column < d)[None, :]
            a = tl.load(left + left_row[:, None] * d + column[None, :], mask=here, other=0.0).to(tl.float32)
            b = tl.load(right + latent[:, None] * d + column[None, :], mask=here, other=0.0).to(tl.float32)
            total += tl.sum(a * b, 1)
        if HAS_BIAS:
            total += tl.load(bias + latent, mask=inside, other=0.0)
        tl.store(out + entry, total, mask=inside)


@triton.jit
def decode(values, latents, edges, W_dec, out, n_tokens, d, GROUPS: tl.constexpr, BLOCK: tl.constexpr):
    """Running sums of value * W_dec[latent] over a token's entries, written at the end of each nested group; edges [token group+1]."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < d
    total = tl.zeros([BLOCK], tl.float32)
    for group in tl.static_range(GROUPS):
        start = tl.load(edges + token * (GROUPS + 1) + group)
        end = tl.load(edges + token * (GROUPS + 1) + group + 1)
        for entry in range(start, end):
            latent = tl.load(latents + entry).to(tl.int64)
            total += tl.load(values + entry) * tl.load(W_dec + latent * d + column, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + (group * n_tokens + token) * d + column, total, mask=inside)


@triton.jit
def segment_sums(
    rows, tokens, weights, group, segment_start, segment_end, segment_row, out, n_tokens, d, HAS_GROUP: tl.constexpr, ADD: tl.constexpr, BLOCK: tl.constexpr,
):
    """out[segment_row] = (or +=) the sum over the segment's entries of weight * rows[group of the entry, token]."""
    segment = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < d
    start, end = tl.load(segment_start + segment), tl.load(segment_end + segment)
    place = out + tl.load(segment_row + segment) * d + column
    total = tl.zeros([BLOCK], tl.float32)
    if ADD:
        total += tl.load(place, mask=inside, other=0.0)
    for entry in range(start, end):
        row = tl.load(tokens + entry).to(tl.int64)
        if HAS_GROUP:
            row += tl.load(group + entry).to(tl.int64) * n_tokens
        total += tl.load(weights + entry) * tl.load(rows + row * d + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(place, total, mask=inside)


@triton.jit
def adam_rows(
    param, grad, exp_avg, exp_avg_sq, d, lr, beta1, beta2, eps, decay, correction1, correction2, scale, tiny, UNIT: tl.constexpr, BLOCK: tl.constexpr,
):
    """One step of Adam on one row, which lies in registers; formulas in ref.adam_step."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < d
    place = row * d + column
    w = tl.load(param + place, mask=inside, other=0.0)
    g = tl.load(grad + place, mask=inside, other=0.0)
    if UNIT:
        g -= tl.sum(g * w, 0) * w
    g *= scale
    m = beta1 * tl.load(exp_avg + place, mask=inside, other=0.0) + (1 - beta1) * g
    v = beta2 * tl.load(exp_avg_sq + place, mask=inside, other=0.0) + (1 - beta2) * g * g
    w = w * (1 - lr * decay) - lr * (m / correction1) / (tl.sqrt(v / correction2) + eps)
    if UNIT:
        w /= tl.maximum(tl.sqrt(tl.sum(w * w, 0)), tiny)
    tl.store(exp_avg + place, m, mask=inside)
    tl.store(exp_avg_sq + place, v, mask=inside)
    tl.store(param + place, w, mask=inside)
