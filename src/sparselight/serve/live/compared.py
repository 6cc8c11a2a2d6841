"""Before and after: what was written in pieces, predictions at each token, their divergence.

Owns: which pieces count as changed (the longest common subsequences of tokens are not), the divergence of every token's prediction and where it is
largest. Refuses nothing: a divergence that cannot be measured is left out with its reason.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from sparselight.errors import SubjectError
from sparselight.interpret.renderers.marks import escaped
from sparselight.intervene.effects import kl_nats
from sparselight.protocols import EditFunction
from sparselight.serve.live.inputs import Given
from sparselight.serve.live.models import Candidate, Piece, PlaceChange, Side

MOST_PLACES = 12
LEAST = -1e4  # log probabilities below it count as this: exp of it is 0


@dataclass(frozen=True, slots=True)
class Predictions:
    """Log probabilities at every token without and with edits, or why there are none."""

    before: Float[Tensor, "token vocabulary"] | None
    after: Float[Tensor, "token vocabulary"] | None
    why_not: str = ""

    def kl(self) -> Float[np.ndarray, " token"]:
        """KL(before || after) of each token's prediction, in nats; see intervene/effects.py."""
        if self.before is None or self.after is None:
            return np.zeros(0)
        return np.asarray(kl_nats(self.before, self.after).double().cpu().numpy())


def predictions(subject: Any, given: Given, edits: Mapping[str, EditFunction], max_logits: int) -> Predictions:
    """What the subject predicts at every token of an input, twice."""
    size = given.batch.n_tokens * getattr(subject, "n_vocabulary", 0) if getattr(subject, "kind", "") != "encoder" else 0
    if size > max_logits:
        return Predictions(None, None, f"predictions at {given.batch.n_tokens} tokens are {size:,} numbers, more than live.max_logits = {max_logits:,}")
    try:
        # Candidates that a model rules out stand at minus infinity on both sides; their difference must be 0, not nan.
        before, after = (subject.predict(given.batch, chosen).float().log_softmax(-1).clamp(min=LEAST) for chosen in (None, edits))
    except SubjectError as err:
        return Predictions(None, None, err.why)
    check_numbers(after)
    return Predictions(before, after)


def check_numbers(after: Tensor) -> None:
    """Refuse predictions that overflowed.

    Raises:
        SubjectError: saying so.
    """
    if after.isnan().any():
        raise SubjectError(asked="predict with these edits", why="the predictions are no numbers any more", instead="use smaller amounts")


def candidates(found: Predictions, token: int, name: Callable[[int], str], top: int) -> list[Candidate]:
    """The likeliest predictions at a token, half of them likely before and half likely after the edits, by probability before."""
    if found.before is None or found.after is None:
        return []
    before, after = found.before[token].exp(), found.after[token].exp()
    orders = [row.topk(min(top, len(row))).indices.tolist() for row in (before, after)]
    chosen = list(dict.fromkeys(one for pair in zip(*orders, strict=True) for one in pair))[:top]
    listed = [Candidate(text=name(one), before=float(before[one]), after=float(after[one])) for one in chosen]
    return sorted(listed, key=lambda one: -one.before)


def changed_places(found: Predictions, given: Given, name: Callable[[int], str], divergence: Float[np.ndarray, " token"]) -> list[PlaceChange]:
    """The tokens at which the prediction changes most."""
    if found.before is None or found.after is None:
        return []
    order = [token for token in np.argsort(-divergence, kind="stable")[:MOST_PLACES].tolist() if divergence[token] > 0]
    likeliest = [[int(row[token].argmax()) for token in order] for row in (found.before, found.after)]
    return [PlaceChange(token=token, text=given.tokens[token], kl_nats=float(divergence[token]), before=name(before), after=name(after))
            for token, before, after in zip(order, *likeliest, strict=True)]


def sides(before: Sequence[str], after: Sequence[str], by_place: bool = False) -> tuple[Side, Side]:
    """Two writings, token by token, with what is different marked.

    Args:
        by_place: compare token by token, for sequences that keep their length; otherwise by longest common stretches.
    """
    if by_place:
        same = [one == other for one, other in zip(before, after, strict=True)]
        return _side(before, same), _side(after, same)
    kept_before, kept_after = [False] * len(before), [False] * len(after)
    for block in SequenceMatcher(None, before, after, autojunk=False).get_matching_blocks():
        for step in range(block.size):
            kept_before[block.a + step] = kept_after[block.b + step] = True
    return _side(before, kept_before), _side(after, kept_after)


def _side(tokens: Sequence[str], same: Sequence[bool]) -> Side:
    pieces: list[Piece] = []
    for token, kept in zip(tokens, same, strict=True):
        if pieces and pieces[-1].changed is not kept:
            pieces[-1] = Piece(text=pieces[-1].text + token, changed=not kept)
        else:
            pieces.append(Piece(text=token, changed=not kept))
    html = "".join(f"<mark>{escaped(piece.text)}</mark>" if piece.changed else escaped(piece.text) for piece in pieces)
    return Side(text="".join(tokens), pieces=pieces, html=html)


def finite(values: Float[np.ndarray, " token"]) -> list[float | None]:
    """Numbers for JSON; null for those that are none."""
    return [float(value) if np.isfinite(value) else None for value in values]
