"""What every corpus shares: a list of examples with a content fingerprint."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from sparselight.errors import CorpusError
from sparselight.protocols import Example


class ListCorpus:
    """Examples held in memory, in a fixed order.

    Raises:
        CorpusError: when there is no example.
    """

    def __init__(self, examples: Sequence[Example], origin: str):
        if not examples:
            raise CorpusError(
                asked=f"use {origin} as a corpus", why="it holds no example",
                instead="point corpus.root at a folder with readable files of the corpus kind",
            )
        self.examples = list(examples)
        self.origin = origin

    def __len__(self) -> int:
        return len(self.examples)

    def __iter__(self) -> Iterator[Example]:
        return iter(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]

    def fingerprint(self) -> str:
        """SHA-256 over every example's id, text, labels and spans: equal content gives equal runs."""
        digest = hashlib.sha256()
        for example in self.examples:
            digest.update(json.dumps(asdict(example), sort_keys=True, ensure_ascii=True).encode())
        return digest.hexdigest()
