"""Forward passes of one batch that differ from one site on: the layers before it run once, and the output layer sees a few positions at a time.

A layer whose result is known is called but not computed: it gives that result again, so that hooks, masks and everything outside the layers run
as in a whole pass. This holds for models in which later layers see earlier ones through the stream of layers alone; `can_resume` finds out on a
batch whether the predictions keep every bit, and whoever resumes asks it first. Refuses nothing: where it cannot be done, whole passes are.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sparselight.protocols import Batch, EditFunction
from sparselight.subjects.hugging_face import HuggingFaceSubject
from sparselight.subjects.site import Site

CHECKED_POSITIONS = 64


@dataclass(frozen=True, slots=True)
class Scoring:
    """One forward pass whose predictions have a right answer: the batch as the model sees it, and where in it the answers are predicted."""

    batch: Batch
    """Of a masked language model: with the scored tokens hidden."""
    tokens: Int[Tensor, " scored"]
    """Which of the counted tokens are predicted."""
    where: Int[Tensor, "scored 2"]
    """Row and position of their logits."""


class _DoneError(Exception):
    """Ends a forward pass whose remaining part nobody needs; never leaves this module."""


class SplicedPasses:
    """Predictions of one batch, unedited and with any number of edits at one site.

    Args:
        resume: run the layers before the site once (see `can_resume`); without it every call of `logits` is a whole pass.
    """

    def __init__(self, subject: HuggingFaceSubject, scoring: Scoring, site: str, resume: bool):
        self._subject, self._scoring, self._name, self._resume = subject, scoring, site, resume
        self._layers = subject.layers if resume else []
        self._before = self._layers[:layers_before(self._layers, subject._site(site))]
        with torch.no_grad():
            self._begin = self._output_of(self._before[-1], None) if self._before else None

    @torch.no_grad()
    def run(self, edit: EditFunction | None) -> Any:
        """One pass up to the output layer, for `logits`."""
        if not self._resume:
            return edit
        with skipping(self._before, self._begin):
            return self._output_of(self._layers[-1], edit)

    @torch.no_grad()
    def logits(self, end: Any, part: slice) -> Float[Tensor, "scored vocabulary"]:
        """Logits, in float32, at some of the scored positions.

        Args:
            end: what `run` gave.
        """
        batch, where = self._scoring.batch, self._scoring.where[part]
        if not self._resume:
            return self._subject._logits(batch, None if end is None else {self._name: end}, where, self._subject._head).float()
        with skipping(self._layers, end):
            return self._subject._logits(batch, None, where, self._subject._head).float()

    def _output_of(self, layer: nn.Module, edit: EditFunction | None) -> Any:
        found: list[Any] = []

        def keep(_module: nn.Module, _args: Any, output: Any) -> None:
            found.append(output)
            raise _DoneError

        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.suppress(_DoneError))
            edits = {} if edit is None else {self._name: edit}
            stack.enter_context(self._subject._editing(self._subject._resolve_edits(edits), self._scoring.batch.counts))
            stack.callback(layer.register_forward_hook(keep).remove)  # after the edit's own hook, so that it sees what the edit has made
            self._subject._forward(self._scoring.batch)
        return found[0]


@torch.no_grad()
def can_resume(subject: HuggingFaceSubject, scoring: Scoring, site: str) -> bool:
    """Whether resumed passes meet the site, and predict what whole ones do, bit for bit, on some positions of this batch."""
    part, n_met = slice(0, CHECKED_POSITIONS), 0

    def same(x: Tensor) -> Tensor:
        nonlocal n_met
        n_met += 1
        return x

    if not subject.layers or not len(scoring.where):
        return False
    try:
        passes = SplicedPasses(subject, scoring, site, resume=True)
        passes.run(None)  # a second run shows whether the first uses up what earlier layers left for later ones
        resumed = passes.logits(passes.run(same), part)
    except Exception:  # layers that give something else than tensors, or hang together otherwise: whatever fails here, whole passes work
        return False
    whole = subject._logits(scoring.batch, None, scoring.where[part], subject._head).float()
    return n_met == 1 and torch.equal(resumed, whole)


def layers_before(layers: Sequence[nn.Module], site: Site) -> int:
    """How many layers have given their result before an edit at the site takes effect; 0 for a site outside the layers."""
    for number, layer in enumerate(layers):
        if site.module is layer and site.side == "output":
            return number + 1
        if any(site.module is module for module in layer.modules()):
            return number
    return 0


@contextlib.contextmanager
def skipping(layers: Sequence[nn.Module], output: Any) -> Iterator[None]:
    """While the block runs, each of these layers gives a copy of `output` instead of computing."""
    before = [vars(layer).get("forward") for layer in layers]  # device maps put a forward of their own there
    try:
        for layer in layers:
            _replace_forward(layer, lambda *_args, **_kwargs: _copied(output))
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            if forward is None:
                vars(layer).pop("forward", None)
            else:
                _replace_forward(layer, forward)


def _replace_forward(layer: Any, forward: Callable[..., Any]) -> None:
    layer.forward = forward


def _copied(output: Any) -> Any:
    """Models may work in place on what a layer gives."""
    return output.clone() if isinstance(output, Tensor) else type(output)([output[0].clone(), *output[1:]])
