"""Features of proteins: UniProt's feature types by our names, and the spans that a feature becomes.

A span's `name` is the kind of feature ("zinc finger"), its `value` the name that the description gives ("C2H2-type"), its `instance` the residues as the
source numbers them, so that each instance can be counted. Ends that lie beyond what is known (`<`, `>`) are taken where they are given; ends that are
unknown (`?`) give no span and are counted. Refuses, as bad rows: features outside their sequence.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sparselight.corpus.protein.config import ProteinConfig
from sparselight.corpus.protein.residues import Cleaned
from sparselight.corpus.sources import BadRows
from sparselight.errors import ConfigError, nearest
from sparselight.protocols import Span
from sparselight.vocab import UNLABELLED

KIND_OF_KEY: dict[str, str] = {
    "HELIX": "helix", "STRAND": "strand", "TURN": "turn", "COILED": "coiled coil", "INTRAMEM": "intramembrane region", "TRANSMEM": "transmembrane region",
    "TOPO_DOM": "topological domain", "SIGNAL": "signal peptide", "TRANSIT": "transit peptide", "PROPEP": "propeptide", "ZN_FING": "zinc finger",
    "DNA_BIND": "DNA binding", "DOMAIN": "domain", "REPEAT": "repeat", "REGION": "region of interest", "MOTIF": "motif", "COMPBIAS": "compositional bias",
    "ACT_SITE": "active site", "METAL": "metal binding", "BINDING": "binding site", "NP_BIND": "nucleotide binding", "CA_BIND": "calcium binding",
    "SITE": "site", "MOD_RES": "modified residue", "LIPID": "lipidation", "CARBOHYD": "glycosylation", "DISULFID": "disulfide bond",
    "CROSSLNK": "cross-link", "NON_STD": "non-standard residue",
}
"""Keys of the flat file. Those that are not here (CHAIN, VARIANT, CONFLICT, ...) speak of the record or of other sequences, not of residues."""
KIND_OF_TYPE: dict[str, str] = {kind: kind for kind in KIND_OF_KEY.values()} | {
    "beta strand": "strand", "transmembrane": "transmembrane region", "intramembrane": "intramembrane region", "signal": "signal peptide",
    "region": "region of interest", "non-standard amino acid": "non-standard residue", "dna binding": "DNA binding", "coil": "coiled coil",
}
"""Types as the TSV, JSON and GFF3 forms write them, in lower case."""
PAIRED = frozenset({"disulfide bond", "cross-link"})  # start and end are two single residues
NAMELESS = frozenset({"helix", "strand", "turn", "disulfide bond", "signal peptide", "coiled coil"})  # their descriptions name no class
EVIDENCE = re.compile(r"\s*\((?:By similarity|Potential|Probable|Ref\.\s*\d+[^)]*)\)\.?$", re.IGNORECASE)
NUMBER = re.compile(r"\s+\d+$")


@dataclass(frozen=True, slots=True)
class Feature:
    """A feature as a source gives it: residues from 1, both ends included, None where the source does not know."""

    kind: str
    start: int | None
    end: int | None
    description: str = ""
    other_sequence: str = ""
    """The sequence that the numbers refer to, where that is another one (an isoform)."""


def kind_of(name: str) -> str | None:
    """Our name of a feature key or type, None for those that are not about residues."""
    return KIND_OF_KEY.get(name) or KIND_OF_TYPE.get(name.lower())


def check_kinds(config: ProteinConfig) -> None:
    """Refuse kinds of feature that no source has.

    Raises:
        ConfigError: naming the first, and the nearest known one.
    """
    known = {*KIND_OF_KEY.values(), *(label.partition("=")[0] for label in config.letter_labels.values() if "=" in label)}
    for kind in config.features:
        if kind not in known:
            raise ConfigError(asked=f"read the features {kind!r} (corpus.protein.features)", why="no source has that kind", instead=nearest(kind, known))


def feature_spans(
    features: Sequence[Feature], cleaned: Cleaned, n_raw: int, where: str, config: ProteinConfig, bad: BadRows, notes: Counter[str],
) -> Iterator[Span]:
    """The spans of a protein's features, in order.

    Args:
        n_raw: length of the sequence that the features number.
    """
    spans = []
    for feature in features:
        if config.features and feature.kind not in (*config.features, UNLABELLED):
            continue
        if feature.other_sequence:
            notes["features on another sequence (an isoform) left out"] += 1
        elif feature.start is None or feature.end is None:
            notes["features with an unknown end (?) left out"] += 1
        elif not 1 <= feature.start <= feature.end <= n_raw:
            bad.add(where, f"its feature {feature.kind} {feature.start}..{feature.end} lies outside its {n_raw} residues")
        else:
            spans += list(_pieces(feature, cleaned, config.detail))
    yield from sorted(spans, key=lambda span: (span.start, span.end, span.name, span.value))


def _pieces(feature: Feature, cleaned: Cleaned, detail: bool) -> Iterator[Span]:
    assert feature.start is not None
    assert feature.end is not None
    ends = dict.fromkeys((feature.start, feature.end))
    ranges = [(at - 1, at) for at in ends] if feature.kind in PAIRED else [(feature.start - 1, feature.end)]
    for start, end in (cleaned.moved(*bounds) for bounds in ranges):
        if start < end:  # not all of it was a gap
            yield Span(start, end, feature.kind, concept_of(feature, detail), f"{feature.start}-{feature.end}")


def concept_of(feature: Feature, detail: bool) -> str:
    """What a feature is an instance of: "C2H2-type" for "C2H2-type 3; atypical", with `detail` the whole description.

    Running numbers and the old syntax's words on evidence are left out; a feature without a description is an instance of its kind.
    """
    description = EVIDENCE.sub("", feature.description.strip()).rstrip(".; ")
    if detail:
        return description or feature.kind
    name = "" if feature.kind in NAMELESS else NUMBER.sub("", EVIDENCE.sub("", description.partition(";")[0]).strip())
    return name or feature.kind
