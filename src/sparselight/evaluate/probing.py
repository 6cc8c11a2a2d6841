"""Sparse probing: can a label be read from a few latents?

For every label the k latents whose means differ most between units with and without it are chosen on the fit side, a logistic regression is
fitted on them, and accuracy, F1 and AUROC come from the held-out side (Gurnee et al. 2023, arXiv 2305.01610; SAEBench, arXiv 2503.09532).
Labels of examples are read from mean codes, labels of spans from single tokens. The coder `subject` stands for the activations themselves:
its k are raw channels, and `all` is all of them. Refuses nothing: what cannot be measured is reported with its reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveInt
from scipy import sparse

from sparselight.config import Config
from sparselight.evaluate.case import Case, SideName
from sparselight.evaluate.contender import Contender
from sparselight.evaluate.family import SUBJECT, Family
from sparselight.evaluate.findings import Cell, Findings
from sparselight.evaluate.labels import example_kinds, example_labels, span_kinds, span_labels
from sparselight.evaluate.probes import Features, accuracy, auroc, f1, fit_logistic, unit_weights
from sparselight.evaluate.readout import Readout, code_matrix
from sparselight.evaluate.statistics import Resamples
from sparselight.protocols import Progress, no_progress

METRICS = ("probe_accuracy", "probe_f1", "probe_auroc")


class ProbingConfig(Config):
    """Which labels are probed, from how many latents, on how many units."""

    kinds: list[str] = Field(default_factory=list)
    """Kinds of labels, of examples or spans; left empty, all that occur."""
    k: list[PositiveInt] = Field(default=[1, 2, 5], min_length=1)
    """Latents a probe may read."""
    all_latents: bool = True
    """Whether probes of all latents, and of all channels, stand beside."""
    max_classes: int = Field(10, ge=2)
    """Labels of a kind that are probed, those with the most units on the fit side."""
    fit_units: int = Field(4000, ge=4)
    """Most units (examples, or tokens for spans) that a probe is fitted on."""
    held_out_units: int = Field(1000, ge=4)
    """Most units that it is measured on."""
    balanced: bool = True
    """Draw as many units without a label as with it, on both sides, as SAEBench does: then guessing is right for half of them."""
    least: int = Field(10, ge=1)
    """Units with a label, and without it, that a probe needs on each side."""
    pooled_tokens: int | None = Field(None, ge=1)
    """First tokens of an example that its mean is taken over; left out, all (SAEBench: 128)."""
    C: float = Field(1.0, gt=0)
    """Inverse strength of the probe's L2 penalty, as in scikit-learn."""
    max_iter: int = Field(1000, ge=1)
    """Newton steps of the solver; few probes need more than 30."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The drawn units of one side: for each label which of them it is probed on, and which of those carry it."""

    units: Int[np.ndarray, " unit"]
    """Examples or tokens, ascending; everything below counts in these."""
    members: list[Int[np.ndarray, " member"]]
    carries: list[Bool[np.ndarray, " member"]]
    group: Int[np.ndarray, " unit"]
    base_rates: Float[np.ndarray, " class"]
    """Share of all labelled units that carry each label, before any balancing."""


@dataclass(frozen=True, slots=True)
class Task:
    """One kind of label on one dataset."""

    dataset: str
    kind: str
    of_tokens: bool
    names: list[str]
    fit: Sample
    held_out: Sample


def measure_probing(case: Case, contenders: Mapping[str, Contender], config: ProbingConfig, findings: Findings, progress: Progress = no_progress) -> None:
    """Accuracy, F1 and AUROC of probes on k latents, a mean over the labels of each kind; per label in the table `probing`."""
    asked = [(dataset, kind) for dataset in case.datasets for kind in config.kinds or _kinds(case, dataset)]
    rows: list[dict[str, object]] = []
    for number, (dataset, kind) in enumerate(asked):
        task, why = draw_task(case, dataset, kind, config, findings.notes)
        for place, (name, contender) in enumerate([(SUBJECT, None), *contenders.items()]):
            progress(number + place / (1 + len(contenders)), len(asked), f"{dataset}, {kind}: {name}")
            lacks = why if task is None else _measure(case, task, name, contender, config, findings, rows)
            if lacks:
                findings.lacks(Cell(name, METRICS[0], dataset, kind), lacks)
        progress(number + 1, len(asked), f"{dataset}, {kind}")
    if not asked:
        findings.notes.append("probing: no example carries a label, so nothing is probed")
    if rows:
        findings.tables["probing"] = pa.Table.from_pylist(rows)


def draw_task(case: Case, dataset: str, kind: str, config: ProbingConfig, notes: list[str],
              table: str = "evaluate.probing") -> tuple[Task | None, str]:
    """The units of a kind of label on both sides.

    Args:
        table: of the settings, for messages.

    Returns:
        The task, or None and why there is none.
    """
    examples = case.tokens(dataset, "fit").examples
    of_tokens = kind not in example_kinds(examples)
    if of_tokens and kind not in span_kinds(examples):
        return None, f"no example of the fit side carries the label {kind!r}"
    fit, names = _carried(case, dataset, "fit", kind, of_tokens, None)
    held_out, _ = _carried(case, dataset, "held_out", kind, of_tokens, names)
    if len(names) < 2 and not of_tokens:
        return None, "all examples that carry it carry the same one"
    n_with = [np.asarray(matrix.sum(0)).ravel() for matrix in (fit, held_out)]
    n_known = [matrix.shape[0] if of_tokens else int((matrix.getnnz(1) > 0).sum()) for matrix in (fit, held_out)]
    fewest = np.min([np.minimum(own, known - own) for own, known in zip(n_with, n_known, strict=True)], axis=0)
    enough = np.flatnonzero(fewest >= config.least)
    if not len(enough):
        return None, f"none of its {len(names)} labels has {config.least} units with it and without it on both sides ({table}.least)"
    kept = np.sort(enough[np.argsort(-n_with[0][enough], kind="stable")[: config.max_classes]])
    if len(kept) < len(names):
        notes.append(f"probes of {kind} on {dataset}: {len(kept)} of {len(names)} labels are probed, the others are rarer "
                     f"({table}.max_classes = {config.max_classes}, {table}.least = {config.least})")
    samples = [_draw(case, dataset, side, matrix[:, kept], of_tokens, config) for side, matrix in (("fit", fit), ("held_out", held_out))]  # type: ignore[arg-type]
    return Task(dataset, kind, of_tokens, [names[label] for label in kept], *samples), ""


def choose_latents(x: Features, sample: Sample, k: int) -> Int[np.ndarray, "class k"]:
    """For each label the k features with the largest |mean with it - mean without it| over its units, the largest first."""
    chosen = []
    for members, carries in zip(sample.members, sample.carries, strict=True):
        gap = np.abs(np.asarray((carries / carries.sum() - ~carries / (~carries).sum()) @ x[members]).ravel())
        chosen.append(np.argsort(-gap, kind="stable")[:k])
    return np.array(chosen)


def probe_few(x: Features, x_held_out: Features, task: Task, chosen: Int[np.ndarray, "class k"], ks: list[int],
              config: ProbingConfig) -> dict[int, list[np.ndarray]]:
    """Held-out scores of each label by probes on the first k of its chosen features, for every k; all probes are fitted at once."""
    sizes, width = [len(members) for members in task.fit.members], chosen.shape[1]
    features = np.zeros((len(sizes), max(sizes), width))
    y, weight = np.zeros((max(sizes), len(sizes)), dtype=bool), np.zeros((max(sizes), len(sizes)))
    for label, (members, carries) in enumerate(zip(task.fit.members, task.fit.carries, strict=True)):
        features[label, : sizes[label]] = _dense(x[members][:, chosen[label]])
        y[: sizes[label], label], weight[: sizes[label], label] = carries, 1
    used = np.array([np.arange(width) < k for k in ks], dtype=np.float64)
    stacked = (used[:, None, None] * features[None]).reshape(-1, max(sizes), width)  # a feature that is 0 everywhere gets the weight 0
    probe = fit_logistic(stacked, np.tile(y, len(ks)), config.C, max_iter=config.max_iter, weight=np.tile(weight, len(ks)))
    scores = {}
    for place, k in enumerate(ks):
        own = slice(place * len(sizes), (place + 1) * len(sizes))
        scores[k] = [_dense(x_held_out[members][:, chosen[label]]) @ probe.weights[own][label] + probe.bias[own][label]
                     for label, members in enumerate(task.held_out.members)]
    return scores


def probe_all(x: Features, x_held_out: Features, task: Task, config: ProbingConfig) -> list[np.ndarray]:
    """Held-out scores of each label by probes on all features."""
    carries, drawn = np.zeros((x.shape[0], len(task.names)), dtype=bool), np.zeros((x.shape[0], len(task.names)))
    for label, (members, own) in enumerate(zip(task.fit.members, task.fit.carries, strict=True)):
        carries[members, label], drawn[members, label] = own, 1
    probe = fit_logistic(x, carries, config.C, max_iter=config.max_iter, weight=drawn)
    return [probe.scores(x_held_out[members])[:, label] for label, members in enumerate(task.held_out.members)]


def held_out_values(task: Task, scores: list[np.ndarray], resamples: Resamples) -> dict[str, Float[np.ndarray, "resample class"]]:
    """Accuracy, F1 and AUROC of every label over all resamples."""
    found: dict[str, list[np.ndarray]] = {metric: [] for metric in METRICS}
    for score, members, carries in zip(scores, task.held_out.members, task.held_out.carries, strict=True):
        weight = unit_weights(resamples, task.held_out.group[members])
        found["probe_accuracy"].append(accuracy(score > 0, carries, weight))
        found["probe_f1"].append(f1(score > 0, carries, weight))
        found["probe_auroc"].append(auroc(score, carries, weight))
    return {metric: np.stack(values, axis=1) for metric, values in found.items()}


def _measure(case: Case, task: Task, name: str, contender: Contender | None, config: ProbingConfig, findings: Findings, rows: list[dict[str, object]]) -> str:
    """One coder on one task; returns why not, if it cannot be measured."""
    if contender is not None and contender.sparse is None:
        return "the coder has no codes"
    resamples = case.resamples(task.dataset)
    x, x_held_out = (_features(case, task, side, name, contender, config) for side in ("fit", "held_out"))
    if not all(np.isfinite(part.data if sparse.issparse(part) else part).all() for part in (x, x_held_out)):
        return "its codes are not finite"
    if not any(x[members].any() if isinstance(x, np.ndarray) else x[members].count_nonzero() for members in task.fit.members):
        return "no latent fires on the fit side"
    ks = [k for k in config.k if k <= x.shape[1]]
    chosen = choose_latents(x, task.fit, max(ks, default=1))
    scores = {f"k={k}": found for k, found in probe_few(x, x_held_out, task, chosen, ks, config).items()} if ks else {}
    if config.all_latents:
        scores["all"] = probe_all(x, x_held_out, task, config)
    for setting, found in scores.items():
        values = held_out_values(task, found, resamples)
        for metric in METRICS:
            findings.add(Cell(name, metric, task.dataset, f"{task.kind}, {setting}"), values[metric].mean(1))
        rows += [_row(task, label, name, setting, values, chosen) for label in range(len(task.names))]
    if contender is None:
        weight = unit_weights(resamples, task.held_out.group[np.concatenate(task.held_out.members)])
        positive = np.concatenate(task.held_out.carries)
        findings.add(Cell(name, "probe_positive_frac", task.dataset, task.kind), weight @ positive / weight.sum(1))
    for k in sorted(set(config.k) - set(ks)):
        findings.lacks(Cell(name, METRICS[0], task.dataset, f"{task.kind}, k={k}"), f"there are only {x.shape[1]} to choose from")
    return ""


def _row(task: Task, label: int, name: str, setting: str, values: dict[str, np.ndarray], chosen: np.ndarray) -> dict[str, object]:
    few = setting.startswith("k=")
    return {
        "dataset": task.dataset, "kind": task.kind, "label": task.names[label], "coder": name, "setting": setting,
        **{metric.removeprefix("probe_"): float(values[metric][0, label]) for metric in METRICS},
        "base_rate_fit": float(task.fit.base_rates[label]), "base_rate_held_out": float(task.held_out.base_rates[label]),
        "n_fit": len(task.fit.members[label]), "n_held_out": len(task.held_out.members[label]),
        "n_held_out_positive": int(task.held_out.carries[label].sum()), "latents": chosen[label, : int(setting[2:])].tolist() if few else [],
    }


def _features(case: Case, task: Task, side: SideName, name: str, contender: Contender | None, config: ProbingConfig) -> Features:
    """Codes, or channels where there is no coder, of the drawn units of a side."""
    units, readout = (task.fit if side == "fit" else task.held_out).units, Readout(case, task.dataset, case.site, config.pooled_tokens)
    if contender is None:
        return case.tokens(task.dataset, side).read(units).double().cpu().numpy() if task.of_tokens else readout.vectors(side)[units]
    return (code_matrix(case.codes(task.dataset, side, name, contender)) if task.of_tokens else readout.codes(side, name, contender))[units]


def _kinds(case: Case, dataset: str) -> list[str]:
    examples = case.tokens(dataset, "fit").examples
    return list(dict.fromkeys([*example_kinds(examples), *span_kinds(examples)]))


def _carried(case: Case, dataset: str, side: SideName, kind: str, of_tokens: bool, names: list[str] | None) -> tuple[sparse.csr_matrix, list[str]]:
    tokens = case.tokens(dataset, side)
    labels = span_labels(tokens, kind, names) if of_tokens else example_labels(tokens.examples, kind, names)
    return (labels.matrix != 0).tocsr(), labels.names


def _draw(case: Case, dataset: str, side: SideName, matrix: sparse.csr_matrix, of_tokens: bool, config: ProbingConfig) -> Sample:
    """Units of every label: those that carry it, and those that do not, which for labels of examples are those with another label of the kind."""
    tokens, carries = case.tokens(dataset, side), matrix.toarray()
    group = tokens.group if of_tokens else tokens.group[tokens.bounds()[:-1]]
    known, drawn = np.arange(len(carries)) if of_tokens else np.flatnonzero(carries.any(1)), []
    most = config.fit_units if side == "fit" else config.held_out_units
    for label in range(carries.shape[1]):
        rng = np.random.default_rng([case.config.seed, int(side == "fit"), label])
        positive, negative = known[carries[known, label]], known[~carries[known, label]]
        n_positive = min(len(positive), most // 2, len(negative)) if config.balanced else \
            min(len(positive), max(config.least, round(most * len(positive) / len(known))))
        n_negative = n_positive if config.balanced else min(len(negative), max(config.least, most - n_positive))
        drawn.append(np.sort(np.concatenate([rng.choice(positive, n_positive, replace=False), rng.choice(negative, n_negative, replace=False)])))
    units = np.unique(np.concatenate(drawn))
    return Sample(units, [np.searchsorted(units, own) for own in drawn], [carries[own, label] for label, own in enumerate(drawn)], group[units],
                  carries[known].mean(0))


def _dense(x: Features) -> np.ndarray:
    return x.toarray() if sparse.issparse(x) else x


FAMILY = Family("probing", "Sparse probing", measure_probing, ProbingConfig, needs=("examples", "annotations"), suites=("full",))
