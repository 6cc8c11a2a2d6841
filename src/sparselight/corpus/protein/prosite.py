"""Patterns in PROSITE's syntax, found in sequences: `C-x(2,4)-C-x(3)-[LIVMFYWC]-x(8)-H-x(3,5)-H`.

Elements stand between hyphens: a residue, `x` for any, `[ABC]` one of, `{ABC}` none of, each with `(3)` or `(2,4)` for repeats; `<` ties the first element to
the start and `>` the last to the end, also as one choice in brackets (`[G>]`); a final period is allowed. Owns: the compiler, the search, a few patterns by
name. Refuses: anything else, naming the element. Syntax: https://prosite.expasy.org/scanprosite/scanprosite_doc.html
"""

import re
from functools import cache
from typing import NamedTuple

from sparselight.corpus.protein.residues import RESIDUES
from sparselight.errors import ConfigError, nearest

ELEMENT = re.compile(r"(<)?(?:(x)|([A-Z])|\[(<?[A-Z]+>?)\]|\{([A-Z]+)\})(?:\((\d+)(?:,(\d+))?\))?(>)?")

PATTERNS: dict[str, str] = {
    "zinc_finger_C2H2": "C-x(2,4)-C-x(3)-[LIVMFYWC]-x(8)-H-x(3,5)-H",
    "P_loop": "[AG]-x(4)-G-K-[ST]",
    "N_glycosylation": "N-{P}-[ST]-{P}",
    "RGD": "R-G-D",
    "leucine_zipper": "L-x(6)-L-x(6)-L-x(6)-L",
    "ER_retention": "[KRHQSA]-[DENQ]-E-L>",
}
"""Motifs of the textbooks under names of our own; PROSITE's entries PS00028, PS00017, PS00001, PS00016, PS00029, PS00014."""


class Match(NamedTuple):
    """Residues [start, end), from 0."""

    start: int
    end: int


def find_pattern(pattern: str, sequence: str) -> list[Match]:
    """All matches, overlapping ones included: from each start at most one, with each repeat as long as the rest allows."""
    compiled = re.compile(f"(?=({pattern_regex(pattern)}))")
    return [Match(found.start(1), found.end(1)) for found in compiled.finditer(sequence.upper())]


def named_pattern(name_or_pattern: str) -> str:
    """The pattern of a name in PATTERNS, or the pattern itself.

    Raises:
        ConfigError: when it is neither.
    """
    if name_or_pattern in PATTERNS:
        return PATTERNS[name_or_pattern]
    if "-" not in name_or_pattern and len(name_or_pattern) > 1 and not re.search(r"[\[({<>]", name_or_pattern):
        raise ConfigError(asked=f"look for the pattern {name_or_pattern!r}", why="it is no name of a pattern, and PROSITE writes hyphens between elements",
                          instead=nearest(name_or_pattern, PATTERNS))
    pattern_regex(name_or_pattern)
    return name_or_pattern


@cache
def pattern_regex(pattern: str) -> str:
    """The regular expression of a pattern.

    Raises:
        ConfigError: naming the element that is not of the syntax.
    """
    asked, text = f"read the PROSITE pattern {pattern!r}", "".join(pattern.split()).removesuffix(".")
    if not text:
        raise ConfigError(asked=asked, why="it is empty", instead="write for example R-G-D")
    elements, parts = text.split("-"), []
    for number, element in enumerate(elements):
        found = ELEMENT.fullmatch(element)
        if found is None:
            raise ConfigError(asked=asked, why=f"its element {element!r} is none of A, x, [ABC], {{ABC}}, with (n) or (n,m) for repeats",
                              instead="write elements with hyphens between them, such as C-x(2,4)-[LIV]")
        start, end = bool(found[1]) or (found[4] or "").startswith("<"), bool(found[8]) or (found[4] or "").endswith(">")
        if (start and number) or (end and number < len(elements) - 1):
            raise ConfigError(asked=asked, why=f"{element!r} is tied to an end of the sequence at which it does not stand",
                              instead="tie the first element with <, the last with >")
        parts.append(_element(found, asked))
    return "".join(parts)


def _element(found: re.Match[str], asked: str) -> str:
    start, anything, one, some, none, least, most, end = found.groups()
    for letter in (one or "") + (some or "").strip("<>") + (none or ""):
        if letter not in RESIDUES:
            raise ConfigError(asked=asked, why=f"{letter!r} is no amino acid", instead="use the one-letter codes, and x for any residue")
    if least is not None and most is not None and int(most) < int(least):
        raise ConfigError(asked=asked, why=f"({least},{most}) repeats at most fewer times than at least", instead=f"write ({most},{least})")
    residues = "[A-Z]" if anything else one if one else f"[{some.strip('<>')}]" if some else f"[^{none}]"
    repeats = "" if least is None else f"{{{least}}}" if most is None else f"{{{least},{most}}}"
    body = f"{residues}{repeats}"
    if some and some.startswith("<"):
        body = f"(?:^|{body})"
    if some and some.endswith(">"):
        body = f"(?:{body}|$)"
    return f"{'^' if start else ''}{body}{'$' if end else ''}"
