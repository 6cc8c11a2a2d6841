"""Hypotheses: labels of tokens that might predict where a latent fires, of every kind that texts and annotations give.

A *family* gives each token at most one value (`word=secret`, `package=asyncio`); a hypothesis is one value of one family
with enough tokens. Families built from the text itself: word, piece, token, after, line, position. Families built from the
corpus: one for each kind of annotated span and one for each example label, whatever they are called. Everything works on
the joined text of all examples with vectorised look-ups. Refuses nothing: a family without values is simply absent.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from jaxtyping import Int

from sparselight.interpret.tokens import TokenFrame

WORD = re.compile(r"[^\W_]+")  # runs of letters and digits of any script; an underscore ends a word
SPACES = " \t\r\n_\u2581\u0120"  # what stands before a word piece: blanks, underscores and the space marks of common tokenizers
N_FIRST_POSITIONS = 4
NO_VALUE = -1
TEXT_FAMILIES = ("word", "piece", "token", "after", "line", "position")

Codes = Int[np.ndarray, " token"]


@dataclass(frozen=True, slots=True)
class Family:
    """One value or none for every token."""

    name: str
    kind: str  # text | span | label
    codes: Codes  # index into values, or NO_VALUE
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Hypotheses:
    """All hypotheses over one frame, the simplest family first."""

    labels: tuple[str, ...]  # `kind=value`, one a hypothesis
    texts: tuple[str, ...]  # the same in words
    rank: Int[np.ndarray, " hypothesis"]  # of its family: 0 is the simplest
    columns: Int[np.ndarray, "family token"]  # the hypothesis that the family gives to the token, or NO_VALUE

    @property
    def n_hypotheses(self) -> int:
        return len(self.labels)


def find_families(frame: TokenFrame, token_text: Callable[[int], str]) -> list[Family]:
    """All families over the tokens of a frame, from the simplest to the broadest.

    The order decides ties in the search: word, piece, token, after, annotated spans, line, position, then example labels with
    the fewest values first (`package` before `module`).
    """
    text = _JoinedText(frame)
    word, after, line = _word_families(frame, text)
    piece, token = _token_families(frame, token_text)
    spans = _span_families(frame, text)
    position = np.where(frame.position < N_FIRST_POSITIONS, frame.position, NO_VALUE)
    first = Family("position", "text", position, tuple(str(number + 1) for number in range(N_FIRST_POSITIONS)))
    fixed = [word, piece, token, after, *spans, line, first]
    labels = sorted(_label_families(frame, {family.name for family in fixed}), key=lambda family: (len(family.values), family.name))
    return [*fixed, *labels]


def make_hypotheses(families: Sequence[Family], group: Int[np.ndarray, " token"], n_explain: int, min_support: int, min_groups: int) -> Hypotheses:
    """Keep the values with enough tokens and enough groups among the first `n_explain` tokens: the held-out ones have no say.

    A label of one group alone (the module of a file) can never occur on held-out groups, so it could win the search and never
    be proven.
    """
    labels: list[str] = []
    texts: list[str] = []
    ranks: list[int] = []
    columns = []
    for rank, family in enumerate(families):
        explain = family.codes[:n_explain]
        support = np.bincount(explain[explain >= 0], minlength=len(family.values))
        kept = np.flatnonzero((support >= min_support) & (_groups_of(explain, group[:n_explain], len(family.values)) >= min_groups))
        number = np.full(len(family.values) + 1, NO_VALUE, dtype=np.int32)  # the last entry serves the code -1
        number[kept] = len(labels) + np.arange(len(kept))
        columns.append(number[family.codes])
        labels += [f"{family.name}={family.values[value]}" for value in kept]
        texts += [describe(family.name, family.kind, family.values[value]) for value in kept]
        ranks += [rank] * len(kept)
    return Hypotheses(tuple(labels), tuple(texts), np.array(ranks, dtype=np.int64), np.stack(columns))


def describe(name: str, kind: str, value: str) -> str:
    """A hypothesis in plain words."""
    shown = value.replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
    if kind == "span":
        return shown.replace("_", " ")
    if kind == "label":
        return f"anywhere in {name.replace('_', ' ')} {shown}"
    if name == "position":
        return "the first token of an example" if value == "1" else f"token {value} of an example"
    words = {"word": "the word", "piece": "a piece that reads", "token": "the token", "after": "after the word", "line": "on lines whose first word is"}
    return f"{words[name]} `{shown}`"


def _groups_of(codes: Codes, group: np.ndarray, n_values: int) -> np.ndarray:
    """In how many groups each value occurs."""
    some = codes >= 0
    n_groups = int(group.max()) + 1
    pairs = np.unique(codes[some] * n_groups + group[some])
    return np.bincount(pairs // n_groups, minlength=n_values)


class _JoinedText:
    """The texts of all examples in one string, so that one regular expression and one array serve them all."""

    def __init__(self, frame: TokenFrame):
        texts = [example.text for example in frame.examples]
        self.offsets = np.fromiter(accumulate((len(text) + 1 for text in texts), initial=0), dtype=np.int64, count=len(texts) + 1)[:-1]
        self.text = "".join(text + "\n" for text in texts)
        self.start = frame.char_start + self.offsets[frame.example]
        self.end = frame.char_end + self.offsets[frame.example]


def _numbered(values: Iterable[str]) -> tuple[Codes, tuple[str, ...]]:
    """Number strings in order of first occurrence."""
    numbers: dict[str, int] = {}
    codes = np.fromiter((numbers.setdefault(value, len(numbers)) for value in values), dtype=np.int64)
    return codes, tuple(numbers)


def _word_families(frame: TokenFrame, text: _JoinedText) -> tuple[Family, Family, Family]:
    """The word that a token overlaps first, the word before that one, and the first word of the line on which the token starts."""
    spans = np.array([match.span() for match in WORD.finditer(text.text)], dtype=np.int64).reshape(-1, 2)
    starts, ends = spans[:, 0], spans[:, 1]
    codes, words = _numbered(text.text[start:end].lower() for start, end in spans.tolist())
    codes = np.append(codes, NO_VALUE)  # index -1 and index n_words both mean "no such word"
    example_start = text.offsets[frame.example]
    index = np.searchsorted(ends, text.start, side="right")  # the first word that ends after the token's start
    bounds = np.append(starts, len(text.text))
    inside = bounds[index] < text.end
    before = index - 1
    has_before = (before >= 0) & (bounds[before] >= example_start)
    line_ends = np.flatnonzero(np.frombuffer(text.text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32) == ord("\n"))
    line = np.searchsorted(line_ends, text.start, side="left")  # the line break at or after the token's start
    line_start = np.where(line > 0, line_ends[line - 1] + 1, 0)
    first = np.searchsorted(starts, line_start, side="left")
    has_first = bounds[first] < line_ends[line]
    return (
        Family("word", "text", np.where(inside, codes[index], NO_VALUE), words),
        Family("after", "text", np.where(has_before, codes[before], NO_VALUE), words),
        Family("line", "text", np.where(has_first, codes[first], NO_VALUE), words),
    )


def _token_families(frame: TokenFrame, token_text: Callable[[int], str]) -> tuple[Family, Family]:
    """The token's own text, and the same in lower case without what stands before the word piece."""
    ids, index = np.unique(frame.token_id, return_inverse=True)
    texts = [token_text(token_id) for token_id in ids.tolist()]
    families = []
    for name, values in (("piece", [text.lower().lstrip(SPACES) for text in texts]), ("token", texts)):
        codes, known = _numbered(values)
        codes[[not value for value in values]] = NO_VALUE
        families.append(Family(name, "text", codes[index], known))
    return families[0], families[1]


def _span_families(frame: TokenFrame, text: _JoinedText) -> list[Family]:
    """One family for each kind of annotated span: the value that covers at least half of the token's characters.

    Blanks at the edge of a token (the space before a word) carry no vote unless the token is all blank. Where spans of one
    kind overlap, the later one counts.
    """
    painted: dict[str, np.ndarray] = {}
    values: dict[str, dict[str, int]] = {}
    for number, example in enumerate(frame.examples):
        offset = int(text.offsets[number])
        for span in example.spans:
            if span.name not in painted:
                painted[span.name] = np.full(len(text.text), NO_VALUE, dtype=np.int32)
                values[span.name] = {}
            known = values[span.name]
            painted[span.name][offset + span.start : offset + span.end] = known.setdefault(span.value, len(known))
    if not painted:
        return []
    lengths = text.end - text.start
    owner = np.repeat(np.arange(frame.n_tokens), lengths)
    chars = np.arange(len(owner)) + np.repeat(text.start - (np.cumsum(lengths) - lengths), lengths)
    blank = np.fromiter(map(str.isspace, text.text), dtype=bool, count=len(text.text))[chars]
    all_blank = np.bincount(owner[~blank], minlength=frame.n_tokens) == 0
    votes = ~blank | all_blank[owner]
    owner, chars = owner[votes], chars[votes]
    needed = np.bincount(owner, minlength=frame.n_tokens) / 2
    return [
        Family(f"span_{name}" if name in TEXT_FAMILIES else name, "span",
               _majority(owner, painted[name][chars], len(values[name]), needed), tuple(values[name]))
        for name in sorted(painted)
    ]


def _majority(owner: Codes, value: Codes, n_values: int, needed: np.ndarray) -> Codes:
    """The value with the most characters in each token where that is at least `needed`; ties go to the value met first in the corpus."""
    labelled = value >= 0
    pairs, counts = np.unique(owner[labelled] * n_values + value[labelled], return_counts=True)
    token, code = np.divmod(pairs, max(n_values, 1))
    order = np.lexsort((code, -counts, token))
    best = order[np.unique(token[order], return_index=True)[1]]
    best = best[counts[best] >= needed[token[best]]]
    codes = np.full(len(needed), NO_VALUE, dtype=np.int64)
    codes[token[best]] = code[best]
    return codes


def _label_families(frame: TokenFrame, taken: set[str]) -> list[Family]:
    """One family for each name of an example label; a name that is taken already gets a prefix."""
    families = []
    for name in sorted({name for example in frame.examples for name in example.labels}):
        codes, values = _numbered(example.labels.get(name, "") for example in frame.examples)
        codes = np.where(np.array([bool(example.labels.get(name)) for example in frame.examples]), codes, NO_VALUE)
        families.append(Family(f"label_{name}" if name in taken else name, "label", codes[frame.example], values))
    return families
