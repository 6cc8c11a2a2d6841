"""The cards of a catalogue as columns in memory: what lists, filters, sorts and plots read, so that no list asks the database.

Owns their order and the arrays; 65,536 cards take some tens of MB, most of it text. Contexts stay in the file. Refuses nothing.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sparselight.interpret import Catalogue
from sparselight.interpret.catalogue import SORTS
from sparselight.interpret.evidence import GRADES
from sparselight.interpret.renderers import visible
from sparselight.report.svg import shorten

NUMBERS = ("f1", "f1_low", "f1_high", "control_f1", "control_f1_high", "fire_rate", "domain_fire_rate", "domain_ratio", "n_fires", "max_activation")
TEXTS = ("text", "label", "explainer")
ASCENDING = ("grade", "latent")
"""Orders that begin with the smallest; the others begin with the largest."""
MOST_HITS = 5_000
"""Of a text, beyond which every row is looked at by itself."""
N_PEAKS = 4
PEAK_CHARS = 24
CARD_COLUMNS = f"number, source, latent, grade, supported, {', '.join(NUMBERS)}, {', '.join(TEXTS)}, lower(search_text) AS search_text"


class Columns:
    """The table `cards`, one array a column, in the order of the catalogue."""

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
        self.search_text = pc.fill_null(table.column("search_text"), "").combine_chunks()
        parts = [(part or "").encode("utf-8", "replace") for part in self.search_text.to_pylist()]
        self._bytes, self._ends = b"".join(parts), np.cumsum([0, *map(len, parts)])[1:]
        self.kinds = pc.list_element(pc.split_pattern(self.texts["label"], "=", max_splits=1), 0) if self.n else self.texts["label"]
        self.has_explanation = pc.is_valid(table.column("explainer")).to_numpy()
        self._orders: dict[tuple[str, bool], np.ndarray] = {}

    @cached_property
    def _own(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Of each SAE: its rows by latent, and their latents."""
        ordered = np.lexsort((self.latent, self.source))
        spans = {source: ordered[self.source[ordered] == number] for number, source in enumerate(self.sources)}
        return {source: (rows, self.latent[rows]) for source, rows in spans.items()}

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
        """Which rows hold a text in what they are searched by, in lower case. Rare texts are looked for in all rows at once, as one run of bytes."""
        hits: list[int] = []
        pattern, at = text.encode("utf-8", "replace"), -1
        while len(hits) <= MOST_HITS and (at := self._bytes.find(pattern, at + 1)) >= 0:
            hits.append(at)
        if len(hits) > MOST_HITS:
            return np.asarray(pc.match_substring(self.search_text, text).to_numpy(zero_copy_only=False), dtype=bool)
        found, mask = np.array(hits, dtype=np.int64), np.zeros(self.n, dtype=bool)
        rows = np.searchsorted(self._ends, found, "right")
        mask[rows[found + len(pattern) <= self._ends[rows]]] = True  # a hit over the end of a row is none
        return mask

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


class Peaks:
    """The tokens on which each card's latent fires most, as shown in lists: a few distinct ones a card.

    Args:
        n: how many cards there are.
    """

    def __init__(self, catalogue: Catalogue, n: int):
        table = catalogue.sql(f"SELECT card, tokens[peak + 1] AS token FROM contexts WHERE shown < {2 * N_PEAKS} AND kind IN ('top', 'quantile', 'importance') "
                              "ORDER BY card, shown")
        cards = table.column("card").to_numpy()
        self._tokens = table.column("token")
        self._starts = np.searchsorted(cards, np.arange(n + 1))

    def __getitem__(self, row: int) -> list[str]:
        tokens = self._tokens[int(self._starts[row]):int(self._starts[row + 1])].to_pylist()
        return list(dict.fromkeys(shown_token(token) for token in tokens if token))[:N_PEAKS]


def shown_token(token: str) -> str:
    return shorten(visible(token).strip(), PEAK_CHARS) or "\u2423"


def number_or_none(value: Any) -> float | None:
    """A number of a column as JSON has it."""
    return float(value) if np.isfinite(value) else None
