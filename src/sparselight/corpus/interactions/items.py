"""What is known of each item: its title and its labels (genres, tags, years, whatever columns there are). Also the vocabulary of a recommender.

Owns: `ItemTable`, made of metadata files or read back from the spans of a corpus, and its Parquet form. An item without a title is called by its
id, so that everything downstream has a text.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sparselight.errors import CorpusError
from sparselight.files import atomic_path
from sparselight.protocols import Example

ITEM, SPLIT = "item", "split"
"""Names of the spans that say which item a stretch of text is, and which part of the split in time it belongs to (none: train)."""
YEAR = re.compile(r"\((\d{4})\)\s*$")
Labels = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class ItemTable:
    """Items in a fixed order. A recommender's token ids are these positions + 1; 0 is padding."""

    ids: list[str]
    titles: list[str]
    labels: Sequence[Labels]
    _index: dict[str, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._index.update({identifier: number for number, identifier in enumerate(self.ids)})
        if len(self._index) < len(self.ids):
            raise CorpusError(asked=f"make a table of {len(self.ids)} items", why="an item's id occurs twice", instead="give each item once")

    def __len__(self) -> int:
        return len(self.ids)

    def index(self, identifier: str) -> int | None:
        """The place of an item, None when it is not known."""
        return self._index.get(identifier)

    def kinds(self) -> list[str]:
        """Kinds of labels that occur."""
        return sorted({kind for labels in self.labels for kind in labels})

    @classmethod
    def from_examples(cls, examples: Iterable[Example]) -> "ItemTable":
        """The items of a corpus, in sorted order of their ids, with the titles and labels that its spans give."""
        titles: dict[str, str] = {}
        labels: dict[str, dict[str, list[str]]] = {}
        for example in examples:
            places = {(span.start, span.end): span.value for span in example.spans if span.name == ITEM}
            for (start, end), identifier in places.items():
                titles.setdefault(identifier, example.text[start:end])
            fresh = {place: identifier for place, identifier in places.items() if identifier not in labels}
            for span in example.spans:
                if span.name not in (ITEM, SPLIT) and (span.start, span.end) in fresh:
                    found = labels.setdefault(fresh[span.start, span.end], {}).setdefault(span.name, [])
                    if span.value not in found:
                        found.append(span.value)
            for identifier in fresh.values():
                labels.setdefault(identifier, {})
        ids = sorted(titles, key=_in_order)
        return cls(ids, [titles[one] for one in ids], [{kind: tuple(values) for kind, values in labels[one].items()} for one in ids])

    def with_texts_of(self, other: "ItemTable") -> "ItemTable":
        """The same items in the same order, with titles and labels of another table where it knows them."""
        places = [other.index(one) for one in self.ids]
        titles = [own if place is None else other.titles[place] for own, place in zip(self.titles, places, strict=True)]
        return ItemTable(self.ids, titles, [own if place is None else other.labels[place] for own, place in zip(self.labels, places, strict=True)])

    def save(self, path: Path) -> None:
        """Write a Parquet file: id, title, labels (JSON)."""
        labels = [json.dumps({kind: list(values) for kind, values in one.items()}, sort_keys=True) for one in self.labels]
        with atomic_path(path) as temporary:
            pq.write_table(pa.table({"id": self.ids, "title": self.titles, "labels": labels}), temporary)

    @classmethod
    def load(cls, path: Path) -> "ItemTable":
        """Read what `save` wrote.

        Raises:
            CorpusError: when it is missing or damaged.
        """
        try:
            rows = pq.read_table(path, columns=["id", "title", "labels"]).to_pydict()
            labels = [{kind: tuple(values) for kind, values in json.loads(one).items()} for one in rows["labels"]]
        except (OSError, ValueError, KeyError) as err:
            raise CorpusError(asked=f"read the item table {path}", why=str(err), instead="restore that file, or train the recommender again") from None
        return cls(rows["id"], rows["title"], labels)


def year_labels(title: str) -> dict[str, tuple[str, ...]]:
    """Year and decade of a title that ends in a year in brackets, as MovieLens writes it."""
    found = YEAR.search(title)
    return {"year": (found[1],), "decade": (f"{found[1][:3]}0s",)} if found else {}


def one_line(text: str, otherwise: str) -> str:
    """A title as one line of text; `otherwise` where it is blank."""
    return " ".join(text.split()) or otherwise


def split_values(text: str, separator: str) -> tuple[str, ...]:
    """The values of a label; blank ones and MovieLens' word for none are no values."""
    parts: Sequence[str] = [part.strip() for part in text.split(separator)]
    return tuple(dict.fromkeys(part for part in parts if part and part != "(no genres listed)"))


def _in_order(identifier: str) -> tuple[int, int, str]:
    """Whole numbers by their size, all else after them by name."""
    return (0, int(identifier), "") if identifier.isdecimal() and identifier.isascii() else (1, 0, identifier)
