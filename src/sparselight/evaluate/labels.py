"""Annotations as matrices: which tokens, or which examples, carry which label of a kind.

A label of a span counts for every token that overlaps its characters; a label of an example for all its tokens. Spans of one kind may
overlap, so a token may carry several labels. Owns nothing else; refuses kinds that the examples do not carry.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from sparselight.errors import CorpusError, nearest
from sparselight.evaluate.case import Tokens
from sparselight.protocols import Example
from sparselight.vocab import UNLABELLED


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels of one kind. `matrix[unit, label]` is 0 where the unit does not carry the label, else 1 + the number of the span that brings it (the
    pieces of one instance have one number)."""

    kind: str
    names: list[str]
    matrix: sparse.csr_matrix
    n_spans: int

    def carries(self, label: int) -> np.ndarray:
        """Boolean, one entry a unit."""
        return self.matrix[:, [label]].toarray()[:, 0] != 0


def span_kinds(examples: Sequence[Example]) -> list[str]:
    """Kinds of span annotations that occur; what is not labelled is no kind."""
    return sorted({span.name for example in examples for span in example.spans} - {UNLABELLED})


def labelled_tokens(tokens: Tokens) -> np.ndarray | None:
    """Index of the tokens whose labels the source knows; None where it knows all."""
    if not any(span.name == UNLABELLED for example in tokens.examples for span in example.spans):
        return None
    return np.flatnonzero(~span_labels(tokens, UNLABELLED, [UNLABELLED]).carries(0))


def example_kinds(examples: Sequence[Example]) -> list[str]:
    """Kinds of example labels that occur."""
    return sorted({kind for example in examples for kind in example.labels})


def span_labels(tokens: Tokens, kind: str, names: Sequence[str] | None = None) -> Labels:
    """Span annotations of one kind on tokens.

    Args:
        names: the labels and their order, those of the fit side for the held-out side; other labels are left out.

    Raises:
        CorpusError: when no example carries a span of that kind.
    """
    found = span_kinds(tokens.examples)
    if kind not in found and names is None:
        raise _unknown(kind, found, tokens.name)
    names = list(names) if names is not None else sorted({span.value for example in tokens.examples for span in example.spans if span.name == kind})
    column_of, bounds = {name: number for number, name in enumerate(names)}, tokens.bounds()
    rows, columns, numbers, n_spans = [], [], [], 0
    for index, example in enumerate(tokens.examples):
        begin, end, number_of = bounds[index], bounds[index + 1], dict[tuple[str, str], int]()
        starts, ends = tokens.char_start[begin:end], tokens.char_end[begin:end]
        for span in example.spans:
            if span.name != kind or span.value not in column_of:
                continue
            inside = begin + np.flatnonzero((starts < span.end) & (ends > span.start))
            if len(inside):
                number = number_of.get((span.value, span.instance), n_spans + 1)
                n_spans = max(n_spans, number)
                if span.instance:
                    number_of[span.value, span.instance] = number
                rows.append(inside)
                columns.append(np.full(len(inside), column_of[span.value]))
                numbers.append(np.full(len(inside), number))
    return Labels(kind, names, _matrix(rows, columns, numbers, (tokens.n_tokens, len(names))), n_spans)


def example_labels(examples: Sequence[Example], kind: str, names: Sequence[str] | None = None) -> Labels:
    """Labels of whole examples, one row an example; spread them over tokens with `labels.matrix[tokens.example]`.

    Raises:
        CorpusError: when no example carries a label of that kind.
    """
    found = example_kinds(examples)
    if kind not in found and names is None:
        raise _unknown(kind, found, "these examples")
    names = list(names) if names is not None else sorted({example.labels[kind] for example in examples if kind in example.labels})
    column_of = {name: number for number, name in enumerate(names)}
    carriers = np.array([index for index, example in enumerate(examples) if example.labels.get(kind) in column_of], dtype=np.int64)
    columns = np.array([column_of[examples[index].labels[kind]] for index in carriers], dtype=np.int64)
    return Labels(kind, names, _matrix([carriers], [columns], [1 + np.arange(len(carriers))], (len(examples), len(names))), len(carriers))


def label_values(tokens: Tokens, kind: str) -> list[str]:
    """Values of a kind of annotation: of spans where any carries it, else of examples."""
    spans = {span.value for example in tokens.examples for span in example.spans if span.name == kind}
    return sorted(spans or {example.labels[kind] for example in tokens.examples if kind in example.labels})


def token_labels(tokens: Tokens, kind: str, names: Sequence[str]) -> sparse.csr_matrix:
    """[token, label] of either kind of annotation, not 0 where the token carries the label; a label of an example counts for all its tokens."""
    if kind in span_kinds(tokens.examples):
        return span_labels(tokens, kind, names).matrix
    return example_labels(tokens.examples, kind, names).matrix[tokens.example]


def _matrix(rows: list[np.ndarray], columns: list[np.ndarray], numbers: list[np.ndarray], shape: tuple[int, int]) -> sparse.csr_matrix:
    """Where two spans of one label meet on a token, the later one keeps it."""
    if not rows:
        return sparse.csr_matrix(shape, dtype=np.int64)
    row, column, number = np.concatenate(rows), np.concatenate(columns), np.concatenate(numbers)
    _, last = np.unique((row * shape[1] + column)[::-1], return_index=True)
    keep = len(row) - 1 - last
    return sparse.csr_matrix((number[keep], (row[keep], column[keep])), shape=shape)


def _unknown(kind: str, found: list[str], where: str) -> CorpusError:
    return CorpusError(asked=f"use the annotation {kind!r} of {where}", why="no example carries it" if found else "no example carries an annotation",
                       instead=nearest(kind, found) if found else "give examples with annotations (corpus.annotations)")
