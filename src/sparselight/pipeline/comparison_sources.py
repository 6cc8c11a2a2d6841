"""The evaluations that a comparison is made of: where they lie, what they are called, and whether they were measured alike.

Takes evaluation files, evaluation folders, run folders, SAE folders and folders of several evaluated SAEs. Owns the names that sources get and
the list of what must be equal: subject, site, tokens, seed, and the settings of each family. Refuses: what holds no evaluation, with the command
that makes one, and evaluations that have no measurement in common.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from sparselight.errors import RunError
from sparselight.evaluate.findings import Cell
from sparselight.evaluate.finished import RESAMPLED
from sparselight.evaluate.statistics import Resampled
from sparselight.records import EvalRecord, EvaluatedCoder, RunRecord

FILE = "evaluation.json"
PLACES = (FILE, f"evaluation/{FILE}")
STEPS = {"sae", "best", "evaluation"}  # folder names that say nothing of what is in them


@dataclass(frozen=True)
class Source:
    """One evaluation."""

    path: Path
    record: EvalRecord
    home: Path
    """What it is called after: the run, the SAE, or the folder that it stands in."""
    only: str | None = None
    """The SAE folder that was asked for, where it is one of several coders of the evaluation: the other SAEs in it are left out."""
    name: str = ""

    @cached_property
    def coders(self) -> dict[str, EvaluatedCoder]:
        """All coders, those of the record first: older records and reference points are known by their rows only."""
        found = {row.coder: EvaluatedCoder(is_control=row.is_control) for row in self.record.rows}
        known = {name: coder for name, coder in self.record.coders.items() if name in found}
        coders = {**known, **{name: coder for name, coder in found.items() if name not in known}}
        if self.only is None:
            return coders
        return {name: coder for name, coder in coders.items() if coder.is_control or (coder.source is not None and _same(coder.source, self.only))}

    @cached_property
    def resampled(self) -> dict[tuple[str, Cell], Resampled]:
        """(family, cell) to the array over resamples; empty where the evaluation kept none."""
        found = {}
        for name, family in self.record.families.items():
            path = self.path.parent / (family.folder or "") / RESAMPLED
            if family.folder is not None and path.is_file():
                table = _read(path)
                lists = table.column("resampled").combine_chunks()
                values, offsets = lists.values.to_numpy(), lists.offsets.to_numpy()
                for row, begin, end in zip(table.drop_columns("resampled").to_pylist(), offsets[:-1], offsets[1:], strict=True):
                    found[name, Cell(**row)] = values[begin:end]
        return found

    def table(self, family: str, name: str) -> pa.Table | None:
        """A table of details, None where there is none."""
        for listed in self.record.families[family].tables if family in self.record.families else ():
            path = self.path.parent / listed
            if path.name in (f"{family}.{name}.parquet", f"{name}.parquet") and path.is_file():
                return _read(path)
        return None


def _read(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as err:
        raise RunError(asked=f"read {path}", why=f"it is damaged ({err})",
                       instead="delete that file and evaluate again into the same folder: only what is missing is done") from None


def _same(first: str, second: str) -> bool:
    return Path(first).resolve() == Path(second).resolve()


def open_sources(places: Sequence[str]) -> list[Source]:
    """All evaluations that are named, each once, with names that tell them apart.

    Raises:
        RunError: when a place holds none, or a file is damaged or something else.
    """
    found: dict[tuple[Path, str | None], Source] = {}
    for place in places:
        for source in _open(Path(place)):
            found.setdefault((source.path.resolve(), source.only), source)
    sources = list(found.values())
    return [replace(source, name=name) for source, name in zip(sources, _names(sources), strict=True)]


def _open(place: Path) -> list[Source]:
    if place.is_file():
        return [_load(place)]
    if (place / "run.json").is_file():
        stages = RunRecord.load(place / "run.json").stages
        files = [place / part / FILE for part in (stages.get("evaluate", ""), "", "evaluation") if (place / part / FILE).is_file()]
        return [replace(_load(files[-1]), home=place)] if files else _missing(place)
    direct = [place / name for name in PLACES if (place / name).is_file()]
    if direct:
        return [_load(direct[0])]
    if (place / "cfg.json").is_file():  # an SAE: evaluated beside its folder
        return [_beside(place)]
    below = sorted({path for depth in ("*", "*/*") for name in PLACES for path in place.glob(f"{depth}/{name}")})
    return [_load(path) for path in below] or _missing(place)


def _load(path: Path) -> Source:
    return Source(path, EvalRecord.load(path), path)


def _beside(sae: Path) -> Source:
    for folder in (sae.parent, sae.parent.parent):
        for name in PLACES:
            if (folder / name).is_file():
                source = replace(_load(folder / name), home=sae, only=str(sae))
                if any(not coder.is_control for coder in source.coders.values()):
                    return source
    return _missing(sae)


def _missing(place: Path) -> NoReturn:
    why = f"there is no {FILE} in it" if place.exists() else "there is no such file or folder"
    instead = f"run `sparselight evaluate {place}` first, and give the folder that it writes" if place.exists() else "give evaluations, runs or evaluated SAEs"
    raise RunError(asked=f"compare {place}", why=why, instead=instead)


def _names(sources: Sequence[Source]) -> list[str]:
    """The shortest endings of the paths that differ, without the folder names that say nothing."""
    parts = [[part for part in source.home.resolve().parts if part not in STEPS and not part.endswith(".json")] for source in sources]
    parts = [list(dict.fromkeys(one)) or ["evaluation"] for one in parts]
    files = [path.path.name for path in sources]
    for length in range(1, 1 + max(map(len, parts), default=1)):
        names = ["/".join(one[-length:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{name}/{file}" if names.count(name) > 1 else name for name, file in zip(names, files, strict=True)]


@dataclass
class Check:
    """What two or more evaluations have in common, and what not."""

    mismatches: list[str] = field(default_factory=list)
    unpaired: list[str] = field(default_factory=list)
    """What forbids paired differences and nothing else."""


def check_alike(sources: Sequence[Source]) -> Check:
    """Compare what must be equal.

    Raises:
        RunError: when no metric was measured by two of them.
    """
    check = Check()
    if len(sources) < 2:
        return check
    _check_common(sources)
    for what, value in ASPECTS.items():
        _differ(check.mismatches, what, {source.name: value(source.record) for source in sources})
    for name in dict.fromkeys(name for source in sources for name in source.record.n_tokens):
        having = [source for source in sources if name in source.record.n_tokens]
        for what, aspect in _data_aspects(name, having).items():
            _differ(check.mismatches, what, {source.name: aspect(source.record) for source in having})
    for name in dict.fromkeys(name for source in sources for name in source.record.families):
        _families_differ(check.mismatches, name, [source for source in sources if name in source.record.families])
    _differ(check.unpaired, "number of resamples (evaluate.n_bootstrap)", {source.name: source.record.n_bootstrap or "not recorded" for source in sources})
    return check


ASPECTS: Mapping[str, Callable[[EvalRecord], Any]] = {
    "subject": lambda record: "not recorded" if record.subject is None else f"{record.subject.name}, {record.subject.fingerprint[:12]}",
    "site": lambda record: record.site or "not recorded",
    "seed of the tokens and resamples (evaluate.seed)": lambda record: record.seed if record.subject is not None else "not recorded",
}


def _data_aspects(name: str, sources: Sequence[Source]) -> dict[str, Callable[[EvalRecord], Any]]:
    """What must be equal of one dataset. Rows of one store are known by their ids, whether or not texts and labels were given too."""

    def part(attribute: str) -> Callable[[EvalRecord], Any]:
        def value(record: EvalRecord) -> Any:
            if name not in record.datasets:
                return "not recorded"
            found = getattr(record.datasets[name], attribute)
            return "none" if found is None else found[:12] if isinstance(found, str) else found
        return value

    aspects: dict[str, Callable[[EvalRecord], Any]] = {f"number of held-out tokens of {name} (evaluate.n_tokens)": lambda record: record.n_tokens[name]}
    sides = {"held_out": (f"held-out examples of {name}", f"store of the held-out activations of {name}"),
             "fit": (f"examples of {name} that probes are fitted on", f"store of the fitted activations of {name}")}
    for side, (examples, store) in sides.items():
        aspects[store] = part(f"{side}_store")
        known = {(getattr(data, f"{side}_store", None), getattr(data, f"{side}_ids", "")) for data in (source.record.datasets.get(name) for source in sources)}
        same_store = len({store for store, _ in known}) == 1 and all(store and ids for store, ids in known)
        aspects[examples] = part(f"{side}_ids") if same_store else part(side)
    return aspects


def _differ(found: list[str], what: str, values: Mapping[str, Any]) -> None:
    """Add a line when the values are not all equal, or are not recorded and so cannot be told to be."""
    if len({str(value) for value in values.values()}) > 1 or (len(values) > 1 and "not recorded" in values.values()):
        grouped: dict[str, list[str]] = {}
        for name, value in values.items():
            grouped.setdefault(str(value), []).append(name)
        found.append(f"{what}: " + "; ".join(f"{value} ({', '.join(names)})" for value, names in grouped.items()))


def _families_differ(found: list[str], family: str, sources: Sequence[Source]) -> None:
    """Settings of one family that are not equal, each by its dotted name."""
    measured = [source for source in sources if not source.record.families[family].not_measured]
    flat = {source.name: dict(_flat(source.record.families[family].config, f"evaluate.{family}")) for source in measured}
    for key in dict.fromkeys(key for one in flat.values() for key in one):
        _differ(found, f"setting {key}", {name: one.get(key, "not recorded") for name, one in flat.items()})


def _flat(config: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}.{key}")
        else:
            yield f"{prefix}.{key}", value


def _check_common(sources: Sequence[Source]) -> None:
    measured = [{(row.metric, row.dataset, row.setting) for row in source.record.rows} for source in sources]
    for source, own in zip(sources, measured, strict=True):
        others = set().union(*(other for other in measured if other is not own))
        if not own & others:
            raise RunError(asked=f"compare {source.path}", why="none of its metrics was measured on a dataset of the same name by any of the others",
                           instead="evaluate all with the same suite and the same datasets")
