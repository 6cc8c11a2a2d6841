"""Contexts: windows of tokens around a place of a set, with one latent's activations, and the sets of them that explainers and scorers get.

Owns the shape of a window (a third of it lies after the peak; where patches of an image are tokens, all of one image come first, `patches`) and the contract of
`LatentExamples`: what an explainer may see and what a score is measured on never share an example, nor a group. Scorers work on contexts, whatever the
modality, never on token strings alone. How they are chosen: `examples`. Refuses nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sparselight.interpret.activations import window_bounds
from sparselight.interpret.patches import Pictures, Whole, choose_picture, other_patches, patch_ranges
from sparselight.interpret.tokens import SetTokens, TokenFrame
from sparselight.protocols import Example
from sparselight.records import Context, OtherImage
from sparselight.records.cards import ContextKind

MARK_JOINT = "; "


@dataclass(frozen=True, slots=True)
class LatentExamples:
    """Contexts of one latent; lists may be shorter than asked for, and empty, where the latent fires rarely."""

    latent: int
    source: str
    explain: list[Context] = field(default_factory=list)
    """What an explainer may see: firings of kinds `top`, `quantile` and `importance`."""
    score_positive: list[Context] = field(default_factory=list)
    """Held-out firings, evenly over strength (`quantile`)."""
    score_negative: list[Context] = field(default_factory=list)
    """Held-out windows at random on which it is silent (`random`)."""
    near_miss: list[Context] = field(default_factory=list)
    """Held-out windows that resemble its firings but on which it is silent (`near_miss`, `neighbour`): hard negatives for a scorer."""
    explain_near_miss: list[Context] = field(default_factory=list)
    """The same from the explain side: what a contrastive explainer may see."""

    @property
    def key(self) -> str:
        return f"{self.source}/{self.latent}"


class Windows:
    """Makes contexts.

    Args:
        sets: all token sets, in the order of the frame.
        token_text: text of a token id.
        with_marks: whether contexts carry the annotations of their tokens.
        pictures: the images of examples, of a corpus that has some.
    """

    def __init__(self, sets: Sequence[SetTokens], frame: TokenFrame, token_text: Callable[[int], str], context_tokens: int, with_marks: bool = False,
                 pictures: Pictures | None = None):
        self.sets, self.frame, self.token_text, self.with_marks, self.pictures = sets, frame, token_text, with_marks, pictures
        self._patches = patch_ranges(frame) if pictures is not None else None
        self.before, self.after = window_bounds(context_tokens)
        self._set_of_part = np.array([part.start for part in frame.sets])

    def at_row(self, token_set: int, row: int, window: Float[np.ndarray, " window"] | None, kind: ContextKind, quantile: int | None = None,
               whole: Whole | None = None) -> Context:
        """The context around a row of a set's store.

        Args:
            window: activations of the whole window around it, as `Strongest` keeps them; None where the latent is silent.
            whole: its activations on whole examples, of which a picture shows more than a window; needed where patches are tokens and it is not silent.
        """
        tokens = self.sets[token_set]
        at = int(np.searchsorted(tokens.rows, row))
        example = tokens.examples[int(tokens.example[at])]
        chosen, pictured = self._around(tokens, at), dict[str, Any]()
        activations = np.zeros(len(chosen)) if window is None else window[chosen - at + self.before]
        if self.pictures is not None and example.images:
            whole = _silent if window is None else whole
            chosen, activations, pictured = self._pictured(self.pictures, token_set, at, (chosen, activations), whole)
        peak = int(np.searchsorted(chosen, at))
        return Context(
            example=example.id, group=example.group, tokens=[self.token_text(token) for token in tokens.token_id[chosen].tolist()],
            activations=activations.astype(np.float64).tolist(), peak=peak, kind=kind, quantile=quantile, start=int(tokens.position[at]) - peak,
            marks=marks_of(tokens.annotated([example])[0], tokens.char_start[chosen], tokens.char_end[chosen]) if self.with_marks else [], **pictured,
        )

    def _pictured(self, pictures: Pictures, token_set: int, at: int, window: tuple[Int[np.ndarray, " token"], Float[np.ndarray, " token"]],
                  whole: Whole | None) -> tuple[Int[np.ndarray, " token"], Float[np.ndarray, " token"], dict[str, Any]]:
        """Tokens and activations of a context of an example with images, and the fields that name its images.

        Args:
            window: what it shows without an image whose patches are tokens.
            whole: needed where patches are tokens.
        """
        tokens, (chosen, activations) = self.sets[token_set], window
        example = tokens.examples[int(tokens.example[at])]
        layout = pictures.layout(example)
        number, grid, chosen = choose_picture(layout, tokens, at, chosen, self.before, self.after)
        first, last = np.searchsorted(tokens.example, tokens.example[at] + np.arange(2)).tolist()
        everywhere = np.zeros(last - first)
        if grid is not None:
            assert whole is not None, "a picture reaches beyond the window"
            everywhere = whole(token_set, first, last)
        others = []
        for other, patches in other_patches(layout, tokens, at, number):
            values = everywhere[patches - first].astype(np.float64).tolist()
            others.append(OtherImage(media=pictures.keep(example, other), grid=layout[other].grid if len(patches) else None,
                                     activations=values if any(values) else []))
        return (chosen, activations if grid is None else everywhere[chosen - first],
                {"media": pictures.keep(example, number), "grid": grid, "others": others})

    def _around(self, tokens: SetTokens, at: int) -> Int[np.ndarray, " token"]:
        """Tokens of the window around one, of its own example."""
        low, high = max(0, at - self.before), min(len(tokens.rows), at + self.after + 1)
        return low + np.flatnonzero(tokens.example[low:high] == tokens.example[at])  # an example's tokens are contiguous, and `at` is one of them

    def at_token(self, token: int, fired: Int[np.ndarray, " entry"], values: Float[np.ndarray, " entry"], kind: ContextKind,
                 quantile: int | None = None) -> Context:
        """The context around a token of the frame.

        Args:
            fired, values: tokens of the frame on which the latent fires, ascending, and its activations there.
        """
        window = np.zeros(self.before + self.after + 1)
        low, high = np.searchsorted(fired, [token - self.before, token + self.after + 1])
        window[fired[low:high] - token + self.before] = values[low:high]  # beyond the example there may be others' tokens: at_row cuts them off

        def whole(_token_set: int, _first: int, _last: int) -> Float[np.ndarray, " token"]:
            start, stop = np.searchsorted(self.frame.example, self.frame.example[token] + np.arange(2)).tolist()
            result, (first, last) = np.zeros(stop - start), np.searchsorted(fired, [start, stop])
            result[fired[first:last] - start] = values[first:last]
            return result

        return self.at_row(self.set_of(token), int(self.frame.rows[token]), window, kind, quantile, whole)

    def example_of(self, token: int) -> str:
        """Id of the example of a token of the frame."""
        return self.frame.examples[int(self.frame.example[token])].id

    def example_at(self, token_set: int, row: int) -> str:
        """Id of the example of a row of a set's store."""
        tokens = self.sets[token_set]
        return tokens.examples[int(tokens.example[np.searchsorted(tokens.rows, row)])].id

    def token_id_at(self, token_set: int, row: int) -> int:
        """Token id at a row of a set's store."""
        tokens = self.sets[token_set]
        return int(tokens.token_id[np.searchsorted(tokens.rows, row)])

    def set_of(self, token: int) -> int:
        """Number of the set that a token of the frame belongs to."""
        return int(np.searchsorted(self._set_of_part, token, side="right")) - 1

    def is_silent(self, tokens: Int[np.ndarray, " token"], fired: Int[np.ndarray, " entry"]) -> np.ndarray:
        """Of each token of the frame: whether the latent fires nowhere in the window around it (a neighbouring example counts as part of it), nor on a patch
        of its example."""
        silent: np.ndarray = np.searchsorted(fired, tokens - self.before) == np.searchsorted(fired, tokens + self.after + 1)
        if self._patches is not None:
            first, last = (bound[self.frame.example[tokens]] for bound in self._patches)
            silent &= np.searchsorted(fired, first) == np.searchsorted(fired, last)
        return silent


def marks_of(example: Example, char_start: Int[np.ndarray, " token"], char_end: Int[np.ndarray, " token"]) -> list[str]:
    """The values of the spans that each token lies in, joined; an empty list where no span touches any of them."""
    if not len(char_start):
        return []
    low, high = int(char_start.min()), int(char_end.max())
    near = [span for span in example.spans if span.start < high and span.end > low]
    if not near:
        return []
    return [MARK_JOINT.join(dict.fromkeys(span.value for span in near if span.start < end and span.end > start))
            for start, end in zip(char_start.tolist(), char_end.tolist(), strict=True)]


def _silent(_token_set: int, first: int, last: int) -> Float[np.ndarray, " token"]:
    """The activations of a latent where it is silent."""
    return np.zeros(last - first)
