"""Continuing texts with any subject that predicts the next token: every step reads the whole text again.

Nothing is remembered between steps, so that n tokens cost about n / 2 passes over the whole; Hugging Face models have `generation`, which remembers. A row
depends on its text, edits and seed alone. Owns the check that a text grows by just the token that was chosen. Refuses: texts without a token before the
first new one, tokens whose text reads as others.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparselight.errors import SubjectError
from sparselight.protocols import Batch, EditFunction, Example, Places, Subject
from sparselight.subjects.generation import Continuation, OnText, choose, of_rows
from sparselight.subjects.places import passing, places_of


@dataclass(slots=True)
class _Row:
    """A text being continued."""

    number: int
    example: Example
    edits: Mapping[str, EditFunction]
    draws: Float[Tensor, " step"] | None
    n_given: int = 0
    written: str = ""
    ids: list[int] = field(default_factory=list)
    ended: bool = False


def continue_texts(
    subject: Subject, examples: Sequence[Example], n_tokens: int, edits: Sequence[Mapping[str, EditFunction] | None], temperature: float,
    seeds: Sequence[int], stop_ids: Collection[int] = (), on_text: OnText | None = None, max_rows: int = 256,
) -> list[Continuation]:
    """Write up to n_tokens behind every example.

    Args:
        edits: one a row, by site; they act on given and written tokens unless their `where` says otherwise.
        temperature: 0 takes the likeliest token; above 0 draws from softmax(logits / temperature).
        stop_ids: tokens that end a text and are no part of it.
        max_rows: texts that run together.

    Raises:
        SubjectError: when a text has no token, or what is written does not read as the tokens that were chosen.
    """
    rows = [_Row(number, example, own or {}, torch.rand(n_tokens, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) if temperature else None)
            for number, (example, own, seed) in enumerate(zip(examples, edits, seeds, strict=True))]
    for first in range(0, len(rows), max_rows):
        living = rows[first:first + max_rows]
        for step in range(n_tokens):
            logits = _next_logits(subject, living)
            draws = torch.stack([row.draws[step] for row in living if row.draws is not None]) if temperature else None
            for row, token_id in zip(living, choose(logits, temperature, draws).tolist(), strict=True):
                _add(row, token_id, token_id in stop_ids, subject.token_text, on_text)
            living = [row for row in living if not row.ended]
            if not living:
                break
    return [Continuation(row.written, row.ids, row.ended) for row in rows]


def _add(row: _Row, token_id: int, ends: bool, token_text: Callable[[int], str], on_text: OnText | None) -> None:
    row.ids.append(token_id)
    row.ended = ends
    if not ends:
        text = token_text(token_id)
        row.written += text
        if on_text is not None:
            on_text(row.number, text)


@torch.no_grad()
def _next_logits(subject: Subject, rows: Sequence[_Row]) -> Float[Tensor, "row vocabulary"]:
    batch = subject.prepare([replace(row.example, text=row.example.text + row.written) for row in rows])
    sizes = torch.bincount(batch.example.cpu(), minlength=len(rows))
    last = sizes.cumsum(0) - 1
    for row, size, end in zip(rows, sizes.tolist(), last.tolist(), strict=True):
        _check(subject, row, size, batch, end)
    sites = dict.fromkeys(site for row in rows for site in row.edits)
    edits = {site: function for site in sites if (function := of_rows([row.edits.get(site) for row in rows])) is not None}
    with passing(batch.counts, lambda: _places(batch, rows)):
        logits: Any = subject.predict(batch, edits)
    return logits[last.to(logits.device)].float()


def _check(subject: Subject, row: _Row, size: int, batch: Batch, last: int) -> None:
    asked = f"continue {(row.example.text + row.written)[-40:]!r} with {subject.name}"
    if not size:
        raise SubjectError(asked=asked, why="no token stands before what is to be written", instead="give a text to begin with")
    row.n_given = row.n_given or size
    if size != row.n_given + len(row.ids) or (row.ids and int(batch.token_id[last]) != row.ids[-1]):
        raise SubjectError(asked=asked, why="what it wrote does not read as the token that it chose",
                           instead="make token_text(id) the text that prepare reads as that token, or name tokens without a text in stop_ids")


def _places(batch: Batch, rows: Sequence[_Row]) -> Places:
    given: Int[Tensor, " row"] = torch.tensor([row.n_given for row in rows])
    places = places_of(batch)
    return replace(places, generated=places.position >= given[places.example], n_given=given[places.example])
