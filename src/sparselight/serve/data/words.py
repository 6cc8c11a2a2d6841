"""Which cards hold a text: what they are searched by, as distinct lines, and the cards of each line.

Most lines are tokens and labels that many cards share, so that each distinct one is looked through once: a fifth of the whole text, or less. Case was taken out
before. Owns what was found last, so that further parts of a list and the way back cost nothing. Refuses nothing.
"""

import threading
from collections import OrderedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool
from scipy import sparse

KEPT = 64
"""Texts whose cards are remembered: a bit of memory for each card and text."""


class Words:
    """The words of all cards.

    Args:
        texts: of each card, lower case, lines joined by line breaks.
    """

    def __init__(self, texts: pa.StringArray):
        self._texts = texts
        lines = pc.split_pattern(texts, "\n")
        distinct = lines.flatten().dictionary_encode()
        self._lines: pa.StringArray = distinct.dictionary
        shape = (len(texts), len(self._lines))
        by_line = sparse.csr_array((np.ones(len(distinct), dtype=bool), distinct.indices.to_numpy(), lines.offsets.to_numpy()), shape).tocsc()
        self._cards, self._ends, self._counts = by_line.indices, by_line.indptr[1:], np.diff(by_line.indptr)
        self._found: OrderedDict[str, Bool[np.ndarray, " card"]] = OrderedDict()
        self._lock = threading.Lock()

    def containing(self, text: str) -> Bool[np.ndarray, " card"]:
        """Which cards hold a text."""
        with self._lock:
            if text in self._found:
                self._found.move_to_end(text)
                return self._found[text]
        found = self._look(text)
        found.flags.writeable = False
        with self._lock:
            self._found[text] = found
            while len(self._found) > KEPT:
                self._found.popitem(last=False)
        return found

    def _look(self, text: str) -> Bool[np.ndarray, " card"]:
        if "\n" in text:  # over the end of a line
            return np.array(pc.match_substring(self._texts, text), dtype=bool)
        found = np.zeros(len(self._texts), dtype=bool)
        lines = np.flatnonzero(pc.match_substring(self._lines, text).to_numpy(zero_copy_only=False))
        counts = self._counts[lines]
        if counts.sum() > len(self._cards) // 8:  # a frequent one: a truth for each place is cheaper than the numbers of places
            holds = np.zeros(len(self._lines), dtype=bool)
            holds[lines] = True
            found[self._cards[np.repeat(holds, self._counts)]] = True
            return found
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)  # which of its line's cards
        found[self._cards[np.repeat(self._ends[lines] - counts, counts) + within]] = True
        return found
