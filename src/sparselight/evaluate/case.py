"""What an evaluation runs on: one site of one subject, datasets with a fit side and a held-out side, and their tokens, captured once.

Owns: which tokens are measured (the same for every coder and every metric family), where their activations come from (a store, or the
subject itself where none is given), and that nothing fitted on one side is reported on the same examples. Codes of a coder are kept
while memory allows, so that several families cost one encoding. Refuses: datasets without tokens, and sides that share an example or a group.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparselight.errors import CorpusError, SubjectError
from sparselight.evaluate.config import CaseConfig
from sparselight.evaluate.contender import Contender
from sparselight.evaluate.held_out import HeldOut
from sparselight.evaluate.statistics import Resamples
from sparselight.protocols import Codes, Example, Store, Subject
from sparselight.subjects.norms import kept_tokens

SideName = Literal["fit", "held_out"]
CHUNK_TOKENS = 4096
CODES_BYTES = 1 << 30  # of codes kept for the next family

Column = Int[np.ndarray, " token"]
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Dataset:
    """Examples under one name. `fit` is what probes, thresholds and controls are fitted on; every value is reported on `held_out`."""

    name: str
    fit: Sequence[Example]
    held_out: Sequence[Example]
    fit_store: Store | None = None
    """Activations of at least the `fit` examples; without one they are captured from the subject."""
    held_out_store: Store | None = None
    annotate: Callable[[Sequence[Example]], list[Example]] | None = None
    """Fills in the spans of the drawn examples, where the source makes them on demand."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one side of a dataset: columns in example order, and their activations."""

    name: str
    examples: list[Example]
    example: Column  # index into `examples`, ascending
    group: Column  # index into `groups`
    groups: list[str]
    position: Column
    token_id: Column
    char_start: Column
    char_end: Column
    source: "Store | Float[Tensor, 'token d_in']"
    rows: Column  # of the store; unused for captured activations
    site: str

    @property
    def n_tokens(self) -> int:
        return len(self.example)

    def read(self, tokens: Column | slice) -> Float[Tensor, "token d_in"]:
        """Activations of some of the tokens, in float32."""
        if isinstance(self.source, Tensor):
            return self.source[tokens].float()
        return self.source.read(self.rows[tokens], self.site)

    def chunks(self, n_tokens: int = CHUNK_TOKENS) -> Iterator[tuple[slice, Float[Tensor, "token d_in"]]]:
        """All tokens in order, a slice and its activations at a time."""
        for start in range(0, self.n_tokens, n_tokens):
            part = slice(start, min(start + n_tokens, self.n_tokens))
            yield part, self.read(part)

    def only(self, kept: Column) -> "Tokens":
        """Some of the tokens, in ascending order."""
        columns = {name: getattr(self, name)[kept] for name in ("example", "group", "position", "token_id", "char_start", "char_end", "rows")}
        return replace(self, **columns, source=self.source[torch.from_numpy(kept)] if isinstance(self.source, Tensor) else self.source)

    def bounds(self) -> Int[np.ndarray, " example_plus_1"]:
        """Where the tokens of each example begin; the last entry is the number of tokens."""
        return np.searchsorted(self.example, np.arange(len(self.examples) + 1))


@dataclass
class Case:
    """What the metric families see: datasets at one site, and the subject where one is given."""

    site: str
    datasets: Mapping[str, Dataset]
    config: CaseConfig
    subject: Subject | None = None
    passed_tokens: int = 0
    """Tokens that went through the subject so far: families that run it add theirs (see `count_pass`)."""
    annotated: bool = True
    """Whether drawn examples get the spans that their source makes on demand (see `annotate`)."""
    added: dict[str, Dataset] = field(default_factory=dict)
    """What families made themselves, of prompts say (see `put_tokens`); other families do not see it."""
    _tokens: dict[tuple[str, SideName], Tokens] = field(default_factory=dict)
    _codes: "OrderedDict[tuple[str, SideName, str], Codes]" = field(default_factory=OrderedDict)
    _made: dict[Hashable, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for dataset in self.datasets.values():
            check_apart(dataset)

    def need_subject(self, asked: str) -> Subject:
        """The subject.

        Raises:
            SubjectError: when none is given.
        """
        if self.subject is None:
            raise SubjectError(asked=asked, why="it runs the subject, and none is given", instead="give --subject, or leave this metric out")
        return self.subject

    def count_pass(self, n_tokens: int) -> None:
        """Count tokens that went through the subject."""
        self.passed_tokens += n_tokens

    def annotate(self) -> None:
        """Fill in the spans of all examples drawn so far, and of those to come, where that was left for later."""
        if not self.annotated:
            self.annotated = True
            for (name, side), tokens in self._tokens.items():
                make = self.dataset(name).annotate
                self._tokens[name, side] = tokens if make is None else replace(tokens, examples=make(tokens.examples))

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What `make` gives, made at the first call with this key: work that families share, such as a pass of the subject."""
        if key not in self._made:
            self._made[key] = make()
        return cast("Made", self._made[key])

    def tokens(self, dataset: str, side: SideName) -> Tokens:
        """The tokens of one side: whole examples, evenly over groups, up to evaluate.n_tokens; the same at every call."""
        key = (dataset, side)
        if key not in self._tokens:
            self._tokens[key] = self._draw(self.datasets[dataset], side)
        return self._tokens[key]

    def dataset(self, name: str) -> Dataset:
        """A dataset that was given, or that a family made."""
        return self.datasets[name] if name in self.datasets else self.added[name]

    def put_tokens(self, dataset: str, fit: Tokens, held_out: Tokens) -> None:
        """Tokens that a family captured itself; `tokens`, `codes` and `resamples` give them under that name from then on."""
        self.added[dataset] = Dataset(dataset, fit.examples, held_out.examples)
        check_apart(self.added[dataset])
        self._tokens |= {(dataset, "fit"): fit, (dataset, "held_out"): held_out}

    def resamples(self, dataset: str, side: SideName = "held_out") -> Resamples:
        """Bootstrap draws over the groups of these tokens, the same for every coder."""
        return Resamples.draw(len(self.tokens(dataset, side).groups), self.config.n_bootstrap, self.config.seed)

    @torch.no_grad()
    def codes(self, dataset: str, side: SideName, name: str, contender: Contender) -> Codes:
        """Codes of all tokens of one side, on the CPU, by a coder that has them (`contender.sparse` is not None).

        Args:
            name: of the coder; codes are kept under it.
        """
        key = (dataset, side, name)
        if key in self._codes:
            self._codes.move_to_end(key)
            return self._codes[key]
        coder, tokens = contender.sparse, self.tokens(dataset, side)
        assert coder is not None
        parts = [coder.encode(contender.there(x)) for _, x in tokens.chunks()]
        starts = np.cumsum([0, *(len(part.values) for part in parts)])
        codes = Codes(
            torch.cat([part.values.float().cpu() for part in parts]), torch.cat([part.latents.cpu() for part in parts]),
            torch.cat([part.indptr[:-1].cpu() + int(start) for part, start in zip(parts, starts, strict=False)] + [torch.tensor([int(starts[-1])])]),
            coder.n_latents,
        )
        self._codes[key] = codes
        while len(self._codes) > 1 and sum(kept.values.nbytes + kept.latents.nbytes for kept in self._codes.values()) > CODES_BYTES:
            self._codes.popitem(last=False)
        return codes

    def _draw(self, dataset: Dataset, side: SideName) -> Tokens:
        examples = dataset.fit if side == "fit" else dataset.held_out
        store = dataset.fit_store if side == "fit" else dataset.held_out_store
        name = f"{dataset.name}, {side.replace('_', '-')} side"
        if store is None:
            count = self.need_subject(f"evaluate on {name}").n_tokens
            return self._captured(self._annotated(HeldOut.draw(name, examples, self.config.n_tokens, count, self.config.seed), dataset))
        table, listed = store.tokens(), store.examples()
        sizes = np.bincount(table.column("example").to_numpy(), minlength=1 + max(listed.column("example").to_pylist(), default=0))
        size_of = {identifier: int(sizes[number]) for number, identifier in
                   zip(listed.column("example").to_pylist(), listed.column("id").to_pylist(), strict=True)}
        stored = [example for example in examples if example.id in size_of]
        part = HeldOut.draw(name, stored, self.config.n_tokens, lambda block: [size_of[example.id] for example in block], self.config.seed)
        return self._stored(self._annotated(part, dataset), store)

    def _annotated(self, part: HeldOut, dataset: Dataset) -> HeldOut:
        return replace(part, examples=dataset.annotate(part.examples)) if self.annotated and dataset.annotate is not None else part

    def _stored(self, part: HeldOut, store: Store) -> Tokens:
        index = {example.id: number for number, example in enumerate(part.examples)}
        rows = store.rows_of(list(index))
        table, listed = store.tokens(), store.examples()
        number_of = {number: index[identifier] for number, identifier in
                     zip(listed.column("example").to_pylist(), listed.column("id").to_pylist(), strict=True) if identifier in index}
        columns = {name: table.column(name).to_numpy()[rows].astype(np.int64) for name in ("example", "position", "token_id", "char_start", "char_end")}
        example = np.array([number_of[number] for number in columns["example"].tolist()])
        order = np.lexsort((rows, example))
        return Tokens(part.name, part.examples, example[order], np.array(part.group)[example[order]], part.groups, columns["position"][order],
                      columns["token_id"][order], columns["char_start"][order], columns["char_end"][order], store, rows[order], self.site)

    def _captured(self, part: HeldOut) -> Tokens:
        subject = self.need_subject(f"evaluate on {part.name}")
        policy = subject.ref().token_policy
        found: list[tuple[np.ndarray, ...]] = []
        values: list[Float[Tensor, "token d_in"]] = []
        for indices in part.batches(self.config.batch_tokens):
            batch = subject.prepare([part.examples[index] for index in indices])
            captured = subject.capture(batch, [self.site])
            kept = kept_tokens(captured, policy).cpu()  # a store leaves massive activations out as well
            values.append(captured[self.site].float().cpu()[kept])
            self.count_pass(batch.n_tokens)
            columns = (batch.position, batch.token_id, batch.char_start, batch.char_end)
            found.append((np.array(indices)[batch.example.cpu().numpy()][kept.numpy()], *(column.cpu()[kept].numpy() for column in columns)))
        example, position, token_id, char_start, char_end = (np.concatenate(column) for column in zip(*found, strict=True))
        order = np.lexsort((position, example))
        return Tokens(part.name, part.examples, example[order], np.array(part.group)[example[order]], part.groups, position[order], token_id[order],
                      char_start[order], char_end[order], torch.cat(values)[torch.from_numpy(order)], order, self.site)


def check_apart(dataset: Dataset) -> None:
    """Refuse a dataset whose two sides share an example or a group.

    Raises:
        CorpusError: naming one that they share.
    """
    for kind in ("id", "group"):
        shared = {getattr(example, kind) for example in dataset.fit} & {getattr(example, kind) for example in dataset.held_out}
        if shared:
            word = "example" if kind == "id" else "group"
            raise CorpusError(asked=f"evaluate on the dataset {dataset.name!r}",
                              why=f"{len(shared)} {word}(s) stand on both sides, for example {min(shared)!r}",
                              instead="split the corpus by group before harvesting (see `sparselight corpus info`), and give the two parts")
