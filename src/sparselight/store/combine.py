"""Stores out of stores: several merged into one, one split by group. Rows are copied as they stand, never rounded again.

Both are interrupted and gone on with like a harvest. Refuses: to merge what differs in subject, token policy, site or number format or
shares an example; to split so that one side is empty.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from sparselight.errors import StoreError
from sparselight.files import atomic_path, sha256_file, write_bytes
from sparselight.protocols import Progress, no_progress
from sparselight.records import Rounding, Shard, SkippedExample, StorePart
from sparselight.store.formats import StoredRows
from sparselight.store.manifest import assemble
from sparselight.store.place import Location, StagedFolder
from sparselight.store.plan import (
    MANIFEST,
    TOKEN_COLUMNS,
    PlannedShard,
    ShardRecord,
    StorePlan,
    check_folder,
    examples_name,
    plan_name,
    shard_paths,
    subject_differences,
)
from sparselight.store.reader import FolderStore
from sparselight.store.writer import ShardContent, ShardWriter, example_bytes, finished_shard, token_bytes, writable_folder


def merge(stores: Sequence[FolderStore], out: Location, progress: Progress = no_progress) -> FolderStore:
    """One store with the rows of several, in their order; each becomes a part of it.

    Raises:
        StoreError: when they do not fit together, or `out` holds another store.
        RunError: when another process writes `out`.
    """
    _check_merge(stores)
    n_all, done, n_parts, n_examples, n_shards = sum(store.n_tokens for store in stores), 0, 0, 0, 0
    with writable_folder(out) as place:
        for store in stores:
            for part, shards in zip(store.parts(), shards_by_part(store), strict=True):
                plan = _merged_plan(store, part, shards, n_parts, n_examples, n_shards)
                check_folder(place.folder, plan)
                _start_part(place, plan, *_part_examples(store, part))
                for planned, shard in zip(plan.shards, shards, strict=True):
                    if finished_shard(place, planned) is None:
                        _copy_shard(store, shard, place, planned, n_examples - part.first_example)
                    done += shard.n_tokens
                    progress(done, n_all, planned.name)
                n_parts, n_examples, n_shards = n_parts + 1, n_examples + part.n_examples, n_shards + len(shards)
        _finish(place)
    return FolderStore.open(out)


def split(
    store: FolderStore, train: Location, held_out: Location, held_out_frac: float = 0.25, seed: int = 0, progress: Progress = no_progress,
) -> tuple[FolderStore, FolderStore]:
    """Two stores with the rows of one, divided by group: no group is in both.

    A group's side is a hash of (seed, group), the same as in a corpus that is split with this share and seed.

    Raises:
        StoreError: when one side would be empty, or a place holds another store.
        RunError: when another process writes one of the places.
    """
    table = store.examples()
    ids, groups = table.column("id").to_pylist(), table.column("group").to_pylist()
    side_of = {group: group_frac(seed, group) < held_out_frac for group in set(groups)}
    held = np.array([side_of[group] for group in groups], dtype=bool)
    chunks = [_ShardOwners.of(store, number) for number in range(len(store.manifest.shards))]
    for side, place_of_side in ((False, train), (True, held_out)):
        if not any((held[chunk.example] == side).any() for chunk in chunks):
            raise StoreError(asked=f"split the store {store.location} with held_out_frac = {held_out_frac}", instead="use another share or seed",
                             why=f"of its {len(side_of)} groups none with a token would go to {place_of_side}")
    made = []
    for number, (side, location) in enumerate(((False, train), (True, held_out))):
        chosen = held == side
        plan = _split_plan(store, chunks, chosen, f"{'held_out' if side else 'train'}\0{held_out_frac}\0{seed}")
        with writable_folder(location) as place:
            check_folder(place.folder, plan)
            own = np.flatnonzero(chosen).tolist()
            _start_part(place, plan, [ids[i] for i in own], [groups[i] for i in own])
            _write_side(store, chunks, chosen, place, plan, lambda done, number=number: progress(number + done, 2))  # type: ignore[misc]
            _finish(place)
        made.append(FolderStore.open(location))
    return made[0], made[1]


def group_frac(seed: int, group: str) -> float:
    """Where a group stands in [0, 1): a hash, so that it does not move when other groups come or go."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{group}".encode()).digest()[:8], "big") / 2**64


def shards_by_part(store: FolderStore) -> list[list[Shard]]:
    """The shards of each part; by their numbers, because a repair may have dropped some."""
    edges = np.cumsum([0, *(part.n_shards for part in store.parts())])
    numbers = np.array([int(shard.name.rpartition("-")[2]) for shard in store.manifest.shards])
    return [[store.manifest.shards[i] for i in np.flatnonzero((numbers >= first) & (numbers < last))] for first, last in itertools.pairwise(edges)]


def _check_merge(stores: Sequence[FolderStore]) -> None:
    asked = f"merge {' and '.join(store.location for store in stores)}"
    if len(stores) < 2:
        raise StoreError(asked=asked, why="one store is nothing to merge", instead="name two or more")
    owner: dict[str, str] = {}
    for store in stores:
        differs = subject_differences(store.manifest, stores[0].manifest)
        if differs:
            raise StoreError(asked=asked, why=f"{store.location} is a store {', '.join(differs)}", instead="merge only stores of one subject, site and format")
        for name in store.examples().column("id").to_pylist():
            if name in owner:
                raise StoreError(asked=asked, why=f"the example {name!r} is in {owner[name]} and in {store.location}",
                                 instead="harvest them from corpora without common examples")
            owner[name] = store.location


def _part_examples(store: FolderStore, part: StorePart) -> tuple[list[str], list[str]]:
    table = store.examples().slice(part.first_example, part.n_examples)
    return table.column("id").to_pylist(), table.column("group").to_pylist()


def _merged_plan(store: FolderStore, part: StorePart, shards: Sequence[Shard], n_parts: int, n_examples: int, n_shards: int) -> StorePlan:
    planned, first = [], 0
    for number, shard in enumerate(shards):
        planned.append(PlannedShard(name=f"shard-{n_shards + number:05}", first_example=first, n_examples=shard.n_examples, n_tokens=shard.planned_tokens))
        first += shard.n_examples
    manifest = store.manifest
    return StorePlan(subject=manifest.subject, corpus_fingerprint=part.corpus_fingerprint, sites=manifest.sites, dtype=manifest.dtype,
                     shard_tokens=part.shard_tokens, n_examples=part.n_examples, shards=planned, part=n_parts, first_example=n_examples)


def _copy_shard(store: FolderStore, shard: Shard, place: StagedFolder, planned: PlannedShard, shift: int) -> None:
    """Copy the activations byte by byte; the token table gets the new numbers of its examples."""
    paths = shard_paths(place.folder, planned.name)
    with atomic_path(paths.activations) as temporary:
        store.copy_file(f"{shard.name}.safetensors", temporary)
        if sha256_file(temporary) != shard.sha256:
            raise store.damage_error({f"{shard.name}.safetensors": "its content does not match its SHA-256"})
    tokens = store.tokens_of(shard)
    content = token_bytes({**tokens, "example": tokens["example"] + np.int32(shift)})
    write_bytes(paths.tokens, content)
    copied = shard.model_copy(update={"name": planned.name, "tokens_sha256": hashlib.sha256(content).hexdigest(), "tokens_bytes": len(content),
                                      "n_bytes": shard.n_bytes})
    ShardRecord(shard=copied, harvest_s=store.manifest.harvest_s * shard.n_tokens / max(store.n_tokens, 1)).save(paths.record)
    place.publish(paths.activations.name, paths.tokens.name, keep=False)
    place.publish(paths.record.name)


@dataclass(frozen=True, slots=True)
class _ShardOwners:
    """Which example each row of a shard belongs to."""

    shard: Shard
    example: Int[np.ndarray, " row"]

    @classmethod
    def of(cls, store: FolderStore, number: int) -> "_ShardOwners":
        shard = store.manifest.shards[number]
        return cls(shard, store.tokens_of(shard)["example"])


def _split_plan(store: FolderStore, chunks: Sequence[_ShardOwners], chosen: np.ndarray, name: str) -> StorePlan:
    manifest, planned, first = store.manifest, [], 0
    numbers = np.cumsum(chosen)  # examples of this side up to and with each
    kept = [(chunk, int(chosen[chunk.example].sum())) for chunk in chunks]
    kept = [(chunk, n_rows) for chunk, n_rows in kept if n_rows]
    for number, (chunk, n_rows) in enumerate(kept):
        last = len(chosen) if number == len(kept) - 1 else int(chunk.example[-1]) + 1
        skipped = sum(example.n_tokens for example in _own_skipped(store, chunk.shard, chosen))
        planned.append(PlannedShard(name=f"shard-{number:05}", first_example=first, n_examples=int(numbers[last - 1]) - first, n_tokens=n_rows + skipped))
        first = int(numbers[last - 1])
    fingerprint = hashlib.sha256(f"{manifest.corpus_fingerprint}\0split\0{name}".encode()).hexdigest()
    return StorePlan(subject=manifest.subject, corpus_fingerprint=fingerprint, sites=manifest.sites, dtype=manifest.dtype,
                     shard_tokens=max(shard.n_tokens for shard in manifest.shards), n_examples=int(chosen.sum()), shards=planned)


def _own_skipped(store: FolderStore, shard: Shard, chosen: np.ndarray) -> list[SkippedExample]:
    number_of = store.number_of()
    return [example for example in shard.skipped if chosen[number_of[example.id]]]


def _write_side(
    store: FolderStore, chunks: Sequence[_ShardOwners], chosen: np.ndarray, place: StagedFolder, plan: StorePlan, progress: Callable[[float], None],
) -> None:
    new_number = np.cumsum(chosen) - 1
    planned: Iterator[PlannedShard] = iter(plan.shards)
    first_row = 0
    with ShardWriter(place, plan.dtype) as writer:
        for done, chunk in enumerate(chunks):
            keep = np.flatnonzero(chosen[chunk.example])
            if len(keep):
                target = next(planned)
                if finished_shard(place, target) is None:
                    writer.write(target, _side_content(store, chunk, keep, first_row, new_number, chosen))
            first_row += chunk.shard.n_tokens
            progress((done + 1) / len(chunks))


def _side_content(
    store: FolderStore, chunk: _ShardOwners, keep: np.ndarray, first_row: int, new_number: np.ndarray, chosen: np.ndarray,
) -> ShardContent:
    rows = {}
    for site in store.manifest.sites:
        stored = store.read_stored(first_row + keep, site)
        rows[site] = StoredRows(stored.values.copy(), None if stored.scale is None else stored.scale.copy())
    tokens = store.tokens_of(chunk.shard)
    columns = {name: tokens[name][keep] for name in TOKEN_COLUMNS}
    columns["example"] = new_number[columns["example"]].astype(np.int32)
    share = len(keep) / chunk.shard.n_tokens
    rounding = {  # taken to be like that of all rows of the shard
        site: Rounding(n_rows=round(one.n_rows * share), error=one.error * share, spread=one.spread * share) for site, one in chunk.shard.rounding.items()
    }
    harvest_s = store.manifest.harvest_s * len(keep) / max(store.n_tokens, 1)
    return ShardContent(rows, columns, harvest_s, rounding, _own_skipped(store, chunk.shard, chosen))


def _start_part(place: StagedFolder, plan: StorePlan, ids: Sequence[str], groups: Sequence[str]) -> None:
    for name, write in (
        (plan_name(plan.part), plan.save),
        (examples_name(plan.part), lambda path: write_bytes(path, example_bytes(ids, groups, plan.first_example))),
    ):
        if not (place.folder / name).exists():
            write(place.folder / name)
            place.publish(name)


def _finish(place: StagedFolder) -> None:
    if not (place.folder / MANIFEST).exists():
        assemble(place.folder).save(place.folder / MANIFEST)
        place.publish(MANIFEST)
    place.end()
