"""Looks after a finished store: what is in it, what is damaged, and mending that.

Repair makes JSON files again from one another, keeps every good shard, and drops damaged ones by name unless the caller can harvest
them again. Refuses: a store whose manifest and plan are both gone, and a damaged example table without a harvest to make it again.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from sparselight.errors import RunError, StoreError
from sparselight.records import Part, Shard, SkippedExample, StoreManifest
from sparselight.store.fetch import find_damage
from sparselight.store.formats import value_bytes
from sparselight.store.manifest import assemble, rebuild_plan, rebuild_record
from sparselight.store.place import Location, Remote, StagedFolder
from sparselight.store.plan import MANIFEST, ShardRecord, StorePlan, examples_name, plan_name, shard_paths, tokens_name
from sparselight.store.reader import FolderStore, read_table
from sparselight.store.writer import finished_shard, writable_folder


class StoreInfo(Part):
    """A store in numbers."""

    location: str
    is_complete: bool
    subject: str
    subject_fingerprint: str
    corpus_fingerprint: str
    sites: dict[str, int]
    dtype: str
    n_tokens: int
    n_examples: int
    n_groups: int
    """0 for a store that is not complete."""
    n_shards: int
    n_shards_planned: int
    n_parts: int
    n_bytes: int
    """All files."""
    bytes_per_value: float
    overhead_frac: float
    """Bytes beyond those of the values, in relation to these."""
    rounding_fvu: dict[str, float]
    """Fraction of variance that the number format costs, by site."""
    skipped: list[SkippedExample]
    n_massive_tokens: int
    dropped: list[str]
    tokens_per_s: float
    """Of the harvest; 0 when unknown."""


class RepairReport(Part):
    """What a repair did."""

    location: str
    damaged: dict[str, str]
    """File to what was wrong with it."""
    rebuilt: list[str]
    """JSON files made again from the others."""
    harvested: list[str]
    """Shards that were harvested again."""
    dropped: list[str]
    """Shards that were given up."""
    n_tokens_lost: int
    removed: list[str]
    """Plans of appends that were begun and not finished; their shards are deleted."""


def damaged_files(store: FolderStore) -> dict[str, str]:
    """Every file of an open store that is missing or not what its checksum says, with what is wrong. Reads all of them."""
    with _look(store.location) as place:
        return {**_damaged_json(place, store.manifest), **_damaged_data(store)}


def verify(location: Location) -> dict[str, str]:
    """Damage by file of a store whose manifest may be damaged itself; nothing when all is well.

    Raises:
        StoreError: when there is no finished store.
    """
    with _look(location) as place:
        manifest, damaged = _find_manifest(place)
        return {**damaged, **_damaged_json(place, manifest), **_damaged_data(FolderStore(location, manifest))}


def repair(location: Location, harvest_again: Callable[[], FolderStore] | None = None) -> RepairReport:
    """Mend a store; everything that is whole is kept.

    Args:
        harvest_again: makes what is missing; without it damaged shards are dropped.

    Raises:
        StoreError: when too much is gone.
        RunError: when another process writes the store.
    """
    with writable_folder(location) as place:
        manifest, damaged = _find_manifest(place)
        rebuilt = list(damaged)
        for name, damage in _damaged_json(place, manifest).items():
            damaged[name] = damage
            rebuilt += _rebuild_json(place, manifest, name)
        if MANIFEST in damaged:
            _publish_manifest(place, manifest)
        data = _damaged_data(FolderStore(location, manifest))
        damaged.update(data)
        bad = [shard for shard in manifest.shards if {f"{shard.name}.safetensors", tokens_name(shard.name)} & data.keys()]
        tables = [name for name in data if name.startswith("examples")]
        if tables and harvest_again is None:
            raise StoreError(asked=f"repair the store {location}", why=f"{' and '.join(tables)} is damaged, and only the harvest can make it again",
                             instead="give --corpus and --subject as the harvest had them")
        removed = _remove_unfinished(place, manifest)
        if harvest_again is None:
            _drop(place, bad)
        else:
            for shard in bad:
                for path in shard_paths(Path(), shard.name):
                    place.retract(path.name)
            for name in tables:
                place.retract(name)
        place.end()
    if harvest_again is not None and (bad or tables):
        harvest_again()
    names = [shard.name for shard in bad]
    lost = 0 if harvest_again else sum(shard.n_tokens for shard in bad)
    return RepairReport(location=str(location), damaged=damaged, rebuilt=rebuilt, harvested=names if harvest_again else [],
                        dropped=[] if harvest_again else names, n_tokens_lost=lost, removed=removed)


def store_info(location: Location) -> StoreInfo:
    """What stands at a place, finished or not.

    Raises:
        StoreError: when no harvest began there.
        RunError: when its records are damaged.
    """
    n_groups = 0
    with _look(location) as place:
        sizes = place.sizes()
        if MANIFEST not in sizes and plan_name(0) not in sizes:
            raise StoreError(asked=f"describe the store {location}", why="there is none", instead="give the folder or URL of a harvest")
        is_complete = MANIFEST in sizes
        if is_complete:
            store = FolderStore.open(location)
            manifest, n_planned = store.manifest, sum(part.n_shards for part in store.parts())
            n_groups = len(store.examples().column("group").unique())
        else:
            manifest, n_planned = _unfinished(place)
    n_bytes = sum(sizes.values())
    n_values = manifest.n_tokens * sum(manifest.sites.values())
    return StoreInfo(
        location=str(location), is_complete=is_complete, subject=manifest.subject.name, subject_fingerprint=manifest.subject.fingerprint,
        corpus_fingerprint=manifest.corpus_fingerprint, sites=manifest.sites, dtype=manifest.dtype, n_tokens=manifest.n_tokens,
        n_examples=manifest.n_examples, n_groups=n_groups, n_shards=len(manifest.shards), n_shards_planned=n_planned, n_parts=max(len(manifest.parts), 1),
        n_bytes=n_bytes, bytes_per_value=n_bytes / max(n_values, 1), overhead_frac=n_bytes / max(n_values * value_bytes(manifest.dtype), 1) - 1,
        rounding_fvu=manifest.rounding_fvu(), skipped=manifest.skipped, n_massive_tokens=sum(shard.n_massive_tokens for shard in manifest.shards),
        dropped=manifest.dropped, tokens_per_s=manifest.n_tokens / manifest.harvest_s if manifest.harvest_s else 0.0,
    )


@contextmanager
def _look(location: Location) -> Iterator[StagedFolder]:
    """A store's small files, to read; a remote one's in a staging folder of its own, which nobody writes from and which is then deleted."""
    place = StagedFolder(location)
    if place.remote is not None:
        place.folder = place.folder.with_name(f"{place.folder.name}-look-{os.getpid()}")
        place.begin()
    try:
        yield place
    finally:
        place.end()


def _find_manifest(place: StagedFolder) -> tuple[StoreManifest, dict[str, str]]:
    """The manifest, made again from plans and shard records where it is damaged; and what was wrong with it."""
    sizes = place.sizes()
    if MANIFEST not in sizes and plan_name(0) not in sizes:
        raise StoreError(asked=f"look after the store {place.location}", why="there is none", instead="give the folder or URL of a finished harvest")
    try:
        return StoreManifest.load(place.folder / MANIFEST), {}
    except RunError as err:
        damage = err.why
    try:
        return assemble(place.folder), {MANIFEST: damage}
    except (RunError, OSError):
        why = "its manifest is missing or damaged, and not all shards are there" if MANIFEST in sizes else "its harvest did not finish"
        raise StoreError(asked=f"look after the store {place.location}", why=why, instead="run the same harvest again: it makes what is missing") from None


def _damaged_json(place: StagedFolder, manifest: StoreManifest) -> dict[str, str]:
    """Plans and shard records that cannot be read, or say something else than the manifest."""
    damaged = {}
    for part in range(max(len(manifest.parts), 1)):
        try:
            StorePlan.load(place.folder / plan_name(part))
        except RunError as err:
            damaged[plan_name(part)] = err.why
    for shard in manifest.shards:
        name = shard_paths(Path(), shard.name).record.name
        try:
            if ShardRecord.load(place.folder / name).shard != shard:
                damaged[name] = "it does not say what the manifest says"
        except RunError as err:
            damaged[name] = err.why
    return damaged


def _damaged_data(store: FolderStore) -> dict[str, str]:
    """Shards, token tables and example tables that are not what their checksums say."""
    manifest = store.manifest
    expected = {f"{shard.name}.safetensors": shard.sha256 for shard in manifest.shards}
    expected |= {tokens_name(shard.name): shard.tokens_sha256 for shard in manifest.shards}
    expected |= {part.examples: part.examples_sha256 for part in store.parts()}
    found = {name: _find_damage(store, name, sha256) for name, sha256 in expected.items()}
    return {name: damage for name, damage in found.items() if damage}


def _find_damage(store: FolderStore, name: str, sha256: str) -> str:
    if store.remote is not None:
        return _remote_damage(store.remote, name, sha256)
    if sha256:
        return find_damage(store.folder / name, sha256, again=True)
    try:  # the example table of version 1 has checksums of its own pages only
        read_table(store.folder / name)
    except (OSError, pa.ArrowException) as err:
        return str(err)
    return ""


def _remote_damage(remote: Remote, name: str, sha256: str) -> str:
    found = remote.sha256(name)
    if found is None:
        return "it is missing"
    return "" if found == sha256 else f"its SHA-256 is {found}, expected {sha256}"


def _rebuild_json(place: StagedFolder, manifest: StoreManifest, name: str) -> list[str]:
    """Make a plan or shard record again; a plan that the manifest does not imply is left out: the next harvest writes it."""
    shard = next((shard for shard in manifest.shards if f"{shard.name}.json" == name), None)
    if shard is not None:
        rebuild_record(manifest, shard).save(place.folder / name)
    else:
        part = next(part for part in range(max(len(manifest.parts), 1)) if plan_name(part) == name)
        plan = rebuild_plan(manifest, part)
        if plan is None:
            place.retract(name)
            return []
        plan.save(place.folder / name)
    place.publish(name)
    return [name]


def _drop(place: StagedFolder, bad: list[Shard]) -> None:
    """Delete damaged shards and say so in their records, then in the manifest."""
    for shard in bad:
        paths = shard_paths(place.folder, shard.name)
        ShardRecord(shard=shard, harvest_s=0.0, dropped=True).save(paths.record)
        place.publish(paths.record.name)
    if bad:
        _publish_manifest(place, assemble(place.folder))
    for shard in bad:  # last: until then the old manifest names them
        paths = shard_paths(place.folder, shard.name)
        place.retract(paths.activations.name)
        place.retract(paths.tokens.name)


def _remove_unfinished(place: StagedFolder, manifest: StoreManifest) -> list[str]:
    """Delete what an append left that was never finished."""
    removed, part = [], max(len(manifest.parts), 1)
    while (place.folder / plan_name(part)).exists():
        try:
            shards = StorePlan.load(place.folder / plan_name(part)).shards
        except RunError:
            shards = []
        for path in (path for shard in shards for path in shard_paths(Path(), shard.name)):
            place.retract(path.name)
        place.retract(examples_name(part))
        place.retract(plan_name(part))
        removed.append(plan_name(part))
        part += 1
    return removed


def _publish_manifest(place: StagedFolder, manifest: StoreManifest) -> None:
    manifest.save(place.folder / MANIFEST)
    place.publish(MANIFEST)


def _unfinished(place: StagedFolder) -> tuple[StoreManifest, int]:
    plan = StorePlan.load(place.folder / plan_name(0))
    records = [record for shard in plan.shards if (record := finished_shard(place, shard))]
    shards = [record.shard for record in records]
    return StoreManifest(
        subject=plan.subject, corpus_fingerprint=plan.corpus_fingerprint, sites=plan.sites, dtype=plan.dtype, shards=shards,
        n_tokens=sum(shard.n_tokens for shard in shards), n_examples=sum(shard.n_examples for shard in shards),
        harvest_s=sum(record.harvest_s for record in records),
    ), len(plan.shards)
