"""Concepts to look for in a dictionary: annotation labels of spans, labels of examples, and token ids, on both sides of a dataset.

A concept is one label. On each side it is a column of a sparse matrix over units: tokens for spans and token ids, examples (with pooled
activations) for example labels. Owns: which concepts both sides carry often enough to be measured, with the reason for each that is left
out. Refuses: kinds of annotation that no dataset carries.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int
from scipy import sparse

from sparselight.errors import CorpusError, nearest
from sparselight.evaluate.case import Case, SideName, Tokens
from sparselight.evaluate.labels import Labels, example_kinds, example_labels, labelled_tokens, span_kinds, span_labels

Level = Literal["spans", "examples", "token ids"]
STRATUM = 20  # groups of like length among which labels are shuffled


@dataclass(frozen=True)
class Marks:
    """Which unit of one side carries which concept: entries are 1 + the number of the span that brings the label, 0 where there is none."""

    matrix: sparse.csr_matrix
    group: Int[np.ndarray, " unit"]
    n_groups: int

    @property
    def n_units(self) -> int:
        return int(self.matrix.shape[0])

    @property
    def n_concepts(self) -> int:
        return int(self.matrix.shape[1])

    @cached_property
    def ones(self) -> sparse.csr_matrix:
        """[unit, concept]: 1 where the unit carries the concept."""
        return sparse.csr_matrix((np.ones(self.matrix.nnz, dtype=np.int32), self.matrix.indices, self.matrix.indptr), shape=self.matrix.shape)

    @cached_property
    def n_labelled(self) -> Int[np.ndarray, " concept"]:
        """Units that carry each concept."""
        return np.bincount(self.matrix.indices, minlength=self.n_concepts)

    @cached_property
    def by_group(self) -> sparse.csr_matrix:
        """[group, concept]: units of the group that carry the concept."""
        unit = np.repeat(self.group, np.diff(self.matrix.indptr))
        return sparse.coo_matrix((np.ones(len(unit), dtype=np.int64), (unit, self.matrix.indices)), shape=(self.n_groups, self.n_concepts)).tocsr()

    @cached_property
    def units_by_group(self) -> Int[np.ndarray, " group"]:
        return np.bincount(self.group, minlength=self.n_groups)

    @cached_property
    def n_spans(self) -> Int[np.ndarray, " concept"]:
        """Spans of each concept that hold at least one unit."""
        return np.asarray(self.of_span.sum(axis=0)).ravel()

    @cached_property
    def spans(self) -> sparse.csr_matrix:
        """[unit, span]: 1 where the unit lies in the span."""
        shape = (self.n_units, self.of_span.shape[0])
        coordinates = (np.repeat(np.arange(self.n_units), np.diff(self.matrix.indptr)), self.matrix.data - 1)
        return sparse.coo_matrix((np.ones(self.matrix.nnz, dtype=np.int32), coordinates), shape=shape).tocsr()

    @cached_property
    def of_span(self) -> sparse.csr_matrix:
        """[span, concept]: 1 at the concept that the span brings, nothing for spans without a unit."""
        numbers, first = np.unique(self.matrix.data, return_index=True)
        shape = (int(numbers.max(initial=0)), self.n_concepts)
        return sparse.coo_matrix((np.ones(len(numbers), dtype=np.int32), (numbers - 1, self.matrix.indices[first])), shape=shape).tocsr()

    @cached_property
    def spans_by_group(self) -> sparse.csr_matrix:
        """[group, concept]: spans that lie in the group."""
        found = self.of_span.tocoo()
        return sparse.coo_matrix((found.data.astype(np.int64), (self.group_of_span[found.row], found.col)), shape=(self.n_groups, self.n_concepts)).tocsr()

    @cached_property
    def group_of_span(self) -> Int[np.ndarray, " span"]:
        group = np.zeros(self.of_span.shape[0], dtype=np.int64)
        group[self.matrix.data - 1] = self.group[np.repeat(np.arange(self.n_units), np.diff(self.matrix.indptr))]
        return group

    @cached_property
    def _by_concept(self) -> tuple[np.ndarray, np.ndarray]:
        """Keys concept * n_units + unit of all marks, ascending, and their span numbers."""
        columns = self.matrix.tocsc()
        columns.sort_indices()
        return np.repeat(np.arange(self.n_concepts), np.diff(columns.indptr)) * self.n_units + columns.indices, columns.data

    def numbers(self, unit: Int[np.ndarray, " pair"], concept: Int[np.ndarray, " pair"]) -> Int[np.ndarray, " pair"]:
        """The entries at (unit, concept): 0 where the unit does not carry the concept."""
        keys, numbers = self._by_concept
        if not len(keys):
            return np.zeros(len(unit), dtype=np.int64)
        wanted = concept * self.n_units + unit
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where(keys[at] == wanted, numbers[at], 0)

    def only(self, units: Int[np.ndarray, " kept"] | None) -> "Marks":
        """The same concepts on some of the units, on all where None."""
        return self if units is None else Marks(self.matrix[units], self.group[units], self.n_groups)

    def ungrouped(self) -> "Marks":
        """The same marks as one group: for sums that need no interval."""
        return Marks(self.matrix, np.zeros(self.n_units, dtype=np.int64), 1)

    def groups_with(self) -> Int[np.ndarray, " concept"]:
        """Groups in which each concept occurs."""
        return np.bincount(self.by_group.indices, minlength=self.n_concepts)

    def columns(self, kept: Int[np.ndarray, " kept"]) -> "Marks":
        """The same units with some of the concepts."""
        return Marks(self.matrix[:, kept].tocsr(), self.group, self.n_groups)

    def shuffled(self, rng: np.random.Generator) -> "Marks":
        """Each group carries the labels of another group of like length, chosen at random, stretched or squeezed to its own length.

        Labels move in whole groups, so that runs, co-occurrence and dependence inside a group survive, and only the tie between labels
        and activations is cut. Moving single units would make a chance agreement of two runs look impossible. Of like length, because spans of short
        groups would grow in long ones, and long spans are easier to find: chance would look larger than it is.
        """
        return Marks(self.matrix[shuffled_units(self.group, self.n_groups, rng)], self.group, self.n_groups)


def shuffled_units(group: Int[np.ndarray, " unit"], n_groups: int, rng: np.random.Generator) -> Int[np.ndarray, " unit"]:
    """For each unit the unit whose labels it gets: groups are permuted among the STRATUM or more of like length, and positions inside a group are scaled to
    the other's length."""
    order, sizes = np.argsort(group, kind="stable"), np.bincount(group, minlength=n_groups)
    starts, own = np.cumsum(sizes) - sizes, group[order]
    present = np.flatnonzero(sizes)
    by_length = present[np.lexsort((rng.random(len(present)), sizes[present]))]  # groups of one length in random order
    other = np.zeros(n_groups, dtype=np.int64)
    for alike in np.array_split(by_length, max(1, len(present) // STRATUM)):
        other[alike] = rng.permutation(alike)
    offset = np.arange(len(group)) - starts[own]
    source = np.empty(len(group), dtype=np.int64)
    source[order] = order[starts[other[own]] + offset * sizes[other[own]] // sizes[own]]
    return source


@dataclass(frozen=True, slots=True)
class Concepts:
    """The measurable concepts of one level of a dataset."""

    level: Level
    kinds: list[str]
    """Of each concept: the kind of annotation."""
    names: list[str]
    fit: Marks
    held_out: Marks
    left_out: list[dict[str, object]]
    """One row for each concept that is not measured: kind, concept, n_fit, n_held_out, why."""
    units: dict[SideName, Int[np.ndarray, " kept"]] = field(default_factory=dict)
    """By side, which of its tokens the marks are of, where that is not all: those whose labels the source knows."""

    @property
    def n_concepts(self) -> int:
        return len(self.names)


def find_concepts(case: Case, dataset: str, level: Level, kinds: Sequence[str], min_positives: int, min_groups: int,
                  labelled_only: bool = False) -> Concepts | None:
    """Concepts of one level that both sides carry often enough, None where there is no annotation of that level (of those kinds) at all.

    Args:
        kinds: of annotation; all where empty. Token ids have no kind.
        min_positives: units with the concept, and units without it, that each side must hold.
        min_groups: groups of each side in which the concept must occur.
        labelled_only: leave out the tokens of which the source says that it does not know their labels; `Concepts.units` says which are left.
    """
    sides: dict[SideName, Tokens] = {"fit": case.tokens(dataset, "fit"), "held_out": case.tokens(dataset, "held_out")}
    parts = _token_ids(sides) if level == "token ids" else _annotated(sides, level, kinds)
    if not parts:
        return None
    columns = [(pair[0].kind, name) for pair in parts for name in pair[0].names]
    fit, held_out = (_joined([pair[number] for pair in parts], sides[side], level) for number, side in enumerate(sides))
    known = {side: labelled_tokens(tokens) for side, tokens in sides.items()} if labelled_only and level == "spans" else {}
    fit, held_out = fit.only(known.get("fit")), held_out.only(known.get("held_out"))
    why = _too_rare(fit, held_out, min_positives, min_groups)
    kept = np.flatnonzero([not reason for reason in why])
    counts = zip(columns, fit.n_labelled.tolist(), held_out.n_labelled.tolist(), why, strict=True)
    left_out = [{"kind": kind, "concept": name, "n_fit": n_fit, "n_held_out": n_held_out, "why": reason}
                for (kind, name), n_fit, n_held_out, reason in counts if reason]
    return Concepts(level, [columns[index][0] for index in kept], [columns[index][1] for index in kept], fit.columns(kept), held_out.columns(kept), left_out,
                    {side: units for side, units in known.items() if units is not None})


def check_kinds(case: Case, kinds: Sequence[str], setting: str) -> None:
    """Refuse kinds of annotation that no dataset carries.

    Raises:
        CorpusError: naming the first.
    """
    if not kinds:
        return
    sides = [tokens for name in case.datasets for tokens in (case.tokens(name, "fit"), case.tokens(name, "held_out"))]
    examples = [example for tokens in sides for example in tokens.examples]
    found = {*span_kinds(examples), *example_kinds(examples)}
    for kind in kinds:
        if kind not in found:
            raise CorpusError(asked=f"measure the annotations {kind!r} ({setting})", why="no evaluated example carries that kind",
                              instead=nearest(kind, found) if found else f"leave {setting} out: these examples carry no annotation")


def left_out_table(rows: Sequence[dict[str, object]]) -> pa.Table:
    """Concepts that were not measured, with the reason."""
    schema = pa.schema([("dataset", pa.string()), ("level", pa.string()), ("kind", pa.string()), ("concept", pa.string()), ("n_fit", pa.int64()),
                        ("n_held_out", pa.int64()), ("why", pa.string())])
    return pa.Table.from_pylist(list(rows), schema=schema)


def _annotated(sides: dict[SideName, Tokens], level: Level, kinds: Sequence[str]) -> list[tuple[Labels, Labels]]:
    fit, held_out = sides["fit"], sides["held_out"]
    both = [*fit.examples, *held_out.examples]
    found = span_kinds(both) if level == "spans" else example_kinds(both)
    pairs = []
    for kind in (kind for kind in found if not kinds or kind in kinds):
        if level == "spans":
            names = sorted({span.value for example in both for span in example.spans if span.name == kind})
            pairs.append((span_labels(fit, kind, names), span_labels(held_out, kind, names)))
        else:
            names = sorted({example.labels[kind] for example in both if kind in example.labels})
            pairs.append((example_labels(fit.examples, kind, names), example_labels(held_out.examples, kind, names)))
    return pairs


def _token_ids(sides: dict[SideName, Tokens]) -> list[tuple[Labels, Labels]]:
    ids = np.unique(np.concatenate([tokens.token_id for tokens in sides.values()]))
    found = []
    for tokens in sides.values():
        units = np.arange(tokens.n_tokens)
        matrix = sparse.csr_matrix((1 + units, (units, np.searchsorted(ids, tokens.token_id))), shape=(tokens.n_tokens, len(ids)))
        found.append(Labels("token id", [str(number) for number in ids.tolist()], matrix, tokens.n_tokens))
    return [(found[0], found[1])]


def _joined(parts: Sequence[Labels], tokens: Tokens, level: Level) -> Marks:
    """All kinds beside each other; spans are numbered on through all of them."""
    matrices, before = [], 0
    for part in parts:
        matrix = part.matrix.tocsr().astype(np.int64)
        matrix.data = matrix.data + before
        before += part.n_spans
        matrices.append(matrix)
    group = tokens.group if level != "examples" else tokens.group[tokens.bounds()[:-1]]
    return Marks(sparse.hstack(matrices, format="csr"), group, len(tokens.groups))


def _too_rare(fit: Marks, held_out: Marks, min_positives: int, min_groups: int) -> list[str]:
    """Why each concept cannot be measured; empty where it can."""
    why = [""] * fit.n_concepts
    for side, marks in (("fit", fit), ("held-out", held_out)):
        with_it, groups = marks.n_labelled, marks.groups_with()
        enough: Bool[np.ndarray, " concept"] = (with_it >= min_positives) & (marks.n_units - with_it >= min_positives) & (groups >= min_groups)
        for index in np.flatnonzero(~enough).tolist():
            n, rest = int(with_it[index]), marks.n_units - int(with_it[index])
            if not why[index]:
                why[index] = (f"all {n} units of the {side} side carry it: one class only" if n and not rest
                              else f"too rare: {n} units of the {side} side in {int(groups[index])} group(s) carry it" if n <= rest
                              else f"too common: only {rest} units of the {side} side do not carry it")
    return why
