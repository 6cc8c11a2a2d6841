"""Runs a subject over the examples of one shard and puts every token's activations into its row.

Owns: which examples share a forward pass, the rounding to the store's number format, and what happens to activations that are not
finite: the example is run again by itself, and skipped, with the reason, if that does not help. Refuses: values that only the number
format cannot hold, and more skipped examples than harvest.max_skipped_frac.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparselight.errors import StoreError
from sparselight.protocols import Batch, Example, Subject
from sparselight.records import SkippedExample, TokenPolicy
from sparselight.store.formats import FORMATS, RoundingMeter, StoredRows, encode, to_numpy
from sparselight.store.plan import TOKEN_COLUMNS, PlannedShard, StorePlan
from sparselight.store.writer import ShardContent
from sparselight.subjects.batching import batches_by_length
from sparselight.subjects.norms import kept_tokens

CHARS_PER_TOKEN = 3  # a low estimate: rows of pooled examples are then rather shorter than expected
FLOAT16_MAX = torch.finfo(torch.float16).max


@dataclass(slots=True)
class Capturer:
    """Captures shards of one plan."""

    subject: Subject
    examples: Sequence[Example]
    """Of the plan, in its order."""
    counts: Sequence[int]
    """Tokens of each example."""
    plan: StorePlan
    batch_tokens: int
    max_skipped: int
    n_skipped: int = field(default=0)

    def capture(self, shard: PlannedShard, progress: Callable[[int], None]) -> ShardContent:
        """Activations and token table of one shard."""
        began = time.perf_counter()
        last = shard.first_example + shard.n_examples
        examples, counts = self.examples[shard.first_example:last], self.counts[shard.first_example:last]
        buffer = _ShardBuffer(self.plan, shard, counts)
        policy, done = self.plan.subject.token_policy, 0
        groups = list(batches_by_length(row_sizes(examples, counts, policy), self.batch_tokens, policy))
        for indices, batch in self._prepared(examples, groups):
            assert batch.n_tokens == sum(counts[index] for index in indices), "Subject.prepare and Subject.n_tokens disagree"
            self._capture_batch(batch, torch.tensor(indices), buffer)
            done += batch.n_tokens
            progress(done)
        return buffer.content(max(0.0, time.perf_counter() - began))

    def _prepared(self, examples: Sequence[Example], groups: Sequence[list[int]]) -> Iterator[tuple[list[int], Batch]]:
        """Each group with its batch; the next one is tokenized while the model works on this one."""
        with ThreadPoolExecutor(1, thread_name_prefix="prepare") as pool:
            ahead = pool.submit(self.subject.prepare, [examples[index] for index in groups[0]]) if groups else None
            for number, group in enumerate(groups):
                assert ahead is not None
                batch = ahead.result()
                if number + 1 < len(groups):
                    ahead = pool.submit(self.subject.prepare, [examples[index] for index in groups[number + 1]])
                yield group, batch

    def _capture_batch(self, batch: Batch, indices: Int[Tensor, " example"], buffer: "_ShardBuffer") -> None:
        """Args: indices: of the batch's examples in the shard."""
        with torch.no_grad():
            captured = self.subject.capture(batch, list(self.plan.sites))
        own = batch.example.cpu()
        broken = self._broken(captured, own)
        if not broken:
            self._store(captured, batch, slice(None), indices, buffer)
        elif len(indices) == 1:
            self._skip(batch.n_tokens, int(indices[0]), captured, buffer)
        else:
            keep = ~torch.isin(own, torch.tensor(sorted(broken)))
            self._store({site: x[keep.to(x.device)] for site, x in captured.items()}, batch, keep, indices, buffer)
            for number in sorted(broken):  # one broken example may have spoiled others of its batch
                index = indices[number:number + 1]
                self._capture_batch(self.subject.prepare([self.examples[buffer.first_example + int(index)]]), index, buffer)

    def _broken(self, captured: dict[str, Float[Tensor, "token d_in"]], own: Int[Tensor, " token"]) -> set[int]:
        """Numbers, in the batch, of examples with activations that are not finite."""
        found: set[int] = set()
        for x in captured.values():
            if not math.isfinite(float(x.sum())):  # one pass; a sum of finite values may overflow too, so look again
                found |= set(own[~torch.isfinite(x).all(1).cpu()].tolist())
        return found

    def _store(
        self, captured: dict[str, Float[Tensor, "token d_in"]], batch: Batch, keep: Bool[Tensor, " token"] | slice, indices: Int[Tensor, " example"],
        buffer: "_ShardBuffer",
    ) -> None:
        position, owner = batch.position.cpu()[keep], indices[batch.example.cpu()[keep]]
        if self.plan.dtype == "float16":
            self._check_range(captured, owner + buffer.first_example)
        rows = buffer.first_row[owner] + position
        buffer.add(captured, rows)
        columns = {"example": owner + buffer.first_example + self.plan.first_example, "position": position, "token_id": batch.token_id.cpu()[keep],
                   "char_start": batch.char_start.cpu()[keep], "char_end": batch.char_end.cpu()[keep]}
        for name, column in columns.items():
            buffer.tokens[name][rows.numpy()] = column.numpy()

    def _check_range(self, captured: dict[str, Float[Tensor, "token d_in"]], owner: Int[Tensor, " token"]) -> None:
        for site, x in captured.items():
            beyond = x.abs().amax(1) > FLOAT16_MAX
            if beyond.any():
                name = self.examples[int(owner[int(beyond.nonzero()[0])])].id
                raise StoreError(asked=f"harvest {site} of the example {name!r}", why=f"its activations exceed the range of float16, {FLOAT16_MAX:.0f}",
                                 instead="set harvest.dtype to bfloat16, float32 or int8")

    def _skip(self, n_tokens: int, index: int, captured: dict[str, Float[Tensor, "token d_in"]], buffer: "_ShardBuffer") -> None:
        example = self.examples[buffer.first_example + index]
        site = next(site for site, x in captured.items() if not torch.isfinite(x).all())
        self.n_skipped += 1
        if self.n_skipped > self.max_skipped:
            raise StoreError(
                asked=f"harvest {site} of the example {example.id!r}",
                why=f"the subject gives activations that are not finite, by now for {self.n_skipped} of {len(self.examples)} examples",
                instead="set subject.dtype to float32, leave such examples out of the corpus, or raise harvest.max_skipped_frac",
            )
        buffer.skipped.append(SkippedExample(id=example.id, n_tokens=n_tokens, why=f"activations at {site} are not finite"))


class _ShardBuffer:
    """The rows of a shard as they come in, batch by batch."""

    def __init__(self, plan: StorePlan, shard: PlannedShard, counts: Sequence[int]):
        self.plan, self.first_example, n_rows = plan, shard.first_example, shard.n_tokens
        self.first_row = torch.tensor([0, *np.cumsum(counts)[:-1].tolist()])
        dtype = FORMATS[plan.dtype][1]
        self.values = {site: torch.empty(n_rows, width, dtype=dtype) for site, width in plan.sites.items()}
        self.scales = {site: torch.empty(n_rows) for site in plan.sites} if plan.dtype == "int8" else {}
        self.meters = {} if plan.dtype == "float32" else {site: RoundingMeter(width) for site, width in plan.sites.items()}
        self.tokens = {name: np.empty(n_rows, dtype=np.int32) for name in TOKEN_COLUMNS}
        self.present = torch.zeros(n_rows, dtype=torch.bool)
        self.skipped: list[SkippedExample] = []
        self.n_massive = 0

    def add(self, captured: dict[str, Float[Tensor, "token d_in"]], rows: Int[Tensor, " token"]) -> None:
        fits = kept_tokens(captured, self.plan.subject.token_policy).cpu()
        self.present[rows] = fits
        self.n_massive += int((~fits).sum())
        for site, x in captured.items():
            values, scale = encode(x, self.plan.dtype)
            self.values[site][rows] = values.cpu()
            if scale is not None:
                self.scales[site][rows] = scale.cpu()
            if site in self.meters:
                self.meters[site].add(x, values, scale)

    def content(self, harvest_s: float) -> ShardContent:
        keep = slice(None) if self.present.all() else self.present
        scales = {site: scale[keep].numpy() for site, scale in self.scales.items()}
        rows = {site: StoredRows(to_numpy(values[keep].contiguous()), scales.get(site)) for site, values in self.values.items()}
        tokens = self.tokens if isinstance(keep, slice) else {name: column[keep.numpy()] for name, column in self.tokens.items()}
        rounding = {site: meter.result() for site, meter in self.meters.items()}
        return ShardContent(rows, tokens, harvest_s, rounding, self.skipped, self.n_massive)


def row_sizes(examples: Sequence[Example], counts: Sequence[int], policy: TokenPolicy) -> list[int]:
    """Positions that each example takes in the model, about. Those of a pooled example, which counts as one token, are guessed from its characters."""
    if policy.pooling == "none":
        return list(counts)
    guesses = [min(policy.body_tokens, 1 + len(example.text) // CHARS_PER_TOKEN) for example in examples]
    return [guess if count else 0 for guess, count in zip(guesses, counts, strict=True)]
