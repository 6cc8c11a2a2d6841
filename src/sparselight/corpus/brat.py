"""BRAT standoff files: a `.txt` with the text and an `.ann` beside it with the annotations; one document an example.

Text-bound annotations (lines `T1<tab>Type start end;start end<tab>words`) become spans, one for each piece of a discontinuous one. Relations,
events, attributes and notes (R, E, A, M, N, *, #) are counted and left aside. The words that an annotation repeats must be those at its
offsets: that is how offsets in bytes, or into another version of the text, are noticed. Refuses an `.ann` without its text.
Format: https://brat.nlplab.org/standoff.html
"""

import re
from collections import Counter
from collections.abc import Iterator

from sparselight.corpus.config import CorpusConfig
from sparselight.corpus.sources import BadRows, Source, find_sources
from sparselight.errors import CorpusError
from sparselight.protocols import Example, Span

TEXT_BOUND = re.compile(r"(T\S*)\t(\S+) (\d+ \d+(?:;\d+ \d+)*)(?:\t(.*))?")
OTHER_KINDS = {"R": "relations", "E": "events", "A": "attributes", "M": "attributes", "N": "normalizations", "*": "equivalences", "#": "notes"}


def brat_examples(config: CorpusConfig, bad: BadRows, notes: Counter[str]) -> Iterator[Example]:
    """One example for each text file, with the spans of its annotation file if it has one."""
    sources = find_sources(config)
    if config.path().is_file():
        pair = (config.path().with_suffix(".txt"), config.path().with_suffix(".ann"))
        sources = [Source(path, path.name) for path in pair if path.exists()]
    texts = {source.name.removesuffix(".txt"): source for source in sources if source.name.endswith(".txt")}
    annotations = {source.name.removesuffix(".ann"): source for source in sources if source.name.endswith(".ann")}
    for name in annotations.keys() - texts.keys():
        raise CorpusError(asked=f"read the annotations {annotations[name].path}", why="there is no .txt of that name beside them",
                          instead="add the text file, or move the annotations out of corpus.root")
    for name, source in texts.items():
        text = source.text(unix_lines=False)
        if not text.strip():
            bad.add(source.name, "its text is empty")
        elif name in annotations:
            spans = _spans(text, annotations[name], config.span_name, bad, notes)
            yield Example(name, text, name, {}, tuple(sorted(spans, key=lambda span: (span.start, span.end, span.value))))
        else:
            notes["texts without an .ann file"] += 1
            yield Example(name, text, name)


def _spans(text: str, source: Source, span_name: str, bad: BadRows, notes: Counter[str]) -> Iterator[Span]:
    for number, line in enumerate(source.text().split("\n"), 1):
        where = f"{source.name}, line {number}"
        if not line.strip():
            continue
        if not line.startswith("T"):
            if line[0] in OTHER_KINDS:
                notes[f"BRAT {OTHER_KINDS[line[0]]} left aside"] += 1
            else:
                bad.add(where, f"{line[:40]!r} is no line of BRAT's standoff format")
            continue
        match = TEXT_BOUND.fullmatch(line)
        if match is None:
            bad.add(where, f"{line[:40]!r} is not of the form T1<tab>Type start end<tab>words")
            continue
        pieces = [tuple(map(int, piece.split(" "))) for piece in match[3].split(";")]
        if fault := _fault(text, pieces, match[4]):
            bad.add(where, f"{match[1]} ({match[2]} at {match[3]}) {fault}")
            continue
        yield from (Span(start, end, span_name, match[2]) for start, end in pieces)


def _fault(text: str, pieces: list[tuple[int, ...]], words: str | None) -> str:
    if not all(start < end <= len(text) for start, end in pieces):
        return f"is empty or outside the text, which has {len(text)} characters"
    found = " ".join(text[start:end] for start, end in pieces)
    if words is not None and found.split() != words.split():  # the format writes line breaks inside the words as blanks
        return f"says {words[:40]!r} where the text has {found[:40]!r}: offsets are characters of the .txt file, not bytes"
    return ""
