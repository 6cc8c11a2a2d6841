"""Candidate concepts: sets of items that share a label, a word of the title, a series, a degree of popularity, an age.

Each candidate is a column of a matrix [item, candidate]. Kinds: those of the item table (genre, tag, year, decade, ...), `term` (a word of the title),
`series` (titles that differ in a number or subtitle), `popularity` (head, middle, tail), `recency` (the newest and the oldest fifth by year).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import sparse

from sparselight.corpus.interactions.items import YEAR, ItemTable, Labels
from sparselight.records.item_concepts import LatentConcept

WORD = re.compile(r"[^\W\d_]{3,}")
ENDING = re.compile(r"(,\s*(the|a|an)\b)|(\s+(part\s+)?(\d{1,2}|[ivx]{1,4})\b.*)|(\s*[:(\u2013-].*)", re.I)
HEAD_FRAC, TAIL_FRAC, AGE_FRAC = 0.1, 0.5, 0.2
STOP = {"the", "and", "for", "with", "from", "into", "that", "this", "you", "your", "les", "der", "das", "die", "aka", "his", "her", "one", "all", "not", "are"}
ORDER = ("genre", "decade", "popularity", "recency", "tag", "series", "year", "term")  # what wins among equals: the broadest and plainest first


@dataclass(frozen=True, slots=True)
class Candidates:
    """Sets of items; row 0 of the matrix is padding."""

    kinds: list[str]
    values: list[str]
    matrix: sparse.csc_matrix  # [vocabulary, candidate]
    words: sparse.csr_matrix  # [vocabulary, word]: TF-IDF of titles and labels, rows of length 1
    vocabulary: list[str]
    items: ItemTable

    def label(self, number: int) -> str:
        return f"{self.kinds[number]}={self.values[number]}"

    def members(self, label: str) -> Bool[np.ndarray, " vocabulary"]:
        """The items of a candidate by its label `kind=value`."""
        kind, _, value = label.partition("=")
        number = next(n for n, pair in enumerate(zip(self.kinds, self.values, strict=True)) if pair == (kind, value))
        return self.matrix[:, [number]].toarray()[:, 0] > 0

    def with_words(self, words: list[str]) -> Bool[np.ndarray, " vocabulary"]:
        """Items whose title or labels hold one of the words."""
        columns = [self.vocabulary.index(word) for word in words]
        return np.asarray(self.words[:, columns].sum(1)).ravel() > 0

    def listed(self, ids: list[str]) -> Bool[np.ndarray, " vocabulary"]:
        """Items by their ids."""
        result = np.zeros(len(self.items) + 1, dtype=bool)
        result[[place + 1 for one in ids if (place := self.items.index(one)) is not None]] = True
        return result


def members_of(concept: LatentConcept, candidates: Candidates) -> Bool[np.ndarray, " vocabulary"]:
    """The items that a concept names; entry 0 is padding."""
    if concept.item_ids:
        return candidates.listed(concept.item_ids)
    return candidates.with_words(concept.terms) if concept.route == "terms" else candidates.members(concept.label)


def make_candidates(items: ItemTable, popularity: Float[np.ndarray, " vocabulary"], min_items: int = 3, max_items_frac: float = 0.6) -> Candidates:
    """All candidates with `min_items` items or more and at most that share of all.

    Args:
        popularity: training interactions of each item; entry 0 is padding.
    """
    sets: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, (title, labels) in enumerate(zip(items.titles, items.labels, strict=True)):
        for kind, value in _labels_of(title, labels):
            sets[kind, value].append(place + 1)
    for kind, value, members in [*_by_popularity(popularity), *_by_age(items)]:
        sets[kind, value] = members
    rank = {kind: number for number, kind in enumerate(ORDER)}
    kept = sorted((pair for pair, members in sets.items() if min_items <= len(members) <= max_items_frac * len(items)),
                  key=lambda pair: (rank.get(pair[0], len(ORDER)), pair))
    rows = [place for pair in kept for place in sets[pair]]
    columns = np.repeat(np.arange(len(kept)), [len(sets[pair]) for pair in kept])
    matrix = sparse.csc_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=(len(items) + 1, len(kept)))
    words, vocabulary = _tf_idf(items)
    return Candidates([kind for kind, _ in kept], [value for _, value in kept], matrix, words, vocabulary, items)


def _labels_of(title: str, labels: Labels) -> Iterator[tuple[str, str]]:
    yield from ((kind, value) for kind, values in labels.items() for value in values)
    plain = YEAR.sub("", title)
    yield from (("term", word) for word in sorted({found.lower() for found in WORD.findall(plain)} - STOP))
    if series := ENDING.sub("", plain).strip().lower():
        yield "series", series


def _by_popularity(counts: Float[np.ndarray, " vocabulary"]) -> list[tuple[str, str, list[int]]]:
    order = 1 + np.argsort(-counts[1:], kind="stable")
    head, tail = round(HEAD_FRAC * len(order)), round((1 - TAIL_FRAC) * len(order))
    return [("popularity", "head", order[:head].tolist()), ("popularity", "middle", order[head:tail].tolist()), ("popularity", "tail", order[tail:].tolist())]


def _by_age(items: ItemTable) -> list[tuple[str, str, list[int]]]:
    years = [(int(values[0]), place + 1) for place, labels in enumerate(items.labels) if (values := labels.get("year")) and values[0].isdecimal()]
    size = round(AGE_FRAC * len(years))
    ordered = [place for _, place in sorted(years)]
    return [("recency", "oldest fifth", ordered[:size]), ("recency", "newest fifth", ordered[len(ordered) - size:])] if size else []


def _tf_idf(items: ItemTable) -> tuple[sparse.csr_matrix, list[str]]:
    """Rows of tf * (1 + ln((1 + n) / (1 + df))), scaled to length 1 (scikit-learn's smooth idf; Salton and Buckley 1988)."""
    texts = [[word.lower() for word in WORD.findall(YEAR.sub("", title))] + [value.lower() for values in labels.values() for value in values]
             for title, labels in zip(items.titles, items.labels, strict=True)]
    frequency = Counter(word for text in texts for word in set(text) - STOP)
    vocabulary = sorted(word for word, n in frequency.items() if n > 1)
    number = {word: column for column, word in enumerate(vocabulary)}
    entries = [(place + 1, number[word], n) for place, text in enumerate(texts) for word, n in Counter(text).items() if word in number]
    rows, columns, counts = (np.array(column) for column in zip(*entries, strict=True)) if entries else (np.zeros(0, int),) * 3
    idf = 1 + np.log((1 + len(items)) / (1 + np.array([frequency[word] for word in vocabulary], dtype=np.float64)))
    matrix = sparse.csr_matrix((counts * idf[columns], (rows, columns)), shape=(len(items) + 1, len(vocabulary)))
    norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(1)).ravel())
    return sparse.diags(1 / np.where(norms > 0, norms, 1)) @ matrix, vocabulary
