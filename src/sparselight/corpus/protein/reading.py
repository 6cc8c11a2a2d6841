"""From files of proteins to examples: one a protein, its text the sequence, one character a residue.

Owns: which reader a file gets, which proteins are left out, the group of each, and the policy for long ones. A protein that cannot be read is a bad row:
refused, or counted and left out (corpus.on_bad_row).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sparselight.corpus.columns import BadValue, clip_spans
from sparselight.corpus.config import CorpusConfig
from sparselight.corpus.protein.clusters import read_clusters
from sparselight.corpus.protein.config import Format, ProteinConfig
from sparselight.corpus.protein.entries import Entry, header_id, labels_of
from sparselight.corpus.protein.fasta import fasta_entries, looks_three_line, three_line_entries
from sparselight.corpus.protein.features import Feature, check_kinds, feature_spans
from sparselight.corpus.protein.gff3 import gff3_entries, gff3_features
from sparselight.corpus.protein.prosite import find_pattern, named_pattern
from sparselight.corpus.protein.residues import clean
from sparselight.corpus.protein.uniprot import flat_entries, json_entries, tsv_entries
from sparselight.corpus.sources import N_SHOWN, BadRows, Source, find_sources
from sparselight.errors import CorpusError
from sparselight.protocols import Example, Span

FORMAT_OF_SUFFIX: dict[str, Format] = {
    ".fasta": "fasta", ".fa": "fasta", ".faa": "fasta", ".fas": "fasta", ".3line": "three_line", ".dat": "uniprot", ".gff3": "gff3", ".gff": "gff3",
    ".tsv": "uniprot_tsv", ".json": "uniprot_json",
}


def protein_examples(config: CorpusConfig, bad: BadRows, notes: Counter[str]) -> Iterator[tuple[Example, bool | None]]:
    """Every protein of the sources, and whether the split by files holds it out (None without one)."""
    settings = config.protein
    check_kinds(settings)
    beside = _features_beside(settings, bad, notes)
    clusters = read_clusters(settings.clusters) if settings.clusters else {}
    excluded, seen, n_obsolete = _excluded(settings), set[str](), 0
    patterns = {name: named_pattern(pattern) for name, pattern in settings.patterns.items()}
    for source in find_sources(config):
        held = source.name in config.held_out_values if config.split else None
        for entry in _entries(source, settings, bad, notes):
            if entry.id in excluded:
                seen.add(entry.id)
                notes["proteins left out by corpus.protein.exclude_ids"] += 1
            elif entry.obsolete:
                n_obsolete += 1
                notes[f"obsolete entries left out: {entry.id} ({entry.obsolete})" if n_obsolete <= N_SHOWN else "further obsolete entries left out"] += 1
            elif (example := _example(entry, beside.pop(entry.id, []), patterns, settings, bad, notes)) is not None:
                if clusters and entry.id not in clusters:
                    notes["proteins in no cluster of corpus.protein.clusters, each a group of its own"] += 1
                yield replace(example, group=clusters.get(entry.id, entry.id)), held
    if beside:
        notes["sequences that only corpus.protein.annotations names"] += len(beside)
    if excluded - seen:
        notes["ids of corpus.protein.exclude_ids that no protein has"] += len(excluded - seen)


def _entries(source: Source, settings: ProteinConfig, bad: BadRows, notes: Counter[str]) -> Iterator[Entry]:
    how = _format_of(source, settings)
    if how == "three_line":
        return three_line_entries(source, settings.letter_labels, notes)
    if how == "fasta":
        return fasta_entries(source)
    if how == "gff3":
        return gff3_entries(source, bad, notes)
    return {"uniprot": flat_entries, "uniprot_tsv": tsv_entries, "uniprot_json": json_entries}[how](source, notes)


def _format_of(source: Source, settings: ProteinConfig) -> Format:
    if settings.format != "auto":
        return settings.format
    suffix = Path(source.name.lower().removesuffix(".gz")).suffix
    if suffix not in FORMAT_OF_SUFFIX:
        raise CorpusError(asked=f"read proteins from {source.path}", why=f"the ending {suffix!r} is none of {', '.join(FORMAT_OF_SUFFIX)}",
                          instead="say in corpus.protein.format what it is")
    found = FORMAT_OF_SUFFIX[suffix]
    return "three_line" if found == "fasta" and looks_three_line(source) else found


def _example(
    entry: Entry, beside: Sequence[Feature], patterns: Mapping[str, str], settings: ProteinConfig, bad: BadRows, notes: Counter[str],
) -> Example | None:
    try:
        if entry.fault:
            raise BadValue(entry.fault)
        cleaned = clean(entry.sequence, settings.repair)
    except BadValue as err:
        bad.add(f"{entry.where}{f' ({entry.id})' if entry.id else ''}", str(err))
        return None
    notes.update(cleaned.repairs)
    spans = [*feature_spans([*entry.features, *beside], cleaned, len(entry.sequence), f"{entry.where} ({entry.id})", settings, bad, notes),
             *(Span(*match, "pattern", name) for name, pattern in patterns.items() for match in find_pattern(pattern, cleaned.text))]
    return Example(entry.id, cleaned.text, entry.id, labels_of(entry.terms, settings.terms), tuple(sorted(spans, key=lambda span: (span.start, span.end))))


def fit_length(example: Example, settings: ProteinConfig, notes: Counter[str]) -> Iterator[Example]:
    """A protein as the policy for long ones leaves it: windows are numbered `ID#0`, `ID#1`, ... and stay in its group."""
    longest = settings.max_residues
    if longest is None or len(example.text) <= longest:
        yield example
    elif settings.on_long == "skip":
        notes[f"proteins of more than {longest:,} residues left out (corpus.protein.max_residues)"] += 1
    elif settings.on_long == "crop":
        notes[f"proteins cropped to {longest:,} residues (corpus.protein.max_residues)"] += 1
        yield replace(example, text=example.text[:longest], spans=tuple(clip_spans(example.spans, 0, longest)))
    else:
        notes[f"proteins cut into windows of {longest:,} residues (corpus.protein.max_residues)"] += 1
        for number, start in enumerate(range(0, len(example.text), longest)):
            window = example.text[start:start + longest]
            yield replace(example, id=f"{example.id}#{number}", text=window, spans=tuple(clip_spans(example.spans, start, start + len(window))))


def _features_beside(settings: ProteinConfig, bad: BadRows, notes: Counter[str]) -> dict[str, list[Feature]]:
    path = Path(settings.annotations).expanduser()
    return gff3_features(Source(path, path.name), bad, notes) if settings.annotations else {}


def _excluded(settings: ProteinConfig) -> set[str]:
    path = Path(settings.exclude_ids).expanduser()
    lines = Source(path, path.name).text().split("\n") if settings.exclude_ids else []
    return {header_id(line.lstrip(">")) for line in lines if line.strip()}
