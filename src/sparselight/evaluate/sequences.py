"""What can be said of designed or generated protein sequences: motif hits with their chance, composition, complexity, hydropathy, diversity, and how
plausible a language model finds them.

Owns: formulas and the summary of a set. A hit counts only where the sequence is no low-complexity stretch that would match anything. Refuses: empty sets,
letters that are no amino acid.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from sparselight.corpus.protein.prosite import find_pattern, named_pattern
from sparselight.corpus.protein.residues import AMINO_ACIDS
from sparselight.errors import ConfigError
from sparselight.evaluate.statistics import wilson
from sparselight.protocols import Example, Subject
from sparselight.records import MetricValue

AT_ONCE = 32  # sequences in one pass
MAX_PAIRS = 20_000  # of sequences whose identity is averaged
LOW_WINDOW, LOW_BITS = 12, 2.2  # SEG's window and trigger (Wootton and Federhen 1993)
KYTE_DOOLITTLE: dict[str, float] = {
    "I": 4.5, "V": 4.2, "L": 3.8, "F": 2.8, "C": 2.5, "M": 1.9, "A": 1.8, "G": -0.4, "T": -0.7, "S": -0.8, "W": -0.9, "Y": -1.3, "P": -1.6, "H": -3.2,
    "E": -3.5, "Q": -3.5, "D": -3.5, "N": -3.5, "K": -3.9, "R": -4.5,
}
"""Hydropathy index (Kyte and Doolittle 1982); other letters count 0."""


class SequenceSummary(NamedTuple):
    """A set of sequences in numbers."""

    hit_frac: MetricValue
    """Sequences with a match that are not of low complexity / sequences, Wilson interval."""
    chance_frac: MetricValue
    """The same of sequences of the same letters in random order."""
    matches: float
    """Mean matches a sequence."""
    low_complexity: float
    """Share of the sequences below the entropy floor."""
    entropy_bits: float
    hydropathy: float
    identity: float
    """Mean share of equal residues over pairs: 1 where all are copies; nan for a single sequence."""
    distinct_frac: float
    pseudo_perplexity: float
    """Mean over sequences; nan without a subject."""


def composition(sequence: str) -> Float[np.ndarray, " amino_acid"]:
    """Share of each of the 20 amino acids, in the order of AMINO_ACIDS; other letters are left out."""
    counts = np.array([sequence.count(letter) for letter in AMINO_ACIDS], dtype=np.float64)
    return counts / max(counts.sum(), 1)


def entropy_bits(sequence: str) -> float:
    """-sum p log2 p over the composition: at most log2 20 = 4.32."""
    p = composition(sequence)
    p = p[p > 0]
    return float(-(p * np.log2(p)).sum())


def low_complexity_frac(sequence: str) -> float:
    """Share of the residues in some window of 12 with an entropy of at most 2.2 bits, SEG's trigger; 0 for shorter sequences."""
    marked = np.zeros(len(sequence), dtype=bool)
    for start in range(len(sequence) - LOW_WINDOW + 1):
        if entropy_bits(sequence[start:start + LOW_WINDOW]) <= LOW_BITS:
            marked[start:start + LOW_WINDOW] = True
    return float(marked.mean()) if len(sequence) else 0.0


def hydropathy(sequence: str, window: int | None = None) -> float:
    """Mean Kyte-Doolittle index; with a window (19 for a transmembrane helix) the largest mean over windows of that length."""
    values = np.array([KYTE_DOOLITTLE.get(letter, 0.0) for letter in sequence])
    if window is None or len(values) <= window:
        return float(values.mean()) if len(values) else 0.0
    return float(np.convolve(values, np.full(window, 1 / window), mode="valid").max())


def identity(first: str, second: str) -> float:
    """Equal residues at equal positions / length of the longer one; for sequences of one length, as unmasking gives them, without alignment."""
    return sum(a == b for a, b in zip(first, second, strict=False)) / max(len(first), len(second), 1)


def mean_identity(sequences: Sequence[str], seed: int = 0) -> float:
    """Mean identity over pairs, over at most 20,000 drawn ones."""
    pairs = list(combinations(range(len(sequences)), 2)) if len(sequences) < 2000 else []
    rng = np.random.default_rng(seed)
    if len(sequences) < 2:
        return float("nan")
    if not pairs or len(pairs) > MAX_PAIRS:
        drawn = rng.integers(0, len(sequences), (MAX_PAIRS, 2))
        pairs = [(i, j) for i, j in drawn.tolist() if i != j]
    return float(np.mean([identity(sequences[i], sequences[j]) for i, j in pairs]))


def pseudo_perplexity(subject: Subject, sequences: Sequence[str]) -> Float[np.ndarray, " sequence"]:
    """exp of the mean loss of each sequence: of a masked language model the pseudo-perplexity (Salazar et al. 2020; every residue is predicted with it and its
    group hidden), of one that reads from left to right the perplexity."""
    parts = []
    for start in range(0, len(sequences), AT_ONCE):
        part = sequences[start:start + AT_ONCE]
        batch = subject.prepare([Example(str(number), text, str(number)) for number, text in enumerate(part)])
        loss, example = subject.loss(batch).cpu().double().numpy(), batch.example.cpu().numpy()
        known = ~np.isnan(loss)
        total, n = np.bincount(example[known], weights=loss[known], minlength=len(part)), np.bincount(example[known], minlength=len(part))
        parts.append(np.exp(np.divide(total, n, out=np.full(len(part), np.nan), where=n > 0)))
    return np.concatenate(parts) if parts else np.zeros(0)


def has_motif(sequence: str, pattern: str, min_entropy_bits: float = 2.5) -> bool:
    """Whether a sequence matches and is not of low complexity."""
    return entropy_bits(sequence) >= min_entropy_bits and bool(find_pattern(pattern, sequence))


def shuffled(sequence: str, rng: np.random.Generator) -> str:
    """The same letters in random order."""
    return "".join(rng.permutation(list(sequence)))


def summarize_sequences(
    sequences: Sequence[str], pattern: str, subject: Subject | None = None, min_entropy_bits: float = 2.5, n_shuffles: int = 20, seed: int = 0,
) -> SequenceSummary:
    """All of it for one set.

    Args:
        pattern: in PROSITE's syntax, or a name of `prosite.PATTERNS`.
        min_entropy_bits: of a sequence that may count as a hit.
        n_shuffles: random orders of each sequence behind the chance.

    Raises:
        ConfigError: for an empty set or a pattern that cannot be read.
    """
    if not sequences or not all(sequences):
        raise ConfigError(asked="summarize sequences", why="there is none, or one is empty", instead="give sequences of at least one residue")
    pattern, rng = named_pattern(pattern), np.random.default_rng(seed)
    hits = sum(has_motif(text, pattern, min_entropy_bits) for text in sequences)
    by_chance = sum(has_motif(shuffled(text, rng), pattern, min_entropy_bits) for text in sequences for _ in range(n_shuffles))
    return SequenceSummary(
        hit_frac=wilson(hits, len(sequences), "sequences"), chance_frac=wilson(by_chance, n_shuffles * len(sequences), "sequences"),
        matches=float(np.mean([len(find_pattern(pattern, text)) for text in sequences])),
        low_complexity=float(np.mean([entropy_bits(text) < min_entropy_bits for text in sequences])),
        entropy_bits=float(np.mean([entropy_bits(text) for text in sequences])), hydropathy=float(np.mean([hydropathy(text) for text in sequences])),
        identity=mean_identity(sequences, seed), distinct_frac=len(set(sequences)) / len(sequences),
        pseudo_perplexity=float(pseudo_perplexity(subject, sequences).mean()) if subject is not None else float("nan"),
    )
