"""One protein as any of the formats gives it, and the list of pairs `kind=value` that say what is true of the whole of it.

Owns: Entry, the id in a FASTA header, and how terms become labels: a kind of which a protein has one value (its organism) is a label by that name; of
kinds with many values each is a label `kind: term` with the value "yes", so that a protein may have all of them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sparselight.corpus.protein.features import Feature

UNIPROT_HEADER = re.compile(r"(?:sp|tr)\|([^|\s]+)\|")
ORGANISM = re.compile(r"\bOS=(.+?)(?= [A-Z]{2}=|$)")
MANY_VALUED = frozenset({"keyword", "go", "ec", "reactome"})
YES = "yes"


@dataclass(frozen=True, slots=True)
class Entry:
    """A protein as a source gives it."""

    id: str
    sequence: str
    where: str
    features: Sequence[Feature] = ()
    terms: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Terms by kind (`config.Term`, or what a format calls them)."""
    fault: str = ""
    """Why it is none."""
    obsolete: str = ""
    """Why the database no longer has it."""


def header_id(header: str) -> str:
    """The id in a FASTA header: the accession of UniProt's headers, else what stands before the first blank or bar."""
    match = UNIPROT_HEADER.match(header)
    return match[1] if match else re.split(r"[|\s]", header.strip(), maxsplit=1)[0]


def header_terms(header: str) -> dict[str, list[str]]:
    """What a UniProt header says of the protein."""
    match = ORGANISM.search(header)
    return {"organism": [match[1]]} if match else {}


def labels_of(terms: Mapping[str, Sequence[str]], wanted: Sequence[str]) -> dict[str, str]:
    """Terms as labels of an example."""
    labels: dict[str, str] = {}
    for kind, values in terms.items():
        if kind not in wanted:
            continue
        if kind in MANY_VALUED:
            labels |= {f"{kind}: {value}": YES for value in values}
        elif values:
            labels[kind] = values[0]
    return labels
