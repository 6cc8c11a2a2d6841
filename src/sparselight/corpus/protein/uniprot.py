"""UniProt entries: the flat file (Biopython parses it, old and new feature syntax), and the TSV and JSON forms of the REST service.

Refuses: a TSV without the columns Entry and Sequence, a JSON without entries; an entry that Biopython cannot read is a bad row. Inactive entries of the
JSON form (merged, demerged, deleted) come as obsolete.
"""

import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from sparselight.corpus.delimited import delimited_rows
from sparselight.corpus.protein.entries import Entry
from sparselight.corpus.protein.features import Feature, kind_of
from sparselight.corpus.sources import Source
from sparselight.errors import CorpusError, MissingExtraError

EC = re.compile(r"\bEC=([\d.n-]+)")
FAMILY = re.compile(r"Belongs to the (.+?) (?:super)?family", re.DOTALL)
TSV_TOKEN = re.compile(r'(?:^|(?<=; )|(?<=;))\s*([A-Z_]+) ([^\s;]+)|/(\w+)="((?:[^"]|"")*)"')
TSV_TERMS = {"keyword": "Keywords", "go": "Gene Ontology IDs", "ec": "EC number", "reactome": "Reactome"}
JSON_TERMS = {"go": "GO", "reactome": "Reactome"}


# The flat file.

def flat_entries(source: Source, notes: Counter[str]) -> Iterator[Entry]:
    """The entries of a flat file, each read by itself so that a damaged one does not hide the rest.

    Raises:
        MissingExtraError: without Biopython.
    """
    try:
        from Bio import SwissProt
    except ImportError:
        raise MissingExtraError(package="biopython", extra="protein", asked="read UniProt flat files") from None
    for number, text in _flat_texts(source):
        where = f"{source.name}, line {number}"
        try:
            record = SwissProt.read(io.StringIO(text))
        except Exception as err:  # the parser raises many kinds for a damaged entry
            why = str(err).strip().splitlines() or [type(err).__name__]
            yield Entry("", "", where, fault=f"it is no UniProt entry that Biopython can read ({why[0]})")
            continue
        if not record.accessions:
            yield Entry("", "", where, fault="it has no accession (AC)")
            continue
        yield Entry(record.accessions[0], record.sequence, where, [*_flat_features(record, notes)], _flat_terms(record))


def _flat_texts(source: Source) -> Iterator[tuple[int, str]]:
    """The text of each entry, with the line it begins at."""
    begin, lines = 1, list[str]()
    with source.open() as handle:  # line by line: all of Swiss-Prot is gigabytes
        for number, raw in enumerate(handle, 1):
            lines.append(raw.decode("utf-8", "replace").replace("\r\n", "\n"))  # what is no UTF-8 stands in names of authors, which are not read
            if lines[-1].startswith("//"):
                yield begin, "".join(lines)
                begin, lines = number + 1, []
    if any(line.strip() for line in lines):
        yield begin, "".join(lines)


def _flat_features(record: Any, notes: Counter[str]) -> Iterator[Feature]:
    for feature in record.features:
        if (kind := kind_of(feature.type)) is None:
            notes[f"features of type {feature.type} left aside"] += 1
            continue
        qualifiers, location = feature.qualifiers, feature.location
        description = qualifiers.get("ligand") or qualifiers.get("note") or qualifiers.get("description") or ""
        yield Feature(kind, _flat_position(location.start, 1), _flat_position(location.end, 0), " ".join(description.split()), location.ref or "")


def _flat_position(position: Any, shift: int) -> int | None:
    return None if type(position).__name__ in ("UnknownPosition", "UncertainPosition") else int(position) + shift


def _flat_terms(record: Any) -> dict[str, list[str]]:
    references: dict[str, list[str]] = {}
    for reference in record.cross_references:
        references.setdefault(reference[0], []).append(reference[1])
    family = FAMILY.search(" ".join(" ".join(comment.split()) for comment in record.comments if comment.startswith("SIMILARITY")))
    return {"organism": [record.organism.partition(" (")[0].rstrip(". ")], "keyword": list(record.keywords), "ec": EC.findall(record.description),
            "go": references.get("GO", []), "reactome": references.get("Reactome", []), "protein_family": [family[1]] if family else []}


# TSV.

def tsv_entries(source: Source, notes: Counter[str]) -> Iterator[Entry]:
    """The rows of a TSV; every column whose cells hold features is read."""
    for row in delimited_rows([source], (), "\t", ""):
        if not row.fault and not {"Entry", "Sequence"} <= row.fields.keys():
            raise CorpusError(asked=f"read proteins from {source.path}", why=f"its columns are {', '.join(row.fields)}",
                              instead="give a TSV of UniProt with the columns Entry and Sequence, or set corpus.kind = \"tsv\" for another table")
        fields: Mapping[str, str] = row.fields
        features = [feature for name, cell in fields.items() if cell and name != "Sequence" for feature in _tsv_features(cell, notes)]
        terms = {kind: [term.strip() for term in fields.get(name, "").split(";") if term.strip()] for kind, name in TSV_TERMS.items()}
        organism, family = fields.get("Organism", "").partition(" (")[0], fields.get("Protein families", "").partition(",")[0].strip()
        terms |= {"organism": [organism] if organism else [], "protein_family": [family.removesuffix(" family")] if family else []}
        yield Entry(fields.get("Entry", ""), fields.get("Sequence", ""), row.where, features, terms, row.fault)


def _tsv_features(cell: str, notes: Counter[str]) -> Iterator[Feature]:
    """The features of a cell: `ZN_FING 12..35; /note="C2H2-type 1"; /evidence="..."; ZN_FING 40..63; ...`."""
    found: list[tuple[str, str, dict[str, str]]] = []
    for key, place, name, value in TSV_TOKEN.findall(cell):
        if key and re.fullmatch(r"[\w-]*:?[<>?]?\d*(?:\.\.[<>?]?\d*)?", place):
            found.append((key, place, {}))
        elif name and found:
            found[-1][2][name] = value
    for key, place, qualifiers in found:
        if (kind := kind_of(key)) is None:
            notes[f"features of type {key} left aside"] += 1
            continue
        other, _, numbers = place.rpartition(":")
        first, _, last = numbers.partition("..")
        yield Feature(kind, _position(first), _position(last or first), qualifiers.get("ligand") or qualifiers.get("note", ""), other)


def _position(text: str) -> int | None:
    return None if "?" in text or not text.strip("<>") else int(text.strip("<>"))


# JSON.

def json_entries(source: Source, notes: Counter[str]) -> Iterator[Entry]:
    """The entries of a JSON answer: `{"results": [...]}`, a list, or one entry."""
    asked = f"read proteins from {source.path}"
    try:
        content = json.loads(source.text())
    except (json.JSONDecodeError, RecursionError) as err:
        raise CorpusError(asked=asked, why=f"it is not valid JSON ({err})", instead="fetch it again") from None
    found = content.get("results", [content]) if isinstance(content, dict) else content
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise CorpusError(asked=asked, why="it holds no list of entries", instead="give the JSON that UniProt's REST service writes")
    for number, entry in enumerate(found, 1):
        yield _json_entry(entry, f"{source.name}, entry {number}", notes)


def _json_entry(entry: Mapping[str, Any], where: str, notes: Counter[str]) -> Entry:
    identifier = str(entry.get("primaryAccession", ""))
    if entry.get("entryType") == "Inactive":
        reason = entry.get("inactiveReason", {})
        target = reason.get("mergeDemergeTo") or []
        return Entry(identifier, "", where, obsolete=" ".join([str(reason.get("inactiveReasonType", "inactive")).lower(), *(f"-> {one}" for one in target)]))
    sequence = entry.get("sequence", {}).get("value", "")
    if not identifier or not isinstance(sequence, str):
        return Entry(identifier, "", where, fault="it has no primaryAccession or no sequence.value")
    terms = {kind: [reference["id"] for reference in entry.get("uniProtKBCrossReferences", ()) if reference.get("database") == database]
             for kind, database in JSON_TERMS.items()}
    terms |= {"keyword": [str(word["name"]) for word in entry.get("keywords", ()) if "name" in word]}
    organism = entry.get("organism", {}).get("scientificName")
    names = entry.get("proteinDescription", {}).get("recommendedName", {})
    terms |= {"organism": [organism] if organism else [], "ec": [number["value"] for number in names.get("ecNumbers", ()) if "value" in number]}
    return Entry(identifier, sequence, where, [*_json_features(entry.get("features", ()), notes)], terms)


def _json_features(features: Any, notes: Counter[str]) -> Iterator[Feature]:
    for feature in features:
        if (kind := kind_of(str(feature.get("type", "")))) is None:
            notes[f"features of type {feature.get('type')} left aside"] += 1
            continue
        location = feature.get("location", {})
        start, end = (_json_position(location.get(side, {})) for side in ("start", "end"))
        yield Feature(kind, start, end, feature.get("ligand", {}).get("name") or feature.get("description", ""), location.get("sequence", ""))


def _json_position(end: Mapping[str, Any]) -> int | None:
    return end.get("value") if end.get("modifier", "EXACT") in ("EXACT", "OUTSIDE") else None
