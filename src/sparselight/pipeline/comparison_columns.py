"""Which evaluated coders become one column: the same weights measured twice, and seeds of one SAE; and what columns are called.

Owns the two rules. The same weights are one column whose values come from the first evaluation that has them. SAEs are seeds of one when their
records are equal but for `config.seed` (settings that change no result aside). An SAE without a record is never grouped. Refuses nothing.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparselight.errors import RunError
from sparselight.pipeline.comparison_sources import Source
from sparselight.records import EvalRow, EvaluatedCoder, SaeRecord
from sparselight.report.compare_data import Column, Member
from sparselight.sae.disk import RECORD
from sparselight.train.config import CHANGES_NO_RESULT

SPARSITY = {"k", "objective.l1", "objective.l0", "objective.l0_target"}
"""Settings that say how sparse an SAE is: columns of one series differ in these alone."""
NO_RESULT = CHANGES_NO_RESULT | {"device"}
FIXED = {"architecture", "role", "site", "store_fingerprint", "n_latents", "n_tokens_seen", "parents", "target_site"}
UNSAID = NO_RESULT | {"seed", "architecture", "n_latents", "expansion"}  # what kinds leave out, or say in another way
MAX_SETTINGS = 6
SEED_ENDING = re.compile(r"[\s_\-/.]*(seed|s)?[\s_\-/.=]*\d*$")
RowKey = tuple[str, str, str]  # metric, dataset, setting


@dataclass(frozen=True)
class Trained:
    """One set of weights (or a control without any), and where it was measured."""

    places: list[tuple[Source, str]]
    """Evaluation and the coder's name there."""
    info: EvaluatedCoder
    record: SaeRecord | None

    @property
    def coder(self) -> str:
        return self.places[0][1]

    @property
    def seed(self) -> int | None:
        seed = self.record.config.get("seed") if self.record is not None else None
        return seed if isinstance(seed, int) else None

    def rows(self) -> dict[RowKey, tuple[Source, EvalRow]]:
        """Its values, each from the first evaluation that has it."""
        found: dict[RowKey, tuple[Source, EvalRow]] = {}
        for source, name in self.places:
            for row in source.record.rows:
                if row.coder == name:
                    found.setdefault((row.metric, row.dataset, row.setting), (source, row))
        return found

    def undefined(self) -> dict[RowKey, tuple[str, str]]:
        """Family and reason of what it lacks."""
        return {(item.metric, item.dataset, item.setting): (item.family, item.why)
                for source, name in reversed(self.places) for item in source.record.undefined if item.coder == name and item.reference is None}


@dataclass(frozen=True)
class Built:
    """A column with what stands behind it, a part a seed."""

    column: Column
    parts: list[Trained]


def build_columns(sources: Sequence[Source]) -> list[Built]:
    """All columns: SAEs in the order in which they were given, then controls."""
    trained = _merged([_trained(source, name, info) for source in sources for name, info in source.coders.items()])
    saes, controls = ([one for one in trained if one.info.is_control is wanted] for wanted in (False, True))
    names = _sae_names(saes, len(sources))
    kinds = _kinds(saes)
    groups = _seed_groups(saes)
    found: list[Built] = []
    for indices in groups:
        parts = [saes[index] for index in indices]
        name = names[indices[0]] if len(parts) == 1 else _group_name([names[index] for index in indices])
        members = [_member(part) for part in parts]
        found.append(Built(Column(name=name, is_control=False, members=members, series=name, kind=kinds[indices[0]]), parts))
    found += [Built(Column(name=name, is_control=True, members=[_member(part)], series=name, kind="control"), [part])
              for name, part in zip(_control_names(controls), controls, strict=True)]
    return _with_series(_unique(found))


def _trained(source: Source, name: str, info: EvaluatedCoder) -> Trained:
    return Trained([(source, name)], info, _sae_record(source, info))


def _sae_record(source: Source, info: EvaluatedCoder) -> SaeRecord | None:
    """What training left beside the weights, where the folder is still there."""
    if info.is_control or info.source is None:
        return None
    for folder in (Path(info.source), source.path.parent / info.source):
        if (folder / RECORD).is_file():
            try:
                record = SaeRecord.load(folder / RECORD)
            except RunError:
                continue
            if info.n_latents in (None, record.n_latents):
                return record
    return None


def _merged(trained: Sequence[Trained]) -> list[Trained]:
    """The same weights stand together; controls without weights do when they have one name and no two values that differ."""
    found: list[Trained] = []
    for one in trained:
        twin = next((other for other in found if _is_same(one, other)), None)
        if twin is None:
            found.append(one)
        else:
            twin.places.extend(one.places)
    return found


def _is_same(one: Trained, other: Trained) -> bool:
    if one.info.is_control != other.info.is_control or any(source is place for source, _ in one.places for place, _ in other.places):
        return False
    if one.info.weights is not None or not one.info.is_control:
        same_name = one.coder == other.coder or not one.info.is_control
        return one.info.weights is not None and one.info.weights == other.info.weights and same_name
    own, others = one.rows(), other.rows()
    shared = own.keys() & others.keys()
    return one.coder == other.coder and bool(shared) and all(own[key][1].value == others[key][1].value for key in shared)


def _member(part: Trained) -> Member:
    source, name = part.places[0]
    return Member(source=source.name, coder=name, seed=part.seed, sae=part.info.source)


def _sae_names(saes: Sequence[Trained], n_sources: int) -> list[str]:
    own = [one.coder for one in saes]
    if n_sources == 1 or len(set(own)) == len(own):
        return own
    sources = [one.places[0][0].name for one in saes]
    return [source if sources.count(source) == 1 else f"{source}/{name}" for source, name in zip(sources, own, strict=True)]


def _control_names(controls: Sequence[Trained]) -> list[str]:
    own = [one.coder for one in controls]
    return [name if own.count(name) == 1 else f"{name} ({one.places[0][0].name})" for name, one in zip(own, controls, strict=True)]


def _seed_groups(saes: Sequence[Trained]) -> list[list[int]]:
    groups: dict[str, list[int]] = {}
    for index, one in enumerate(saes):
        key = f"alone {index}" if one.seed is None else _identity(one, {"seed"})
        groups.setdefault(key, []).append(index)
    found = []
    for indices in groups.values():
        seeds = [saes[index].seed for index in indices]
        found += [indices] if len(set(seeds)) == len(seeds) else [[index] for index in indices]
    return sorted(found)


def _identity(one: Trained, without: set[str]) -> str:
    """All that decides how an SAE comes out, but for some settings."""
    record = one.record
    assert record is not None
    settings = {name: value for name, value in flat(record.config) if name not in without and name not in NO_RESULT}
    fixed = record.model_dump(mode="json", include=FIXED)
    return json.dumps([fixed, record.subject.fingerprint, settings], sort_keys=True)


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by dotted names."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _group_name(names: Sequence[str]) -> str:
    """What the names have in common at their beginning or end, with the number of seeds."""
    first = names[0]
    heads = [first[:length] for length in range(len(first), 0, -1) if all(name.startswith(first[:length]) for name in names)]
    tails = [first[-length:] for length in range(len(first), 0, -1) if all(name.endswith(first[-length:]) for name in names)]
    head = SEED_ENDING.sub("", heads[0]) if heads else ""
    tail = tails[0].strip(" _-/.") if tails else ""
    return f"{max(head, tail, key=len) or first} ({len(names)} seeds)"


def _kinds(saes: Sequence[Trained]) -> list[str]:
    """Architecture, width, and the settings in which these SAEs differ, the first few of them."""
    settings = [{} if one.record is None else {name: value for name, value in flat(one.record.config) if name not in UNSAID} for one in saes]
    names = dict.fromkeys(name for one in settings for name in one)
    different = [name for name in names if len({str(one[name]) for one in settings if name in one}) > 1]
    found = []
    for one, own in zip(saes, settings, strict=True):
        said = [f"{name} {own[name]:g}" if isinstance(own[name], float) else f"{name} {own[name]}" for name in different if own.get(name) is not None]
        more = [f"and {len(said) - MAX_SETTINGS} more settings"] if len(said) > MAX_SETTINGS else []
        words = [one.record.architecture if one.record is not None else "", _width(one), *said[:MAX_SETTINGS], *more]
        found.append(", ".join(word for word in words if word))
    return found


def _width(one: Trained) -> str:
    """Of a stitched SAE the latents of its parts."""
    if one.record is not None and len(one.record.part_sizes) > 1:
        return f"{' + '.join(f'{size:,}' for size in one.record.part_sizes)} latents"
    return "" if one.info.n_latents is None else f"{one.info.n_latents:,} latents"


def _unique(columns: Sequence[Built]) -> list[Built]:
    """Names that came up twice get numbers."""
    seen: dict[str, int] = {}
    found = []
    for one in columns:
        name = one.column.name
        seen[name] = seen.get(name, 0) + 1
        found.append(one if seen[name] == 1 else Built(one.column.model_copy(update={"name": f"{name} ({seen[name]})"}), one.parts))
    return found


def _with_series(columns: Sequence[Built]) -> list[Built]:
    """SAEs that differ in sparsity alone get the name of the first of them as series."""
    first: dict[str, str] = {}
    found = []
    for one in columns:
        part = one.parts[0]
        known = part.record is not None and part.seed is not None
        series = first.setdefault(_identity(part, {"seed", *SPARSITY}), one.column.name) if known else one.column.name
        found.append(Built(one.column.model_copy(update={"series": series}), one.parts))
    return found
