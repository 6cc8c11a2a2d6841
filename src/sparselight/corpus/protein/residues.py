"""Letters of amino acid sequences: which there are, which can be mended, and what becomes of positions when letters are taken out.

The 20 amino acids, selenocysteine U, pyrrolysine O, and the ambiguous B, Z, X are kept as they are: ESM-2 has a token for each. Refuses: stops inside
a sequence, letters that are no amino acid, sequences that are nothing but nucleotides.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from sparselight.corpus.columns import BadValue

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
RESIDUES = frozenset(AMINO_ACIDS + "UOBZX")
GAPS = frozenset("-.")
NUCLEOTIDES = frozenset("ACGTUN")
MIN_NUCLEOTIDES = 50  # so long a protein of A, C, G, T, N alone does not occur by chance
SHOWN = 5


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A sequence that a model can read."""

    text: str
    offset: Int[np.ndarray, " residue_plus_1"] | None
    """Where each position of the raw sequence, and its end, lies in the text; None where nothing was taken out."""
    repairs: Counter[str]
    """Proteins in which something was mended, by what."""

    def moved(self, start: int, end: int) -> tuple[int, int]:
        """A range of the raw sequence in the text."""
        return (start, end) if self.offset is None else (int(self.offset[start]), int(self.offset[end]))


def clean(raw: str, repair: bool) -> Cleaned:
    """Check a sequence, and mend what says nothing of the protein.

    Raises:
        BadValue: when it is empty or holds what is no residue.
    """
    repairs: Counter[str] = Counter()
    if not raw:
        raise BadValue("its sequence is empty")
    text = raw.upper()
    if text != raw:
        _mend(repairs, repair, "lower case raised", "it holds lower case letters")
    if "J" in text:
        _mend(repairs, repair, "J (leucine or isoleucine) read as X", "it holds J (leucine or isoleucine), which no model here has a token for")
        text = text.replace("J", "X")
    drop = [index for index, letter in enumerate(text) if letter in GAPS]
    if drop:
        _mend(repairs, repair, "gaps taken out", f"it holds {len(drop)} gaps, the first at residue {drop[0] + 1}")
    body = text.rstrip("*-.")
    if "*" in text[len(body):]:
        _mend(repairs, repair, "stop at the end taken out", "it ends in a stop (*)")
        drop += [index for index in range(len(body), len(text)) if text[index] == "*"]
    if "*" in body:
        raise BadValue(f"it has a stop (*) inside, at residue {body.index('*') + 1}: give the translated protein")
    offset = None
    if drop:
        kept = np.ones(len(text), dtype=bool)
        kept[drop] = False
        offset = np.concatenate([[0], np.cumsum(kept)])
        text = "".join(letter for letter, keep in zip(text, kept, strict=True) if keep)
    _check_letters(text)
    return Cleaned(text, offset, repairs)


def _mend(repairs: Counter[str], repair: bool, what: str, why: str) -> None:
    if not repair:
        raise BadValue(f"{why} (corpus.protein.repair = false)")
    repairs[f"proteins: {what}"] += 1


def _check_letters(text: str) -> None:
    if not text:
        raise BadValue("nothing is left of its sequence")
    wrong = [(index, letter) for index, letter in enumerate(text) if letter not in RESIDUES]
    if wrong:
        shown = ", ".join(f"{letter!r} at residue {index + 1}" for index, letter in wrong[:SHOWN])
        raise BadValue(f"it holds {len(wrong)} letters that are no amino acid: {shown}")
    if len(text) >= MIN_NUCLEOTIDES and NUCLEOTIDES.issuperset(text):
        raise BadValue("it holds nothing but the letters of nucleotides: translate it to a protein first")
