"""Texts as bags of terms: what counts as a term, and which terms of a text are distinctive.

A term is a part of an identifier or word, cut at underscores, digits and camelCase, in lower case, of at least three letters, no Python
keyword, and not in more than a given share of the texts. `read_HTTPResponse2` gives read, http, response.
"""

import keyword
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

MIN_LETTERS = 3
KEYWORDS = frozenset(word.lower() for word in keyword.kwlist)
_WORD = re.compile(r"\w+")
_LETTERS = re.compile(r"[^\W\d_]+")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@dataclass(frozen=True, slots=True)
class TermIndex:
    """The terms of many texts, numbered."""

    vocabulary: list[str]
    texts: list[list[int]]
    """Terms of each text in reading order, repeats included."""
    idf: Float[np.ndarray, " term"]
    """ln(1 + (N - df + 0.5) / (df + 0.5)), df the number of the N texts with the term: BM25's inverse document frequency."""

    @classmethod
    def build(cls, texts: Sequence[str], common_frac: float) -> "TermIndex":
        """Cut texts into terms and drop those in more than `common_frac` of them."""
        numbers: dict[str, int] = {}
        parts_of: dict[str, list[int]] = {}
        found: list[list[int]] = []
        for text in texts:
            terms: list[int] = []
            for word in _WORD.findall(text):
                parts = parts_of.get(word)
                if parts is None:
                    parts = parts_of[word] = [numbers.setdefault(part, len(numbers)) for part in split_word(word)]
                terms.extend(parts)
            found.append(terms)
        frequency = np.zeros(len(numbers), dtype=np.int64)
        for terms in found:
            frequency[np.fromiter(set(terms), dtype=np.int64)] += 1
        kept = frequency <= common_frac * len(texts)
        renumbered = np.where(kept, np.cumsum(kept) - 1, -1).tolist()
        df = frequency[kept]
        return cls(
            vocabulary=[term for term, number in numbers.items() if kept[number]],
            texts=[[renumbered[term] for term in terms if renumbered[term] >= 0] for terms in found],
            idf=np.log1p((len(texts) - df + 0.5) / (df + 0.5)),
        )

    def distinctive(self, text: int, n_terms: int) -> tuple[Int[np.ndarray, " term"], Float[np.ndarray, " term"]]:
        """The terms of one text with the largest tf * idf (tf its count in the text), largest first, and those products."""
        return self._distinctive(self.texts[text], n_terms)

    def distinctive_in(self, text: str, n_terms: int) -> tuple[Int[np.ndarray, " term"], Float[np.ndarray, " term"]]:
        """The same of a text that is not indexed; terms that no indexed text has are left out."""
        number = {term: index for index, term in enumerate(self.vocabulary)}
        parts = (part for word in _WORD.findall(text) for part in split_word(word))
        return self._distinctive([number[part] for part in parts if part in number], n_terms)

    def _distinctive(self, found: Sequence[int], n_terms: int) -> tuple[Int[np.ndarray, " term"], Float[np.ndarray, " term"]]:
        terms, counts = np.unique(np.array(found, dtype=np.int64), return_counts=True)
        weights = counts * self.idf[terms]
        best = np.argsort(-weights, kind="stable")[:n_terms]
        return terms[best], weights[best]


def split_word(word: str) -> list[str]:
    """The terms in one identifier or word."""
    parts = (part.lower() for letters in _LETTERS.findall(word) for part in _HUMP.split(letters))
    return [part for part in parts if len(part) >= MIN_LETTERS and part not in KEYWORDS]
