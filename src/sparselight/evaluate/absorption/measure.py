"""The absorption family: every coder on every kind of class, values over resamples of the held-out groups, and tables of classes and children."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int
from scipy import sparse

from sparselight.evaluate.absorption.children import Children, count_children, find_children
from sparselight.evaluate.absorption.classes import Qualified, parent_kinds, qualify
from sparselight.evaluate.absorption.config import AbsorptionConfig
from sparselight.evaluate.absorption.first_letter import KIND, size_note, word_tokens
from sparselight.evaluate.absorption.ranking import l1_probe, main_latents, ranked_latents
from sparselight.evaluate.absorption.score import Absorbed, score_units
from sparselight.evaluate.case import Case
from sparselight.evaluate.contender import Contender
from sparselight.evaluate.findings import Cell, Findings
from sparselight.evaluate.readout import code_matrix, directions, lacks_directions
from sparselight.evaluate.statistics import Resampled, Resamples
from sparselight.protocols import Progress, no_progress
from sparselight.records import MetricValue

METRICS = ("absorption_full", "absorption_fraction", "absorption_missed_frac", "absorption_child_frac", "absorption_main_latents")
CLASS_SCHEMA = pa.schema([
    ("coder", pa.string()), ("dataset", pa.string()), ("kind", pa.string()), ("class", pa.string()), ("probe_f1", pa.float64()), ("n_units", pa.int64()),
    ("n_found", pa.int64()), ("n_missed", pa.int64()), ("main_latents", pa.list_(pa.int64())), ("full", pa.float64()), ("full_low", pa.float64()),
    ("full_high", pa.float64()), ("fraction", pa.float64()), ("fraction_low", pa.float64()), ("fraction_high", pa.float64()),
])
CHILD_SCHEMA = pa.schema([
    ("coder", pa.string()), ("dataset", pa.string()), ("kind", pa.string()), ("class", pa.string()), ("child", pa.string()), ("n_found", pa.int64()),
    ("n_missed", pa.int64()), ("n_absorbed", pa.int64()), ("n_by_child_latent", pa.int64()), ("child_latent", pa.int64()),
])


class Tables(NamedTuple):
    """Rows of the details."""

    classes: list[dict[str, object]]
    children: list[dict[str, object]]


class Tally(NamedTuple):
    """Counts of one class over resamples."""

    found: Resampled
    missed: Resampled
    explained: Resampled
    full: Resampled
    fraction: Resampled


def measure_absorption(case: Case, contenders: Mapping[str, Contender], config: AbsorptionConfig, findings: Findings, progress: Progress = no_progress) -> None:
    """Absorption of every coder.

    Each class has a ground truth probe on the activations, and main latents: the first of an L1 probe's ranking, as many as a k-sparse
    probe gains by. Full absorption and absorption fraction of a class are means over the held-out units of the class that its ground truth
    probe finds (`score.score_units`), and the value of a coder is their mean over the classes whose probe is good enough.
    """
    works, tables, failed = _works(case, contenders, config, findings), Tables([], []), dict[str, dict[str, str]]()
    for number, (dataset, kind) in enumerate(works):
        qualified, why = qualify(case, dataset, kind, config)
        if qualified is None:
            failed.setdefault(dataset, {})[kind] = why
            continue
        findings.notes.append(f"absorption on {dataset}: {len(qualified.chosen)} of {qualified.n_classes} classes of {kind} qualify "
                              f"(probe F1 above {config.least_f1})")
        children = _children(case, qualified, config)
        for index, (name, contender) in enumerate(contenders.items()):
            progress(number * len(contenders) + index, len(works) * len(contenders), f"{dataset}, {kind}: {name}")
            _measure_one(case, name, contender, qualified, children, config, findings, tables)
    progress(1, 1)
    for dataset, of_kind in failed.items():
        _say_failed(findings, contenders, dataset, of_kind, everything=len(of_kind) == sum(name == dataset for name, _ in works), asked=config.parents)
    for table, rows, schema in (("absorption_classes", tables.classes, CLASS_SCHEMA), ("absorption_children", tables.children, CHILD_SCHEMA)):
        if rows:
            findings.tables[table] = pa.Table.from_pylist(rows, schema)


def _works(case: Case, contenders: Mapping[str, Contender], config: AbsorptionConfig, findings: Findings) -> list[tuple[str, str]]:
    """Datasets with the kinds of classes to look at in them; what cannot be looked at is said."""
    works: list[tuple[str, str]] = []
    if "first_letter" in config.forms:
        words, why = word_tokens(case, config)
        if words is None:
            _lacks_all(findings, contenders, KIND, "", why)
        else:
            case.put_tokens(KIND, words["fit"], words["held_out"])
            works.append((KIND, KIND))
            findings.notes += [note for note in [size_note(case.need_subject("read spelling prompts"))] if note]
    for dataset, data in case.datasets.items() if "hierarchy" in config.forms else ():
        if not len(data.fit):
            _lacks_all(findings, contenders, dataset, "", "the dataset has no fit side, on which probes are fitted")
            continue
        kinds = parent_kinds(case, dataset, config)
        works += [(dataset, kind) for kind in kinds]
        for kind in config.parents:
            if kind not in kinds:
                _lacks_all(findings, contenders, dataset, _setting(kind), f"no fit example carries the annotation {kind!r}")
        if not kinds and not config.parents:
            _lacks_all(findings, contenders, dataset, "", "no annotation of the fit side has as many classes as the settings allow (absorption.least_classes, "
                       "absorption.max_classes)")
    return works


def _measure_one(
    case: Case, name: str, contender: Contender, classes: Qualified, children: Children | None, config: AbsorptionConfig, findings: Findings,
    tables: Tables,
) -> None:
    cells = {metric: Cell(name, metric, classes.dataset, _setting(classes.kind)) for metric in METRICS}
    why = lacks_directions(contender)
    if not why:
        fit, held_out = (code_matrix(case.codes(classes.dataset, side, name, contender))[units.rows] for side, units in classes.sides())
        why = "" if fit[classes.train].nnz else "no latent fires on the units on which latents are ranked"
    if why:
        for cell in cells.values():
            findings.lacks(cell, why)
        return
    main = _main(fit, held_out, classes, config)
    resamples = case.resamples(classes.dataset)
    rows = directions(contender).float().cpu().numpy().astype(np.float64)
    norms = np.linalg.norm(rows, axis=1)
    x = classes.held_out.x().astype(np.float64)
    scores = classes.probe.scores(x)
    tallies = []
    for number, chosen in enumerate(classes.chosen):
        p = classes.probe.weights[chosen] / np.linalg.norm(classes.probe.weights[chosen])
        found = np.flatnonzero(classes.held_out.y[:, chosen] & (scores[:, chosen] > 0))
        along = rows @ p
        absorbed = score_units(held_out[found], along, along / np.where(norms > 0, norms, 1), x[found] @ p, main[number], config)
        counted = count_children(children, fit, classes.fit.y[:, chosen], found, absorbed, config.child_share) if children else None
        tally = _tally(absorbed, counted.explained if counted else np.zeros(len(found), dtype=bool), classes.held_out.group[found], resamples)
        tallies.append(tally)
        keys = {"coder": name, "dataset": classes.dataset, "kind": classes.kind, "class": classes.names[chosen]}
        tables.classes.append({**keys, "probe_f1": float(classes.f1[chosen]), "n_units": int(classes.held_out.y[:, chosen].sum()), "n_found": len(found),
                               "n_missed": int(absorbed.missed.sum()), "main_latents": main[number], **_interval("full", tally.full, tally.found, resamples),
                               **_interval("fraction", tally.fraction, tally.found, resamples)})
        tables.children.extend({**keys, **row} for row in (counted.rows if counted else ()))
    _report(findings, cells, tallies, main, has_children=children is not None)


def _report(findings: Findings, cells: Mapping[str, Cell], tallies: list[Tally], main: list[list[int]], has_children: bool) -> None:
    def mean(tops: list[Resampled], bottoms: list[Resampled]) -> Resampled:
        return mean_over_classes(np.stack(tops), np.stack(bottoms))

    found = [tally.found for tally in tallies]
    findings.add(cells["absorption_full"], mean([tally.full for tally in tallies], found))
    findings.add(cells["absorption_fraction"], mean([tally.fraction for tally in tallies], found))
    findings.add(cells["absorption_missed_frac"], mean([tally.missed for tally in tallies], found))
    findings.add(cells["absorption_main_latents"], MetricValue(value=float(np.mean([len(latents) for latents in main])), n=len(main), unit="classes"))
    if not has_children:
        findings.lacks(cells["absorption_child_frac"], "these classes are not divided into children (absorption.child)")
    elif not any(tally.missed[0] for tally in tallies):
        findings.lacks(cells["absorption_child_frac"], "the main latents miss no unit")
    else:
        findings.add(cells["absorption_child_frac"], mean([tally.explained for tally in tallies], [tally.missed for tally in tallies]))


def mean_over_classes(top: Float[np.ndarray, "class resample"], bottom: Float[np.ndarray, "class resample"]) -> Resampled:
    """Mean of top / bottom over the classes whose bottom is above 0; nan for resamples without one."""
    has = bottom > 0
    ratios = np.divide(top, bottom, out=np.zeros(top.shape), where=has)
    n = has.sum(0)
    return np.divide(ratios.sum(0), n, out=np.full(n.shape, np.nan), where=n > 0)


def _main(fit: sparse.csr_matrix, held_out: sparse.csr_matrix, classes: Qualified, config: AbsorptionConfig) -> list[list[int]]:
    units, used = classes.choose
    train, choose = fit[classes.train], (held_out if units is classes.held_out else fit)[used]
    y_train, y_choose = classes.fit.y[classes.train][:, classes.chosen], units.y[used][:, classes.chosen]
    by_latent = train.astype(np.float64).tocsc()
    ranked = [ranked_latents(*l1_probe(by_latent, y_train[:, index], config.l1), config.max_k) for index in range(len(classes.chosen))]
    return main_latents(ranked, train, y_train, choose, y_choose, config)


def _tally(absorbed: Absorbed, explained: Bool[np.ndarray, " unit"], group: Int[np.ndarray, " unit"], resamples: Resamples) -> Tally:
    parts = (np.ones(len(group)), absorbed.missed, explained, absorbed.full, absorbed.fraction)
    return Tally(*(resamples.totals(np.bincount(group, np.asarray(part, dtype=np.float64), minlength=resamples.n_groups)) for part in parts))


def _interval(name: str, top: Resampled, bottom: Resampled, resamples: Resamples) -> dict[str, Any]:
    values = mean_over_classes(top[None], bottom[None])
    value = resamples.summarize(values)[0]
    return {name: value.value if value else None, f"{name}_low": value.low if value else None, f"{name}_high": value.high if value else None}


def _children(case: Case, classes: Qualified, config: AbsorptionConfig) -> Children | None:
    if classes.kind == KIND or config.child == classes.kind:
        return None  # held-out words are not among the fit words, and a class is no part of itself
    texts = {}
    if case.subject is not None and config.child == "token":
        ids = {int(token_id) for side in (classes.fit, classes.held_out) for token_id in np.unique(side.tokens.token_id[side.rows])}
        texts = {token_id: case.subject.token_text(token_id) for token_id in ids}
    return find_children(classes.fit, classes.held_out, config, texts)


def _say_failed(findings: Findings, contenders: Mapping[str, Contender], dataset: str, failed: Mapping[str, str], everything: bool,
                asked: Sequence[str]) -> None:
    """Kinds without enough classes: a note for one that nobody asked for where others of the dataset were measured, else undefined values."""
    for kind, why in failed.items():
        if everything or kind in asked:
            _lacks_all(findings, contenders, dataset, _setting(kind), why)
        else:
            findings.notes.append(f"absorption on {dataset} is not defined for the classes of {kind}: {why}")


def _lacks_all(findings: Findings, contenders: Mapping[str, Contender], dataset: str, setting: str, why: str) -> None:
    for name in contenders:
        for metric in METRICS:
            findings.lacks(Cell(name, metric, dataset, setting), why)


def _setting(kind: str) -> str:
    return "" if kind in ("", KIND) else f"parent={kind}"
