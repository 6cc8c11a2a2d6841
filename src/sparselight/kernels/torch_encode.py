"""Encoding in pure PyTorch: the encoder's product in chunks of tokens, of which only the entries that may be selected are kept.

Exact: candidates are all entries above a floor that is proven, or lowered until enough are found. A floor predicted from the last call
(kept in the cache) saves time and changes no result. No [token latent] matrix is ever whole. The meaning of each is in ref.py.
Activations and weights may be half precision: the product is then computed in it, and what is selected is float32.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparselight.kernels.selection import DenseSelection, Selected, Selection

HINT_MARGIN = 0.95  # candidates start this far under the last cutoff: a step moves it by about a percent
SAMPLE_ENTRIES = 1 << 16
CHUNK_ENTRIES = {"cpu": 1 << 22, "cuda": 1 << 28}  # of the product held at once
SCAN_ENTRIES = 1 << 20  # compared at once on a CPU: the result stays in cache
DENSE_FRACTION = 0.06  # above this share of active entries plain matrix products are faster than sparse ones
Cache = dict[str, Any]


def encode_topk(x: Float[Tensor, "token d_in"], W_enc: Float[Tensor, "d_in latent"], b_enc: Float[Tensor, " latent"], k: int, cache: Cache) -> Selected:
    """A token's floor is the k-th largest of the maxima of disjoint groups of latents: at least k entries reach it."""
    values, latents, counts = [], [], []
    for _, pre in products(x, W_enc, b_enc, cache):
        floor = kth_group_maximum(pre, k).clamp_(min=0)
        found = _positions(pre, floor.unsqueeze(1), strict=False)
        candidates = Selection.from_flat(found, *pre.shape)
        kept, which = largest_per_token(pre.view(-1)[found], candidates, k)
        values.append(kept)
        latents.append(candidates.latents[which])
        counts.append(torch.bincount(candidates.tokens[which], minlength=len(pre)))
    return _joined(values, latents, counts, x, len(b_enc))


def encode_batch_topk(
    x: Float[Tensor, "token d_in"], W_enc: Float[Tensor, "d_in latent"], b_enc: Float[Tensor, " latent"], n_keep: int, cache: Cache,
) -> Selected:
    """All entries above a floor are collected; should they be fewer than n_keep, the floor is lowered and the product computed again."""
    floor = max(0.0, cache["cutoff"] * HINT_MARGIN) if cache.get("cutoff") is not None else None
    for tries in itertools.count():
        floor, positions, values = _collect(x, W_enc, b_enc, n_keep, floor, cache)
        if len(values) >= n_keep or floor <= 0:
            break
        floor = floor / 2 if tries == 0 else 0.0
    if len(values) > n_keep:
        keep = largest(values, n_keep)
        positions, values = positions[keep], values[keep]
    selected = Selected(Selection.from_flat(positions, len(x), len(b_enc)), values)
    cache["cutoff"] = selected.cutoff
    return selected


def encode_above(
    x: Float[Tensor, "token d_in"], W_enc: Float[Tensor, "d_in latent"], b_enc: Float[Tensor, " latent"], threshold: Float[Tensor, " latent"],
    cache: Cache, allow_dense: bool = False,
) -> Selected:
    if allow_dense and len(x) and share_above(x, W_enc, b_enc, threshold) > DENSE_FRACTION:
        return Selected(DenseSelection(len(x), len(b_enc)), _product(x, W_enc, b_enc, None))
    values, positions = [b_enc.new_zeros(0)], [torch.empty(0, dtype=torch.int64, device=x.device)]
    for first, pre in products(x, W_enc, b_enc, cache):
        found = _positions(pre, threshold)
        values.append(pre.view(-1)[found])
        positions.append(found + first * len(b_enc))
    return Selected(Selection.from_flat(torch.cat(positions), len(x), len(b_enc)), torch.cat(values))


def products(x: Tensor, W_enc: Tensor, b_enc: Tensor, cache: Cache) -> Iterator[tuple[int, Float[Tensor, "token latent"]]]:
    """First token and pre-activations of each chunk of tokens; what was given is overwritten by the next."""
    rows = max(1, CHUNK_ENTRIES.get(x.device.type, CHUNK_ENTRIES["cuda"]) // max(1, len(b_enc)))
    if len(x):
        buffer = cache.get("product")  # kept between calls: fresh memory of this size costs as much as filling it
        shape = (min(rows, len(x)), len(b_enc))
        if buffer is None or buffer.shape != shape or buffer.dtype != b_enc.dtype or buffer.device != x.device:
            buffer = cache["product"] = torch.empty(shape, dtype=b_enc.dtype, device=x.device)
        for first in range(0, len(x), rows):
            part = x[first : first + rows]
            yield first, _product(part, W_enc, b_enc, buffer[: len(part)])


def _product(x: Tensor, W_enc: Tensor, b_enc: Tensor, out: Tensor | None) -> Float[Tensor, "token latent"]:
    if x.dtype == b_enc.dtype:
        return torch.addmm(b_enc, x, W_enc, out=out)
    return torch.add((x @ W_enc).to(b_enc.dtype), b_enc, out=out)


def _collect(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, n_keep: int, floor: float | None, cache: Cache,
) -> tuple[float, Int[Tensor, " entry"], Float[Tensor, " entry"]]:
    """The floor used and all entries above it; of far too many only those that can be among the n_keep largest of the batch."""
    positions, values = torch.empty(0, dtype=torch.int64, device=x.device), b_enc.new_zeros(0)
    floor = 0.0 if not len(x) else floor
    for first, pre in products(x, W_enc, b_enc, cache):
        if floor is None:
            floor = _sampled_floor(pre, round(n_keep * len(pre) / len(x)))
        found = _positions(pre, floor)
        positions, values = torch.cat([positions, found + first * len(b_enc)]), torch.cat([values, pre.view(-1)[found]])
        if len(values) > 4 * n_keep + SAMPLE_ENTRIES:
            keep = largest(values, n_keep)
            positions, values = positions[keep], values[keep]
    return floor or 0.0, positions, values


def share_above(x: Tensor, W_enc: Tensor, b_enc: Tensor, threshold: Tensor, n_tokens: int = 64) -> float:
    """Share of entries above the threshold, judged from about `n_tokens` evenly spaced tokens: a function of the arguments only."""
    sample = x[:: max(1, len(x) // n_tokens)]
    return float((_product(sample, W_enc, b_enc, None) > threshold).float().mean())


def kth_group_maximum(pre: Float[Tensor, "token latent"], k: int) -> Float[Tensor, " token"]:
    n_groups = 4 * k
    if pre.shape[1] < 2 * n_groups:
        return pre.kthvalue(max(1, pre.shape[1] - k + 1), dim=1).values
    size = pre.shape[1] // n_groups
    maxima = pre[:, : n_groups * size].view(len(pre), size, n_groups).amax(1)
    return maxima.kthvalue(n_groups - k + 1, dim=1).values


def largest_per_token(values: Float[Tensor, " entry"], candidates: Selection, k: int) -> tuple[Float[Tensor, " kept"], Int[Tensor, " kept"]]:
    """The k largest positive values of each token, latents ascending, among equal ones the lowest latents; and their places among the entries."""
    counts = candidates.indptr.diff()
    width = int(counts.max()) if len(counts) else 0
    padded = values.new_full((len(counts), width), -torch.inf)
    column = torch.arange(len(values), device=values.device) - candidates.indptr[:-1].repeat_interleave(counts)
    padded[candidates.tokens, column] = values
    order = padded.sort(dim=1, descending=True, stable=True).indices[:, :k]
    keep = torch.zeros_like(padded, dtype=torch.bool).scatter_(1, order, True) & (padded > 0)
    which = keep[candidates.tokens, column].nonzero()[:, 0]
    return values[which], which


def _joined(values: list[Tensor], latents: list[Tensor], counts: list[Tensor], x: Tensor, n_latents: int) -> Selected:
    if not len(x):
        return Selected(Selection(x.new_zeros(0, dtype=torch.int32), torch.zeros(1, dtype=torch.int64, device=x.device), n_latents), x.new_zeros(0))
    ends = torch.cat(counts).cumsum(0)
    return Selected(Selection(torch.cat(latents), torch.cat([ends.new_zeros(1), ends]), n_latents), torch.cat(values))


def largest(values: Float[Tensor, " entry"], n_keep: int) -> Int[Tensor, " kept"]:
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
    sample = pre.view(-1)[:: max(1, pre.numel() // SAMPLE_ENTRIES)]
    rank = round(1.5 * n_keep * len(sample) / pre.numel()) + 8
    return max(0.0, float(sample.kthvalue(len(sample) - rank + 1).values)) if rank <= len(sample) else 0.0


def _positions(pre: Float[Tensor, "token latent"], floor: float | Float[Tensor, "#token #latent"], strict: bool = True) -> Int[Tensor, " entry"]:
    """Flat positions, ascending, of the entries above a floor (or at it, where not strict)."""
    if pre.device.type != "cpu":
        return (pre > floor if strict else pre >= floor).view(-1).nonzero()[:, 0]
    # numpy's scan is several times as fast as torch's on a CPU
    matrix = pre.detach().numpy()
    bound = np.broadcast_to(floor.detach().numpy() if isinstance(floor, Tensor) else np.asarray(floor, dtype=matrix.dtype), matrix.shape)
    compare = np.greater if strict else np.greater_equal
    step = max(1, SCAN_ENTRIES // max(1, matrix.shape[1]))
    spans = itertools.pairwise([*range(0, len(matrix), step), len(matrix)])
    parts = [np.flatnonzero(compare(matrix[start:stop], bound[start:stop])) + start * matrix.shape[1] for start, stop in spans]
    return torch.from_numpy(np.concatenate(parts) if parts else np.empty(0, dtype=np.int64))
