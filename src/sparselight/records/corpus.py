"""What a corpus holds and where it came from."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from sparselight.records.base import Part, Record


class SourceFile(Part):
    """A file that a corpus was read from."""

    name: str
    """Its path inside the corpus root, or its name."""
    n_bytes: int
    sha256: str


class BadRow(Part):
    """A row of a source that could not become an example."""

    where: str
    why: str


class DuplicateCluster(Part):
    """Examples whose texts are equal or nearly so."""

    kind: Literal["exact", "near"]
    ids: list[str]
    """In corpus order, the first few."""
    n_examples: int
    n_chars: int
    """Length of the first one's text."""
    text: str
    """How the first one begins."""


class Duplicates(Part):
    """What deduplication found and did."""

    method: Literal["exact", "near"]
    action: Literal["drop", "group"]
    n_clusters: int
    n_exact: int
    """Examples whose text equals that of an earlier one (case, white space and Unicode form aside)."""
    n_near: int
    """Further examples that are similar to an earlier one."""
    n_dropped: int
    n_groups_joined: int
    """Groups that became part of another one, so that no split divides duplicates."""
    n_unchecked: int
    """Texts that were too alike to too many others to be compared with all of them; 0 in all but heavily templated corpora."""
    largest: list[DuplicateCluster]
    """The largest clusters."""


class LabelCount(Part):
    """One label of examples, or one name of spans."""

    name: str
    n: int
    """Examples that carry the label, or spans of that name."""
    n_values: int
    top: dict[str, int]
    """The most frequent values with their counts."""


class FetchedPage(Part):
    """One page of a service's answer, as it lies on disk while the rest is fetched."""

    url: str
    name: str
    sha256: str
    """Of the compressed page."""
    next_url: str
    """Empty for the last page."""
    n_total: int | None
    """Entries of the whole query, as the service says."""
    release: str


class UniprotFetch(Record):
    """Entries that were fetched from UniProt, and from where."""

    KIND: ClassVar[str] = "uniprot_fetch"
    key: str
    """Hash of the request; the same request again fetches nothing."""
    query: str
    form: str
    service: str
    release: str
    """Of the database, as the service says."""
    n_entries: int
    missing_ids: list[str]
    """Ids that were asked for and gave no entry: obsolete ones, or none at all."""
    sha256: str
    """Of the file of entries."""
    pages: list[FetchedPage]
    n_fetched_pages: int
    """Pages that came over the network in this call."""


class CorpusRecord(Record):
    """What a corpus holds and where it came from."""

    KIND: ClassVar[str] = "corpus"
    origin: str
    kind: str
    fingerprint: str
    n_examples: int
    n_groups: int
    n_chars: int
    longest_chars: int
    median_chars: float
    labels: list[LabelCount]
    spans: list[LabelCount]
    n_held_out: int | None
    """Examples that the settings would hold out; null when they would leave one side empty."""
    n_groups_held_out: int | None
    n_bad_rows: int
    """Rows left out because they could not become examples."""
    bad_rows: list[BadRow]
    """The first few of them."""
    notes: list[str]
    """What was left aside on purpose, with counts."""
    duplicates: Duplicates | None
    """Null when no deduplication was asked for."""
    sources: list[SourceFile]
    settings: dict[str, Any]
    """Settings of the reader that are not at their default."""
    n_images: int = 0
    image_names: dict[str, int] = Field(default_factory=dict)
    """Images by their view or role, the most frequent first; those without a name under an empty one."""
    n_boxes: int = 0
    """Labelled boxes in them."""
