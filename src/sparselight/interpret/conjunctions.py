"""Families of two things at once: two words or tokens in a row, a token inside an annotated span, a telling word a little way back.

What a latent of a language model waits for is often not one token: `ssl` after `import`, whatever follows `(`, `key` in a docstring, text in
which `socket` was mentioned shortly before. Words for the last kind are chosen by inverse document frequency, as TF-IDF does (RecSAE, arXiv
2411.06112, names concepts by such terms): a word that stands in more than a tenth of the groups says nothing about a topic. Refuses nothing.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int

from sparselight.interpret.families import NO_VALUE, Codes, Family, Words, in_span, visible_breaks
from sparselight.interpret.tokens import TokenFrame

ARROW = "\u2192"  # between the two parts of a value
PIECE_IN = "piece in "  # before the name of an annotation
NEAR_WORDS = 8
MOST_GROUPS_FRAC = 0.1  # of the explain groups; an idf of at least ln 10


def conjunction_families(frame: TokenFrame, words: Words, piece: Family, spans: Sequence[Family], token_text: Callable[[int], str],
                         min_support: int) -> list[Family]:
    """`behind`: the token before; `words`: the word before and the own one; `tokens`: the token before and the own one; one `piece in KIND` for each
    kind of span; `near`: telling words among the last NEAR_WORDS."""
    before = np.concatenate([[NO_VALUE], np.where(frame.example[1:] == frame.example[:-1], frame.token_id[:-1], NO_VALUE)])
    ids = np.unique(frame.token_id)
    texts = {token_id: token_text(token_id) for token_id in ids.tolist()}
    code_of, values = np.full(int(ids[-1]) + 2, NO_VALUE, dtype=np.int64), tuple(texts.values())
    code_of[ids] = np.arange(len(ids))
    last, own = code_of[before], code_of[frame.token_id]  # code_of[-1] is the extra entry: no value
    return [
        Family("behind", "conjunction", last, values),
        _pairs("words", words.before(1), words.own(), words.values, words.values, min_support),
        _pairs("tokens", last, own, values, values, min_support),
        *(_pairs(f"{PIECE_IN}{span.name}", piece.codes, span.codes, piece.values, span.values, min_support) for span in spans),
        _near(frame, words),
    ]


def describe_conjunction(name: str, value: str, are_letters: bool = False) -> str:
    """A value in plain words.

    Args:
        are_letters: pieces are single letters, as of proteins.
    """
    first, _, second = (visible_breaks(part) for part in value.partition(ARROW))
    unit = "letter" if are_letters else "token"
    if name == "behind":
        return f"right after the {unit} `{visible_breaks(value)}`"
    if name == "near":
        return f"up to {NEAR_WORDS} words after `{value}`"
    if name == "words":
        return f"the word `{second}` after `{first}`"
    if name == "tokens":
        return f"the {unit} `{second}` right after `{first}`"
    return f"{f'the letter `{first.upper()}`' if are_letters else f'`{first}`'} in {in_span(name.removeprefix(PIECE_IN), second)}"


def _pairs(name: str, first: Codes, second: Codes, first_values: Sequence[str], second_values: Sequence[str], min_support: int) -> Family:
    """Pairs of values of two families that occur often enough."""
    both = (first >= 0) & (second >= 0)
    pair = np.where(both, first * len(second_values) + second, NO_VALUE)
    known, index, counts = np.unique(pair[both], return_inverse=True, return_counts=True)
    kept = np.flatnonzero(counts >= min_support)
    number = np.full(len(known), NO_VALUE, dtype=np.int64)
    number[kept] = np.arange(len(kept))
    codes = np.full(len(pair), NO_VALUE, dtype=np.int64)
    codes[both] = number[index]
    left, right = np.divmod(known[kept], max(1, len(second_values)))
    values = tuple(f"{first_values[a]}{ARROW}{second_values[b]}" for a, b in zip(left.tolist(), right.tolist(), strict=True))
    return Family(name, "conjunction", codes, values)


def _near(frame: TokenFrame, words: Words) -> Family:
    """The telling ones among the last words before each token, none twice at one token."""
    own = words.own()[: frame.n_explain]
    group = frame.group[: frame.n_explain]
    some = own >= 0
    n_groups = int(group.max()) + 1
    pairs = np.unique(own[some] * n_groups + group[some])
    in_groups = np.bincount(pairs // n_groups, minlength=len(words.values) + 1)
    telling = in_groups <= MOST_GROUPS_FRAC * len(np.unique(group))
    slots: list[Int[np.ndarray, " token"]] = []
    for distance in range(1, NEAR_WORDS + 1):
        code = words.before(distance)
        code = np.where(telling[code], code, NO_VALUE)
        for earlier in slots:
            code = np.where(code == earlier, NO_VALUE, code)
        slots.append(code.astype(np.int32))
    return Family("near", "conjunction", np.stack(slots), words.values)
