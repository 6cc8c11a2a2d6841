"""Sequences from a masked language model: masks filled in step by step, and Gibbs sweeps, with or without edits.

A start is a text with mask tokens in it, a natural text, or a number of masks. Each step predicts from what stands there now, edits in force, and writes
some positions; a sweep hides every position that may change once, a share at a time, and draws it anew (Wang and Cho 2019, arXiv 1902.04094). A row depends on
its start, edits and seed alone. Refuses: subjects without masks, starts longer than a row, texts without masks and without sweeps.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparselight.errors import ConfigError, SubjectError
from sparselight.protocols import Batch, EditFunction, Example, Places
from sparselight.subjects import MaskedLM
from sparselight.subjects.generation import choose
from sparselight.subjects.places import passing, places_of

Order = Literal["random", "confident"]


@dataclass(frozen=True, slots=True)
class Unmasked:
    """A finished sequence."""

    text: str
    token_ids: list[int]
    start: int
    """Which of the starts it comes from."""
    seed: int


@dataclass(slots=True)
class _Rows:
    """The sequences being written."""

    batch: Batch
    writes: Bool[Tensor, "row position"]
    """Positions that may change."""
    rngs: list[np.random.Generator]


def unmask(
    subject: MaskedLM, starts: Sequence[str | int], edits: Mapping[str, EditFunction] | None = None, *, order: Order = "random", temperature: float = 1.0,
    seeds: Sequence[int] = (0,), begin_with: Literal["masks", "random"] = "masks", tokens_a_step: int = 1, sweeps: int = 0, sweep_frac: float = 0.15,
    allowed: Sequence[str] | str | None = None, max_rows: int = 64, paired: bool = False,
) -> list[Unmasked]:
    """Write sequences with a masked language model, every start with every seed.

    Args:
        starts: texts (their mask tokens are filled in; in one without any, sweeps draw every token anew), or numbers of masks.
        edits: functions by site; `where.tokens = "generated"` means the positions that may change.
        order: random: positions in an order drawn from the seed; confident: each step the positions whose likeliest token is likeliest.
        temperature: 0 takes the likeliest token; above 0 draws from softmax(logits / temperature) over the allowed ones.
        begin_with: for numbers: that many masks, or tokens drawn evenly from the allowed ones, for sweeps to work on.
        tokens_a_step: positions written from one pass.
        sweeps: how often every position is hidden and drawn again afterwards.
        sweep_frac: share of the positions that are hidden together.
        allowed: texts of the tokens that may be written, such as "LAGVSERTIDPKQNFYMHWC"; all but special tokens by default.
        max_rows: sequences that run through the model together.
        paired: write each start with its own seed only; there are as many seeds as starts.

    Raises:
        SubjectError: when the subject fills in no masks, or a start does not fit into one row.
        ConfigError: for settings that mean nothing, and tokens that the vocabulary does not have.
    """
    if not isinstance(subject, MaskedLM):
        raise SubjectError(asked=f"fill in masks with {subject.name}", why="it is no masked language model", instead="use subject.generate, or a masked_lm")
    _check(tokens_a_step, sweeps, sweep_frac, temperature)
    if order not in ("random", "confident"):
        raise ConfigError(asked=f"unmask with order = {order!r}", why="there is no such order", instead="use 'random' or 'confident'")
    ids = allowed_ids(subject, allowed)
    if paired and len(seeds) != len(starts):
        raise ConfigError(asked=f"unmask {len(starts)} starts with a seed each", why=f"there are {len(seeds)} seeds", instead="give as many, or paired = False")
    grid = list(enumerate(seeds)) if paired else [(number, seed) for number in range(len(starts)) for seed in seeds]
    found: list[Unmasked] = []
    for first in range(0, len(grid), max_rows):
        part = grid[first:first + max_rows]
        rows = _begin(subject, [starts[number] for number, _ in part], [seed for _, seed in part], begin_with, ids, sweeps)
        _fill(subject, rows, edits or {}, order, temperature, tokens_a_step, ids)
        for _ in range(sweeps):
            _sweep(subject, rows, edits or {}, temperature, sweep_frac, ids)
        for row, (number, seed) in enumerate(part):
            written = rows.batch.input_ids[row][rows.batch.counts[row]].tolist()
            found.append(Unmasked("".join(map(subject.token_text, written)).strip(), written, number, seed))
    return found


def allowed_ids(subject: MaskedLM, allowed: Sequence[str] | str | None) -> Int[Tensor, " allowed"]:
    """Tokens that may be written.

    Raises:
        ConfigError: naming a text that is no token.
    """
    vocabulary = subject._tokens.vocabulary
    barred = {*vocabulary.special_ids, vocabulary.mask_id}
    names = {vocabulary.backend.id_to_token(token_id): token_id for token_id in range(subject.n_vocabulary) if token_id not in barred}
    names.pop(None, None)
    if allowed is None:
        return torch.tensor(sorted(names.values()))
    missing = [text for text in allowed if text not in names]
    if missing or not len(allowed):
        raise ConfigError(asked=f"write only the tokens {''.join(allowed)!r}",
                          why=f"{missing[0]!r} is no token that may be written" if missing else "that is none",
                          instead="give texts of single tokens, or leave `allowed` out")
    return torch.tensor(sorted({names[text] for text in allowed}))


def _check(tokens_a_step: int, sweeps: int, sweep_frac: float, temperature: float) -> None:
    for name, value, holds, range_ in (
        ("tokens_a_step", tokens_a_step, tokens_a_step >= 1, "1 or more"), ("sweeps", sweeps, sweeps >= 0, "0 or more"),
        ("sweep_frac", sweep_frac, 0 < sweep_frac <= 1, "above 0, up to 1"), ("temperature", temperature, temperature >= 0, "0 or more"),
    ):
        if not holds:
            raise ConfigError(asked=f"unmask with {name} = {value}", why="that is out of range", instead=f"give {range_}")


def _begin(subject: MaskedLM, starts: Sequence[str | int], seeds: Sequence[int], begin_with: str, allowed: Int[Tensor, " allowed"], sweeps: int) -> _Rows:
    vocabulary = subject._tokens.vocabulary
    mask_id = vocabulary.mask_id
    assert mask_id is not None
    mask = vocabulary.backend.id_to_token(mask_id)
    texts = [start if isinstance(start, str) else mask * start for start in starts]
    examples = [Example(f"start {number}", text, f"start {number}") for number, text in enumerate(texts)]
    sizes = subject.n_tokens(examples)
    for start, size in zip(starts, sizes, strict=True):
        if not 0 < size <= subject.ref().token_policy.body_tokens:
            raise SubjectError(asked=f"write a sequence from {str(start)[:40]!r}", why=f"it has {size} tokens, and a row holds 1 to "
                               f"{subject.ref().token_policy.body_tokens} (subject.context_tokens)", instead="give a start that fits")
    batch = subject.prepare(examples)
    rngs = [np.random.default_rng(seed) for seed in seeds]
    masked = (batch.input_ids == mask_id) & batch.counts
    special = torch.isin(batch.input_ids, torch.tensor(sorted(vocabulary.special_ids)))
    writes = torch.where(masked.any(1, keepdim=True), masked, batch.counts & ~special)
    input_ids = batch.input_ids.clone()
    for row, start in enumerate(starts):
        if not masked[row].any() and not sweeps:
            raise ConfigError(asked=f"unmask {texts[row][:40]!r}", why="there is no mask in it, and sweeps = 0", instead=f"write {mask} into it, or set sweeps")
        if isinstance(start, int) and begin_with == "random":
            drawn = rngs[row].integers(len(allowed), size=int(writes[row].sum()))
            input_ids[row, writes[row]] = allowed[torch.from_numpy(drawn)]
    return _Rows(_with_ids(batch, input_ids), writes, rngs)


def _fill(subject: MaskedLM, rows: _Rows, edits: Mapping[str, EditFunction], order: Order, temperature: float, tokens_a_step: int,
          allowed: Int[Tensor, " allowed"]) -> None:
    mask_id = subject._tokens.vocabulary.mask_id
    masked = (rows.batch.input_ids == mask_id) & rows.writes
    left = [rng.permutation(own.nonzero()[:, 0].numpy()).tolist() for rng, own in zip(rows.rngs, masked, strict=True)]
    while any(left):
        if order == "random":
            chosen = [own[:tokens_a_step] for own in left]
            logits = _predict(subject, rows, edits, chosen, allowed)
        else:
            chosen, logits = _most_confident(_predict(subject, rows, edits, left, allowed), left, tokens_a_step)
        _write(rows, chosen, logits, temperature, allowed)
        left = [[position for position in own if position not in set(taken)] for own, taken in zip(left, chosen, strict=True)]


def _most_confident(logits: Float[Tensor, "entry allowed"], left: list[list[int]], n: int) -> tuple[list[list[int]], Float[Tensor, "entry allowed"]]:
    sure, first, kept = logits.softmax(-1).amax(-1), 0, []
    chosen: list[list[int]] = []
    for own in left:
        best = sure[first:first + len(own)].argsort(descending=True, stable=True)[:n].tolist()
        chosen.append([own[index] for index in best])
        kept += [first + index for index in best]
        first += len(own)
    return chosen, logits[torch.tensor(kept, dtype=torch.int64, device=logits.device)]


def _sweep(subject: MaskedLM, rows: _Rows, edits: Mapping[str, EditFunction], temperature: float, frac: float, allowed: Int[Tensor, " allowed"]) -> None:
    """Hide and draw every position that may change, once."""
    orders = [rng.permutation(own.nonzero()[:, 0].numpy()).tolist() for rng, own in zip(rows.rngs, rows.writes, strict=True)]
    n_groups, mask_id = math.ceil(1 / frac), subject._tokens.vocabulary.mask_id
    assert mask_id is not None
    for group in range(n_groups):
        chosen = [own[group::n_groups] for own in orders]
        input_ids = rows.batch.input_ids.clone()
        for row, positions in enumerate(chosen):
            input_ids[row, positions] = mask_id
        rows.batch = _with_ids(rows.batch, input_ids)
        if any(chosen):
            _write(rows, chosen, _predict(subject, rows, edits, chosen, allowed), temperature, allowed)


@torch.no_grad()
def _predict(subject: MaskedLM, rows: _Rows, edits: Mapping[str, EditFunction], positions: list[list[int]],
             allowed: Int[Tensor, " allowed"]) -> Float[Tensor, "entry allowed"]:
    """Logits of the allowed tokens at positions of every row."""
    where = torch.tensor([(row, position) for row, own in enumerate(positions) for position in own], dtype=torch.int64).view(-1, 2)
    batch = rows.batch
    with passing(batch.counts, lambda: _places(rows)):
        return subject._logits(batch, edits, where, subject._head).float()[:, allowed.to(subject.device)]


def _places(rows: _Rows) -> Places:
    return replace(places_of(rows.batch), generated=rows.writes[rows.batch.counts])


def _write(rows: _Rows, positions: list[list[int]], logits: Float[Tensor, "entry allowed"], temperature: float, allowed: Int[Tensor, " allowed"]) -> None:
    draws = torch.tensor([draw for rng, own in zip(rows.rngs, positions, strict=True) for draw in rng.random(len(own))], dtype=torch.float64)
    tokens = allowed[choose(logits, temperature, draws if temperature else None).cpu()]
    input_ids, first = rows.batch.input_ids.clone(), 0
    for row, own in enumerate(positions):
        input_ids[row, own] = tokens[first:first + len(own)]
        first += len(own)
    rows.batch = _with_ids(rows.batch, input_ids)


def _with_ids(batch: Batch, input_ids: Int[Tensor, "row position"]) -> Batch:
    return replace(batch, input_ids=input_ids, token_id=input_ids[batch.counts])
