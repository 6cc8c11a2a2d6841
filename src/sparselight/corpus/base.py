"""What every corpus shares: examples with a content fingerprint, splits that never leak, samples by token budget, one Parquet file on disk.

Owns: `ListCorpus`, over a list of examples or over `SpooledExamples` on disk. Annotations that a source cannot give cheaply (Python's token
classes outweigh the text many times over) are made on demand by `annotate`; those that were read with the text stand in the examples.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool

from sparselight.corpus.arrow import SpooledExamples, example_batches, example_of, schema_of
from sparselight.errors import CorpusError
from sparselight.files import atomic_path
from sparselight.protocols import Example, Image, Span

if TYPE_CHECKING:
    from sparselight.corpus.reading import Reading

CountTokens = Callable[[Sequence[Example]], list[int]]
ROW_GROUP = 1024
PROVENANCE_KEY = b"sparselight.provenance"
SPOOL_BYTES = 2**30  # a saved corpus with more text than this is read from disk as it is used


class ListCorpus:
    """Examples in a fixed order.

    Args:
        provenance: hash of where the examples come from and how they were read; part of the fingerprint when given.
        held_out: which examples an explicit split holds out; without it a split goes by a hash of the group.

    Raises:
        CorpusError: when there is no example.
    """

    def __init__(self, examples: Sequence[Example], origin: str, provenance: str = "", held_out: Bool[np.ndarray, " example"] | None = None):
        if not len(examples):
            raise CorpusError(
                asked=f"use {origin} as a corpus", why="it holds no example",
                instead="point corpus.root at a folder with readable files of the kind in corpus.kind",
            )
        self.examples: Sequence[Example] = examples if isinstance(examples, SpooledExamples) else list(examples)
        self.origin, self.provenance, self.held_out = origin, provenance, held_out
        self.reading: Reading | None = None  # how it was read, on a corpus as load_corpus gives it

    @classmethod
    def from_texts(
        cls, texts: Sequence[str], *, ids: Sequence[str] | None = None, groups: Sequence[str] | None = None,
        labels: Mapping[str, Sequence[str]] | None = None, spans: Sequence[Sequence[Span]] | None = None,
        images: Sequence[Sequence[Image]] | None = None, origin: str = "texts in memory",
    ) -> Self:
        """A corpus of texts that are at hand, in a notebook say.

        Args:
            ids: unique names; running numbers when left out.
            groups: what a split must not divide; each text is its own group when left out.
            labels: name of a label -> its value for every text (empty: the text has none).
            spans: annotated spans of every text.
            images: pictures of every text (`sparselight.corpus.image_text.image_file` makes one of a path).

        Raises:
            CorpusError: when lengths differ, an id repeats, or a span is outside its text.
        """
        ids = ids if ids is not None else [str(number) for number in range(len(texts))]
        columns = {"ids": ids, "groups": groups, "spans": spans, "images": images, **{f"labels[{name!r}]": values for name, values in (labels or {}).items()}}
        for name, values in columns.items():
            if values is not None and len(values) != len(texts):
                raise CorpusError(asked=f"make a corpus of {len(texts)} texts", why=f"{name} has {len(values)} entries", instead="give one for each text")
        examples = []
        for number, (text, identifier) in enumerate(zip(texts, ids, strict=True)):
            found = tuple(spans[number]) if spans is not None else ()
            for span in found:
                if not 0 <= span.start < span.end <= len(text):
                    raise CorpusError(asked=f"make a corpus with {span} on the text {identifier!r}", why=f"the text has {len(text)} characters",
                                      instead="give offsets with 0 <= start < end <= length")
            named = {name: column[number] for name, column in (labels or {}).items() if column[number]}
            pictures = tuple(images[number]) if images is not None else ()
            examples.append(Example(identifier, text, groups[number] if groups is not None else identifier, named, found, pictures))
        if repeated := first_repeated(ids):
            raise CorpusError(asked=f"make a corpus of {len(texts)} texts", why=f"the id {repeated!r} occurs twice", instead="give unique ids")
        return cls(examples, origin)

    def __len__(self) -> int:
        return len(self.examples)

    def __iter__(self) -> Iterator[Example]:
        return iter(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} examples in {len(self.groups())} groups, from {self.origin})"

    def groups(self) -> list[str]:
        """All groups, in order of first appearance."""
        return list(dict.fromkeys(example.group for example in self.examples))

    def fingerprint(self) -> str:
        """SHA-256 over provenance and every example's id, group, text, labels, spans and images (content, name, boxes; not where the files lie)."""
        digest = hashlib.sha256(self.provenance.encode())
        for example in self.examples:
            spans = [[[span.start, span.end, span.name, span.value, *([span.instance] if span.instance else [])] for span in example.spans]]
            spans = spans if example.spans else []
            images = [{"images": [[image.sha256, image.name, [astuple(box) for box in image.boxes]] for image in example.images]}] if example.images else []
            digest.update(json.dumps([example.id, example.group, example.text, example.labels, *spans, *images], sort_keys=True).encode())
        return digest.hexdigest()

    def subset(self, indices: Iterable[int]) -> Self:
        """The examples at these indices, in this order."""
        chosen = np.fromiter(indices, dtype=np.int64)
        picked = self.examples.pick(chosen) if isinstance(self.examples, SpooledExamples) else [self.examples[index] for index in chosen.tolist()]
        return type(self)(picked, self.origin, self.provenance, None if self.held_out is None else self.held_out[chosen])

    def regroup(self, groups: Mapping[int, str]) -> Self:
        """The same examples, those at the given indices in other groups."""
        examples: Sequence[Example]
        if isinstance(self.examples, SpooledExamples):
            examples = self.examples.regroup(groups)
        else:
            examples = [replace(example, group=groups.get(index, example.group)) for index, example in enumerate(self.examples)]
        return type(self)(examples, self.origin, self.provenance, self.held_out)

    def split(self, held_out_frac: float = 0.2, seed: int = 0, always_train: Sequence[str] = ()) -> tuple[Self, Self]:
        """Split into (train, held out), no group on both sides: as the source says, where it does, else by a hash of (seed, group).

        A group's hash does not change when other groups come or go.

        Args:
            held_out_frac: share of groups held out, in expectation; of no effect on a split that the source gives.
            always_train: glob patterns of groups that stay in train (seeds of a selection, say).

        Raises:
            CorpusError: when one side would be empty, or the split that the source gives would divide a group or hold out one of `always_train`.
        """
        groups = [example.group for example in self.examples]
        if self.held_out is None:
            held = {group for group in dict.fromkeys(groups) if _hash_frac(seed, group) < held_out_frac and not _matches(group, always_train)}
            asked, instead = f"hold out {held_out_frac} of the groups", "use a corpus with more groups (files), or change corpus.held_out_frac or corpus.seed"
        else:
            held = self._held_out_groups(groups, always_train)
            asked, instead = "split as the source says", "give corpus.split or corpus.held_out_ids so that both sides hold examples"
        sides = [[index for index, group in enumerate(groups) if (group in held) == side] for side in (False, True)]
        if not all(sides):
            raise CorpusError(asked=f"{asked} of {self.origin}", why=f"with {len(set(groups))} groups one side would be empty", instead=instead)
        return self.subset(sides[0]), self.subset(sides[1])

    def _held_out_groups(self, groups: Sequence[str], always_train: Sequence[str]) -> set[str]:
        assert self.held_out is not None
        held = {group for group, side in zip(groups, self.held_out, strict=True) if side}
        asked = f"split {self.origin} as corpus.split or corpus.held_out_ids says"
        divided = next((index for index, group in enumerate(groups) if group in held and not self.held_out[index]), None)
        if divided is not None:
            group = groups[divided]
            other = next(index for index, name in enumerate(groups) if name == group and self.held_out[index])
            raise CorpusError(asked=asked, why=f"the group {group!r} would be on both sides ({self[divided].id!r} in train, {self[other].id!r} held out)",
                              instead='put all of a group on one side, leave out corpus.group, or drop near duplicates with corpus.dedup_action = "drop"')
        if seed := next((group for group in sorted(held) if _matches(group, always_train)), None):
            raise CorpusError(asked=asked, why=f"the group {seed!r} is a seed of the selection and would be held out", instead="take seeds that are trained on")
        return held

    def sample(self, n_tokens: int, count: CountTokens, seed: int = 0) -> Self:
        """Whole examples drawn at random until about `n_tokens` tokens, kept in corpus order; all of them when there are fewer."""
        order, total = np.random.default_rng(seed).permutation(len(self)), 0
        chosen: list[int] = []
        for block in np.array_split(order, max(1, len(order) // 256)):
            for index, size in zip(block, count([self.examples[i] for i in block]), strict=True):
                if total >= n_tokens:
                    return self.subset(sorted(chosen))
                chosen.append(int(index))
                total += size
        return self.subset(sorted(chosen))

    def annotate(self, examples: Sequence[Example]) -> list[Example]:
        """The given examples of this corpus with their span annotations filled in."""
        return list(examples)

    def save(self, path: Path) -> None:
        """Write one Parquet file: id, group, text, labels (JSON), spans, images where there are some, and held_out where the source gives the split."""
        columns = schema_of(self.examples)
        schema = columns if self.held_out is None else columns.append(pa.field("held_out", pa.bool_()))
        with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema.with_metadata({PROVENANCE_KEY: self.provenance}), compression="zstd") as writer:
            at = 0
            for batch in example_batches(self.examples, ROW_GROUP, columns):
                if self.held_out is not None:
                    held = pa.array(self.held_out[at:at + len(batch)], pa.bool_())
                    batch, at = pa.RecordBatch.from_arrays([*batch.columns, held], schema=schema), at + len(batch)
                writer.write_batch(batch)

    @classmethod
    def load(cls, path: Path, origin: str) -> Self:
        """Read what `save` wrote; a large corpus stays on disk."""
        try:
            file = pq.ParquetFile(path)
            columns = [name for name in file.schema_arrow.names if name != "held_out"]
            examples = (example_of(row) for batch in file.iter_batches(ROW_GROUP, columns=columns) for row in batch.to_pylist())
            n_bytes = sum(file.metadata.row_group(number).total_byte_size for number in range(file.num_row_groups))
            held = file.read(["held_out"]).column(0).to_numpy() if "held_out" in file.schema_arrow.names else None
            provenance = (file.schema_arrow.metadata or {}).get(PROVENANCE_KEY, b"").decode()
            return cls(SpooledExamples.write(examples) if n_bytes > SPOOL_BYTES else list(examples), origin, provenance, held)
        except (OSError, pa.ArrowInvalid) as err:
            raise CorpusError(asked=f"read the corpus {path}", why=str(err), instead="delete that folder and run the same command again") from None


def first_repeated(names: Sequence[str]) -> str | None:
    """The first name that occurred before."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _hash_frac(seed: int, group: str) -> float:
    return int.from_bytes(hashlib.sha256(f"{seed}\0{group}".encode()).digest()[:8], "big") / 2**64


def _matches(group: str, patterns: Sequence[str]) -> bool:
    return group in patterns or any(fnmatchcase(group, pattern) for pattern in patterns)
