"""What a page calls things, by what the corpus holds: files of text, proteins, patients with images and reports, users with histories.

Owns the table. Formulas, units and the words of the glossary (token, latent, feature) are the same everywhere. A kind of corpus without a row speaks of text.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Words:
    """The words of one kind of corpus."""

    texts: str = "text"
    """What examples are made of: `general text`."""
    groups: str = "files"
    """What a split and a bootstrap keep whole."""
    is_plural: bool = False
    """Whether `texts` is one."""
    token: str = "token"
    """What one position stands for, said once beside the glossary's word."""
    next_token: str = "next token"
    """What a prediction is of."""
    goes_on: str = "The text goes on with"
    """Before what was there in truth."""

    @property
    def are(self) -> str:
        return "are" if self.is_plural else "is"


TEXT = Words()
BY_KIND: Mapping[str, Words] = {
    "python_source": TEXT, "text": TEXT, **{kind: Words(groups="groups") for kind in ("jsonl", "json", "parquet", "csv", "tsv", "hf_dataset")},
    "brat": Words(groups="documents"), "conll": Words(groups="documents"),
    "protein": Words("proteins", "proteins", True, "residue", "residue at a hidden position", "The sequence has"),
    "interactions": Words("histories", "users", True, "item of a history", "next item", "The user went on with"),
    "image_text": Words("studies", "patients", True, "image patch or word piece", "next token", "The report goes on with"),
}


def words_of(recipe: Mapping[str, Any]) -> Words:
    """The words for a run by its resolved recipe."""
    corpus = recipe.get("corpus")
    if not isinstance(corpus, Mapping):
        return TEXT
    words, protein = BY_KIND.get(str(corpus.get("kind", "")), TEXT), corpus.get("protein")
    if words.groups == "proteins" and isinstance(protein, Mapping) and (protein.get("clusters") or protein.get("cluster_identity")):
        return replace(words, groups="homology clusters")
    return words
