"""Edits that stay in place: inside `with editing(subject, edits, coders):` every pass of the model is edited, plain `model.generate(...)` too.

A pass that the subject makes says itself which tokens it holds; of any other pass that is read from the model's arguments: which positions are padding or
special, and whether a token was given or generated (with or without a key-value cache, left padding, beam search). Nested sessions act one after another.
Refuses: passes of other threads while it lasts (unless any_thread), and passes of which it cannot tell what an edit asks.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sparselight.errors import SubjectError
from sparselight.intervene.edit import Coders, Edits, edit_functions
from sparselight.protocols import EditFunction, Places
from sparselight.subjects import HuggingFaceSubject, ModuleSubject
from sparselight.subjects.hooks import Hook, own_thread
from sparselight.subjects.hooks import editing as hooked
from sparselight.subjects.places import Phase, pass_under_way, passing

ASKED = "edit this pass of the model"


@contextlib.contextmanager
def editing(subject: Any, edits: Edits | Mapping[str, EditFunction], coders: Coders | None = None, *, any_thread: bool = False) -> Iterator[Any]:
    """Edit every pass of a subject's model inside the block.

    Args:
        subject: a Hugging Face subject, or any module.
        edits: an edit, several, their file, or functions by site.
        coders: the dictionary, or dictionaries by name; not needed for functions.
        any_thread: edit passes of other threads too, such as a `generate` that a text streamer runs in a thread of its own; without it they are refused.

    Yields:
        The model, to be called or made to generate.

    Raises:
        ConfigError: when an edit does not fit its dictionary.
        SubjectError: when the subject has no such site.
    """
    functions = edits if isinstance(edits, Mapping) else edit_functions(edits, coders if coders is not None else {})
    if not isinstance(subject, HuggingFaceSubject | ModuleSubject):
        raise SubjectError(asked=f"open an editing session on {type(subject).__name__}", why="its model is not known to take hooks",
                           instead="give edits to subject.predict or loss")
    model = subject.model if isinstance(subject, HuggingFaceSubject) else subject.module
    sites = {subject._site(name): function for name, function in functions.items()}
    reader = PassReader(subject)

    def foreign() -> SubjectError:
        return SubjectError(asked=ASKED, why="another thread opened the editing session that is in force",
                            instead="open the session in the thread that runs the model, or with editing(..., any_thread=True)")

    def guard(hook: Hook) -> Hook:
        return hook if any_thread else own_thread(hook, foreign)

    with contextlib.ExitStack() as stack:
        if sites:
            stack.callback(model.register_forward_pre_hook(guard(reader.begin), with_kwargs=True).remove)
            stack.callback(model.register_forward_hook(reader.end if any_thread else own_thread(reader.end), always_call=True).remove)
            stack.enter_context(hooked(sites, reader.counts, subject.ref().token_policy.max_norms, guard))
        yield model


class PassReader(threading.local):
    """What the pass under way holds, told by the subject or read from the model's arguments; each thread reads its own passes."""

    def __init__(self, subject: HuggingFaceSubject | ModuleSubject):
        self._tokens = subject._tokens if isinstance(subject, HuggingFaceSubject) else None
        self._special = torch.tensor(sorted(self._tokens.vocabulary.special_ids) if self._tokens is not None else [], dtype=torch.int64)
        self._device = subject.device
        self._open: list[contextlib.ExitStack] = []
        self._prompt: _Prompt | None = None

    def begin(self, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the model runs."""
        stack = contextlib.ExitStack()
        if pass_under_way() is None and self._tokens is not None:
            stack.enter_context(passing(*self._read(args, kwargs)))
        self._open.append(stack)

    def end(self, _module: Any, _args: Any, _output: Any) -> None:
        """After the model ran, also when it failed."""
        if self._open:
            self._open.pop().close()

    def counts(self) -> Bool[Tensor, "row position"]:
        """Counted positions of the pass under way.

        Raises:
            SubjectError: when nothing says which those are.
        """
        known = pass_under_way()
        if known is not None:
            return known.counts.to(self._device)
        if self._tokens is None:
            raise SubjectError(asked=ASKED, why="a plain call of a module does not say which positions count",
                               instead="use subject.predict, loss or capture inside the session")
        raise SubjectError(asked=ASKED, why="it does not begin at the model itself, so that nothing says which positions are padding",
                           instead="call subject.model(...) or subject.model.generate(...), not a part of it")

    def _read(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Bool[Tensor, "row position"], Callable[[], Places], Phase | None]:
        ids, embeds = kwargs.get("input_ids", args[0] if args else None), kwargs.get("inputs_embeds")
        if not isinstance(ids, Tensor) and not isinstance(embeds, Tensor):
            raise SubjectError(asked=ASKED, why="it is called without input_ids", instead="call the model with input_ids=")
        n_rows, width = (ids if isinstance(ids, Tensor) else embeds).shape[:2]  # type: ignore[union-attr]
        known_ids = ids.cpu() if isinstance(ids, Tensor) else torch.full((n_rows, width), -1)
        cache = kwargs.get("past_key_values")
        n_cached = 0 if cache is None else int(cache.get_seq_length())
        counts = _padding(kwargs.get("attention_mask"), n_rows, width, n_cached) & self._counted(known_ids)
        prompt = self._prompt_of(known_ids, counts, n_cached)
        phase: Phase | None = "generated" if n_cached >= prompt.width else "prompt" if n_cached + width <= prompt.width else None
        if prompt.several_at_once:
            phase = None
        return counts, lambda: _places(known_ids, counts, prompt, n_cached), phase

    def _counted(self, ids: Int[Tensor, "row position"]) -> Bool[Tensor, "row position"]:
        assert self._tokens is not None
        return torch.ones_like(ids, dtype=torch.bool) if self._tokens.policy.count_specials else ~torch.isin(ids, self._special)

    def _prompt_of(self, ids: Int[Tensor, "row position"], counts: Bool[Tensor, "row position"], n_cached: int) -> "_Prompt":
        """The prompt that the pass belongs to: the last one, where the pass goes on from it, else its own tokens."""
        known = self._prompt
        goes_on = known is not None and known.n_rows == len(ids) and (n_cached >= known.width if n_cached else known.is_continued_by(ids))
        if known is None or not goes_on:
            assert self._tokens is not None
            if not n_cached and self._tokens.policy.skip_start_tokens:
                counts &= counts.cumsum(1) > self._tokens.policy.skip_start_tokens
            known = _Prompt(ids, n_cached, counts.sum(1))
        known.last_width = None if n_cached else ids.shape[1]
        known.several_at_once |= bool(goes_on and n_cached and ids.shape[1] > 1)
        self._prompt = known
        return known


class _Prompt:
    """The text that a generation goes on from."""

    def __init__(self, ids: Int[Tensor, "row position"], n_cached: int, n_counted: Int[Tensor, " row"]):
        self.ids, self.width, self.n_counted = ids, n_cached + ids.shape[1], n_counted
        self.n_rows, self.is_whole = len(ids), n_cached == 0
        self.last_width: int | None = None
        """Of the last pass, where nothing was remembered."""
        self.several_at_once = False

    def is_continued_by(self, ids: Int[Tensor, "row position"]) -> bool:
        """Whether a pass without a cache is one token longer than the last one; beam search may have put other rows of one prompt in their places."""
        return self.last_width is not None and ids.shape[1] == self.last_width + 1 and torch.equal(ids[:, :self.width], self.ids)


def _padding(mask: Any, n_rows: int, width: int, n_cached: int) -> Bool[Tensor, "row position"]:
    """Positions of the pass that are no padding."""
    if mask is None:
        return torch.ones(n_rows, width, dtype=torch.bool)
    if isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[0] == n_rows and mask.shape[1] >= n_cached + width:
        return mask[:, n_cached:n_cached + width].bool().cpu()
    if isinstance(mask, Tensor) and mask.shape == (n_rows, width):
        return mask.bool().cpu()
    raise SubjectError(asked=ASKED, why="its attention mask is not [row, position], so that nothing says which positions are padding",
                       instead="generate with the default cache, not a static one")


def _places(ids: Int[Tensor, "row position"], counts: Bool[Tensor, "row position"], prompt: _Prompt, n_cached: int) -> Places:
    """The counted tokens of the pass. Generated tokens are numbered behind the prompt's counted ones."""
    if not prompt.is_whole:
        raise SubjectError(asked=ASKED, why="it goes on from keys and values that were made before the session, so that tokens have no numbers",
                           instead="make them inside the session, or leave out where")
    if prompt.several_at_once:
        raise SubjectError(asked=ASKED, why="after the first pass another one brings several tokens at once (a prompt in chunks, or speculative decoding), and "
                           "the edit asks which were given and which were generated",
                           instead="generate without prefill_chunk_size and without an assistant, or leave out where")
    row, column = counts.nonzero().unbind(1)
    generated, n_given = column + n_cached >= prompt.width, prompt.n_counted[row]
    position = torch.where(generated, n_given + column + n_cached - prompt.width, counts.cumsum(1)[row, column] - 1)
    nowhere = torch.full_like(position, -1)
    return Places(row, position, ids[row, column], nowhere, nowhere, generated, n_given)
