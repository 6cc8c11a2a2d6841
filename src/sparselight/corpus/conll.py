"""CoNLL-style files: one token a line with its tag, a blank line between sentences; one sentence an example.

The text is rebuilt with one blank between tokens; tags (BIO, IOB1, IOBES, BILOU) become spans over it. Sentences between `-DOCSTART-` or
`# newdoc` lines are one group; in a file without such lines each sentence is its own. Refuses a tag of no known scheme and a line
without the columns that the settings name.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sparselight.corpus.config import CorpusConfig
from sparselight.corpus.sources import BadRows, Source, find_sources
from sparselight.protocols import Example, Span

TAG = re.compile(r"(O)|([BIESULbiesul])-(.+)")
COMMENT = re.compile(r"# ?\S+( \S+)? = |# newdoc|# newpar")  # the comments of CoNLL-U; any other line that begins with # is a token
NEW_DOCUMENT = re.compile(r"-DOCSTART-|# newdoc")


@dataclass
class _Sentence:
    line: int
    tokens: list[str] = field(default_factory=list)
    tags: list[tuple[str, str]] = field(default_factory=list)  # (prefix, type); ("O", "") outside
    fault: tuple[int, str] | None = None  # line and reason of the first one


def conll_examples(config: CorpusConfig, bad: BadRows) -> Iterator[Example]:
    """One example for each sentence, with its spans."""
    for source in find_sources(config):
        document = 0
        for sentence in _sentences(source, config):
            if sentence is None:
                document += 1
            elif sentence.fault:
                bad.add(f"{source.name}, line {sentence.fault[0]}", sentence.fault[1])
            else:
                identifier = f"{source.name}:{sentence.line}"
                yield _example(sentence, identifier, f"{source.name}:document {document}" if document else identifier, config.span_name)


def _sentences(source: Source, config: CorpusConfig) -> Iterator[_Sentence | None]:
    """The sentences of a file in order; None where a document begins."""
    sentence: _Sentence | None = None
    for number, line in enumerate([*source.text().split("\n"), ""], 1):
        new_document = NEW_DOCUMENT.match(line) is not None
        if not line.strip() or new_document:
            if sentence:
                yield sentence
            sentence = None
        if new_document:
            yield None
        elif line.strip() and not COMMENT.match(line):
            sentence = sentence or _Sentence(number)
            _add_token(sentence, number, line, config)


def _add_token(sentence: _Sentence, number: int, line: str, config: CorpusConfig) -> None:
    cells = line.split("\t") if "\t" in line else line.split()
    try:
        token, tag = cells[config.token_column].strip(), cells[config.tag_column].strip()
    except IndexError:
        sentence.fault = sentence.fault or (number, f"it has {len(cells)} columns: corpus.token_column is {config.token_column}, "
                                                    f"corpus.tag_column {config.tag_column}")
        return
    match = TAG.fullmatch(tag)
    if match is None or not token or len(cells) < 2:
        what = "it has no token" if not token else "it has one column only" if len(cells) < 2 else f"the tag {tag!r} is none of O, B-X, I-X, E-X, S-X, L-X, U-X"
        sentence.fault = sentence.fault or (number, f"{what} (corpus.token_column = {config.token_column}, corpus.tag_column = {config.tag_column})")
        return
    sentence.tokens.append(token)
    sentence.tags.append(("O", "") if match[1] else (match[2].upper(), match[3]))


def _example(sentence: _Sentence, identifier: str, group: str, span_name: str) -> Example:
    starts, at = [], 0
    for token in sentence.tokens:
        starts.append(at)
        at += len(token) + 1
    spans = tuple(Span(starts[first], starts[last] + len(sentence.tokens[last]), span_name, value) for first, last, value in tag_spans(sentence.tags))
    return Example(identifier, " ".join(sentence.tokens), group, {}, spans)


def tag_spans(tags: Sequence[tuple[str, str]]) -> Iterator[tuple[int, int, str]]:
    """(first token, last token, type) of every span.

    A span goes on with I, E or L of its own type; anything else ends it. I, E or L without a span before them begin one, as in IOB1.
    """
    begin = 0
    for number, (prefix, value) in enumerate(tags):
        before = tags[number - 1] if number else ("O", "")
        goes_on = prefix in "IEL" and before[0] in "BI" and before[1] == value
        begin = begin if goes_on else number
        after = tags[number + 1] if number + 1 < len(tags) else ("O", "")
        ends = prefix in "ELSU" or after[0] not in "IEL" or after[1] != value
        if prefix != "O" and ends:
            yield begin, number, value
