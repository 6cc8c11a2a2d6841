"""Reading and replacing activations with plain PyTorch hooks.

Owns: capturing sites (and stopping the forward pass once the last one is read) and editing sites at counted tokens only.
Hooks are removed however the block ends, and act on passes of the thread that set them. Refuses: sites that hold no
[row, position, d] tensor, edits that return another shape or non-finite values. What half precision cannot hold is cut off with a warning.
"""

import contextlib
import math
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from sparselight.errors import SubjectError
from sparselight.protocols import EditFunction
from sparselight.subjects.places import pass_under_way
from sparselight.subjects.site import Site

Counts = Bool[Tensor, "row position"]
Hook = Callable[..., Any]


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


def own_thread(hook: Hook, of_other_threads: Callable[[], Exception] | None = None) -> Hook:
    """A hook that acts on passes of this thread only; passes of others are left alone, or refused with what `of_other_threads` gives."""
    owner = threading.get_ident()

    def guarded(*arguments: Any) -> Any:
        if threading.get_ident() == owner:
            return hook(*arguments)
        if of_other_threads is not None:
            raise of_other_threads()
        return None

    return guarded


@contextlib.contextmanager
def editing(
    edits: Mapping[Site, EditFunction], counts: Counts | Callable[[], Counts], max_norms: Mapping[str, float] | None = None,
    guard: Callable[[Hook], Hook] = own_thread,
) -> Iterator[None]:
    """Replace activations at the counted tokens of each site during the forward passes that run inside the block.

    Args:
        counts: of the one pass, or asked for in every pass.
        max_norms: site name to the largest norm that an edit touches.
        guard: put round every hook; says whose passes it acts on.
    """

    def replace(site: Site, value: Any) -> Tensor:
        return edited(site, value, counts() if callable(counts) else counts, edits[site], (max_norms or {}).get(site.name))

    with contextlib.ExitStack() as stack:
        for site in edits:
            stack.callback(_register(site, replace, guard).remove)
        yield


def edited(site: Site, value: Any, counts: Counts, edit: EditFunction, max_norm: float | None = None) -> Tensor:
    """Apply an edit to the counted tokens; all other positions keep their bits.

    Raises:
        SubjectError: when the edit returns something else than finite values of the shape that it was given.
    """
    values, left = vectors(site, value, counts.shape), _left(edit)
    if left is None:
        return value
    where = counts if max_norm is None else counts.to(values.device) & (values.float().norm(dim=-1) <= max_norm)
    if where.all():
        # An edit gets a copy that it may write into, unless it says that it does not.
        before = values.reshape(-1, values.shape[-1]).to(device=counts.device, dtype=torch.float32, copy=not getattr(left, "is_pure", False))
        return _applied(site, left, before, value, counts, None).view(value.shape)
    chosen = where.to(values.device)
    before = values[chosen].to(device=counts.device, dtype=torch.float32)
    if not len(before):
        return value
    result = value.clone()
    vectors(site, result, counts.shape)[chosen] = _applied(site, left, before, value, counts, None if max_norm is None else where)
    return result


def _applied(site: Site, edit: EditFunction, before: Float[Tensor, "token d_in"], value: Tensor, counts: Counts,
             kept: Counts | None) -> Float[Tensor, "token d_in"]:
    """What the edit makes of activations, checked, in the model's number format."""
    after = _placed(edit, counts, kept)(before)
    if not isinstance(after, Tensor) or after.shape != before.shape:
        returned = list(after.shape) if isinstance(after, Tensor) else type(after).__name__
        raise SubjectError(asked=f"apply the edit at {site.name!r}", why=f"it returned {returned} for activations of shape {list(before.shape)}",
                           instead="return a tensor of the shape that came in")
    return _fitting(site, after.to(value.device), value.dtype, edit)


def _left(edit: EditFunction) -> EditFunction | None:
    """What is left of an edit in the pass under way; None where it acts on none of its tokens.

    Raises:
        SubjectError: for an edit of generated tokens in a pass that is no part of a generation: that it changes nothing would mean nothing.
    """
    under_way = pass_under_way()
    if under_way is None or under_way.phase is None or not hasattr(edit, "during"):
        return edit
    left: EditFunction | None = edit.during(under_way.phase)
    if left is None and not under_way.generates:
        raise SubjectError(asked=f"apply the edit ({edit!r})", why="it acts on generated tokens, and predict, loss and capture run text that was given",
                           instead="generate with it, or leave out where.tokens = 'generated'")
    return left


def _placed(edit: EditFunction, counts: Counts, kept: Tensor | None) -> EditFunction:
    """The edit for the tokens of the pass under way, of which those that are `kept` come to it."""
    under_way = pass_under_way() if getattr(edit, "needs_places", False) else None
    if under_way is None:
        return edit
    placed: Any = edit
    places = under_way.places()
    return placed.at(places if kept is None else places.take(kept.cpu()[counts.cpu()]))


def _fitting(site: Site, after: Float[Tensor, "token d_in"], dtype: torch.dtype, edit: EditFunction) -> Float[Tensor, "token d_in"]:
    """Edited activations in the model's number format."""
    new = after.to(dtype)
    if math.isfinite(new.sum().item()) or torch.isfinite(new).all():  # a sum is cheaper, and finite only where all of it is
        return new
    if not torch.isfinite(after).all():
        raise SubjectError(asked=f"apply the edit at {site.name!r}", why="it returned values that are not finite", instead="use a smaller amount")
    largest, limit = float(after.abs().max()), torch.finfo(dtype).max
    warnings.warn(f"the edit at {site.name} ({edit!r}) gives values up to {largest:.3g}, more than {dtype} holds ({limit:.3g}): they are cut off there. "
                  f"A dose {largest / limit:.3g} times smaller, or subject.dtype = 'bfloat16', keeps them", RuntimeWarning, stacklevel=2)
    return after.clamp(-limit, limit).to(dtype)


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


def _register(site: Site, act: Callable[[Site, Any], Tensor | None], guard: Callable[[Hook], Hook] = own_thread) -> RemovableHandle:
    """Call `act` with the site's tensor on every pass; where it returns a tensor, that replaces the old one."""
    def on_output(_module: Any, _args: Any, output: Any) -> Any:
        return _with_first(output, act(site, _first(output)))

    def on_input(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return _act_on_input(site, act, args, kwargs)

    if site.side == "output":
        return site.module.register_forward_hook(guard(on_output))
    return site.module.register_forward_pre_hook(guard(on_input), with_kwargs=True)


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
