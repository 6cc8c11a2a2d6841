"""Continuing texts with a causal language model: many rows at once, each with its own edits and its own random numbers.

Prompts that are alike, edits that act on them included, run once; their keys and values then serve every row. Rows that are done leave. What a row
becomes depends on its text, edits and seed, not on the rows beside it (up to float rounding). Refuses: rows longer than the context, edits or seeds
that are not one a row.
"""

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparselight.errors import SubjectError
from sparselight.protocols import EditFunction, Example, Places
from sparselight.subjects.hooks import own_thread
from sparselight.subjects.places import passing
from sparselight.subjects.rows import Stretch
from sparselight.subjects.site import Site

OnText = Callable[[int, str], None]
"""Gets the number of a row and the next piece of its text."""
INCOMPLETE = "\ufffd"  # ends a text whose last character has bytes still to come


@dataclass(frozen=True, slots=True)
class Continuation:
    """What a subject wrote behind a text."""

    text: str
    token_ids: list[int]
    """The end-of-text token included."""
    ended: bool
    """By an end-of-text token, not by the limit."""


@dataclass(slots=True)
class Row:
    """One text being continued."""

    number: int
    prompt: Stretch
    example: Example
    edits: Mapping[Site, EditFunction]
    draws: Float[Tensor, " step"] | None
    """Numbers from [0, 1), one a token to be written; None where the likeliest is taken."""
    ids: list[int] = field(default_factory=list)
    counts: list[bool] = field(default_factory=list)
    """Of what was written."""
    ended: bool = False
    said: int = 0
    """Characters that were handed to `on_text`."""

    @property
    def n_given(self) -> int:
        return int(self.prompt.counts.sum())

    def edits_during(self, phase: str) -> dict[Site, EditFunction]:
        """Edits that are left where all tokens are given (`prompt`), or all `generated`."""
        left = {site: edit.during(phase) if hasattr(edit, "during") else edit for site, edit in self.edits.items()}
        return {site: edit for site, edit in left.items() if edit is not None}


class RowEdits:
    """Edits of one site that differ from row to row, as a `protocols.PlacedEdit`; in its passes `places.example` numbers the rows."""

    needs_places = True

    def __init__(self, functions: Sequence[EditFunction | None]):
        distinct = list({id(function): function for function in functions if function is not None}.values())
        self._groups = [(function, torch.tensor([own is function for own in functions])) for function in distinct]

    def __repr__(self) -> str:
        return f"{len(self._groups)} edits of different rows"

    def __call__(self, _x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        raise AssertionError("called through `at`")

    def during(self, _phase: str) -> EditFunction:
        return self

    def at(self, places: Places) -> EditFunction:
        def apply(x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
            for function, rows in self._groups:
                own = rows[places.example]
                placed: Any = function
                bound = placed.at(places.take(own)) if getattr(function, "needs_places", False) else function
                index = own.nonzero()[:, 0].to(x.device)
                if len(index):
                    x = x.index_copy(0, index, bound(x[index]))
            return x

        return apply


def of_rows(functions: Sequence[EditFunction | None]) -> EditFunction | None:
    """One function for a site from one for each row."""
    there = [function for function in functions if function is not None]
    if not there:
        return None
    if len(there) == len(functions) and all(function is there[0] for function in there):
        return there[0]
    kinds = {type(function) for function in there}
    together = next(iter(kinds)).stack(functions) if len(kinds) == 1 and hasattr(there[0], "stack") else None  # type: ignore[attr-defined]
    return together or RowEdits(functions)


class Continuing:
    """Continues rows of one length or, where the model bears padding on the left, of any.

    Args:
        subject: a CausalLM.
    """

    def __init__(self, subject: Any, rows: Sequence[Row], temperature: float, on_text: OnText | None):
        self.subject, self.rows, self.temperature, self.on_text = subject, list(rows), temperature, on_text
        lengths = [len(row.prompt.ids) for row in rows]
        self.width = max(lengths)
        self._needs_positions = min(lengths) < self.width and bool(subject.left_padding)
        self._padding = torch.tensor([self.width - length for length in lengths])
        self._counted = torch.zeros(0, 1, dtype=torch.bool)

    @torch.no_grad()
    def run(self, n_tokens: int, use_cache: bool) -> None:
        """Write up to n_tokens behind every row."""
        if not n_tokens:
            return
        logits, cache = self._first() if use_cache else (self._whole(self.rows), None)
        edits: dict[Site, EditFunction] | None = None
        rows, hooked = self.rows, False
        with contextlib.ExitStack() as hooks:  # edits of a step stay in place as long as the rows do
            for step in range(n_tokens):
                if self.on_text is not None:  # whoever listens may use the subject
                    hooks.close()
                    hooked = False
                self._take(rows, logits, step)
                keep = [index for index, row in enumerate(rows) if not row.ended]
                if step + 1 == n_tokens or not keep:
                    break
                if len(keep) < len(rows):
                    rows, self._padding, edits, hooked = [rows[index] for index in keep], self._padding[keep], None, False
                    if cache is not None:
                        cache.reorder_cache(torch.tensor(keep, device=self.subject.device))
                if cache is None:
                    logits = self._whole(rows)
                    continue
                edits = self._edits(rows, "generated") if edits is None else edits
                if not hooked:
                    hooks.close()
                    hooks.enter_context(self.subject._editing(edits, self._step_counts))
                    hooked = True
                logits = self._next(rows, cache)

    def _step_counts(self) -> Tensor:
        return self._counted

    def _first(self) -> tuple[Float[Tensor, "row vocabulary"], Any]:
        """The pass over the prompts, each different one once, and what every row goes on from."""
        keys: dict[Any, int] = {}
        index = [keys.setdefault(self._key(row), len(keys)) for row in self.rows]
        first = [index.index(number) for number in range(len(keys))]
        prompts = [self.rows[number] for number in first]
        edits = self._edits(prompts, "prompt")
        output = self._pass(prompts, edits, use_cache=True)
        cache, logits = getattr(output, "past_key_values", None), output.logits[:, -1]
        if len(prompts) == len(self.rows):
            return logits, cache
        order = torch.tensor(index, device=self.subject.device)
        if cache is not None:
            cache.reorder_cache(order)
        return logits[order], cache

    def _key(self, row: Row) -> Any:
        """Equal for rows whose prompts give the same keys and values."""
        edits = row.edits_during("prompt")
        placed = any(getattr(edit, "needs_places", False) for edit in edits.values())
        acts = tuple(sorted((site.name, id(edit)) for site, edit in edits.items()))
        return tuple(row.prompt.ids.tolist()), row.prompt.shown, acts, id(row.example) if placed else 0

    def _whole(self, rows: Sequence[Row]) -> Float[Tensor, "row vocabulary"]:
        """A pass over all that is there, nothing remembered."""
        edits = {site: function for site in {site: None for row in rows for site in row.edits}
                 if (function := of_rows([row.edits.get(site) for row in rows])) is not None}
        return self._pass(rows, edits, use_cache=False).logits[:, -1]

    def _pass(self, rows: Sequence[Row], edits: Mapping[Site, EditFunction], use_cache: bool) -> Any:
        """A forward pass from the beginning of the rows; the output layer sees the last position only."""
        ids = [np.concatenate([row.prompt.ids, np.asarray(row.ids, np.int64)]) for row in rows]
        counts = [np.concatenate([row.prompt.counts, np.asarray(row.counts, bool)]) for row in rows]
        width, lengths = max(map(len, ids)), torch.tensor([len(own) for own in ids])
        subject, pad_id = self.subject, self.subject._tokens.vocabulary.pad_id
        input_ids = torch.from_numpy(np.stack([np.pad(own, (width - len(own), 0), constant_values=pad_id) for own in ids])).to(subject.device)
        counted = torch.from_numpy(np.stack([np.pad(own, (width - len(own), 0)) for own in counts]))
        mask = (torch.arange(width) >= width - lengths[:, None]).to(subject.device, torch.int64)
        with contextlib.ExitStack() as stack:
            stack.enter_context(passing(counted, functools.partial(row_places, rows)))
            stack.enter_context(subject._editing(edits, counted))
            if not any(site.module is subject._head for site in edits):  # an edit of the output layer must see all positions
                stack.callback(subject._head.register_forward_pre_hook(own_thread(lambda _module, args: (args[0][:, -1:], *args[1:]))).remove)
            more = {**self._positions(mask, width), **subject._row_arguments([row.prompt for row in rows], input_ids, mask)}
            return subject.model(input_ids=input_ids, attention_mask=mask, use_cache=use_cache, **more)

    def _next(self, rows: Sequence[Row], cache: Any) -> Float[Tensor, "row vocabulary"]:
        """The pass over the token that every row got last."""
        subject = self.subject
        ids = torch.tensor([[row.ids[-1]] for row in rows], device=subject.device)
        self._counted = torch.tensor([[row.counts[-1]] for row in rows], device=subject.device)
        total = self.width + len(rows[0].ids)
        mask = (torch.arange(total) >= self._padding[:, None]).to(subject.device, torch.int64)
        with passing(self._counted, functools.partial(row_places, rows, True)):
            more = {**self._positions(mask, 1), **subject._step_arguments([row.prompt for row in rows], mask)}
            output = subject.model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **more)
        return output.logits[:, -1]

    def _positions(self, mask: Int[Tensor, "row position"], n_last: int) -> dict[str, Tensor]:
        return {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)[:, -n_last:]} if self._needs_positions else {}

    def _edits(self, rows: Sequence[Row], phase: str) -> dict[Site, EditFunction]:
        left = [row.edits_during(phase) for row in rows]
        sites = dict.fromkeys(site for own in left for site in own)
        return {site: function for site in sites if (function := of_rows([own.get(site) for own in left])) is not None}

    def _take(self, rows: Sequence[Row], logits: Float[Tensor, "row vocabulary"], step: int) -> None:
        """Add the next token to every row."""
        tokens, vocabulary = self.subject._tokens, self.subject._tokens.vocabulary
        draws = None if self.temperature == 0 else torch.stack([row.draws[step] for row in rows if row.draws is not None])
        for row, token_id in zip(rows, choose(self.subject._candidates(logits.float()), self.temperature, draws).tolist(), strict=True):
            row.ids.append(token_id)
            row.counts.append(tokens.counts_token(token_id))
            row.ended = token_id in vocabulary.stop_ids
            if self.on_text is not None:
                self._say(row, self.on_text)

    def _say(self, row: Row, on_text: OnText) -> None:
        text = self.text(row)
        if len(text) > row.said and (row.ended or not text.endswith(INCOMPLETE)):
            on_text(row.number, text[row.said:])
            row.said = len(text)

    def text(self, row: Row) -> str:
        prompt = row.prompt.ids.tolist()
        return str(self.subject._tokens.vocabulary.continuation(prompt + row.ids, len(prompt)))

    def finish(self, row: Row) -> Continuation:
        """What the row became."""
        text = self.text(row)
        if self.on_text is not None and len(text) > row.said:  # held back: its last character never came to its end
            self.on_text(row.number, text[row.said:])
        return Continuation(text, row.ids, row.ended)


def check_generation(n_rows: int, n_tokens: int, edits: Any, temperature: float, seeds: Any) -> None:
    """Refuse what cannot be written.

    Raises:
        SubjectError: for negative numbers, and edits or seeds that are not one a row.
    """
    asked = f"continue {n_rows} texts by {n_tokens} tokens"
    if n_tokens < 0 or temperature < 0:
        raise SubjectError(asked=f"{asked} at temperature {temperature:g}", why="a number is negative", instead="give 0 or more of both")
    for name, given in (("edits", edits), ("seeds", seeds)):
        if given is not None and not isinstance(given, Mapping | int) and len(given) != n_rows:
            raise SubjectError(asked=asked, why=f"{len(given)} {name} are given", instead=f"give one of {name} a text, or one for all")


def choose(logits: Float[Tensor, "row vocabulary"], temperature: float, draws: Float[Tensor, " row"] | None) -> Int[Tensor, " row"]:
    """The likeliest token of each row, or the one at which the cumulated softmax(logits / temperature) passes the row's draw."""
    if temperature == 0 or draws is None:
        return logits.argmax(-1)
    cumulated = (logits / temperature).softmax(-1).double().cumsum(-1)
    drawn = draws.to(cumulated)[:, None] * cumulated[:, -1:]
    return torch.searchsorted(cumulated, drawn, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)


def row_places(rows: Sequence[Row], last_only: bool = False) -> Places:
    """The counted tokens of a pass over whole rows, or over the last token of each."""
    columns: list[list[int]] = [[] for _ in range(7)]
    for number, row in enumerate(rows):
        n_given, own = row.n_given, row.prompt
        given = [] if last_only else list(zip(own.ids[own.counts].tolist(), *own.offsets[own.counts].T.tolist(), [0] * n_given, strict=True))
        written = [(token_id, -1, -1, 1) for token_id, counted in zip(row.ids, row.counts, strict=True) if counted]
        tokens = (written[-1:] if row.counts[-1:] == [True] else []) if last_only else [*given, *written]
        first = n_given + len(written) - 1 if last_only else 0
        for position, values in enumerate(tokens, first):
            for column, value in zip(columns, (number, position, *values, n_given), strict=True):
                column.append(value)
    example, at, token_id, char_start, char_end, generated, n_given_of = (torch.tensor(column, dtype=torch.int64) for column in columns)
    return Places(example, at, token_id, char_start, char_end, generated.bool(), n_given_of, [row.example for row in rows])


def groups_of(rows: Sequence[Row], max_rows: int, any_length: bool) -> list[list[Row]]:
    """Rows that go through the model together: at most max_rows, of like length or, where padding would change something, of one."""
    ordered = sorted(rows, key=lambda row: len(row.prompt.ids))  # stable: rows of one text stay together
    groups: list[list[Row]] = []
    for row in ordered:
        if not groups or len(groups[-1]) == max_rows or not (any_length or len(groups[-1][0].prompt.ids) == len(row.prompt.ids)):
            groups.append([])
        groups[-1].append(row)
    return groups
