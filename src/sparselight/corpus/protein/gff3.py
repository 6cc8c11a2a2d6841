"""GFF3: nine columns a feature, the sequences in a `##FASTA` part or in a file of their own.

Columns: sequence id, source, type, start, end, score, strand, phase, attributes (`ID=...;Note=...`, percent-encoded). Refuses, as bad rows: lines without
nine columns, positions that are no numbers. Types that are not about residues are counted. Format: https://github.com/The-Sequence-Ontology/Specifications
"""

from collections import Counter
from collections.abc import Iterator
from urllib.parse import unquote

from sparselight.corpus.protein.entries import Entry, header_id, header_terms
from sparselight.corpus.protein.features import Feature, kind_of
from sparselight.corpus.sources import BadRows, Source
from sparselight.errors import CorpusError


def gff3_features(source: Source, bad: BadRows, notes: Counter[str]) -> dict[str, list[Feature]]:
    """Features by sequence id."""
    found: dict[str, list[Feature]] = {}
    for number, line in enumerate(source.text().split("\n"), 1):
        if line.startswith(("##FASTA", ">")):
            break
        if not line.strip() or line.startswith("#"):
            continue
        cells = line.split("\t")
        if len(cells) != 9 or not _is_position(cells[3]) or not _is_position(cells[4]):
            bad.add(f"{source.name}, line {number}", "it is no feature of GFF3: nine columns, the fourth and fifth of them positions")
            continue
        if (kind := kind_of(cells[2])) is None:
            notes[f"features of type {cells[2]} left aside"] += 1
            continue
        found.setdefault(header_id(cells[0]), []).append(Feature(kind, _position(cells[3]), _position(cells[4]), _note(cells[8])))
    return found


def gff3_entries(source: Source, bad: BadRows, notes: Counter[str]) -> Iterator[Entry]:
    """The proteins of a file that holds its sequences too.

    Raises:
        CorpusError: when it does not.
    """
    lines = source.text().split("\n")
    begin = next((number for number, line in enumerate(lines) if line.startswith(("##FASTA", ">"))), None)
    if begin is None:
        raise CorpusError(asked=f"read proteins from {source.path}", why="it has no ##FASTA part, so it holds features but no sequence",
                          instead="set corpus.root to the FASTA file of the sequences, and corpus.protein.annotations to this file")
    features, header, parts, at = gff3_features(source, bad, notes), None, list[str](), 0
    for number, line in enumerate([*lines[begin:], ">"], begin + 1):
        if line.startswith(">"):
            if header is not None:
                yield Entry(header_id(header), "".join(parts), f"{source.name}, line {at}", features.get(header_id(header), ()), header_terms(header))
            header, parts, at = line[1:].strip(), [], number
        elif header is not None:
            parts.append("".join(line.split()))


def _is_position(cell: str) -> bool:
    return cell.strip(" <>?").isdecimal() or cell.strip() in ("?", ".")


def _position(cell: str) -> int | None:
    return None if "?" in cell or cell.strip() == "." else int(cell.strip(" <>"))


def _note(attributes: str) -> str:
    found = dict(part.partition("=")[::2] for part in attributes.strip().split(";") if "=" in part)
    return unquote(found.get("ligand") or found.get("Note") or found.get("Name") or "")
