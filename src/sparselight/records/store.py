"""What an activation store holds and where it came from."""

from typing import ClassVar

from pydantic import Field

from sparselight.records.base import CheckedRecord, Part
from sparselight.records.subject import SubjectRef


class Rounding(Part):
    """What the number format of a store changed, summed over evenly spaced rows: fraction of variance lost = error / spread."""

    n_rows: int
    error: float
    """Sum of squared differences between captured and stored values."""
    spread: float
    """Sum of squared distances of captured rows from their mean in the shard."""


class SkippedExample(Part):
    """An example that a store holds no activations of."""

    id: str
    n_tokens: int
    why: str


class Shard(Part):
    """One pair of files of a store: shard-NNNNN.safetensors and tokens-NNNNN.parquet."""

    name: str
    n_tokens: int
    """Rows in it; tokens of skipped examples are not among them."""
    n_examples: int
    sha256: str
    """Of the safetensors file."""
    tokens_sha256: str
    """Of the Parquet file."""
    n_bytes: int = 0
    """Size of the safetensors file; 0 in stores of version 1."""
    tokens_bytes: int = 0
    """Size of the Parquet file; 0 in stores of version 1."""
    rounding: dict[str, Rounding] = Field(default_factory=dict)
    """By site; empty for float32 and in stores of version 1."""
    skipped: list[SkippedExample] = Field(default_factory=list)
    """Examples whose activations were not finite."""
    n_massive_tokens: int = 0
    """Tokens left out because their norm is above the token policy's max_norms."""

    @property
    def planned_tokens(self) -> int:
        """Tokens of its examples, stored or not."""
        return self.n_tokens + self.n_massive_tokens + sum(example.n_tokens for example in self.skipped)


class StorePart(Part):
    """What one harvest, append or merged store brought: consecutive shards and an example table of their own."""

    corpus_fingerprint: str
    first_example: int
    n_examples: int
    n_shards: int
    """As planned; shards that a repair dropped are among them."""
    shard_tokens: int
    examples: str
    """Name of its example table."""
    examples_sha256: str


class StoreManifest(CheckedRecord):
    """What an activation store holds and where it came from."""

    KIND: ClassVar[str] = "store"
    VERSION: ClassVar[int] = 2
    subject: SubjectRef
    corpus_fingerprint: str
    """Content hash of the examples; of several parts, the hash over theirs."""
    sites: dict[str, int]
    """Site name to its width d_in."""
    dtype: str
    shards: list[Shard]
    n_tokens: int
    n_examples: int
    harvest_s: float
    parts: list[StorePart] = Field(default_factory=list)
    """Empty in stores of version 1, which have one."""
    dropped: list[str] = Field(default_factory=list)
    """Shards that were damaged and that a repair gave up."""

    @property
    def skipped(self) -> list[SkippedExample]:
        return [example for shard in self.shards for example in shard.skipped]

    def rounding_fvu(self) -> dict[str, float]:
        """Fraction of variance that the number format costs, by site: sum ||x - stored(x)||^2 / sum ||x - mean||^2, means taken in each shard."""
        totals = {site: [shard.rounding[site] for shard in self.shards if site in shard.rounding] for site in self.sites}
        return {site: sum(one.error for one in found) / max(sum(one.spread for one in found), 1e-300) for site, found in totals.items() if found}
