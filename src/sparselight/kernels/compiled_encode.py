"""Encoding with the compiled CPU kernels: memory, predictions and packed copies around topk.cpp and above.cpp; the meaning is in ref.py.

The cache holds a packed low-precision copy of W_enc with which entries are screened (its error is bounded, never guessed), and a predicted
floor under what will be selected. Both change the time taken only: each result is verified, and computed again where a prediction failed.
cache["stats"] counts over all calls: tokens, candidates that passed the screening, those computed exactly, tokens done again.
"""

import ctypes
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sparselight.kernels import torch_encode
from sparselight.kernels.cpu.loader import Library, library
from sparselight.kernels.selection import DenseSelection, Selected, Selection

Cache = dict[str, Any]
FORMATS = {"fp32": 0, "bf16": 1, "int8": 2}
MISSES = 0.005  # share of tokens for which the predicted floor may be too high
SAMPLE_TOKENS = 64
TRIALS, TRY_AGAIN_CALLS = 4, 2000  # the first call with a format has no prediction, and other work may disturb one
INT8_MOST_WIDTH = 2**16  # beyond, sums of products of bytes leave 32 bits
DENSE_FRACTION = 0.12  # above this share of active entries plain matrix products are faster than these
CLEARLY_DENSE, GLANCE_TOKENS = 0.2, 16  # with more on a few tokens, screening all of them is not even begun
NO_LIMIT = 2**62


class TopKCall(ctypes.Structure):
    """`TopK` of topk.cpp."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "W", "bias", "packed")),
        *((name, ctypes.c_int64) for name in ("n_tokens", "n_latents", "d", "k")),
        ("floor_per_norm", ctypes.c_double),
        *((name, ctypes.c_int32) for name in ("format", "n_threads")),
        *((name, ctypes.c_void_p) for name in ("latents", "values", "counts", "kth_per_norm")),
        ("counters", ctypes.c_int64 * 4),
    ]


class AboveCall(ctypes.Structure):
    """`Above` of above.cpp."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "W", "bias", "threshold", "packed")),
        *((name, ctypes.c_int64) for name in ("n_tokens", "n_latents", "d", "most_entries")),
        ("floor", ctypes.c_double),
        *((name, ctypes.c_int32) for name in ("format", "n_threads")),
        ("n_entries", ctypes.c_int64),
        ("counters", ctypes.c_int64 * 4),
    ]


class PackedCopy(NamedTuple):
    """A low-precision copy of an encoder."""

    key: tuple | None
    """The state of W_enc that it is of; None when it may not be used again."""
    format: int
    memory: Tensor


class Weights(NamedTuple):
    """An encoder as the C++ reads it."""

    rows: Float[Tensor, "latent d_in"]
    bias: Float[Tensor, " latent"]
    packed: Tensor
    format: int


def encode_topk(x: Float[Tensor, "token d_in"], W_enc: Float[Tensor, "d_in latent"], b_enc: Float[Tensor, " latent"], k: int, cache: Cache) -> Selected:
    if not is_float32_on_cpu(x, W_enc, b_enc):
        return torch_encode.encode_topk(x, W_enc, b_enc, k, cache)
    x, k = x.detach().contiguous(), min(k, len(b_enc))
    if k == 0 or not len(x):
        return nothing(x, b_enc)
    latents, values = torch.empty(len(x), k, dtype=torch.int32), x.new_empty(len(x), k)
    counts, ratios = torch.empty(len(x), dtype=torch.int64), x.new_empty(len(x))

    def attempt(weights: Weights) -> ctypes.Array:
        call = TopKCall(
            x.data_ptr(), weights.rows.data_ptr(), weights.bias.data_ptr(), weights.packed.data_ptr(), len(x), len(b_enc), x.shape[1], k,
            cache.get("topk_floor", {}).get(k, 0.0), weights.format, torch.get_num_threads(), *(t.data_ptr() for t in (latents, values, counts, ratios)))
        check(library().functions.sl_topk(ctypes.byref(call)) == 0)
        return call.counters

    with_true_copy(W_enc, b_enc, cache, len(x), attempt)
    floor = float(ratios.kthvalue(max(1, math.ceil(MISSES * len(x)))).values)
    cache.setdefault("topk_floor", {})[k] = 0.98 * floor if 0 < floor < math.inf else 0.0
    indptr = torch.zeros(len(x) + 1, dtype=torch.int64)
    torch.cumsum(counts, 0, out=indptr[1:])
    if int(indptr[-1]) == values.numel():
        latents, values = latents.view(-1), values.view(-1)
    else:
        filled = torch.arange(k) < counts.unsqueeze(1)
        latents, values = latents[filled], values[filled]
    return Selected(Selection(latents, indptr, len(b_enc)), values)


def encode_batch_topk(
    x: Float[Tensor, "token d_in"], W_enc: Float[Tensor, "d_in latent"], b_enc: Float[Tensor, " latent"], n_keep: int, cache: Cache,
) -> Selected:
    if not is_float32_on_cpu(x, W_enc, b_enc):
        return torch_encode.encode_batch_topk(x, W_enc, b_enc, n_keep, cache)
    x = x.detach().contiguous()
    if n_keep <= 0 or not len(x):
        return nothing(x, b_enc)
    margin = cache.get("cutoff_margin", 0.05)
    floor = cache["cutoff"] * (1 - margin) if "cutoff" in cache else sampled_floor(x, W_enc, b_enc, n_keep)
    while True:
        with entries_above(x, W_enc, b_enc, None, floor, NO_LIMIT, cache) as found:
            if found.n_entries >= n_keep or floor <= 0:
                selected = found.take(n_keep)
                break
        count(cache, redone=len(x))
        margin = min(0.5, 2 * margin)
        floor = floor * (1 - margin) if floor > 1e-30 else 0.0
    too_many = found.n_entries > 1.2 * n_keep
    cache["cutoff"], cache["cutoff_margin"] = selected.cutoff if selected.cutoff < math.inf else 0.0, max(0.01, margin * (0.7 if too_many else 1.0))
    return selected


def encode_above(
    x: Float[Tensor, "token d_in"], W_enc: Float[Tensor, "d_in latent"], b_enc: Float[Tensor, " latent"], threshold: Float[Tensor, " latent"],
    cache: Cache, allow_dense: bool = False,
) -> Selected:
    if not is_float32_on_cpu(x, W_enc, b_enc, threshold):
        return torch_encode.encode_above(x, W_enc, b_enc, threshold, cache, allow_dense)
    x = x.detach().contiguous()
    if not len(x):
        return nothing(x, b_enc)
    if not allow_dense or torch_encode.share_above(x, W_enc, b_enc, threshold, GLANCE_TOKENS) <= CLEARLY_DENSE:
        limit = int(DENSE_FRACTION * len(x) * len(b_enc)) if allow_dense else NO_LIMIT
        with entries_above(x, W_enc, b_enc, threshold.detach().contiguous(), 0.0, limit, cache) as found:
            if found.n_entries <= limit:
                return found.take(found.n_entries)
    return Selected(DenseSelection(len(x), len(b_enc)), torch.addmm(b_enc.detach(), x, W_enc.detach()))


class Found:
    """Entries that the C++ holds until they are taken."""

    def __init__(self, n_entries: int, n_tokens: int, n_latents: int, handle: int):
        self.n_entries, self.n_tokens, self.n_latents, self.handle = n_entries, n_tokens, n_latents, handle

    def take(self, n_keep: int) -> Selected:
        size = min(n_keep, self.n_entries)
        latents, values, indptr = torch.empty(size, dtype=torch.int32), torch.empty(size), torch.empty(self.n_tokens + 1, dtype=torch.int64)
        places = (latents.data_ptr(), values.data_ptr(), indptr.data_ptr())
        check(library().functions.sl_found_take(self.handle, self.n_entries, n_keep, self.n_tokens, *places) == 0)
        return Selected(Selection(latents, indptr, self.n_latents), values)

    def __enter__(self) -> "Found":
        return self

    def __exit__(self, *_: object) -> None:
        library().functions.sl_found_free(self.handle)


def entries_above(x: Tensor, W_enc: Tensor, b_enc: Tensor, threshold: Tensor | None, floor: float, limit: int, cache: Cache) -> Found:
    """All entries above their latent's threshold; without thresholds all positive ones that reach the floor. It stops soon after `limit`."""
    held: list[Found] = []

    def attempt(weights: Weights) -> ctypes.Array:
        call = AboveCall(
            x.data_ptr(), weights.rows.data_ptr(), weights.bias.data_ptr(), threshold.data_ptr() if threshold is not None else None,
            weights.packed.data_ptr(), len(x), len(b_enc), x.shape[1], limit, floor, weights.format, torch.get_num_threads())
        handle = library().functions.sl_above(ctypes.byref(call))
        check(handle is not None)
        if held:
            library().functions.sl_found_free(held.pop().handle)
        held.append(Found(call.n_entries, len(x), len(b_enc), handle))
        return call.counters

    with_true_copy(W_enc, b_enc, cache, len(x), attempt)
    return held[0]


def with_true_copy(W_enc: Tensor, b_enc: Tensor, cache: Cache, n_tokens: int, attempt: Callable[[Weights], Any]) -> None:
    """Run with the packed copy that the cache has; once more with a new one if a value broke its bound: W_enc was changed behind PyTorch's back."""
    rows, bias = W_enc.detach().T.contiguous(), b_enc.detach().contiguous()
    code = screening_format(library(), rows.shape[1], cache)
    for is_last in (False, True):
        memory = packed_copy(rows, code, cache, is_own_memory=rows.data_ptr() == W_enc.data_ptr()).memory
        began = time.perf_counter()
        candidates, rescored, redone, broken = attempt(Weights(rows, bias, memory, code))
        cache.setdefault("speeds", {}).setdefault(code, []).append(n_tokens / (time.perf_counter() - began))
        count(cache, tokens=n_tokens, candidates=candidates, rescored=rescored, redone=redone, broken=broken)
        if not broken or is_last:
            return
        cache.pop("packed", None)


def packed_copy(rows: Float[Tensor, "latent d_in"], code: int, cache: Cache, is_own_memory: bool = True) -> PackedCopy:
    """A low-precision copy of the encoder, from the cache where that is of this very state of it."""
    key, held = copy_key(rows) if is_own_memory else None, cache.get("packed")
    if held is not None and key is not None and (held.key, held.format) == (key, code):
        return held
    size = library().functions.sl_packed_bytes(code, *rows.shape)
    memory = held.memory if held is not None and held.memory.numel() == size else torch.empty(size, dtype=torch.uint8)
    check(library().functions.sl_pack(rows.data_ptr(), *rows.shape, code, memory.data_ptr(), torch.get_num_threads()) == 0)
    cache["packed"] = PackedCopy(key, code, memory)
    return cache["packed"]


def copy_key(rows: Float[Tensor, "latent d_in"]) -> tuple | None:
    """What changes when the weights do; None when PyTorch does not count their changes."""
    return None if rows.is_inference() else (rows.data_ptr(), rows._version, tuple(rows.shape))


def screening_format(loaded: Library, d: int, cache: Cache) -> int:
    """The numbers to screen in. Where there is a choice (int8: cheap products, more candidates) each is tried and the fastest stays in use.

    All are tried again now and then, because the number of candidates changes as an SAE learns.
    """
    offered = [FORMATS[name] for name in ("bf16", "int8", "fp32") if loaded.functions.sl_formats() >> FORMATS[name] & 1]
    choice = [code for code in offered[:2] if code != FORMATS["int8"] or d < INT8_MOST_WIDTH]
    if len(choice) < 2:
        return choice[0]
    speeds: dict[int, list[float]] = cache.setdefault("speeds", {})
    if sum(map(len, speeds.values())) > TRY_AGAIN_CALLS:
        speeds.clear()
    untried = [code for code in choice if len(speeds.get(code, [])) < TRIALS]
    return untried[0] if untried else max(choice, key=lambda code: max(speeds[code]))


def sampled_floor(x: Tensor, W_enc: Tensor, b_enc: Tensor, n_keep: int) -> float:
    """A floor that somewhat more than n_keep entries reach, judged from evenly spaced tokens."""
    sample = x[:: max(1, len(x) // SAMPLE_TOKENS)]
    pre = torch.addmm(b_enc.detach(), sample, W_enc.detach()).flatten()
    rank = math.ceil(1.2 * n_keep * len(sample) / len(x)) + 8
    floor = float(pre.kthvalue(len(pre) - rank + 1).values) if rank <= len(pre) else 0.0
    return floor if 0 < floor < math.inf else 0.0


def is_float32_on_cpu(*tensors: Tensor) -> bool:
    return all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)


def nothing(x: Tensor, b_enc: Tensor) -> Selected:
    return Selected(Selection(torch.empty(0, dtype=torch.int32), torch.zeros(len(x) + 1, dtype=torch.int64), len(b_enc)), x.new_empty(0))


def count(cache: Cache, **numbers: int) -> None:
    stats = cache.setdefault("stats", {})
    for name, number in numbers.items():
        stats[name] = stats.get(name, 0) + number


def check(is_done: bool) -> None:
    if not is_done:
        raise MemoryError("encoding could not get the memory that it needs")
