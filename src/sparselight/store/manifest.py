"""The manifest of a store, made from its plans and shard records; and these made again from the manifest.

Either side holds all that the other needs, so one damaged JSON file costs nothing. A part counts when all of its planned shards are
recorded, or given up by a repair; the first part that does not count ends the store.
"""

import hashlib
from pathlib import Path

from sparselight.errors import RunError
from sparselight.files import sha256_file
from sparselight.records import Shard, StoreManifest, StorePart
from sparselight.store.plan import PlannedShard, ShardRecord, StorePlan, examples_name, plan_name, shard_paths


def assemble(folder: Path) -> StoreManifest:
    """The manifest of what plans and shard records of a folder say.

    Raises:
        RunError: when the first part is not complete, or a record is damaged.
    """
    plans, records = complete_parts(folder)
    shards = [record.shard for record in records if not record.dropped]
    first = plans[0]
    return StoreManifest(
        subject=first.subject, corpus_fingerprint=joint_fingerprint([plan.corpus_fingerprint for plan in plans]), sites=first.sites, dtype=first.dtype,
        shards=shards, n_tokens=sum(shard.n_tokens for shard in shards), n_examples=sum(plan.n_examples for plan in plans),
        harvest_s=sum(record.harvest_s for record in records), parts=[_part(folder, plan) for plan in plans],
        dropped=[record.shard.name for record in records if record.dropped],
    )


def complete_parts(folder: Path) -> tuple[list[StorePlan], list[ShardRecord]]:
    """Plans of the complete parts, in order, and the records of their shards."""
    plans: list[StorePlan] = []
    records: list[ShardRecord] = []
    while (folder / plan_name(len(plans))).exists() or not plans:
        plan = StorePlan.load(folder / plan_name(len(plans)))
        try:
            own = [ShardRecord.load(shard_paths(folder, shard.name).record) for shard in plan.shards]
        except RunError:
            if not plans:
                raise
            break
        plans.append(plan)
        records += own
    return plans, records


def joint_fingerprint(fingerprints: list[str]) -> str:
    """Of one part its own, of several the hash over theirs."""
    return fingerprints[0] if len(fingerprints) == 1 else hashlib.sha256("\0".join(fingerprints).encode()).hexdigest()


def _part(folder: Path, plan: StorePlan) -> StorePart:
    name = examples_name(plan.part)
    return StorePart(
        corpus_fingerprint=plan.corpus_fingerprint, first_example=plan.first_example, n_examples=plan.n_examples, n_shards=len(plan.shards),
        shard_tokens=plan.shard_tokens, examples=name, examples_sha256=sha256_file(folder / name),
    )


def rebuild_plan(manifest: StoreManifest, part: int) -> StorePlan | None:
    """The plan of a part as the manifest implies it; None when the store is of version 1 or has lost shards, which the manifest cannot place."""
    if part >= len(manifest.parts) or manifest.dropped:
        return None
    own = manifest.parts[part]
    before = sum(earlier.n_shards for earlier in manifest.parts[:part])
    planned, first = [], 0
    for shard in manifest.shards[before:before + own.n_shards]:
        planned.append(PlannedShard(name=shard.name, first_example=first, n_examples=shard.n_examples, n_tokens=shard.planned_tokens))
        first += shard.n_examples
    return StorePlan(
        subject=manifest.subject, corpus_fingerprint=own.corpus_fingerprint, sites=manifest.sites, dtype=manifest.dtype, shard_tokens=own.shard_tokens,
        n_examples=own.n_examples, shards=planned, part=part, first_example=own.first_example,
    )


def rebuild_record(manifest: StoreManifest, shard: Shard) -> ShardRecord:
    """The record of a shard; its seconds are its share of the whole."""
    return ShardRecord(shard=shard, harvest_s=manifest.harvest_s * shard.n_tokens / max(manifest.n_tokens, 1))
