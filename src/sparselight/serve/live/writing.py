"""What the subject writes without and with edits, by kind: a continuation, a filled-in sequence, a ranking of items.

A sequence without gaps gets some: the tokens whose prediction the edits change most are hidden and written twice, without and with the edits, by the
same random numbers. Both rows of a continuation run in one batch. Owns these choices. Refuses: more new tokens than the limit.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from sparselight.errors import ConfigError
from sparselight.intervene.ranking import last_scores, ranking_change
from sparselight.intervene.unmask import allowed_ids, unmask
from sparselight.protocols import EditFunction, Example
from sparselight.serve.live.compared import check_numbers, sides
from sparselight.serve.live.config import LiveConfig
from sparselight.serve.live.inputs import RESIDUES, Given, mask_text
from sparselight.serve.live.models import EditRequest, RankedItem, Ranking, Side
from sparselight.subjects.recommender.scoring import MASKED

if TYPE_CHECKING:
    from sparselight.subjects import MaskedLM

WRITERS = ("causal_lm", "image_text")
WORDS = re.compile(r"\s+|\w+|[^\w\s]")
MOST_STEPS = 32  # passes over a sequence that is filled in
FINDINGS = "FINDINGS:"  # the heading behind which a report is written anew
DEFAULT_TOKENS = {"text": 40, "sequence": 8}
Functions = Mapping[str, EditFunction]


def what_it_writes(kind: str) -> str:
    """The kind of EditAnswer that a kind of subject gives."""
    if kind in WRITERS:
        return "text"
    return {"masked_lm": "sequence", "recommender": "ranking"}.get(kind, "predictions")


def tokens_to_write(request: EditRequest, kind: str, config: LiveConfig) -> int:
    """How many tokens a request asks for.

    Raises:
        ConfigError: for more than the limit.
    """
    if request.n_tokens is None:
        return min(DEFAULT_TOKENS.get(kind, 0), config.max_new_tokens)
    if request.n_tokens > config.max_new_tokens:
        raise ConfigError(asked=f"write {request.n_tokens} tokens", why=f"live.max_new_tokens = {config.max_new_tokens}", instead="ask for fewer")
    return request.n_tokens


def prompt_of(example: Example) -> Example:
    """What a continuation goes on from where nobody typed it: the text; of a whole report, what stands before its findings."""
    head, found, _ = example.text.partition(FINDINGS)
    return replace(example, text=head + found, spans=()) if example.images and found else example


def continue_text(subject: Any, given: Given, edits: Functions, request: EditRequest, n_tokens: int) -> tuple[str, Side, Side]:
    """Prompt, and the continuation without and with the edits."""
    prompt = given.example if request.input.text is not None else prompt_of(given.example)
    seeds = [request.seed, request.seed]
    before, after = subject.generate_many([prompt, prompt], n_tokens, [None, edits], request.temperature, seeds)
    return (prompt.text, *sides(WORDS.findall(before.text), WORDS.findall(after.text)))


def fill_in(
    subject: "MaskedLM", given: Given, edits: Functions, request: EditRequest, n_tokens: int, config: LiveConfig, divergence: Float[np.ndarray, " token"],
) -> tuple[str, Side | None, Side | None]:
    """The start with its gaps, and what fills them without and with the edits.

    Raises:
        ConfigError: when there are more gaps than may be filled.
    """
    mask = mask_text(subject)
    assert mask is not None
    ids, mask_id = given.batch.token_id.tolist(), subject._tokens.vocabulary.mask_id
    gaps = [token for token, token_id in enumerate(ids) if token_id == mask_id]
    if len(gaps) > config.max_new_tokens:
        raise ConfigError(asked=f"fill in {len(gaps)} tokens", why=f"live.max_new_tokens = {config.max_new_tokens}", instead="leave fewer gaps")
    start = given.example.text
    if not gaps:
        gaps = [token for token in np.argsort(-divergence, kind="stable")[:n_tokens].tolist() if divergence[token] > 0]
        start = with_gaps(start, given, gaps, mask)
    if not gaps:
        return given.example.text, None, None
    names = [subject.token_text(token_id) for token_id in range(subject.n_vocabulary)] if subject.n_vocabulary < 100 else []
    allowed = RESIDUES if all(residue in names for residue in RESIDUES) else None
    allowed_ids(subject, allowed)
    settings: dict[str, Any] = {"order": "confident", "temperature": request.temperature, "seeds": (request.seed,), "allowed": allowed,
                                "tokens_a_step": -(-len(gaps) // MOST_STEPS)}
    written = [unmask(subject, [start], chosen, **settings)[0] for chosen in (None, edits)]
    texts = [[subject.token_text(token_id) for token_id in one.token_ids] for one in written]
    return (start.replace(mask, "_"), *sides(texts[0], texts[1], by_place=len(texts[0]) == len(texts[1])))


def with_gaps(text: str, given: Given, tokens: Sequence[int], mask: str) -> str:
    """A text with these tokens as masks."""
    spans = sorted((int(given.batch.char_start[token]), int(given.batch.char_end[token])) for token in tokens)
    for start, end in reversed(spans):
        text = text[:start] + mask + text[end:]
    return text


def marks_of(items: Any, place: int) -> list[str]:
    """Genres, tags and the like of an item, each once."""
    return list(dict.fromkeys(value for values in items.labels[place].values() for value in values))


def rank_items(subject: Any, given: Given, edits: Functions, top: int) -> Ranking:
    """Recommendations behind the last interaction, without and with the edits."""
    examples = [given.example]
    before, after = (last_scores(subject, examples, chosen) for chosen in (None, edits))
    check_numbers(torch.where(after.isfinite(), after, torch.nan))
    seen = before <= MASKED / 2
    k = min(top, int((~seen).sum()))
    if k < 1:
        raise ConfigError(asked="recommend items", why="the user has every item", instead="give a shorter history")
    change = ranking_change(before, after, k, seen)

    def row(item: int) -> RankedItem:
        place = item - 1
        return RankedItem(
            item=subject.items.ids[place], title=subject.items.titles[place], marks=marks_of(subject.items, place),
            rank_before=int(change.rank_before[0, item]), rank_after=int(change.rank_after[0, item]), score_before=float(before[0, item]),
            score_after=float(after[0, item]),
        )

    kendall = float(change.kendall()[0])
    return Ranking(before=[row(item) for item in change.before[0].tolist()], after=[row(item) for item in change.after[0].tolist()],
                   overlap=float(change.overlap()[0]), kendall=0.0 if torch.tensor(kendall).isnan() else kendall)
