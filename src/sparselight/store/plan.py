"""What a store will hold, before it holds it: its identity, its shards, and the names of its files.

A store is a folder: `plan.json` (written first), then for each shard `shard-NNNNN.safetensors`, `tokens-NNNNN.parquet` and
`shard-NNNNN.json` (written after both: the shard is done), `examples.parquet`, and `manifest.json` (written last: the store is complete).
What was appended is a further part with a plan and an example table of its own: `plan-00001.json`, `examples-00001.parquet`. Refuses: a
folder whose plan says that it belongs to another subject, corpus, site or number format.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

from sparselight.errors import RunError, StoreError
from sparselight.protocols import Example, Subject
from sparselight.records import CheckedRecord, Part, Shard, StoreManifest, SubjectRef
from sparselight.store.config import HarvestConfig

TOKEN_COLUMNS: tuple[str, ...] = ("example", "position", "token_id", "char_start", "char_end")
MANIFEST = "manifest.json"


class PlannedShard(Part):
    """Consecutive examples whose tokens share one pair of files."""

    name: str
    """`shard-00000`, ..."""
    first_example: int
    """Counted in its part."""
    n_examples: int
    n_tokens: int


class StorePlan(CheckedRecord):
    """The identity of one part of a store and its division into shards; the same inputs always give the same plan."""

    KIND: ClassVar[str] = "store_plan"
    VERSION: ClassVar[int] = 2
    subject: SubjectRef
    corpus_fingerprint: str
    sites: dict[str, int]
    dtype: str
    shard_tokens: int
    n_examples: int
    shards: list[PlannedShard]
    part: int = 0
    first_example: int = 0
    """Examples in the parts before."""

    @property
    def n_tokens(self) -> int:
        return sum(shard.n_tokens for shard in self.shards)


class ShardRecord(CheckedRecord):
    """A finished shard."""

    KIND: ClassVar[str] = "store_shard"
    VERSION: ClassVar[int] = 2
    shard: Shard
    harvest_s: float
    """Seconds in the subject, for this shard."""
    dropped: bool = False
    """It was damaged and a repair gave it up: there are no files of it."""


class ShardPaths(NamedTuple):
    """The files of one shard."""

    activations: Path
    tokens: Path
    record: Path


def shard_paths(folder: Path, name: str) -> ShardPaths:
    return ShardPaths(folder / f"{name}.safetensors", folder / tokens_name(name), folder / f"{name}.json")


def tokens_name(shard: str) -> str:
    return f"{shard.replace('shard', 'tokens')}.parquet"


def plan_name(part: int) -> str:
    return "plan.json" if part == 0 else f"plan-{part:05}.json"


def examples_name(part: int) -> str:
    return "examples.parquet" if part == 0 else f"examples-{part:05}.parquet"


def make_plan(
    subject: Subject, examples: Sequence[Example], counts: Sequence[int], sites: Sequence[str], config: HarvestConfig, corpus_fingerprint: str,
    part: int = 0, first_example: int = 0, first_shard: int = 0,
) -> StorePlan:
    """Divide the examples into shards of at least `config.shard_tokens` tokens, whole examples in corpus order.

    Args:
        counts: tokens of each example.
        part, first_example, first_shard: where an appended part begins.

    Raises:
        StoreError: when there is no token or two examples have one id.
        SubjectError: when the subject lacks a site.
    """
    check_examples(examples, counts)
    return StorePlan(
        subject=subject.ref(), corpus_fingerprint=corpus_fingerprint, sites={site: subject.d_site(site) for site in sites}, dtype=config.dtype,
        shard_tokens=config.shard_tokens, n_examples=len(examples), part=part, first_example=first_example,
        shards=divide(counts, config.shard_tokens, first_shard),
    )


def divide(counts: Sequence[int], shard_tokens: int, first_shard: int = 0) -> list[PlannedShard]:
    """Consecutive examples into shards; one is closed after the example with which it reaches `shard_tokens`."""
    shards: list[PlannedShard] = []
    first = size = 0
    for number, count in enumerate(counts):
        size += count
        if size >= shard_tokens or (number == len(counts) - 1 and size):
            shards.append(PlannedShard(name=f"shard-{first_shard + len(shards):05}", first_example=first, n_examples=number + 1 - first, n_tokens=size))
            first, size = number + 1, 0
    if first < len(counts):  # trailing examples without tokens have no shard of their own
        shards[-1] = shards[-1].model_copy(update={"n_examples": len(counts) - shards[-1].first_example})
    return shards


def check_examples(examples: Sequence[Example], counts: Sequence[int]) -> None:
    """Refuse examples without a token, and two with one id."""
    asked = f"harvest activations of {len(examples)} examples"
    if not sum(counts):
        raise StoreError(asked=asked, why="they hold no token", instead="give examples with text in them")
    twice = first_twice(example.id for example in examples)
    if twice is not None:
        raise StoreError(asked=asked, why=f"two of them have the id {twice!r}", instead="give every example an id of its own")


def first_twice(ids: Iterable[str]) -> str | None:
    """The first id that comes a second time."""
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            return name
        seen.add(name)
    return None


def check_folder(folder: Path, plan: StorePlan) -> None:
    """Refuse a folder that holds a store, whole or partial, which is not the planned one.

    Raises:
        StoreError: saying what differs.
    """
    asked, instead = f"harvest into {folder}", f"choose another folder with --out, or delete {folder}"
    path = folder / plan_name(plan.part)
    if path.exists():
        try:
            found = StorePlan.load(path)
        except RunError as err:
            raise StoreError(asked=asked, why=err.why, instead=f"run `sparselight store repair {folder}` first, or {instead}") from None
        differs = differences(found, plan)
        if differs and plan.part:
            raise StoreError(asked=f"append to the store {folder}", why="another append was begun there and not finished",
                             instead=f"run that one again, or drop it with `sparselight store repair {folder}`")
    elif plan.part == 0 and (folder / MANIFEST).exists():
        differs = differences(StoreManifest.load(folder / MANIFEST), plan)
    else:
        differs = "of unknown origin (its plan.json is missing)" if plan.part == 0 and any(folder.glob("shard-*")) else ""
    if differs:
        raise StoreError(asked=asked, why=f"it holds a store {differs}", instead=instead)


def differences(found: StorePlan | StoreManifest, plan: StorePlan) -> str:
    """In what a store, or a plan of one, is not the planned store; nothing if it is."""
    differs = subject_differences(found, plan)
    fingerprint = found.parts[0].corpus_fingerprint if isinstance(found, StoreManifest) and found.parts else found.corpus_fingerprint
    if fingerprint != plan.corpus_fingerprint:
        differs.append(f"from another corpus ({fingerprint[:12]}, not {plan.corpus_fingerprint[:12]})")
    if isinstance(found, StorePlan) and found.shard_tokens != plan.shard_tokens:
        differs.append(f"with harvest.shard_tokens = {found.shard_tokens} (not {plan.shard_tokens})")
    elif not differs and not _same_shards(found, plan):
        differs.append("from other examples under the same corpus fingerprint, or with another harvest.shard_tokens")
    return ", ".join(differs)


def subject_differences(found: StorePlan | StoreManifest, plan: StorePlan | StoreManifest) -> list[str]:
    """Differences that keep two stores from ever becoming one: subject, sites, number format."""
    differs = []
    if found.subject.fingerprint != plan.subject.fingerprint:
        differs.append(f"from another subject or revision ({_brief(found.subject)}, not {_brief(plan.subject)})")
    if found.subject.token_policy != plan.subject.token_policy:
        differs.append("with another token policy")
    if found.sites != plan.sites:
        differs.append(f"at {_join(found.sites)} (not {_join(plan.sites)})")
    if found.dtype != plan.dtype:
        differs.append(f"in {found.dtype} (not {plan.dtype})")
    return differs


def _same_shards(found: StorePlan | StoreManifest, plan: StorePlan) -> bool:
    if isinstance(found, StorePlan):
        return found.shards == plan.shards
    n_own = found.parts[0].n_shards if found.parts else len(found.shards)
    sizes = {shard.name: (shard.n_examples, shard.planned_tokens) for shard in found.shards[:n_own]}
    planned = {shard.name: (shard.n_examples, shard.n_tokens) for shard in plan.shards}
    return n_own == len(planned) and all(planned.get(name) == size for name, size in sizes.items() if name in planned)


def _brief(subject: SubjectRef) -> str:
    return f"{subject.name} {subject.fingerprint[:12]}"


def _join(sites: dict[str, int]) -> str:
    return " and ".join(f"{site} with {width} dimensions" for site, width in sites.items())
