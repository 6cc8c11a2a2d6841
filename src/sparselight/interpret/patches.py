"""Images in contexts and hypotheses: which tokens are the patches of which image, which image a context shows, what labels its patches carry.

Patches are the tokens that stand in no text (character offsets -1), image by image, each row by row. A patch carries the label of a box when its middle lies
in it, and its place on a 3 x 3 raster of the image. Owns the contract of `Pictures`. Refuses nothing: where the patches that are stored are not those of the
layout (a policy that keeps one of them), an image has no grid.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse

from sparselight.interpret.activations import encode
from sparselight.interpret.families import NO_VALUE, Family
from sparselight.interpret.tokens import SetTokens, TokenFrame
from sparselight.protocols import Box, Example, SparseCoder

THIRDS = (("upper", "middle", "lower"), ("left", "center", "right"))
PLACES = tuple(f"{row} {column}" for row in THIRDS[0] for column in THIRDS[1])
PLACE, PICTURE = "patch", "picture"
MOST_KEPT = 256  # examples whose codes are held at once

Whole = Callable[[int, int, int], Float[np.ndarray, " token"]]
"""Activations of one latent on tokens [first, last) of a token set: those of a whole example."""


class Picture(NamedTuple):
    """One image of an example, as the subject divides it."""

    grid: tuple[int, int] | None
    """Rows and columns of patches; None where they are no tokens."""
    region: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    """The part of the image that the grid covers: x0, y0, x1, y1 in fractions of its size; beyond 0 and 1 where the subject pads."""
    boxes: tuple[Box, ...] = ()


class Pictures(Protocol):
    """The images of examples."""

    def layout(self, example: Example) -> Sequence[Picture]: ...
    def keep(self, example: Example, number: int) -> str: ...  # makes the file that pages show; its path relative to the run folder


def choose_picture(pictures: Sequence[Picture], tokens: SetTokens, at: int, window: Int[np.ndarray, " token"], before: int,
                   after: int) -> tuple[int, tuple[int, int] | None, Int[np.ndarray, " token"]]:
    """What a context around a token shows: the image that it is a patch of, else the first, all its patches, and the text around it.

    Args:
        window: tokens of the window around it, for a context without a grid.

    Returns:
        Number of the image, its grid, and the tokens: patches first, then text. The text of a patch is the beginning of the example's.
    """
    first, last = np.searchsorted(tokens.example, tokens.example[at] + np.arange(2)).tolist()
    own = np.arange(first, last)
    is_patch = tokens.char_start[first:last] < 0
    patches, text = own[is_patch], own[~is_patch]
    sizes = [picture.grid[0] * picture.grid[1] if picture.grid else 0 for picture in pictures]
    if not sum(sizes) or sum(sizes) != len(patches):
        return 0, None, window
    ends = np.cumsum(sizes)
    number = int(np.searchsorted(ends, np.searchsorted(patches, at), side="right")) if tokens.char_start[at] < 0 else 0
    shown = patches[ends[number] - sizes[number] : ends[number]]
    middle = int(np.searchsorted(text, at)) if tokens.char_start[at] >= 0 else before
    return number, pictures[number].grid, np.concatenate([shown, text[max(0, middle - before) : middle + after + 1]])


def other_patches(pictures: Sequence[Picture], tokens: SetTokens, at: int, number: int) -> list[tuple[int, Int[np.ndarray, " token"]]]:
    """The images of an example besides the one of that number, each with its patches; without any where patches are no tokens of the set."""
    first, last = np.searchsorted(tokens.example, tokens.example[at] + np.arange(2)).tolist()
    patches = first + np.flatnonzero(tokens.char_start[first:last] < 0)
    sizes = [picture.grid[0] * picture.grid[1] if picture.grid else 0 for picture in pictures]
    ends = np.cumsum(sizes) if sum(sizes) == len(patches) else np.zeros(len(sizes), dtype=np.int64)
    return [(other, patches[end - size : end] if end else patches[:0]) for other, (end, size) in enumerate(zip(ends.tolist(), sizes, strict=True))
            if other != number]


def patch_ranges(frame: TokenFrame) -> tuple[Int[np.ndarray, " example"], Int[np.ndarray, " example"]]:
    """Of each example of the frame: its first patch and the token behind its last one; an empty range where it has none."""
    tokens = np.flatnonzero(frame.char_start < 0)
    first, last = np.zeros((2, len(frame.examples)), dtype=np.int64)
    examples, at = np.unique(frame.example[tokens], return_index=True)
    first[examples] = tokens[at]
    last[examples] = tokens[np.append(at[1:], len(tokens)) - 1] + 1 if len(tokens) else 0
    return first, last


class WholeExamples:
    """Codes of whole examples, read again from the stores: what the windows around strong firings do not hold."""

    def __init__(self, name: str, coder: SparseCoder, sets: Sequence[SetTokens], site: str):
        self.name, self.coder, self.sets, self.site = name, coder, sets, site
        self._kept: dict[tuple[int, int], sparse.csc_matrix] = {}

    def of(self, latent: int) -> Whole:
        """The activations of one latent."""
        def read(token_set: int, first: int, last: int) -> Float[np.ndarray, " token"]:
            codes = self._codes(token_set, first, last)
            part = slice(codes.indptr[latent], codes.indptr[latent + 1])
            result = np.zeros(last - first)
            result[codes.indices[part]] = codes.data[part]
            return result
        return read

    def _codes(self, token_set: int, first: int, last: int) -> sparse.csc_matrix:
        key = (token_set, first)
        if key not in self._kept:
            if len(self._kept) >= MOST_KEPT:
                self._kept.pop(next(iter(self._kept)))
            tokens = self.sets[token_set]
            self._kept[key] = encode(self.name, self.coder, torch.as_tensor(tokens.store.read(tokens.rows[first:last], self.site)))
        return self._kept[key]


def patch_families(frame: TokenFrame, pictures: Pictures) -> list[Family]:
    """Families of patches: one for each name of boxes, `patch`, their place on the image, and `picture`, all of them; text has no value in them."""
    place = np.full(frame.n_tokens, NO_VALUE, dtype=np.int64)
    boxed: dict[str, np.ndarray] = {}
    values: dict[str, dict[str, int]] = {}
    for example, (first, last) in enumerate(zip(*patch_ranges(frame), strict=True)):
        tokens = first + np.flatnonzero(frame.char_start[first:last] < 0)
        layout = list(pictures.layout(frame.examples[example])) if len(tokens) else []
        if sum(_size(picture) for picture in layout) != len(tokens):
            continue
        for picture in layout:
            own, tokens = tokens[: _size(picture)], tokens[_size(picture) :]
            if picture.grid is None:
                continue
            row, column = np.divmod(np.arange(len(own)), picture.grid[1])
            place[own] = 3 * (3 * row // picture.grid[0]) + 3 * column // picture.grid[1]
            for box, inside in _covered(picture):
                codes = boxed.setdefault(box.name, np.full(frame.n_tokens, NO_VALUE, dtype=np.int64))
                known = values.setdefault(box.name, {})
                codes[own[inside]] = known.setdefault(box.value, len(known))
    found = [Family(name, "box", codes, tuple(values[name])) for name, codes in sorted(boxed.items())]
    anywhere = Family(PICTURE, PICTURE, np.where(place >= 0, 0, NO_VALUE), ("any patch",))
    return [*found, Family(PLACE, PLACE, place, PLACES), anywhere] if (place >= 0).any() else found


def _size(picture: Picture) -> int:
    return picture.grid[0] * picture.grid[1] if picture.grid else 0


def _covered(picture: Picture) -> Iterator[tuple[Box, np.ndarray]]:
    """Each box with the patches whose middle lies in it."""
    assert picture.grid is not None
    rows, columns = picture.grid
    x0, y0, x1, y1 = picture.region
    y, x = np.divmod(np.arange(rows * columns), columns)
    x, y = x0 + (x + 0.5) / columns * (x1 - x0), y0 + (y + 0.5) / rows * (y1 - y0)
    for box in picture.boxes:
        yield box, (box.x0 <= x) & (x < box.x1) & (box.y0 <= y) & (y < box.y1)
