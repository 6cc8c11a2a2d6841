"""Sections of a radiology report: found in free text by their headings, and put together as the text of an example.

Owns: which headings mean which section, and the form of the text: one line a section, begun by its heading in capitals. White space inside a section becomes
single blanks, so that a heading stands only where a line begins.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sparselight.protocols import Span

PRIOR_REPORT = "prior_report"
HEADINGS = {PRIOR_REPORT: "PRIOR REPORT", "indication": "INDICATION", "technique": "TECHNIQUE", "comparison": "COMPARISON", "findings": "FINDINGS",
            "impression": "IMPRESSION"}
SPAN = "section"
# Words of a heading -> its section; a heading of none of them ends the section before.
MEANINGS = (
    (PRIOR_REPORT, r"prior report"),
    ("indication", r"(clinical )?(indications?|history|information)|history and indication|reason for (this )?(exam(ination)?|study)"),
    ("technique", r"techniques?|procedure|exam(ination)?|type of exam|views?"),
    ("comparison", r"comparisons?( studies| study)?"),
    ("findings", r"findings?|findings? ?(and|/) ?impressions?|report"),
    ("impression", r"impressions?|conclusions?|(final )?diagnosis|opinion|summary"),
)
HEADING = re.compile(r"^[ \t]*(?:([A-Z][A-Z /&,()-]{2,60})|(" + "|".join(f"(?:{words})" for _, words in MEANINGS) + r"))[ \t]*:", re.MULTILINE | re.IGNORECASE)
TITLE = re.compile(r"^[ \t]*(FINAL REPORT|WET READ.*|PRELIMINARY REPORT)[ \t]*$", re.MULTILINE)


class Section(NamedTuple):
    """Where a section's text stands in a report; `name` is empty for text under other headings and before the first."""

    name: str
    start: int
    end: int


def find_sections(text: str) -> list[Section]:
    """The sections of a report by headings at the beginning of lines, in capitals or of known words, ended by a colon."""
    found = [(match, meaning) for match in HEADING.finditer(text) if (meaning := _meaning(match[0].rstrip(":").strip())) is not None]
    first, *ends = [*(match.start() for match, _ in found), len(text)] if found else [len(text)]
    sections = [Section("", 0, first)] if text[:first].strip() else []
    return [*sections, *(Section(meaning, match.end(), end) for (match, meaning), end in zip(found, ends, strict=True))]


def _meaning(words: str) -> str | None:
    """The section that a heading begins, empty for one in capitals that means none of them, None for what is no heading."""
    plain = " ".join(words.lower().split())
    known = next((name for name, pattern in MEANINGS if re.fullmatch(pattern, plain)), None)
    return known or ("" if words == words.upper() else None)


def parse_report(text: str) -> tuple[dict[str, str], bool]:
    """The texts of a report's sections, and whether it had any known heading: one without is all findings. A section that comes twice is joined."""
    body = TITLE.sub("", text)
    parts: dict[str, list[str]] = {}
    for section in find_sections(body):
        if section.name:
            parts.setdefault(section.name, []).append(one_line(body[section.start:section.end]))
    found = {name: joined for name, pieces in parts.items() if (joined := " ".join(filter(None, pieces)))}
    return (found, True) if found else ({"findings": one_line(body)} if body.strip() else {}, False)


def one_line(text: str) -> str:
    """Text with single blanks for all white space."""
    return " ".join(text.split())


def compose(sections: Mapping[str, str], order: Sequence[str]) -> tuple[str, tuple[Span, ...]]:
    """The text of the sections that there are, in order, and a span over each one's words."""
    text, spans = "", []
    for name in order:
        if words := one_line(sections.get(name, "")):
            text += f"{chr(10) if text else ''}{HEADINGS[name]}: "
            spans.append(Span(len(text), len(text) + len(words), SPAN, name))
            text += words
    return text, tuple(spans)
