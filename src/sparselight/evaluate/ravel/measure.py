"""The disentanglement family: for every coder and attribute a mask is trained on the fit side and tried on the held-out side."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from jaxtyping import Bool

from sparselight.evaluate.case import Case
from sparselight.evaluate.contender import Contender
from sparselight.evaluate.findings import Cell, Findings
from sparselight.evaluate.ravel import language_model, probe_readout
from sparselight.evaluate.ravel.config import RavelConfig
from sparselight.evaluate.ravel.mask import Basis, basis_of, channels, exchanged, train_mask
from sparselight.evaluate.ravel.pairs import Pairs, draw_pairs
from sparselight.evaluate.statistics import Resampled, Resamples, ratio
from sparselight.protocols import Progress, no_progress

METRICS = ("ravel_cause", "ravel_isolation", "ravel_disentanglement")
CHANNELS = "raw channels"
"""Name of the mask over the activations' own channels, which stands beside every coder."""
SCHEMA = pa.schema([
    ("coder", pa.string()), ("dataset", pa.string()), ("readout", pa.string()), ("attribute", pa.string()), ("cause", pa.float64()),
    ("isolation", pa.float64()), ("disentanglement", pa.float64()), ("n_masked", pa.int64()), ("n_pairs", pa.int64()),
])
Task = probe_readout.Task | language_model.Task


def measure_ravel(case: Case, contenders: Mapping[str, Contender], config: RavelConfig, findings: Findings, progress: Progress = no_progress) -> None:
    """Cause, isolation and disentanglement of every coder.

    Cause is how often the masked latents of a source make the subject say the source's value of an attribute, isolation how often it
    goes on saying the base's value of another one; disentanglement is the mean of both, and each is averaged over attributes. A mask of
    nothing and a mask of all latents both come to about 0.5.
    """
    rows: list[dict[str, object]] = []
    works = [(dataset, setting, make) for dataset in case.datasets for setting, make in (
        (probe_readout.SETTING, probe_readout.probe_task), *([(language_model.SETTING, language_model.language_task)] if config.templates else []))]
    names = [*contenders, CHANNELS]
    for number, (dataset, setting, make) in enumerate(works):
        task, why = make(case, dataset, config) if len(case.datasets[dataset].fit) else (None, "the dataset has no fit side, on which masks are trained")
        pairs = _pairs(task, config) if task is not None else []
        if task is not None and not pairs:
            why = "the units that are left do not differ in two attributes on both sides"
        if task is None or not pairs:
            for name in names:
                _lacks(findings, name, dataset, setting, why)
            continue
        findings.notes.append(task.note)
        for index, name in enumerate(names):
            progress(number * len(names) + index, len(works) * len(names), f"{dataset}, {setting}: {name}")
            sides = [units.x for units in task.units]
            basis, why = (channels(sides), "") if name == CHANNELS else basis_of(contenders[name], sides)
            if basis is None:
                _lacks(findings, name, dataset, setting, why)
                continue
            rows += _measure_one(case, name, dataset, setting, task, pairs, basis, config, findings)
    progress(1, 1)
    if rows:
        findings.tables["ravel"] = pa.Table.from_pylist(rows, SCHEMA)


def _measure_one(
    case: Case, name: str, dataset: str, setting: str, task: Task, pairs: list[tuple[int, Pairs, Pairs]], basis: Basis, config: RavelConfig,
    findings: Findings,
) -> list[dict[str, object]]:
    resamples, rows, values = case.resamples(dataset), [], []
    for attribute, train, test in pairs:
        mask = train_mask(basis, 0, train, task.readouts[0], config)
        right = task.readouts[1].right(test, exchanged(basis, 1, test, mask))
        cause, isolation = (_share(right, which, test, task, resamples) for which in (test.is_cause, ~test.is_cause))
        values.append((cause, isolation, (cause + isolation) / 2))
        rows.append({"coder": name, "dataset": dataset, "readout": setting, "attribute": task.attributes[attribute], "cause": float(cause[0]),
                     "isolation": float(isolation[0]), "disentanglement": float(cause[0] + isolation[0]) / 2, "n_masked": int(mask.sum()),
                     "n_pairs": len(right)})
    for metric, found in zip(METRICS, zip(*values, strict=True), strict=True):
        findings.add(Cell(name, metric, dataset, setting), np.mean(found, axis=0))
    return rows


def _share(right: Bool[np.ndarray, " pair"], which: Bool[np.ndarray, " pair"], pairs: Pairs, task: Task, resamples: Resamples) -> Resampled:
    """Pairs that came out right / pairs, a pair standing in the group of its base."""
    group = task.units[1].group[pairs.base[which]]
    top, bottom = (resamples.totals(np.bincount(group, part, minlength=resamples.n_groups)) for part in (right[which].astype(np.float64), np.ones(len(group))))
    return ratio(top, bottom)


def _pairs(task: Task, config: RavelConfig) -> list[tuple[int, Pairs, Pairs]]:
    """The same pairs for every coder, for attributes in which the units of both sides differ; nothing unless there are two."""
    found = []
    for attribute in range(len(task.attributes)):
        rng = np.random.default_rng([config.seed, attribute])
        train, test = (draw_pairs(units, attribute, n, rng) for units, n in zip(task.units, (config.n_pairs, config.n_test_pairs), strict=True))
        if train is not None and test is not None:
            found.append((attribute, train, test))
    return found if len(found) > 1 else []


def _lacks(findings: Findings, name: str, dataset: str, setting: str, why: str) -> None:
    for metric in METRICS:
        findings.lacks(Cell(name, metric, dataset, setting), why)
