"""The one table of kernel implementations, and which of them is in use.

Every backend offers the same operations with the same results; `ref` is the slow truth. A new backend is one file and one row. Without a
choice (`use_backend`, or SPARSELIGHT_KERNELS in the environment) the fastest that suits a tensor is taken.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparselight.errors import ConfigError, nearest
from sparselight.kernels import compiled, cuda, dead, ref, torch_encode, torch_sparse


class Backend(NamedTuple):
    """One implementation of all operations; their meaning is documented in ref.py."""

    name: str
    encode_topk: Callable[..., Any]
    encode_batch_topk: Callable[..., Any]
    encode_above: Callable[..., Any]
    decode: Callable[..., Tensor]
    decode_gradient: Callable[..., Tensor]
    weight_gradients: Callable[..., None]
    dead_latent_loss: Callable[..., Any]
    nearest_in_chunk: Callable[..., Tensor]
    adam_step: Callable[..., None]
    grad_square: Callable[..., float]


def backend(name: str, *modules: ModuleType) -> Backend:
    """The operations found in some modules, the first that has one."""
    found = {operation: next(getattr(module, operation) for module in modules if hasattr(module, operation)) for operation in Backend._fields[1:]}
    return Backend(name, **found)


BACKENDS: dict[str, Backend] = {
    "ref": backend("ref", ref),
    "torch": backend("torch", torch_encode, torch_sparse, dead),
}
if compiled.available() is None:
    BACKENDS["compiled"] = backend("compiled", compiled, dead)
if cuda.available() is None:
    BACKENDS["triton"] = backend("triton", cuda)
_chosen: ContextVar[str | None] = ContextVar("kernels", default=None)


def kernels(like: Tensor | None = None) -> Backend:
    """The backend in use for tensors like this one.

    Raises:
        ConfigError: when SPARSELIGHT_KERNELS names none.
    """
    name = _chosen.get() or os.environ.get("SPARSELIGHT_KERNELS", "auto")
    if name not in ("auto", ""):
        return named(name)
    if like is not None and like.device.type == "cuda" and like.dtype in (torch.float32, torch.bfloat16):
        return BACKENDS.get("triton", BACKENDS["torch"])
    suits = like is None or (like.device.type == "cpu" and like.dtype == torch.float32)
    return BACKENDS["compiled" if suits and "compiled" in BACKENDS else "torch"]


def named(name: str) -> Backend:
    if name not in BACKENDS:
        here = {"compiled": compiled.available, "triton": cuda.available}
        why = f"they cannot run here: {here[name]()}" if name in here else "there are none of that name"
        raise ConfigError(asked=f"compute with the kernels {name!r}", why=why, instead=nearest(name, BACKENDS))
    return BACKENDS[name]


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Compute with another backend inside a `with` block, for a check or a comparison.

    Raises:
        ConfigError: when there is none of that name, or it cannot run here.
    """
    named(name)
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)
