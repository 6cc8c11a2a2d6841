"""The cards of a catalogue as columns in memory: what lists, filters, sorts and plots read, so that no list asks the database.

Owns their order and the arrays; 65,536 cards take some tens of MB, most of it text. Contexts stay in the file. Refuses nothing.
"""

import itertools
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sparselight.interpret import Catalogue
from sparselight.interpret.catalogue import SORTS
from sparselight.interpret.evidence import GRADES
from sparselight.serve.data.words import Words

NUMBERS = ("f1", "f1_low", "f1_high", "control_f1", "control_f1_high", "fire_rate", "domain_fire_rate", "domain_ratio", "n_fires", "max_activation")
TEXTS = ("text", "label", "explainer")
ASCENDING = ("grade", "latent")
"""Orders that begin with the smallest; the others begin with the largest."""
CARD_COLUMNS = f"number, source, latent, grade, supported, {', '.join(NUMBERS)}, {', '.join(TEXTS)}, lower(search_text) AS search_text"

_SERIALS = itertools.count()


class Columns:
    """The table `cards`, one array a column, in the order of the catalogue. No two have the same `serial`."""

    def __init__(self, catalogue: Catalogue):
        table = catalogue.sql(f"SELECT {CARD_COLUMNS} FROM cards ORDER BY number")
        self.n = table.num_rows
        self.sources: list[str] = list(dict.fromkeys(table.column("source").to_pylist()))
        self.source = np.array(pc.index_in(table.column("source"), pa.array(self.sources, pa.string())).to_numpy(), dtype=np.int16)
        self.latent = table.column("latent").to_numpy().astype(np.int64)
        self.grade = np.array(pc.index_in(table.column("grade"), pa.array(GRADES)).to_numpy(), dtype=np.int8)
        self.supported = table.column("supported").to_numpy(zero_copy_only=False).astype(bool)
        self.numbers = {name: table.column(name).cast(pa.float64()).to_numpy() for name in NUMBERS}
        self.texts = {name: pc.fill_null(table.column(name), "").combine_chunks() for name in TEXTS}
        self._search_text = pc.fill_null(table.column("search_text"), "").combine_chunks()
        self.kinds = pc.list_element(pc.split_pattern(self.texts["label"], "=", max_splits=1), 0) if self.n else self.texts["label"]
        self.has_explanation = pc.is_valid(table.column("explainer")).to_numpy()
        self.serial = next(_SERIALS)
        self._orders: dict[tuple[str, bool], np.ndarray] = {}

    @cached_property
    def _own(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Of each SAE: its rows by latent, and their latents."""
        ordered = np.lexsort((self.latent, self.source))
        spans = {source: ordered[self.source[ordered] == number] for number, source in enumerate(self.sources)}
        return {source: (rows, self.latent[rows]) for source, rows in spans.items()}

    @cached_property
    def _words(self) -> Words:
        return Words(self._search_text)

    def prepare(self) -> None:
        """Make what otherwise the first search, list and card would wait for."""
        _ = self._words, self._own
        self.order("grade", None)

    def row(self, source: str, latent: int) -> int | None:
        """The row of a card, None where there is none."""
        if source not in self.sources:
            return None
        own, latents = self._own[source]
        at = int(np.searchsorted(latents, latent))
        return int(own[at]) if at < len(own) and latents[at] == latent else None

    def beside(self, row: int) -> tuple[int | None, int | None]:
        """The rows before and after one among the latents of its SAE."""
        own, latents = self._own[self.sources[self.source[row]]]
        at = int(np.searchsorted(latents, self.latent[row]))
        return (int(own[at - 1]) if at > 0 else None), (int(own[at + 1]) if at + 1 < len(own) else None)

    def containing(self, text: str) -> np.ndarray:
        """Which rows hold a text, in lower case, in what they are searched by; not to be written to."""
        return self._words.containing(text.encode("utf-8", "replace").decode())

    def order(self, sort: str, descending: bool | None) -> np.ndarray:
        """Rows in an order of `SORTS`; missing values stand last either way, ties go by source and latent.

        Args:
            descending: None takes the order in which the best comes first.
        """
        assert sort in SORTS
        down = sort not in ASCENDING if descending is None else descending
        if (sort, down) not in self._orders:
            sign = -1.0 if down else 1.0
            rank = np.array([sorted(self.sources).index(source) for source in self.sources], dtype=np.int16)[self.source] if self.n else self.source
            if sort == "latent":
                keys: Sequence[np.ndarray] = (sign * self.latent, sign * rank)
            elif sort == "grade":
                keys = (self.latent, rank, -self.numbers["f1"], sign * self.grade)
            else:
                keys = (self.latent, rank, sign * self.numbers[sort])
            self._orders[sort, down] = np.lexsort(keys).astype(np.int32)
        return self._orders[sort, down]


def number_or_none(value: Any) -> float | None:
    """A number of a column as JSON has it."""
    return float(value) if np.isfinite(value) else None
