"""Which tokens the forward pass under way holds, for edits that act at some of them.

A subject says so round every pass (`passing`); hooks read it when an edit asks. It belongs to the thread that makes the pass. Columns are made only
when an edit needs them. Refuses nothing: a pass of which nobody says anything has no places, and an edit that needs them refuses to run.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from sparselight.protocols import Batch, Places

Phase = Literal["prompt", "generated"]


class Pass(NamedTuple):
    """A forward pass under way."""

    counts: Bool[Tensor, "row position"]
    places: Callable[[], Places]
    """Of the counted positions, row by row."""
    phase: Phase | None
    """What all of its tokens are, given or generated; None for a mixture."""
    generates: bool
    """Whether it is part of a generation; a prediction or a loss is not, and has nothing for an edit of generated tokens."""


_UNDER_WAY: ContextVar[Pass | None] = ContextVar("_UNDER_WAY", default=None)


def pass_under_way() -> Pass | None:
    """The pass that this thread makes, where somebody says what it holds."""
    return _UNDER_WAY.get()


@contextlib.contextmanager
def passing(counts: Bool[Tensor, "row position"], places: Callable[[], Places], phase: Phase | None = None, generates: bool = True) -> Iterator[None]:
    """Say what the passes inside the block hold."""
    token = _UNDER_WAY.set(Pass(counts, functools.cache(places), phase, generates))
    try:
        yield
    finally:
        _UNDER_WAY.reset(token)


def passing_batch(batch: Batch) -> contextlib.AbstractContextManager[None]:
    """Say that the pass holds a batch; whoever has said more of these very rows before is not overruled."""
    known = pass_under_way()
    if known is not None and known.counts is batch.counts:
        return contextlib.nullcontext()
    return passing(batch.counts, lambda: places_of(batch), "prompt", generates=False)


def places_of(batch: Batch) -> Places:
    """The counted tokens of a batch, all of them given."""
    n_examples = int(batch.example.max()) + 1 if batch.n_tokens else 0
    sizes = torch.bincount(batch.example, minlength=n_examples)
    return Places(batch.example, batch.position, batch.token_id, batch.char_start, batch.char_end, torch.zeros(batch.n_tokens, dtype=torch.bool),
                  sizes[batch.example], batch.examples)
