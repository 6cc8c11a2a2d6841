"""A finished metric family on disk: what it found, under a name that says of what, so that an evaluation run again does only what is missing.

    families/NAME-HASH/family.json        values without resamples, what is not defined, notes, cost; written last
    families/NAME-HASH/resampled.parquet  coder, metric, dataset, setting, resampled (entry 0 is the value, the others its bootstrap draws)
    families/NAME-HASH/TABLE.parquet      the family's details

The hash is over the weights of the coders, the data, the settings and the source code that makes the values. Refuses nothing: a folder
that is incomplete or damaged counts as not there.
"""

import ast
import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from sparselight.errors import RunError
from sparselight.evaluate.findings import Cell, Findings
from sparselight.files import atomic_path
from sparselight.records import EvaluatedCoder, EvaluatedData, MetricValue, Part, Record, UndefinedValue

RECORD, RESAMPLED = "family.json", "resampled.parquet"
KEYS = ("coder", "metric", "dataset", "setting")


class PlainValue(Part):
    """A value that came without resamples."""

    coder: str
    metric: str
    dataset: str
    setting: str
    value: MetricValue


class FamilyRecord(Record):
    """What one family came to."""

    KIND: ClassVar[str] = "metric_family"
    family: str
    hash: str
    seconds: float
    passed_tokens: int
    config: dict[str, Any]
    values: list[PlainValue]
    undefined: list[UndefinedValue]
    notes: list[str]
    tables: list[str]
    coders: dict[str, EvaluatedCoder]
    datasets: dict[str, EvaluatedData]
    files: dict[str, int] = Field(default_factory=dict)
    """Every other file of the folder with its size in bytes: the family counts as finished while they are all there."""


def save_family(record: FamilyRecord, findings: Findings, folder: Path) -> FamilyRecord:
    """Write a family; the record comes last and makes it complete."""
    paths = write_tables({RESAMPLED.removesuffix(".parquet"): resampled_table(findings), **findings.tables}, folder)
    record = record.model_copy(update={"files": {path.name: path.stat().st_size for path in paths}})
    record.save(folder / RECORD)
    return record


def load_family(folder: Path, digest: str) -> tuple[FamilyRecord, Findings] | None:
    """A finished family, None where there is none that is whole."""
    try:
        record = FamilyRecord.load(folder / RECORD)
        if record.hash != digest or any(not (folder / name).is_file() or (folder / name).stat().st_size != size for name, size in record.files.items()):
            return None
        rows = pq.read_table(folder / RESAMPLED).to_pylist()
        tables = {name: pq.read_table(folder / f"{name}.parquet") for name in record.tables}
    except (RunError, OSError, pa.ArrowException):
        return None
    findings = Findings(tables=tables, notes=list(record.notes))
    findings.resampled = {Cell(**{key: row[key] for key in KEYS}): np.array(row["resampled"]) for row in rows}
    findings.values = {_cell(entry): entry.value for entry in record.values}
    findings.undefined = {_cell(entry): entry.why for entry in record.undefined}
    return record, findings


def write_tables(tables: Mapping[str, pa.Table], folder: Path) -> list[Path]:
    """Write tables as Parquet, by name."""
    paths = []
    for name, table in tables.items():
        paths.append(folder / f"{name}.parquet")
        with atomic_path(paths[-1]) as temporary:
            pq.write_table(table, temporary, compression="zstd")
    return paths


def resampled_table(findings: Findings) -> pa.Table:
    """All values with their resamples, one a row; in float64, so that paired differences are the same when they are read again."""
    cells = list(findings.resampled)
    columns: dict[str, pa.Array] = {key: pa.array([getattr(cell, key) for cell in cells], pa.string()) for key in KEYS}
    columns["resampled"] = pa.array([np.asarray(findings.resampled[cell], dtype=np.float64) for cell in cells], pa.list_(pa.float64()))
    return pa.table(columns)


def plain_values(findings: Findings) -> list[PlainValue]:
    return [PlainValue(coder=cell.coder, metric=cell.metric, dataset=cell.dataset, setting=cell.setting, value=value)
            for cell, value in findings.values.items()]


def _cell(entry: PlainValue | UndefinedValue) -> Cell:
    return Cell(entry.coder, entry.metric, entry.dataset, entry.setting)


@cache
def source_hash(module: str) -> str:
    """SHA-256 over the source of a module and of all that it imports from sparselight.evaluate, directly or not."""
    root, digest = Path(__file__).parent, hashlib.sha256()
    found, waiting = set[Path](), [_path(root, module)]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        waiting += [_path(root, name) for name in _imported(path)]
    for path in sorted(found):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _path(root: Path, module: str) -> Path:
    path = root.joinpath(*module.removeprefix("sparselight.evaluate").strip(".").split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sparselight.evaluate."):
            yield node.module or ""
