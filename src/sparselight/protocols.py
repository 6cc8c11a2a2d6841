"""Contracts between the stages. A stage sees another stage only through these and through `records`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

if TYPE_CHECKING:
    import pyarrow as pa

    from sparselight.records import Context, StoreManifest, SubjectRef


@dataclass(frozen=True, slots=True)
class Span:
    """An annotation of characters [start, end) of an example: `name` is the kind of label, `value` the label.

    Spans of one name, value and `instance` are pieces of one thing (the two ends of a disulfide bond); with an empty one a span is a thing by itself.
    """

    start: int
    end: int
    name: str
    value: str
    instance: str = ""


@dataclass(frozen=True, slots=True)
class Box:
    """A labelled rectangle of an image, in fractions of its width and height: 0 <= x0 < x1 <= 1 from the left, 0 <= y0 < y1 <= 1 from the top."""

    x0: float
    y0: float
    x1: float
    y1: float
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Image:
    """A picture of an example, as a file: PNG, JPEG or DICOM."""

    path: str  # absolute
    sha256: str  # of the file's bytes: what enters fingerprints; the path does not
    name: str = ""  # view or role: "frontal", "lateral", "prior"
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True, slots=True)
class Example:
    """One corpus item. Examples of one `group` (a file, a patient, a homology cluster) never fall on both sides of a split."""

    id: str
    text: str
    group: str
    labels: dict[str, str] = field(default_factory=dict)
    spans: tuple[Span, ...] = ()
    images: tuple[Image, ...] = ()  # in the order in which a model is given them


class Corpus(Protocol):
    """A sized, ordered, re-iterable collection of examples with a content hash."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Example]: ...
    def __getitem__(self, index: int) -> Example: ...
    def fingerprint(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples as a subject sees them. Rows are padded to one length; `counts` says which positions are tokens in the sense of the
    glossary (specials and padding are not, by the subject's token policy). "token" axes below run over the counted positions, row by row.
    """

    input_ids: Int[Tensor, "row position"]
    attention_mask: Bool[Tensor, "row position"]
    counts: Bool[Tensor, "row position"]
    example: Int[Tensor, " token"]  # index into the examples given to prepare()
    position: Int[Tensor, " token"]  # running number of the token in its example, specials not counted, from 0
    token_id: Int[Tensor, " token"]
    char_start: Int[Tensor, " token"]  # characters of example.text that the token covers: [char_start, char_end)
    char_end: Int[Tensor, " token"]
    segment: Int[Tensor, "row position"] | None = None  # in packed rows: which example of the row a position belongs to, -1 for padding
    inputs: Mapping[str, Any] | None = None  # what the model is called with instead of input_ids: pixels, features, anything by name
    examples: Sequence[Example] | None = None  # those given to prepare(), for edits that act at annotations

    @property
    def n_tokens(self) -> int:
        return len(self.token_id)


# An edit takes the activations [token d_in] of the counted tokens at its site and returns what replaces them.
EditFunction = Callable[[Float[Tensor, "token d_in"]], Float[Tensor, "token d_in"]]


@dataclass(frozen=True, slots=True)
class Places:
    """Which tokens an edit is given: one entry of every column for each row of its activations. Columns live on the CPU."""

    example: Int[Tensor, " token"]  # number of the example, or of the row that is generated
    position: Int[Tensor, " token"]  # running number of the token in its example, what was generated behind it included
    token_id: Int[Tensor, " token"]
    char_start: Int[Tensor, " token"]  # characters that the token covers; -1 where it stands in no text that was given
    char_end: Int[Tensor, " token"]
    generated: Bool[Tensor, " token"]  # written by the subject, not given to it
    n_given: Int[Tensor, " token"]  # how many tokens of the token's example were given
    examples: Sequence[Example] | None = None  # what `example` numbers, where that is known

    def take(self, which: Tensor) -> "Places":
        """The places of some of the tokens, by mask or index."""
        return Places(self.example[which], self.position[which], self.token_id[which], self.char_start[which], self.char_end[which],
                      self.generated[which], self.n_given[which], self.examples)


class PlacedEdit(Protocol):
    """An EditFunction that acts at some tokens only. Subjects call `at` with the tokens of each pass where `needs_places` says so."""

    @property
    def needs_places(self) -> bool: ...
    def __call__(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]: ...
    def at(self, places: Places) -> EditFunction: ...
    def during(self, phase: Literal["prompt", "generated"]) -> "EditFunction | None": ...  # what is left of it where all tokens are of one kind


class Subject(Protocol):
    """The model under study. `edits` maps a site to the function applied there; an edit sees and changes counted tokens only."""

    name: str
    fingerprint: str  # hash of weights, tokenizer and token policy: a store made from another one is refused
    device: torch.device

    def ref(self) -> "SubjectRef": ...
    def sites(self) -> list[str]: ...
    def d_site(self, site: str) -> int: ...
    def prepare(self, examples: Sequence[Example]) -> Batch: ...
    def n_tokens(self, examples: Sequence[Example]) -> list[int]: ...
    def token_text(self, token_id: int) -> str: ...
    def capture(self, batch: Batch, sites: Sequence[str]) -> dict[str, Float[Tensor, "token d_in"]]: ...
    def loss(self, batch: Batch, edits: Mapping[str, EditFunction] | None = None) -> Float[Tensor, " token"]: ...
    def predict(self, batch: Batch, edits: Mapping[str, EditFunction] | None = None) -> Float[Tensor, "token vocabulary"]: ...


class Store(Protocol):
    """Activations of one subject over one corpus, one row a token, in corpus order."""

    manifest: "StoreManifest"
    n_tokens: int

    @property
    def fingerprint(self) -> str: ...  # of all that the store holds
    def read(self, rows: np.ndarray, site: str) -> Float[Tensor, "token d_in"]: ...  # fp32
    def tokens(self) -> "pa.Table": ...  # example, position, token_id, char_start, char_end, one line a row of the store
    def examples(self) -> "pa.Table": ...  # example, id, group, one line an example; `example` is what tokens() refers to
    def rows_of(self, examples: Sequence[str]) -> np.ndarray: ...  # rows of the examples with these ids, ascending


@dataclass(frozen=True, slots=True)
class Codes:
    """Sparse latent activations of a batch in CSR form: token t holds entries indptr[t] .. indptr[t+1], latents ascending in each token."""

    values: Float[Tensor, " entry"]
    latents: Int[Tensor, " entry"]
    indptr: Int[Tensor, " token_plus_1"]
    n_latents: int

    @property
    def n_tokens(self) -> int:
        return len(self.indptr) - 1

    def tokens(self) -> Int[Tensor, " entry"]:
        """Token index of every entry."""
        return torch.repeat_interleave(torch.arange(self.n_tokens, device=self.indptr.device), self.indptr.diff())

    def to_dense(self) -> Float[Tensor, "token latent"]:
        dense = self.values.new_zeros(self.n_tokens, self.n_latents)
        return dense.index_put((self.tokens(), self.latents), self.values)


class SparseCoder(Protocol):
    """An SAE at inference: encode to sparse codes, decode back."""

    d_in: int
    n_latents: int

    def encode(self, x: Float[Tensor, "token d_in"]) -> Codes: ...
    def decode(self, codes: Codes) -> Float[Tensor, "token d_in"]: ...


class Reconstructor(Protocol):
    """Anything that replaces activations by an approximation: an SAE, PCA, a mean. What the evaluation compares."""

    def reconstruct(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]: ...


class Renderer(Protocol):
    """How tokens with activations look, for one modality: on a page and in an LLM prompt. Text of the corpus never becomes markup."""

    def html(self, context: "Context") -> str: ...
    def prompt(self, context: "Context") -> str: ...


class Progress(Protocol):
    """How long work reports: one call a step with the work done so far, in the unit of `total`."""

    def __call__(self, done: float, total: float, note: str = "") -> None: ...


def no_progress(done: float, total: float, note: str = "") -> None:
    """The Progress of work that nobody watches."""
