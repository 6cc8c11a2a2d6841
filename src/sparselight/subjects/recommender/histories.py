"""From an example to the interactions that it holds: items by their `item` spans, in the order of the text.

Owns: `History`, and the policy for items that the model does not know. Refuses: them where the settings say so; examples without `item` spans give
an empty history.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from sparselight.corpus.interactions.items import ITEM, SPLIT, ItemTable
from sparselight.errors import SubjectError
from sparselight.protocols import Example


@dataclass(frozen=True, slots=True)
class History:
    """The known interactions of one user, in the order of time."""

    user: str
    tokens: Int[np.ndarray, " token"]  # places in the item table + 1
    start: Int[np.ndarray, " token"]  # characters of the example's text
    end: Int[np.ndarray, " token"]
    part: list[str]  # `dev` or `test` where the interaction was held out from the recommender's training, else empty

    def __len__(self) -> int:
        return len(self.tokens)

    def trained(self) -> "np.ndarray":
        """Which interactions a recommender may be trained on."""
        return np.array([not part for part in self.part], dtype=bool)


def read_history(example: Example, items: ItemTable, unknown: str = "refuse") -> History:
    """The interactions of an example.

    Args:
        unknown: `refuse` or `drop`, for items that the table lacks.

    Raises:
        SubjectError: for an unknown item, unless it is to be dropped.
    """
    parts = {(span.start, span.end): span.value for span in example.spans if span.name == SPLIT}
    tokens, start, end, part = [], [], [], []
    for span in sorted((span for span in example.spans if span.name == ITEM), key=lambda span: span.start):
        place = items.index(span.value)
        if place is None and unknown == "refuse":
            raise SubjectError(asked=f"read the history of {example.id!r}", why=f"the recommender does not know the item {span.value!r} "
                               f"({example.text[span.start:span.end]!r})", instead="set subject.recommender.unknown_items = 'drop', or list the items that "
                               "it knows in corpus.interactions.only_items")
        if place is not None:
            tokens.append(place + 1)
            start.append(span.start)
            end.append(span.end)
            part.append(parts.get((span.start, span.end), ""))
    columns = [np.array(column, dtype=np.int64) for column in (tokens, start, end)]
    return History(example.group, columns[0], columns[1], columns[2], part)
