"""Reading and replacing activations with plain PyTorch hooks.

Owns: capturing sites (and stopping the forward pass once the last one is read) and editing sites at counted tokens only.
Hooks are removed however the block ends. Refuses: sites that hold no [row, position, d] tensor, edits that return another
shape or non-finite values.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from sparselight.errors import SubjectError
from sparselight.protocols import EditFunction
from sparselight.subjects.site import Site


class _AllCapturedError(Exception):
    """Ends a forward pass whose remaining part nobody needs; never leaves `capturing`."""


class AtCounted:
    """Reads the counted positions of a site, in float32 on one device; always a copy, because models reuse their tensors."""

    def __init__(self, counts: Bool[Tensor, "row position"], device: torch.device):
        self._index = {counts.device: counts.flatten().nonzero()[:, 0]}  # found once for all sites
        self._device = device

    def __call__(self, _site: Site, value: Float[Tensor, "row position d_in"]) -> Float[Tensor, "token d_in"]:
        if value.device not in self._index:
            self._index[value.device] = next(iter(self._index.values())).to(value.device)
        return value.flatten(0, 1).index_select(0, self._index[value.device]).to(device=self._device, dtype=torch.float32)


@contextlib.contextmanager
def capturing(
    sites: Sequence[Site], shape: tuple[int, int], keep: Callable[[Site, Tensor], Tensor], stop: bool = True,
) -> Iterator[dict[str, Tensor]]:
    """Collect `keep(site, value)` of each site during the forward pass that runs inside the block.

    Args:
        shape: rows and positions of that pass.
        stop: end the forward pass after the last site; code of the block after the model's call does not run then.

    Yields:
        Site name to what was kept, filled when the block has ended.

    Raises:
        SubjectError: when the forward pass never comes to a site.
    """
    found: dict[str, Tensor] = {}

    def read(site: Site, value: Any) -> None:
        found[site.name] = keep(site, vectors(site, value, shape))
        if stop and len(found) == len(sites):
            raise _AllCapturedError

    with contextlib.ExitStack() as stack:
        for site in sites:
            stack.callback(_register(site, read).remove)
        with contextlib.suppress(_AllCapturedError):
            yield found
    missing = [site.name for site in sites if site.name not in found]
    if missing:
        raise SubjectError(asked=f"read the site {missing[0]!r}", why="the forward pass never comes to that module",
                           instead="choose a module that the model calls")


@contextlib.contextmanager
def noting(sites: Sequence[Site], note: Callable[[Site, Any], None]) -> Iterator[None]:
    """Call `note` with whatever each site holds, during the forward pass that runs inside the block."""
    with contextlib.ExitStack() as stack:
        for site in sites:
            stack.callback(_register(site, note).remove)
        yield


@contextlib.contextmanager
def editing(
    edits: Mapping[Site, EditFunction], counts: Bool[Tensor, "row position"], max_norms: Mapping[str, float] | None = None,
) -> Iterator[None]:
    """Replace activations at the counted tokens of each site during the forward pass that runs inside the block.

    Args:
        max_norms: site name to the largest norm that an edit touches.
    """

    def replace(site: Site, value: Any) -> Tensor:
        return edited(site, value, counts, edits[site], (max_norms or {}).get(site.name))

    with contextlib.ExitStack() as stack:
        for site in edits:
            stack.callback(_register(site, replace).remove)
        yield


def edited(site: Site, value: Any, counts: Bool[Tensor, "row position"], edit: EditFunction, max_norm: float | None = None) -> Tensor:
    """Apply an edit to the counted tokens; all other positions keep their bits.

    Raises:
        SubjectError: when the edit returns something else than finite values of the shape that it was given.
    """
    values = vectors(site, value, counts.shape)
    where = counts.to(values.device)
    if max_norm is not None:
        where = where & (values.float().norm(dim=-1) <= max_norm)
    before = values[where].to(device=counts.device, dtype=torch.float32)
    if not len(before):
        return value
    shape = before.shape
    after = edit(before)
    if not isinstance(after, Tensor) or after.shape != shape:
        returned = list(after.shape) if isinstance(after, Tensor) else type(after).__name__
        raise SubjectError(asked=f"apply the edit at {site.name!r}", why=f"it returned {returned} for activations of shape {list(shape)}",
                           instead="return a tensor of the shape that came in")
    if not torch.isfinite(after).all():
        raise SubjectError(asked=f"apply the edit at {site.name!r}", why="it returned values that are not finite", instead="use a smaller amount")
    result = value.clone()
    vectors(site, result, counts.shape)[where] = after.to(device=value.device, dtype=value.dtype)
    return result


def vectors(site: Site, value: Any, shape: Sequence[int]) -> Float[Tensor, "row position d_in"]:
    """The site's tensor as one vector a position, sharing its memory; some modules (OPT's, mixtures of experts) run all positions as one axis.

    Raises:
        SubjectError: when it holds anything else.
    """
    if holds_vectors(value, shape):
        return value.view(shape[0], shape[1], value.shape[-1])
    kind = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    raise SubjectError(asked=f"use the site {site.name!r}", why=f"for {shape[0]} rows of {shape[1]} positions it holds {kind}, not one vector a position",
                       instead="choose a module that maps [row, position, d] tensors")


def holds_vectors(value: Any, shape: Sequence[int]) -> bool:
    """Whether a site holds one vector of numbers a position."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= 2 and value.shape[:-1] in (tuple(shape), (shape[0] * shape[1],))


def _register(site: Site, act: Callable[[Site, Any], Tensor | None]) -> RemovableHandle:
    """Call `act` with the site's tensor on every pass; where it returns a tensor, that replaces the old one."""
    if site.side == "output":
        return site.module.register_forward_hook(lambda _module, _args, output: _with_first(output, act(site, _first(output))))
    return site.module.register_forward_pre_hook(lambda _module, args, kwargs: _act_on_input(site, act, args, kwargs), with_kwargs=True)


def _act_on_input(site: Site, act: Callable[[Site, Any], Tensor | None], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    """Modules get their input by position or by name, depending on who calls them."""
    if args:
        new = act(site, args[0])
        return None if new is None else ((new, *args[1:]), kwargs)
    name = next((name for name, value in kwargs.items() if isinstance(value, Tensor)), "")
    new = act(site, kwargs.get(name))
    return None if new is None else (args, {**kwargs, name: new})


def _first(output: Any) -> Any:
    """The tensor among a module's outputs: itself, or the first of a tuple or of a transformers output."""
    if isinstance(output, Mapping):
        return next(iter(output.values()), None)
    return output[0] if isinstance(output, tuple | list) and output else output


def _with_first(output: Any, new: Tensor | None) -> Any:
    if new is None:
        return None
    if isinstance(output, MutableMapping):  # a transformers output, made anew on every pass
        output[next(iter(output))] = new
        return output
    return type(output)([new, *output[1:]]) if isinstance(output, tuple | list) else new
