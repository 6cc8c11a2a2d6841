"""Hypotheses: labels of tokens that might predict where a latent fires, of every kind that texts and annotations give.

A *family* gives each token one value, several or none (`word=secret`, `package=asyncio`); a hypothesis is one value of one family
with enough tokens. Families built from the text itself: word, piece, token, after, line, position, and those of two tokens or words
(`conjunctions`). Families built from the corpus: one for each kind of annotated span and one for each example label, whatever they are
called. Everything works on the joined text of all examples with vectorised look-ups. A family without values is simply absent.
Refuses: annotated spans that lie outside of their text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from sparselight.errors import CorpusError
from sparselight.interpret.conjunctions import conjunction_families, describe_conjunction
from sparselight.interpret.families import NO_VALUE, Codes, Family, JoinedText, Words, in_span, numbered, only_in_text, visible_breaks
from sparselight.interpret.patches import PICTURE, PLACE, Pictures, patch_families
from sparselight.interpret.search import Columns
from sparselight.interpret.tokens import TokenFrame
from sparselight.vocab import UNLABELLED

SPACES = " \t\r\n_\u2581\u0120"  # what stands before a word piece: blanks, underscores and the space marks of common tokenizers
N_FIRST_POSITIONS = 4
TEXT_FAMILIES = ("word", "piece", "token", "after", "line", "position", "behind", "words", "tokens", "near")


@dataclass(frozen=True, slots=True)
class Hypotheses:
    """All hypotheses over one frame, the simplest family first."""

    labels: tuple[str, ...]  # `kind=value`, one a hypothesis
    texts: tuple[str, ...]  # the same in words
    columns: Columns

    @property
    def n_hypotheses(self) -> int:
        return len(self.labels)


def find_families(frame: TokenFrame, token_text: Callable[[int], str], min_support: int = 1, pictures: Pictures | None = None) -> list[Family]:
    """All families over the tokens of a frame, from the simplest to the broadest.

    The order decides ties in the search: word, piece, token, after, annotated spans, boxes and places of patches, line, position, then those of two words or
    tokens, then example labels with the fewest values first (`package` before `module`).

    Args:
        min_support: values of two words or tokens that occur less often are left out at once; they are most of all.
        pictures: the images of the examples, where there are some.
    """
    text = JoinedText(frame)
    words = Words(text)
    word, after = Family("word", "text", words.own(), words.values), Family("after", "text", words.before(1), words.values)
    piece, token = _token_families(frame, token_text)
    spans = _span_families(frame, text)
    position = np.where(frame.position < N_FIRST_POSITIONS, frame.position, NO_VALUE)
    first = Family("position", "text", position, tuple(str(number + 1) for number in range(N_FIRST_POSITIONS)))
    patches = patch_families(frame, pictures) if pictures is not None else []
    fixed = [word, piece, token, after, *spans, *patches, _line_family(text, words), first]
    fixed += conjunction_families(frame, words, piece, spans, token_text, min_support)
    if pictures is not None:  # what is said of the image token says nothing: patches have families of their own
        fixed = [only_in_text(family, text) if family.kind in ("text", "conjunction") and family is not first else family for family in fixed]
    labels = sorted(_label_families(frame, {family.name for family in fixed}), key=lambda family: (len(family.values), family.name))
    return [*fixed, *labels]


def make_hypotheses(families: Sequence[Family], group: Int[np.ndarray, " token"], n_explain: int, min_support: int, min_groups: int) -> Hypotheses:
    """Keep the values with enough tokens and enough groups among the first `n_explain` tokens: the held-out ones have no say.

    A label of one group alone (the module of a file) can never occur on held-out groups, so it could win the search and never
    be proven.
    """
    labels: list[str] = []
    texts: list[str] = []
    slots: list[np.ndarray] = []
    ranks: list[int] = []
    first_slots: list[int] = []
    widths: list[int] = []
    are_letters = any(family.name == "piece" and all(len(value) == 1 for value in family.values) for family in families)
    for rank, family in enumerate(families):
        codes = np.atleast_2d(family.codes)
        kept = _often_enough(codes[:, :n_explain], group[:n_explain], len(family.values), min_support, min_groups)
        number = np.full(len(family.values) + 1, NO_VALUE, dtype=np.int32)  # the last entry serves the code -1
        number[kept] = len(labels) + np.arange(len(kept))
        labels += [f"{family.name}={family.values[value]}" for value in kept]
        texts += [describe(family.name, family.kind, family.values[value], are_letters) for value in kept]
        ranks += [rank] * len(kept)
        first_slots += [sum(len(rows) for rows in slots)] * len(kept)
        widths += [len(codes)] * len(kept)
        slots.append(number[codes])
    columns = Columns(np.concatenate(slots), *(np.array(column, dtype=np.int64) for column in (first_slots, widths, ranks)))
    return Hypotheses(tuple(labels), tuple(texts), columns)


def _often_enough(codes: Int[np.ndarray, "slot token"], group: Codes, n_values: int, min_support: int, min_groups: int) -> Int[np.ndarray, " kept"]:
    """Values with that many tokens in that many groups; no value may occur twice at one token."""
    slot, token = np.nonzero(codes >= 0)
    value = codes[slot, token]
    support = np.bincount(value, minlength=n_values)
    n_groups = int(group.max()) + 1
    enough = support >= min_support
    value, token = value[enough[value]], token[enough[value]]  # most values are rare: a sort of all pairs would be most of the work
    pairs = np.unique(value.astype(np.int64) * n_groups + group[token])
    return np.flatnonzero(enough & (np.bincount(pairs // n_groups, minlength=n_values) >= min_groups))


def describe(name: str, kind: str, value: str, are_letters: bool = False) -> str:
    """A hypothesis in plain words.

    Args:
        are_letters: pieces are single letters, as of proteins.
    """
    shown = visible_breaks(value)
    if kind == "span":
        return in_span(name, value)
    if kind == PICTURE:
        return "any patch of the picture"
    if kind == "box":
        return f"patches in the box {shown.replace('_', ' ')}"
    if kind == PLACE:
        return f"patches at the {shown} of the picture"
    if kind == "label":
        return f"anywhere in {name.replace('_', ' ')} {shown}"
    if kind == "conjunction":
        return describe_conjunction(name, value, are_letters)
    if name == "piece" and are_letters:
        return f"the letter `{shown.upper()}`"
    if name == "position":
        unit = "letter" if are_letters else "token"
        return f"the first {unit} of an example" if value == "1" else f"{unit} {value} of an example"
    words = {"word": "the word", "piece": "a piece that reads", "token": "the token", "after": "after the word", "line": "on lines whose first word is"}
    return f"{words[name]} `{shown}`"


def _line_family(text: JoinedText, words: Words) -> Family:
    """The first word of the line on which a token starts."""
    line_ends = np.flatnonzero(np.frombuffer(text.text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32) == ord("\n"))
    line = np.searchsorted(line_ends, text.start, side="left")  # the line break at or after the token's start
    line_start = np.where(line > 0, line_ends[line - 1] + 1, 0)
    first = np.searchsorted(words.starts, line_start, side="left")
    return Family("line", "text", np.where(text.in_text & (words.bounds[first] < line_ends[line]), words.codes[first], NO_VALUE), words.values)


def _token_families(frame: TokenFrame, token_text: Callable[[int], str]) -> tuple[Family, Family]:
    """The token's own text, and the same in lower case without what stands before the word piece."""
    ids, index = np.unique(frame.token_id, return_inverse=True)
    texts = [token_text(token_id) for token_id in ids.tolist()]
    families = []
    for name, values in (("piece", [text.lower().lstrip(SPACES) for text in texts]), ("token", texts)):
        codes, known = numbered(values)
        codes[[not value for value in values]] = NO_VALUE
        families.append(Family(name, "text", codes[index], known))
    return families[0], families[1]


def _span_families(frame: TokenFrame, text: JoinedText) -> list[Family]:
    """One family for each kind of annotated span: the value that covers at least half of the token's characters.

    Blanks at the edge of a token (the space before a word) carry no vote unless the token is all blank. Where spans of one
    kind overlap, the later one counts.
    """
    painted: dict[str, np.ndarray] = {}
    values: dict[str, dict[str, int]] = {}
    for number, example in enumerate(frame.examples):
        offset = int(text.offsets[number])
        for span in example.spans:
            if not 0 <= span.start < span.end <= len(example.text):
                raise CorpusError(asked=f"use the annotation {span.name}={span.value!r} of the example {example.id!r}",
                                  why=f"it covers the characters {span.start} to {span.end} of a text of {len(example.text)}",
                                  instead="give the annotations of this corpus, with offsets into the text as it stands")
            if span.name == UNLABELLED:
                continue
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
        codes, values = numbered(example.labels.get(name, "") for example in frame.examples)
        codes = np.where(np.array([bool(example.labels.get(name)) for example in frame.examples]), codes, NO_VALUE)
        families.append(Family(f"label_{name}" if name in taken else name, "label", codes[frame.example], values))
    return families
