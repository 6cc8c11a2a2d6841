"""What a recipe says of a corpus of proteins, in the table `corpus.protein`: format, annotations, lengths, groups of homologs.

Owns: ProteinConfig and the refusal of settings that do not go together. Which residues, kinds of feature and file formats there are is in the
files that read them.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sparselight.config import Config

Format = Literal["auto", "fasta", "three_line", "uniprot", "uniprot_tsv", "uniprot_json", "gff3"]
Term = Literal["keyword", "go", "ec", "organism", "protein_family", "reactome"]
TMBED_LABELS = {
    "1": "topological domain=inside", "2": "topological domain=outside", "H": "transmembrane region=helix", "h": "transmembrane region=helix",
    "B": "transmembrane region=beta strand", "b": "transmembrane region=beta strand", "S": "signal peptide=signal peptide", "U": "?",
}
"""The letters of TMbed's files; U is not known (`?`), and upper and lower case say in which direction a segment crosses."""


class ProteinConfig(Config):
    """How files of proteins are read (corpus.kind = "protein")."""

    format: Format = "auto"
    """What the files are; `auto` goes by the ending (.fasta, .dat, .gff3, .tsv, .json) and tells three-line files (a header, the sequence, a letter for each
    residue) by the digits among their letters."""
    annotations: str = ""
    """A GFF3 file with features of the sequences in the root, by their ids."""
    features: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    """Kinds of feature that become spans, such as "zinc finger"; all known ones where empty."""
    detail: bool = False
    """Whether a span's value is the whole description ("Helical; Name=1") instead of its name ("Helical"): the two levels of arXiv 2502.09135."""
    patterns: dict[Annotated[str, Field(min_length=1)], Annotated[str, Field(min_length=1)]] = Field(default_factory=dict)
    """Patterns in PROSITE's syntax (or names of `prosite.PATTERNS`) by a name of your own; each match becomes a span `pattern=NAME`."""
    terms: list[Term] = Field(default=["organism", "keyword"])
    """Terms of the whole protein that become labels of the example."""
    letter_labels: dict[Annotated[str, Field(min_length=1, max_length=1)], Annotated[str, Field(pattern=r"^\??$|^[^=]+=.+$")]] = Field(default=TMBED_LABELS)
    """Of three-line files: letter to `kind=value`, empty for no label, `?` where the label is not known; those of TMbed."""
    repair: bool = True
    """Whether lower case is raised, gaps and a stop at the end are taken out, and J (leucine or isoleucine) becomes X, each counted; else they are bad rows."""
    max_residues: int | None = Field(None, ge=8)
    """Longest protein, in residues; no limit where left out: the subject itself divides what is longer than its context (subject.long_examples)."""
    on_long: Literal["crop", "window", "skip"] = "window"
    """What happens to longer ones: the first `max_residues` are kept, they are cut into windows of one group, or they are left out and counted."""
    exclude_ids: str = ""
    """A text file with ids of proteins that are left out, one a line."""
    clusters: str = ""
    """A table of homology clusters, `representative<tab>member` as MMseqs2 writes it: no split divides a cluster."""
    cluster_identity: float | None = Field(None, ge=0.4, le=1)
    """Find clusters ourselves: two proteins belong together when they share at least identity^5 of the shorter one's 5-mers, which is what independent
    substitutions at that identity leave, and more than unrelated ones share by chance; followed from protein to protein. Homologs below about 0.45 (0.55
    for 100 residues) are not found that way: give `clusters`."""

    def paths(self) -> dict[str, Path]:
        """Files beside the sources, by setting."""
        given = {f"protein.{name}": getattr(self, name) for name in ("annotations", "clusters", "exclude_ids")}
        return {name: Path(value).expanduser() for name, value in given.items() if value}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.clusters and self.cluster_identity is not None:
            raise ValueError("clusters and cluster_identity both say which proteins belong together; set one of them")
        if self.max_residues is None and self.on_long != "window":
            raise ValueError(f"on_long = {self.on_long!r} would do nothing without max_residues")
        return self
