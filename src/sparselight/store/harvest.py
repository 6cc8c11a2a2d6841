"""Runs a subject over examples and stores the activations at its sites, shard by shard.

Owns the order of work: plan, shards that are not there yet (sorted by length inside, stored in corpus order), manifest last. Run again
after an interruption or damage, it makes only what is missing or does not match its checksum. `append` adds a further part; until it is
done, readers see the store without it. Refuses: a folder with another store in it, a second writer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sparselight.errors import StoreError
from sparselight.protocols import Example, Progress, Subject, no_progress
from sparselight.records import StoreManifest
from sparselight.store.capture import Capturer
from sparselight.store.config import HarvestConfig
from sparselight.store.manifest import assemble, complete_parts
from sparselight.store.place import Location, StagedFolder
from sparselight.store.plan import (
    MANIFEST,
    PlannedShard,
    StorePlan,
    check_folder,
    examples_name,
    first_twice,
    make_plan,
    plan_name,
    shard_paths,
    subject_differences,
)
from sparselight.store.reader import FolderStore
from sparselight.store.writer import ShardWriter, finished_shard, writable_folder, write_examples


def harvest(
    subject: Subject,
    examples: Sequence[Example],
    sites: Sequence[str],
    folder: Location,
    config: HarvestConfig,
    corpus_fingerprint: str,
    progress: Progress = no_progress,
) -> FolderStore:
    """Store the activations of every token of the examples, or finish or repair the store that stands in the folder.

    Args:
        sites: stored in one pass; they take the place of `config.site`, which names the one a recipe uses.
        folder: local, or a URL that fsspec understands.
        corpus_fingerprint: content hash of the examples; tells whether what stands there may be kept.
        progress: in tokens.

    Raises:
        StoreError: when the folder holds another store, the disk is full, or too many examples give activations that are not finite.
        RunError: when another process writes the folder.
    """
    counts = subject.n_tokens(examples)
    plan = make_plan(subject, examples, counts, sites, config, corpus_fingerprint)
    with writable_folder(folder) as place:
        check_folder(place.folder, plan)
        missing = [shard for shard in plan.shards if finished_shard(place, shard) is None]
        if missing:  # from here to the end the store is not complete, and must not look so
            place.retract(MANIFEST)
        _fill(place, plan, missing, Capturer(subject, examples, counts, plan, config.batch_tokens, _max_skipped(config, examples)), progress)
        if not (place.folder / MANIFEST).exists():
            _finish(place, assemble(place.folder))
        place.end()
    progress(plan.n_tokens, plan.n_tokens)
    return FolderStore.open(folder)


def append(
    subject: Subject, examples: Sequence[Example], folder: Location, config: HarvestConfig, corpus_fingerprint: str, progress: Progress = no_progress,
) -> FolderStore:
    """Add the activations of more examples to a finished store, at its sites and in its number format; an interrupted append is gone on with.

    Args:
        config: its dtype and site are those of the store and are not looked at.
        corpus_fingerprint: of the new examples.

    Raises:
        StoreError: when there is no finished store, it came from another subject, an example is in it already, or another append was begun there.
        RunError: when another process writes the folder.
    """
    counts = subject.n_tokens(examples)
    with writable_folder(folder) as place:
        store = FolderStore.open(folder)
        manifest = store.manifest
        plans, _ = complete_parts(place.folder)
        if plans[-1].part and plans[-1].corpus_fingerprint == corpus_fingerprint:  # done before: only look
            plans.pop()
        settings = config.model_copy(update={"dtype": manifest.dtype})
        plan = make_plan(subject, examples, counts, list(manifest.sites), settings, corpus_fingerprint, part=len(plans),
                         first_example=sum(plan.n_examples for plan in plans), first_shard=sum(len(plan.shards) for plan in plans))
        _check_append(store, plan, examples)
        check_folder(place.folder, plan)
        missing = [shard for shard in plan.shards if finished_shard(place, shard) is None]
        _fill(place, plan, missing, Capturer(subject, examples, counts, plan, config.batch_tokens, _max_skipped(config, examples)), progress)
        _finish(place, assemble(place.folder))
        place.end()
    progress(plan.n_tokens, plan.n_tokens)
    return FolderStore.open(folder)


def _check_append(store: FolderStore, plan: StorePlan, examples: Sequence[Example]) -> None:
    asked = f"append to the store {store.location}"
    differs = subject_differences(store.manifest, plan)
    if differs:
        raise StoreError(asked=asked, why=f"it is {', '.join(differs)}", instead="append with the subject that the store came from")
    earlier = store.examples().column("id").to_pylist()[:plan.first_example]
    twice = first_twice([*earlier, *(example.id for example in examples)])
    if twice is not None:
        raise StoreError(asked=asked, why=f"the example {twice!r} is in it already", instead="append only examples with new ids")


def _fill(place: StagedFolder, plan: StorePlan, missing: Sequence[PlannedShard], capturer: Capturer, progress: Progress) -> None:
    """Write the plan, the example table and the shards that are missing."""
    name = plan_name(plan.part)
    if not (place.folder / name).exists():
        plan.save(place.folder / name)
        place.publish(name)
    write_examples(place, examples_name(plan.part), capturer.examples, plan.first_example)
    done = plan.n_tokens - sum(shard.n_tokens for shard in missing)
    with ShardWriter(place, plan.dtype) as writer:
        for shard in missing:
            place.retract(shard_paths(Path(), shard.name).record.name)
            writer.write(shard, capturer.capture(shard, _ShardProgress(progress, done, plan, shard)))
            done += shard.n_tokens


def _finish(place: StagedFolder, manifest: StoreManifest) -> None:
    manifest.save(place.folder / MANIFEST)
    place.publish(MANIFEST)


def _max_skipped(config: HarvestConfig, examples: Sequence[Example]) -> int:
    return math.ceil(config.max_skipped_frac * len(examples))


@dataclass(frozen=True, slots=True)
class _ShardProgress:
    """Progress inside one shard, in tokens of the whole part."""

    progress: Progress
    before: int
    plan: StorePlan
    shard: PlannedShard

    def __call__(self, n_tokens: int) -> None:
        self.progress(self.before + n_tokens, self.plan.n_tokens, f"{self.shard.name} of {len(self.plan.shards)}")
