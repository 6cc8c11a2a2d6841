"""What every corpus shares: a list of examples with a content fingerprint, splits that never leak, samples by token budget.

On disk a corpus is one Parquet file (id, group, text, labels as JSON). Span annotations are made on demand by `annotate`, because
they outweigh the text many times over and only the examples that are explained need them.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sparselight.errors import CorpusError
from sparselight.files import atomic_path
from sparselight.protocols import Example

CountTokens = Callable[[Sequence[Example]], list[int]]


class ListCorpus:
    """Examples held in memory, in a fixed order.

    Raises:
        CorpusError: when there is no example.
    """

    def __init__(self, examples: Sequence[Example], origin: str):
        if not examples:
            raise CorpusError(
                asked=f"use {origin} as a corpus", why="it holds no example",
                instead="point corpus.root at a folder with readable files of the kind in corpus.kind",
            )
        self.examples = list(examples)
        self.origin = origin

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
        """SHA-256 over every example's id, group, text and labels: equal content gives equal runs."""
        digest = hashlib.sha256()
        for example in self.examples:
            digest.update(json.dumps([example.id, example.group, example.text, example.labels], sort_keys=True).encode())
        return digest.hexdigest()

    def subset(self, indices: Iterable[int]) -> Self:
        """The examples at these indices, in this order."""
        return self._like([self.examples[index] for index in indices])

    def split(self, held_out_frac: float = 0.2, seed: int = 0, always_train: Sequence[str] = ()) -> tuple[Self, Self]:
        """Split into (train, held out) by group, so that no group is on both sides.

        A group's side is a hash of (seed, group): it does not change when other groups come or go.

        Args:
            held_out_frac: share of groups held out, in expectation.
            always_train: glob patterns of groups that stay in train (seeds of a selection, say).

        Raises:
            CorpusError: when one side would be empty.
        """
        held = {group for group in self.groups() if _hash_frac(seed, group) < held_out_frac and not _matches(group, always_train)}
        sides = [[example for example in self.examples if (example.group in held) == side] for side in (False, True)]
        if not all(sides):
            raise CorpusError(
                asked=f"hold out {held_out_frac} of the groups of {self.origin}", why=f"with {len(self.groups())} groups one side would be empty",
                instead="use a corpus with more groups (files), or change corpus.held_out_frac or corpus.seed",
            )
        return self._like(sides[0]), self._like(sides[1])

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
        table = pa.table({
            "id": [example.id for example in self.examples],
            "group": [example.group for example in self.examples],
            "text": [example.text for example in self.examples],
            "labels": [json.dumps(example.labels, sort_keys=True) for example in self.examples],
        })
        with atomic_path(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")

    @classmethod
    def load(cls, path: Path, origin: str) -> Self:
        try:
            rows = pq.read_table(path).to_pylist()
        except (OSError, pa.ArrowInvalid) as err:
            raise CorpusError(asked=f"read the corpus {path}", why=str(err), instead="delete that folder and run the same command again") from None
        return cls([Example(row["id"], row["text"], row["group"], json.loads(row["labels"])) for row in rows], origin)

    def _like(self, examples: Sequence[Example]) -> Self:
        return type(self)(examples, self.origin)


def _hash_frac(seed: int, group: str) -> float:
    return int.from_bytes(hashlib.sha256(f"{seed}\0{group}".encode()).digest()[:8], "big") / 2**64


def _matches(group: str, patterns: Sequence[str]) -> bool:
    return group in patterns or any(fnmatchcase(group, pattern) for pattern in patterns)
