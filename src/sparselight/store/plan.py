"""What a store will hold, before it holds it: its identity, its shards, and the names of its files.

A store is a folder: `plan.json` (written first), then for each shard `shard-NNNNN.safetensors` (one tensor [token, d_in] a site),
`tokens-NNNNN.parquet` and `shard-NNNNN.json` (written after both: the shard is done), `examples.parquet`, and `manifest.json` (written
last: the store is complete). Refuses: a folder whose plan says that it belongs to another subject, corpus, site or number format.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch

from sparselight.errors import RunError, StoreError
from sparselight.protocols import Example, Subject
from sparselight.records import Part, Record, Shard, StoreManifest, SubjectRef
from sparselight.store.config import HarvestConfig

DTYPES: dict[str, torch.dtype] = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
TOKEN_COLUMNS: tuple[str, ...] = ("example", "position", "token_id", "char_start", "char_end")


class PlannedShard(Part):
    """Consecutive examples whose tokens share one pair of files."""

    name: str
    """`shard-00000`, ..."""
    first_example: int
    n_examples: int
    n_tokens: int


class StorePlan(Record):
    """The identity of a store and its division into shards; the same inputs always give the same plan."""

    KIND: ClassVar[str] = "store_plan"
    subject: SubjectRef
    corpus_fingerprint: str
    sites: dict[str, int]
    dtype: str
    shard_tokens: int
    n_examples: int
    shards: list[PlannedShard]

    @property
    def n_tokens(self) -> int:
        return sum(shard.n_tokens for shard in self.shards)


class ShardRecord(Record):
    """A finished shard."""

    KIND: ClassVar[str] = "store_shard"
    shard: Shard
    harvest_s: float
    """Seconds in the subject, for this shard."""


class ShardPaths(NamedTuple):
    """The files of one shard."""

    activations: Path
    tokens: Path
    record: Path


def shard_paths(folder: Path, name: str) -> ShardPaths:
    return ShardPaths(folder / f"{name}.safetensors", folder / f"{name.replace('shard', 'tokens')}.parquet", folder / f"{name}.json")


def make_plan(
    subject: Subject, examples: Sequence[Example], counts: Sequence[int], sites: Sequence[str], config: HarvestConfig, corpus_fingerprint: str
) -> StorePlan:
    """Divide the examples into shards of at least `config.shard_tokens` tokens, whole examples in corpus order.

    Args:
        counts: tokens of each example.

    Raises:
        StoreError: when there is no token or two examples have one id.
        SubjectError: when the subject lacks a site.
    """
    _check_examples(examples, counts)
    shards: list[PlannedShard] = []
    first = size = 0
    for number, count in enumerate(counts):
        size += count
        if size >= config.shard_tokens or (number == len(counts) - 1 and size):
            shards.append(PlannedShard(name=f"shard-{len(shards):05}", first_example=first, n_examples=number + 1 - first, n_tokens=size))
            first, size = number + 1, 0
    if first < len(counts):  # trailing examples without tokens have no shard of their own
        shards[-1] = shards[-1].model_copy(update={"n_examples": len(counts) - shards[-1].first_example})
    return StorePlan(
        subject=subject.ref(), corpus_fingerprint=corpus_fingerprint, sites={site: subject.d_site(site) for site in sites}, dtype=config.dtype,
        shard_tokens=config.shard_tokens, n_examples=len(examples), shards=shards,
    )


def _check_examples(examples: Sequence[Example], counts: Sequence[int]) -> None:
    asked = f"harvest activations of {len(examples)} examples"
    if not sum(counts):
        raise StoreError(asked=asked, why="they hold no token", instead="give examples with text in them")
    seen: set[str] = set()
    for example in examples:
        if example.id in seen:
            raise StoreError(asked=asked, why=f"two of them have the id {example.id!r}", instead="give every example an id of its own")
        seen.add(example.id)


def check_folder(folder: Path, plan: StorePlan) -> None:
    """Refuse a folder that holds a store, whole or partial, which is not the planned one.

    Raises:
        StoreError: saying what differs.
    """
    asked, instead = f"harvest into {folder}", f"choose another folder with --out, or delete {folder}"
    if (folder / "plan.json").exists():
        try:
            found = StorePlan.load(folder / "plan.json")
        except RunError as err:
            raise StoreError(asked=asked, why=err.why, instead=instead) from None
        differs = _differences(found, plan)
    elif (folder / "manifest.json").exists():
        differs = _differences(StoreManifest.load(folder / "manifest.json"), plan)
    else:
        differs = "of unknown origin (its plan.json is missing)" if any(folder.glob("shard-*")) else ""
    if differs:
        raise StoreError(asked=asked, why=f"it holds a store {differs}", instead=instead)


def _differences(found: StorePlan | StoreManifest, plan: StorePlan) -> str:
    differs = []
    if found.subject.fingerprint != plan.subject.fingerprint:
        differs.append(f"from another subject or revision ({_brief(found.subject)}, not {_brief(plan.subject)})")
    if found.corpus_fingerprint != plan.corpus_fingerprint:
        differs.append(f"from another corpus ({found.corpus_fingerprint[:12]}, not {plan.corpus_fingerprint[:12]})")
    if found.sites != plan.sites:
        differs.append(f"at {_join(found.sites)} (not {_join(plan.sites)})")
    if found.dtype != plan.dtype:
        differs.append(f"in {found.dtype} (not {plan.dtype})")
    if isinstance(found, StorePlan) and found.shard_tokens != plan.shard_tokens:
        differs.append(f"with harvest.shard_tokens = {found.shard_tokens} (not {plan.shard_tokens})")
    elif not differs and [_size(shard) for shard in found.shards] != [_size(shard) for shard in plan.shards]:
        differs.append("from other examples under the same corpus fingerprint, or with another harvest.shard_tokens")
    return ", ".join(differs)


def _brief(subject: SubjectRef) -> str:
    return f"{subject.name} {subject.fingerprint[:12]}"


def _size(shard: Shard | PlannedShard) -> tuple[int, int]:
    return shard.n_examples, shard.n_tokens


def _join(sites: dict[str, int]) -> str:
    return " and ".join(f"{site} with {width} dimensions" for site, width in sites.items())
