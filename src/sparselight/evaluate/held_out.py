"""Which held-out examples are measured, and in which batches the subject sees them.

Owns: a fixed draw of whole examples, spread evenly over groups, up to a budget of tokens, so that no large group crowds out the
others and the bootstrap over groups has many units. Refuses: a dataset without tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from sparselight.errors import CorpusError
from sparselight.protocols import Example

CountTokens = Callable[[Sequence[Example]], list[int]]
COUNT_BLOCK = 64  # examples whose tokens are counted at once: a large corpus is not tokenized beyond the budget


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The measured part of one dataset; `group[i]` is the index in `groups` of the group of `examples[i]`."""

    name: str
    examples: list[Example]
    lengths: list[int]
    group: list[int]
    groups: list[str]

    @classmethod
    def draw(cls, name: str, examples: Sequence[Example], n_tokens: int, count: CountTokens, seed: int) -> "HeldOut":
        """Take one example of every group in turn, groups and examples in random order, until `n_tokens` tokens are reached.

        The draw does not depend on the order in which the examples are given.

        Raises:
            CorpusError: when there is no example, or none with a token.
        """
        order, total = _in_turn(examples, seed), 0
        chosen: list[Example] = []
        lengths: list[int] = []
        for start in range(0, len(order), COUNT_BLOCK):
            block = order[start : start + COUNT_BLOCK]
            for example, length in zip(block, count(block), strict=True):
                if length and total < n_tokens:
                    chosen.append(example)
                    lengths.append(length)
                    total += length
            if total >= n_tokens:
                break
        if not chosen:
            raise CorpusError(asked=f"evaluate on the dataset {name!r}", why="it holds no token" if examples else "it holds no example",
                              instead="give held-out examples with text, or leave this dataset out")
        groups = sorted({example.group for example in chosen})
        index = {group: number for number, group in enumerate(groups)}
        return cls(name, chosen, lengths, [index[example.group] for example in chosen], groups)

    @property
    def n_tokens(self) -> int:
        return sum(self.lengths)

    def batches(self, batch_tokens: int) -> Iterator[list[int]]:
        """Indices of examples, those of like length together: at most `batch_tokens` tokens a batch once padded, or one example."""
        batch: list[int] = []
        for index in sorted(range(len(self.examples)), key=lambda item: (self.lengths[item], self.examples[item].id)):
            if batch and (len(batch) + 1) * self.lengths[index] > batch_tokens:
                yield batch
                batch = []
            batch.append(index)
        yield batch


def _in_turn(examples: Sequence[Example], seed: int) -> list[Example]:
    """All examples, one of every group in each round."""
    members: dict[str, list[Example]] = {}
    for example in sorted(examples, key=lambda item: (item.group, item.id)):
        members.setdefault(example.group, []).append(example)
    rng, groups = np.random.default_rng(seed), list(members)
    shuffled = [[members[groups[number]][item] for item in rng.permutation(len(members[groups[number]]))] for number in rng.permutation(len(groups))]
    return [example for turn in zip_longest(*shuffled) for example in turn if example is not None]
