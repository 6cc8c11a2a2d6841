"""Findings of a radiology report with their places, by rules: present, absent or uncertain; and words of change.

Owns: `label_report`. A sentence is searched for findings and for cues; a cue reaches from its place to the end of the sentence or to a word that ends its
scope, and the nearest one decides (NegEx, doi:10.1006/jbin.2001.1029). A report's label of a finding is the strongest mention: present, then uncertain, then
absent, as in CheXpert (arXiv:1901.07031). What no rule knows is not found; how often that is so: studies/radiology_labels.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

from sparselight.corpus.image_text import lexicon
from sparselight.corpus.image_text.lexicon import CHANGES, FINDINGS, Finding
from sparselight.corpus.image_text.sections import find_sections
from sparselight.protocols import Span

Status = Literal["present", "uncertain", "absent"]
STRENGTH: tuple[Status, ...] = ("present", "uncertain", "absent")
SPAN_OF_STATUS: dict[Status, str] = {"present": "finding", "uncertain": "finding uncertain", "absent": "finding negated"}
DEVICE, CHANGE = "device", "longitudinal"
LABELLED = ("findings", "impression")
SENTENCE_END = re.compile(r"(?<=[a-z)x][.;!?])\s+|(?<=\d[.;])\s+(?=[a-z])|\n+|(?<=[;!?])", re.IGNORECASE)
CUES = {
    ("absent", "before"): lexicon.NEGATED_BEFORE, ("absent", "after"): lexicon.NEGATED_AFTER, ("uncertain", "before"): lexicon.UNCERTAIN_BEFORE,
    ("uncertain", "after"): lexicon.UNCERTAIN_AFTER, ("unasserted", "before"): lexicon.UNASSERTED_BEFORE,
    ("unasserted", "after"): lexicon.UNASSERTED_AFTER,
}


@dataclass(frozen=True, slots=True)
class Mention:
    """One finding at one place of a text."""

    finding: str
    status: Status
    start: int
    end: int
    device: bool = False


@dataclass(frozen=True, slots=True)
class ReportLabels:
    """What a report says: `findings` by name, the mentions they come from, words of change. `read` is false where it has no section to look in."""

    findings: dict[str, Status]
    mentions: tuple[Mention, ...]
    changes: tuple[Span, ...]
    read: bool = True

    @property
    def normal(self) -> bool:
        """Whether no pathology is present or uncertain; devices and scars of surgery are none."""
        devices = {finding.name for finding in FINDINGS if finding.family == DEVICE}
        return self.read and all(status == "absent" for name, status in self.findings.items() if name not in devices)

    def spans(self) -> tuple[Span, ...]:
        """Mentions as spans `finding`, `finding uncertain` and `finding negated`, devices as `device` too, words of change as `longitudinal`."""
        found = [Span(mention.start, mention.end, SPAN_OF_STATUS[mention.status], mention.finding) for mention in self.mentions]
        devices = [Span(mention.start, mention.end, DEVICE, mention.finding) for mention in self.mentions if mention.device]
        return tuple(sorted((*found, *devices, *self.changes), key=lambda span: (span.start, span.end, span.name)))


def finding_names() -> list[str]:
    """All findings that the labeller knows."""
    return [finding.name for finding in FINDINGS]


def label_report(text: str, sections: Sequence[str] = LABELLED) -> ReportLabels:
    """Findings, their places and words of change in a report.

    Args:
        text: a report; where it has headings (`FINDINGS: ...`), only the named sections are read, where it has none, all of it.
        sections: names of sections that are read.
    """
    found = find_sections(text)
    headed = any(section.name for section in found)
    places = [(section.start, section.end) for section in found if section.name in sections] if headed else [(0, len(text))]
    places = [(start, end) for start, end in places if text[start:end].strip()]
    mentions = [mention for start, end in places for mention in _mentions(text, start, end)]
    labels: dict[str, Status] = {}
    for status in STRENGTH:
        for mention in mentions:
            if mention.status == status:
                labels.setdefault(mention.finding, status)
    order = [name for name in finding_names() if name in labels]
    changes = tuple(change for start, end in places for change in _changes(text, start, end))
    return ReportLabels({name: labels[name] for name in order}, tuple(mentions), changes, bool(places))


class _Cue(NamedTuple):
    status: str  # absent, uncertain, unasserted
    side: str  # before or after the finding
    start: int
    end: int


@cache
def _pattern(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return lexicon.compiled(patterns)


def _sentences(text: str, start: int, end: int) -> Iterator[tuple[int, str]]:
    """Sentences of a stretch of text in lower case, each with its place."""
    at = start
    for match in SENTENCE_END.finditer(text, start, end):
        if match.start() > at:
            yield at, text[at:match.start()].lower()
        at = max(at, match.end())
    if at < end:
        yield at, text[at:end].lower()


def _mentions(text: str, start: int, end: int) -> Iterator[Mention]:
    for at, sentence in _sentences(text, start, end):
        found = list(_found_in(sentence))
        if not found:
            continue
        cues, stops = _cues(sentence), [match.span() for match in _pattern(lexicon.SCOPE_ENDS).finditer(sentence)]
        for finding, first, last, normal in found:
            status = "absent" if normal else _status(cues, stops, first, last)
            if status != "unasserted":
                yield Mention(finding.name, status, at + first, at + last, finding.family == DEVICE)  # type: ignore[arg-type]


def _found_in(sentence: str) -> Iterator[tuple[Finding, int, int, bool]]:
    """Findings with their places; the last entry says whether it is a statement of normality, which counts only where nothing names the finding."""
    for finding in FINDINGS:
        named = [match.span() for match in _pattern(finding.patterns).finditer(sentence)]
        yield from ((finding, *place, False) for place in named)
        if not named and finding.normal:
            yield from ((finding, *match.span(), True) for match in _pattern(finding.normal).finditer(sentence))


def _cues(sentence: str) -> list[_Cue]:
    hidden = [match.span() for match in _pattern(lexicon.NO_CUE).finditer(sentence)]
    cues = [_Cue(status, side, *match.span()) for (status, side), patterns in CUES.items() for match in _pattern(patterns).finditer(sentence)]
    # A longer cue contains words of shorter ones ("cannot exclude", "may not be seen"): the longer one counts.
    return [cue for cue in cues if not any(start <= cue.start and cue.end <= end for start, end in hidden)
            and not any(other.start <= cue.start and cue.end <= other.end and other.end - other.start > cue.end - cue.start for other in cues)]


def _status(cues: Sequence[_Cue], stops: Sequence[tuple[int, int]], first: int, last: int) -> str:
    """By the nearest cue whose scope holds the finding at [first, last)."""
    def reaches(cue: _Cue) -> bool:
        between = (cue.end, first) if cue.side == "before" else (last, cue.start)
        return not any(between[0] <= start and end <= between[1] for start, end in stops)

    before = [cue for cue in cues if cue.side == "before" and cue.start < last and (cue.start >= first or reaches(cue))]
    after = [cue for cue in cues if cue.side == "after" and cue.start >= last and reaches(cue)]
    nearest = max(before, key=lambda cue: (cue.end, cue.start), default=None) or min(after, key=lambda cue: cue.start, default=None)
    return nearest.status if nearest else "present"


def _changes(text: str, start: int, end: int) -> Iterator[Span]:
    for at, sentence in _sentences(text, start, end):
        taken: list[tuple[int, int]] = []
        for value, patterns in CHANGES.items():
            for match in _pattern(patterns).finditer(sentence):
                if not any(match.start() < stop and begin < match.end() for begin, stop in taken):
                    taken.append(match.span())
                    yield Span(at + match.start(), at + match.end(), CHANGE, value)
