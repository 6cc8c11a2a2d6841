"""FASTA, and FASTA with a third line that labels each residue by a letter (TMbed; `corpus.protein.letter_labels` says what letters mean).

Refuses: text before the first header, as a file of another kind has; as bad rows, headers without an id and label lines of another length. A letter that
covers a whole protein says nothing of its residues and gives no feature: TMbed writes 1 for all that is not in a membrane.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import groupby, islice

from sparselight.corpus.protein.entries import Entry, header_id, header_terms
from sparselight.corpus.protein.features import Feature
from sparselight.corpus.sources import Source
from sparselight.errors import CorpusError
from sparselight.vocab import UNLABELLED

UNKNOWN = "?"  # among the meanings of letters
N_LOOKED_AT = 20  # records by which a three-line file is told


def fasta_entries(source: Source) -> Iterator[Entry]:
    """The proteins of a FASTA file; blank lines and blanks inside sequences are passed over."""
    for number, header, lines in records(source):
        yield Entry(header_id(header), "".join("".join(line.split()) for line in lines), _where(source, number), (), header_terms(header), _no_id(header))


def three_line_entries(source: Source, meaning: Mapping[str, str], notes: Counter[str]) -> Iterator[Entry]:
    """The proteins of a file with three lines each: header, sequence, labels."""
    for number, header, lines in records(source):
        where, identifier = _where(source, number), header_id(header)
        fault = _no_id(header)
        if not fault and (len(lines) != 2 or len(lines[0]) != len(lines[1])):
            lengths = " and ".join(str(len(line)) for line in lines) or "no"
            fault = f"its header is followed by lines of {lengths} characters: a sequence and as many labels are expected (corpus.protein.format)"
        if fault:
            yield Entry(identifier, "", where, fault=fault)
            continue
        unknown = sorted(set(lines[1]) - set(meaning))
        if unknown:
            yield Entry(identifier, "", where, fault=f"the label {unknown[0]!r} has no meaning in corpus.protein.letter_labels")
            continue
        yield Entry(identifier, lines[0], where, list(_letter_features(lines[1], meaning, notes)), header_terms(header))


def _letter_features(letters: str, meaning: Mapping[str, str], notes: Counter[str]) -> Iterator[Feature]:
    at = 0
    for letter, run in groupby(letters):
        n = len(list(run))
        kind, _, value = meaning[letter].partition("=")
        if kind == UNKNOWN:
            notes[f"residues with the letter {letter}, whose label is not known: {UNLABELLED}"] += n
            yield Feature(UNLABELLED, at + 1, at + n, UNLABELLED)
        elif not kind:
            notes[f"residues with the letter {letter}, which stands for no label"] += n
        elif n < len(letters):
            yield Feature(kind, at + 1, at + n, value)
        at += n


def looks_three_line(source: Source) -> bool:
    """Whether the first records have a second line of the sequence's length with a digit in it, which no sequence has."""
    return any(len(lines) == 2 and len(lines[0]) == len(lines[1]) and any(letter.isdigit() for letter in lines[1])
               for _, _, lines in islice(records(source), N_LOOKED_AT))


def records(source: Source) -> Iterator[tuple[int, str, list[str]]]:
    """Line number, header without its `>`, and the lines below it.

    Raises:
        CorpusError: when the file does not begin with a header, or is no text.
    """
    number, header, lines = 0, None, list[str]()
    with source.open() as handle:
        for at, raw in enumerate(handle, 1):
            try:
                line = raw.decode("utf-8").removeprefix("\ufeff").strip()
            except UnicodeDecodeError as err:
                raise CorpusError(asked=f"read the FASTA file {source.path}", why=f"line {at} is not UTF-8 text (byte {err.start})",
                                  instead="convert it to UTF-8") from None
            if line.startswith(">"):
                if header is not None:
                    yield number, header, lines
                number, header, lines = at, line[1:].strip(), []
            elif line and not line.startswith(";"):
                if header is None:
                    raise CorpusError(asked=f"read the FASTA file {source.path}", why=f"line {at} stands before any header (>)",
                                      instead="give a FASTA file, or say in corpus.protein.format what it is")
                lines.append(line)
    if header is not None:
        yield number, header, lines


def _where(source: Source, number: int) -> str:
    return f"{source.name}, line {number}"


def _no_id(header: str) -> str:
    return "" if header_id(header) else "its header names no id"
