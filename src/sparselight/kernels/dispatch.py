"""The one table of kernel implementations, and which of them is in use.

Every backend offers the same operations with the same results; `ref` is the slow truth. A new backend is one file and one row.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import NamedTuple

from torch import Tensor

from sparselight.errors import ConfigError, nearest
from sparselight.kernels import dead, ref, torch_sparse
from sparselight.kernels.selection import Selected


class Backend(NamedTuple):
    """One implementation of all operations; their meaning is documented in ref.py."""

    select_batch_topk: Callable[[Tensor, int, float | None], Selected]
    select_above: Callable[[Tensor, Tensor], Selected]
    sparse_encode: Callable[..., Tensor]
    sparse_decode: Callable[..., Tensor]
    dead_latent_loss: Callable[..., Tensor]


BACKENDS: dict[str, Backend] = {
    "ref": Backend(ref.select_batch_topk, ref.select_above, ref.sparse_encode, ref.sparse_decode, ref.dead_latent_loss),
    "torch_sparse": Backend(
        torch_sparse.select_batch_topk, torch_sparse.select_above, torch_sparse.sparse_encode, torch_sparse.sparse_decode, dead.dead_latent_loss,
    ),
}
_active: ContextVar[str] = ContextVar("kernels", default="torch_sparse")


def kernels() -> Backend:
    """The backend in use."""
    return BACKENDS[_active.get()]


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Compute with another backend inside a `with` block, for a check or a comparison.

    Raises:
        ConfigError: when there is none of that name.
    """
    if name not in BACKENDS:
        raise ConfigError(asked=f"compute with the kernels {name!r}", why="there are none of that name", instead=nearest(name, BACKENDS))
    token = _active.set(name)
    try:
        yield
    finally:
        _active.reset(token)
