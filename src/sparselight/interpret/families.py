"""Families of labels: what each token's value is, and the joined text that families are read from.

Owns the form that all families share and the numbering of strings. Refuses nothing.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
from jaxtyping import Int

from sparselight.interpret.tokens import TokenFrame

NO_VALUE = -1
WORD = re.compile(r"[^\W_]+")  # runs of letters and digits of any script; an underscore ends a word
Codes = Int[np.ndarray, " token"]


@dataclass(frozen=True, slots=True)
class Family:
    """One value, several or none for every token."""

    name: str
    kind: str  # text | span | label | conjunction
    codes: Codes | Int[np.ndarray, "slot token"]  # index into values, or NO_VALUE; in several rows where a token can have several, none twice
    values: tuple[str, ...]


class JoinedText:
    """The texts of all examples in one string, so that one regular expression and one array serve them all."""

    def __init__(self, frame: TokenFrame):
        texts = [example.text for example in frame.examples]
        self.offsets = np.fromiter(accumulate((len(text) + 1 for text in texts), initial=0), dtype=np.int64, count=len(texts) + 1)[:-1]
        self.text = "".join(text + "\n" for text in texts)
        self.in_text = frame.char_start >= 0  # patches of an image stand in no text: they get an empty place at its beginning
        self.start = np.maximum(frame.char_start, 0) + self.offsets[frame.example]
        self.end = np.maximum(frame.char_end, 0) + self.offsets[frame.example]
        self.example_start = self.offsets[frame.example]


class Words:
    """All words of the joined text in order, and where each token stands among them."""

    def __init__(self, text: JoinedText):
        spans = np.array([match.span() for match in WORD.finditer(text.text)], dtype=np.int64).reshape(-1, 2)
        self.starts, self.ends = spans[:, 0], spans[:, 1]
        codes, self.values = numbered(text.text[start:end].lower() for start, end in spans.tolist())
        self.codes = np.append(codes, NO_VALUE)  # index -1 and index n_words both mean "no such word"
        self.bounds = np.append(self.starts, len(text.text))
        self.index = np.searchsorted(self.ends, text.start, side="right")  # of each token: the first word that ends after its start
        self.example_start, self.token_end = text.example_start, text.end

    def own(self) -> Codes:
        """The word that each token overlaps first."""
        return np.where(self.bounds[self.index] < self.token_end, self.codes[self.index], NO_VALUE)

    def before(self, distance: int) -> Codes:
        """The word that many words before each token, 1 for the last one; none beyond the example's start."""
        at = self.index - distance
        there = (at >= 0) & (self.bounds[np.maximum(at, 0)] >= self.example_start)
        return np.where(there, self.codes[np.maximum(at, 0)], NO_VALUE)


def only_in_text(family: Family, text: JoinedText) -> Family:
    """The family, without a value where a token stands in no text."""
    return replace(family, codes=np.where(text.in_text, family.codes, NO_VALUE))


def numbered(values: Iterable[str]) -> tuple[Codes, tuple[str, ...]]:
    """Number strings in order of first occurrence."""
    numbers: dict[str, int] = {}
    codes = np.fromiter((numbers.setdefault(value, len(numbers)) for value in values), dtype=np.int64)
    return codes, tuple(numbers)


def visible_breaks(value: str) -> str:
    """A value with its line breaks and tabs written out."""
    return value.replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")


def in_span(name: str, value: str) -> str:
    """The value of an annotation in plain words; a name of several words says what the value is one of: transmembrane region: helix."""
    phrase, said = name.replace("_", " "), visible_breaks(value).replace("_", " ")
    return f"{phrase}: {said}" if " " in name and phrase != said else said
