"""The compiled CPU kernels; the meaning of each operation is in ref.py, the C++ in kernels/cpu.

Owns: memory (everything that C++ writes is allocated here), layouts (what is not contiguous is copied), and the packed copies of W_enc that
screening reads. Takes float32 on a CPU; everything else, and an SAE that is not sparse (DenseSelection), goes to the PyTorch path.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparselight.kernels import torch_sparse
from sparselight.kernels.compiled_encode import PackedCopy, copy_key, encode_above, encode_batch_topk, encode_topk, is_float32_on_cpu, screening_format
from sparselight.kernels.cpu.loader import NotAvailable, library
from sparselight.kernels.selection import AnySelection, DenseSelection, Selection, WeightGradients

Cache = dict[str, Any]


def available() -> str | None:
    """None where the kernels can run, else why not."""
    try:
        library()
    except NotAvailable as err:
        return str(err)
    return None


def description() -> str:
    """Which build runs, and on whose threads, in a few words."""
    loaded = library()
    return f"{loaded.isa}, {'the threads of PyTorch' if loaded.runtime else 'one thread: no OpenMP runtime was found'}"


def decode(
    values: Float[Tensor, " entry"], selection: AnySelection, W_dec: Float[Tensor, "latent d_out"], ends: Sequence[int],
) -> Float[Tensor, "group token d_out"]:
    if not is_ours(selection, values, W_dec):
        return torch_sparse.decode(values, selection, W_dec, ends)
    assert isinstance(selection, Selection)
    values, W_dec, places = flat(values), flat(W_dec), group_ends(ends)
    out = W_dec.new_empty(len(ends), selection.n_tokens, W_dec.shape[1])
    call("sl_decode", values, *csr(selection), selection.n_tokens, W_dec, W_dec.shape[1], places, len(ends), out, torch.get_num_threads())
    return out


def decode_gradient(
    grad: Float[Tensor, "group token d_out"], selection: AnySelection, W_dec: Float[Tensor, "latent d_out"], ends: Sequence[int],
) -> Float[Tensor, " entry"]:
    if not is_ours(selection, grad, W_dec):
        return torch_sparse.decode_gradient(grad, selection, W_dec, ends)
    assert isinstance(selection, Selection)
    suffix, W_dec, places = suffix_sums(grad), flat(W_dec), group_ends(ends)
    out = W_dec.new_empty(len(selection.latents))
    call("sl_decode_gradient", suffix, *csr(selection), selection.n_tokens, W_dec, W_dec.shape[1], places, len(ends), out, torch.get_num_threads())
    return out


class WeightGradientsCall(ctypes.Structure):
    """`WeightGradients` of gradients.cpp."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "suffix", "values", "grad_pre", "indptr", "order", "bounds", "ends")),
        *((name, ctypes.c_int64) for name in ("n_tokens", "n_entries", "n_latents", "n_groups", "d_in", "d_out")),
        *((name, ctypes.c_void_p) for name in ("W_enc", "b_enc", "W_dec", "unit_rows", "squares")),
        *((name, ctypes.c_int32) for name in ("fresh", "n_threads")),
    ]


def weight_gradients(
    x: Float[Tensor, "token d_in"], grad_x_hat: Float[Tensor, "group token d_out"], values: Float[Tensor, " entry"], grad_pre: Float[Tensor, " entry"],
    selection: AnySelection, ends: Sequence[int], into: WeightGradients,
) -> None:
    into.squares = None
    if not is_ours(selection, x, grad_x_hat, values, grad_pre, into.W_enc, into.b_enc, into.W_dec):
        return torch_sparse.weight_gradients(x, grad_x_hat, values, grad_pre, selection, ends, into)
    assert isinstance(selection, Selection)
    order, bounds = sorted_by_latent(selection)
    x, suffix, values, grad_pre, places, indptr = flat(x), suffix_sums(grad_x_hat), flat(values), flat(grad_pre), group_ends(ends), csr(selection)[1]
    targets = [into.W_enc, into.b_enc, into.W_dec]
    buffers = [target if target.is_contiguous() else target.contiguous() for target in targets]
    unit_rows, squares = None if into.unit_rows is None else flat(into.unit_rows), torch.zeros(2, dtype=torch.float64)
    arguments = WeightGradientsCall(
        *map(address, (x, suffix, values, grad_pre, indptr, order, bounds, places)), len(x), len(values), len(into.b_enc), len(ends), x.shape[1],
        suffix.shape[2], *map(address, buffers), None if unit_rows is None else address(unit_rows), address(squares), int(into.fresh), torch.get_num_threads())
    call("sl_weight_gradients", ctypes.byref(arguments))
    into.squares = dict(zip(("W_enc", "W_dec"), squares.tolist(), strict=True)) if into.fresh else None
    for target, buffer in zip(targets, buffers, strict=True):
        written(target) if target is buffer else target.copy_(buffer)
    return None


class NearestCall(ctypes.Structure):
    """`Nearest` of nearest.cpp."""

    _fields_ = [
        ("rows", ctypes.c_void_p), ("order", ctypes.c_void_p), *((name, ctypes.c_int64) for name in ("n_rows", "d", "chunk")),
        *((name, ctypes.c_int32) for name in ("format", "n_threads")), ("partner", ctypes.c_void_p),
    ]


def nearest_in_chunk(rows: Float[Tensor, "latent d_out"], order: Int[Tensor, " latent"], chunk: int) -> Int[Tensor, " latent"]:
    if not is_ours(None, rows):
        return torch_sparse.nearest_in_chunk(rows, order, chunk)
    rows, order, partner = flat(rows), order.to(torch.int64).contiguous(), torch.empty(len(rows), dtype=torch.int64)
    call("sl_nearest", ctypes.byref(NearestCall(
        address(rows), address(order), *rows.shape, chunk, screening_format(library(), rows.shape[1], {}), torch.get_num_threads(), address(partner))))
    return partner


class AdamStepCall(ctypes.Structure):
    """`AdamStep` of adam.cpp."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("param", "grad", "exp_avg", "exp_avg_sq")),
        *((name, ctypes.c_int64) for name in ("n_rows", "d")),
        *((name, ctypes.c_double) for name in ("beta1", "beta2", "grad_scale", "decay", "step_size", "root_scale", "eps")),
        ("packed", ctypes.c_void_p),
        *((name, ctypes.c_int32) for name in ("format", "unit_rows", "n_threads")),
    ]


def adam_step(
    param: Float[Tensor, "..."], grad: Float[Tensor, "..."], exp_avg: Float[Tensor, "..."], exp_avg_sq: Float[Tensor, "..."], *, lr: float,
    betas: tuple[float, float], eps: float, weight_decay: float, step: int, grad_scale: float, unit_rows: bool, cache: Cache | None = None,
) -> None:
    if not is_ours(None, param, grad, exp_avg, exp_avg_sq):
        return torch_sparse.adam_step(param, grad, exp_avg, exp_avg_sq, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, step=step,
                                      grad_scale=grad_scale, unit_rows=unit_rows, cache=cache)
    changed = [param, exp_avg, exp_avg_sq]
    # a matrix that lies column by column is a contiguous one when transposed; rows of unit norm are rows as the caller sees them
    turned = not unit_rows and param.dim() == 2 and not param.is_contiguous() and param.T.is_contiguous()
    buffers = [flat(tensor.T if turned else tensor) for tensor in changed]
    grad = flat(grad.T if turned else grad)
    n_rows, d = buffers[0].shape if param.dim() == 2 else (1, param.numel())
    packed = current_copy(buffers[0], cache) if buffers[0].data_ptr() == param.data_ptr() else None
    arguments = AdamStepCall(
        address(buffers[0]), address(grad), *map(address, buffers[1:]), n_rows, d, *betas, grad_scale, 1 - lr * weight_decay, lr / (1 - betas[0] ** step),
        1 / (1 - betas[1] ** step) ** 0.5, eps, *packed_place(packed), int(unit_rows), torch.get_num_threads())
    call("sl_adam", ctypes.byref(arguments))
    for tensor, buffer in zip(changed, buffers, strict=True):
        written(tensor) if tensor.data_ptr() == buffer.data_ptr() else tensor.copy_(buffer.T if turned else buffer)
    if packed is not None and cache is not None:  # it was refreshed on the way
        cache["packed"] = packed._replace(key=copy_key(buffers[0]))
    return None


def grad_square(param: Float[Tensor, "..."], grad: Float[Tensor, "..."], unit_rows: bool) -> float:
    if not is_ours(None, param, grad):
        return torch_sparse.grad_square(param, grad, unit_rows)
    if not unit_rows and grad.dim() == 2 and grad.T.is_contiguous():
        grad = grad.T
    param, grad, out = flat(param) if unit_rows else grad, flat(grad), ctypes.c_double()
    n_rows, d = grad.shape if grad.dim() == 2 else (1, grad.numel())
    call("sl_grad_square", param, grad, n_rows, d, int(unit_rows), ctypes.byref(out), torch.get_num_threads())
    return out.value


def sorted_by_latent(selection: Selection) -> tuple[Tensor, Tensor]:
    """selection.by_latent, by counting instead of sorting; kept where the selection keeps its own."""
    if "by_latent" not in selection.__dict__:
        order, bounds = torch.empty(len(selection.latents), dtype=torch.int64), torch.empty(selection.n_latents + 1, dtype=torch.int64)
        latents = csr(selection)[0]
        call("sl_sort_by_latent", latents, len(latents), selection.n_latents, order, bounds)
        selection.__dict__["by_latent"] = (order, bounds)
    return selection.by_latent


def suffix_sums(grad: Float[Tensor, "group token d_out"]) -> Float[Tensor, "group token d_out"]:
    """For each group the sum over it and all later ones."""
    grad = flat(grad)
    if len(grad) == 1:
        return grad
    out = torch.empty_like(grad)
    call("sl_suffix_sums", grad, len(grad), grad[0].numel(), out, torch.get_num_threads())
    return out


def is_ours(selection: AnySelection | None, *tensors: Tensor) -> bool:
    """Whether the C++ takes these; the PyTorch path takes the rest."""
    return not isinstance(selection, DenseSelection) and is_float32_on_cpu(*tensors)


def flat(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous()


def csr(selection: Selection) -> tuple[Tensor, Tensor]:
    return selection.latents.to(torch.int32).contiguous(), selection.indptr.to(torch.int64).contiguous()


def group_ends(ends: Sequence[int]) -> Tensor:
    return torch.tensor(ends, dtype=torch.int64)


def address(tensor: Tensor) -> int:
    return tensor.data_ptr()


def current_copy(rows: Tensor, cache: Cache | None) -> PackedCopy | None:
    """The packed copy of these rows in the cache, when it is of their present state."""
    held = None if cache is None else cache.get("packed")
    return held if held is not None and held.key is not None and held.key == copy_key(rows) else None


def packed_place(packed: PackedCopy | None) -> tuple[int | None, int]:
    return (None, 0) if packed is None else (address(packed.memory), packed.format)


def written(tensor: Tensor) -> None:
    """Tell PyTorch that a tensor's memory was changed behind its back."""
    if not tensor.is_inference():
        torch.autograd.graph.increment_version(tensor)


def call(name: str, *arguments: Any) -> None:
    """Run one function; tensors are passed by address, so the caller must hold them."""
    if getattr(library().functions, name)(*(address(a) if isinstance(a, Tensor) else a for a in arguments)) != 0:
        raise MemoryError(f"the kernel {name} could not get the memory that it needs")


__all__ = [
    "adam_step", "available", "decode", "decode_gradient", "description", "encode_above", "encode_batch_topk", "encode_topk", "grad_square",
    "nearest_in_chunk", "weight_gradients",
]
