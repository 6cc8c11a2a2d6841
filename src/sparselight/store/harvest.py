"""Runs a subject over examples and stores the activations at its sites, shard by shard.

Owns the order of work: plan, shards that are not there yet (sorted by length inside, stored in corpus order), manifest last. Run again
after an interruption or damage, it makes only what is missing or does not match its checksum. Refuses: a folder with another
store in it, activations that are not finite, a second writer.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparselight.errors import StoreError
from sparselight.protocols import Batch, Example, Progress, Subject, no_progress
from sparselight.records import StoreManifest, TokenPolicy
from sparselight.store.config import HarvestConfig
from sparselight.store.plan import DTYPES, TOKEN_COLUMNS, PlannedShard, ShardRecord, StorePlan, check_folder, make_plan, shard_paths
from sparselight.store.reader import FolderStore
from sparselight.store.writer import ShardContent, ShardWriter, finished_shard, writable_folder, write_examples


def harvest(
    subject: Subject,
    examples: Sequence[Example],
    sites: Sequence[str],
    folder: Path,
    config: HarvestConfig,
    corpus_fingerprint: str,
    progress: Progress = no_progress,
) -> FolderStore:
    """Store the activations of every token of the examples, or finish or repair the store that stands in the folder.

    Args:
        sites: stored in one pass; they take the place of `config.site`, which names the one a recipe uses.
        corpus_fingerprint: content hash of the examples; tells whether what stands there may be kept.
        progress: in tokens.

    Raises:
        StoreError: when the folder holds another store, the disk is full, or activations are not finite.
        RunError: when another process writes the folder.
    """
    counts = subject.n_tokens(examples)
    plan = make_plan(subject, examples, counts, sites, config, corpus_fingerprint)
    with writable_folder(folder):
        check_folder(folder, plan)
        missing = [shard for shard in plan.shards if finished_shard(folder, shard) is None]
        if missing:  # from here to the end the store is not complete, and must not look so
            (folder / "manifest.json").unlink(missing_ok=True)
        if not (folder / "plan.json").exists():
            plan.save(folder / "plan.json")
        write_examples(folder, examples)
        worker = _Worker(subject, examples, counts, plan, config.batch_tokens)
        done = plan.n_tokens - sum(shard.n_tokens for shard in missing)
        with ShardWriter(folder) as writer:
            for shard in missing:
                shard_paths(folder, shard.name).record.unlink(missing_ok=True)
                writer.write(shard, worker.capture(shard, _ShardProgress(progress, done, plan, shard)))
                done += shard.n_tokens
        if not (folder / "manifest.json").exists():
            make_manifest(plan, [ShardRecord.load(shard_paths(folder, shard.name).record) for shard in plan.shards]).save(folder / "manifest.json")
    progress(plan.n_tokens, plan.n_tokens)
    return FolderStore.open(folder)


def make_manifest(plan: StorePlan, records: Sequence[ShardRecord]) -> StoreManifest:
    return StoreManifest(
        subject=plan.subject, corpus_fingerprint=plan.corpus_fingerprint, sites=plan.sites, dtype=plan.dtype,
        shards=[record.shard for record in records], n_tokens=plan.n_tokens, n_examples=plan.n_examples,
        harvest_s=sum(record.harvest_s for record in records),
    )


def iter_batches(counts: Sequence[int], policy: TokenPolicy, batch_tokens: int) -> Iterator[list[int]]:
    """Group examples of like length so that little is padding: longest first, at most `batch_tokens` positions a group.

    Args:
        counts: tokens of each example; those without any are left out.
        policy: gives the length at which an example goes on in a further row.
    """
    longest = policy.context_tokens - policy.prepend_bos
    group: list[int] = []
    n_rows = width = 0
    for index in sorted(range(len(counts)), key=lambda index: -counts[index]):
        if not counts[index]:
            break
        rows = -(-counts[index] // longest)
        if group and (n_rows + rows) * width > batch_tokens:
            yield group
            group, n_rows = [], 0
        if not group:
            width = min(counts[index], longest) + policy.prepend_bos
        group.append(index)
        n_rows += rows
    if group:
        yield group


@dataclass(frozen=True, slots=True)
class _ShardProgress:
    """Progress inside one shard, in tokens of the whole store."""

    progress: Progress
    before: int
    plan: StorePlan
    shard: PlannedShard

    def __call__(self, n_tokens: int) -> None:
        self.progress(self.before + n_tokens, self.plan.n_tokens, f"{self.shard.name} of {len(self.plan.shards)}")


@dataclass(frozen=True, slots=True)
class _Worker:
    """Captures shards."""

    subject: Subject
    examples: Sequence[Example]
    counts: Sequence[int]
    plan: StorePlan
    batch_tokens: int

    def capture(self, shard: PlannedShard, progress: Callable[[int], None]) -> ShardContent:
        """Run the subject over one shard's examples and put every token's activations into its row."""
        began = time.perf_counter()
        last = shard.first_example + shard.n_examples
        examples, counts = self.examples[shard.first_example:last], self.counts[shard.first_example:last]
        first_row = torch.tensor([0, *np.cumsum(counts)[:-1].tolist()])
        activations = {site: torch.empty(shard.n_tokens, width, dtype=DTYPES[self.plan.dtype]) for site, width in self.plan.sites.items()}
        tokens = {name: np.empty(shard.n_tokens, dtype=np.int32) for name in TOKEN_COLUMNS}
        done = 0
        for indices in iter_batches(counts, self.plan.subject.token_policy, self.batch_tokens):
            chunk = [examples[index] for index in indices]
            batch = self.subject.prepare(chunk)
            assert batch.n_tokens == sum(counts[index] for index in indices), "Subject.prepare and Subject.n_tokens disagree"
            owner = torch.tensor(indices)[batch.example.cpu()]
            rows = first_row[owner] + batch.position.cpu()
            self._capture_batch(batch, chunk, rows, activations)
            for name, column in _token_columns(batch, owner + shard.first_example).items():
                tokens[name][rows.numpy()] = column
            done += batch.n_tokens
            progress(done)
        return ShardContent(activations, tokens, time.perf_counter() - began)

    def _capture_batch(self, batch: Batch, chunk: Sequence[Example], rows: Int[Tensor, " token"], into: dict[str, Tensor]) -> None:
        with torch.no_grad():
            captured = self.subject.capture(batch, list(into))
        for site, target in into.items():
            values = captured[site].to(target.dtype).cpu()
            _check_finite(values, captured[site], batch, chunk, site)
            target[rows] = values


def _token_columns(batch: Batch, example: Int[Tensor, " token"]) -> dict[str, Int[np.ndarray, " token"]]:
    columns = {"example": example, "position": batch.position, "token_id": batch.token_id, "char_start": batch.char_start, "char_end": batch.char_end}
    return {name: column.cpu().numpy() for name, column in columns.items()}


def _check_finite(
    stored: Float[Tensor, "token d_in"], captured: Float[Tensor, "token d_in"], batch: Batch, chunk: Sequence[Example], site: str
) -> None:
    """Refuse what no SAE can be trained on, at the first example that has it."""
    finite = torch.isfinite(stored).all(dim=1)
    if finite.all():
        return
    token = int(finite.logical_not().nonzero()[0])
    example = chunk[int(batch.example[token])]
    if torch.isfinite(captured[token]).all():
        name = str(stored.dtype).removeprefix("torch.")
        why, instead = f"its activations exceed the range of {name}", "set harvest.dtype to bfloat16 or float32"
    else:
        why, instead = "the subject gives activations that are not finite", "set subject.dtype to float32, or leave this example out of the corpus"
    raise StoreError(asked=f"harvest {site} of the example {example.id!r}", why=f"{why} (token {int(batch.position[token])})", instead=instead)
