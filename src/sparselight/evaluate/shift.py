"""SHIFT: mend a classifier that learned a spurious correlation by ablating latents that are irrelevant to its task.

Protocol of Marks et al. 2024 (arXiv 2403.19647, section 4, Bias in Bios), for any two labels of examples with two values each. A linear
classifier is fitted where both go together; the latents that it uses are ranked by what they add to its score; those that a judge finds
irrelevant are set to 0, the reconstruction error kept; accuracies are those on held-out examples where the two labels are independent.
Beside it stand the classifier as it is, one fitted on balanced examples, channels of the activations in place of latents, and random latents
of like firing rates. Refuses: settings that name no two labels, and lists of latents that the coder does not have.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from scipy import sparse

from sparselight.config import Config
from sparselight.errors import ConfigError
from sparselight.evaluate.case import Case, SideName
from sparselight.evaluate.contender import Contender
from sparselight.evaluate.family import SUBJECT, Family
from sparselight.evaluate.findings import Cell, Findings
from sparselight.evaluate.probes import accuracy, unit_weights
from sparselight.evaluate.readout import Readout, lacks_directions, matched_latents
from sparselight.evaluate.scr import SIDES
from sparselight.evaluate.trained_probes import Linear, ProbeConfig, draw_evenly, fit_probe, subgroups, two_labels, two_valued
from sparselight.protocols import Progress, no_progress
from sparselight.records import MetricValue


class ShiftConfig(Config):
    """Which labels, which latents count as used, and who judges them."""

    concept: str = ""
    """Kind of label that the classifier should go by (profession); left empty, SHIFT is not measured."""
    concept_values: list[str] = Field(default_factory=list, max_length=2)
    """Two labels of that kind; left empty, its two labels in alphabetical order."""
    attribute: str = ""
    """Kind of label that is spuriously tied to it (gender)."""
    attribute_values: list[str] = Field(default_factory=list, max_length=2)
    """Two labels of that kind; the first goes with the first concept value. Left empty, its two labels in alphabetical order."""
    probe_site: str = ""
    """Where the classifier reads: a site behind that of the coders, or empty for the same, which costs no pass of the subject."""
    probe: ProbeConfig = Field(default_factory=ProbeConfig)
    """Marks et al.: solver = "adamw", lr = 0.01, n_epochs = 1, batch_size = 128, l1 = 0."""
    keep_effect: float = Field(0.1, ge=0)
    """A latent is used by the classifier where it adds more than this to the score of the right label, in log odds, mean over examples."""
    keep_n: int | None = Field(None, ge=1)
    """In place of keep_effect: the latents that add most."""
    judge: Literal["skyline", "list"] = "skyline"
    """Who says that a used latent is irrelevant: `skyline`, what it adds to a probe of the spurious label on balanced examples; `list`, `irrelevant`."""
    judge_effect: float = Field(0.1107, ge=0)
    """skyline: irrelevant is what adds more than this to the score of the right spurious label, in log odds."""
    irrelevant: dict[str, list[int]] = Field(default_factory=dict)
    """list: latents judged irrelevant, by the coder's name."""
    neuron_effect: float = Field(0.2135, ge=0)
    """Channels that add more than this to the score of the spurious label are set to their mean, as the neuron skyline."""
    fit_examples: int = Field(10_000, ge=8)
    """Most examples that a classifier is fitted on."""
    effect_examples: int = Field(100, ge=4)
    """Examples on which effects are taken."""
    steps: int = Field(10, ge=1)
    """Points of the integrated gradients, where the classifier reads a later site."""
    pooled_tokens: int | None = Field(None, ge=1)
    """First tokens of an example that its mean is taken over; left out, all."""
    least: int = Field(10, ge=2)
    """Examples that each of the four subgroups needs on each side."""

    @model_validator(mode="after")
    def _judge_has_its_list(self) -> Self:
        if (self.judge == "list") != bool(self.irrelevant):
            raise ValueError("judge = 'list' and irrelevant need each other")
        return self


class Used(NamedTuple):
    """The latents of one coder that the classifier uses, as a judge sees them."""

    readout: Readout
    name: str
    contender: Contender
    latents: Int[np.ndarray, " latent"]
    attribute_effect: Float[np.ndarray, " latent"]
    """What each adds to the score of the right spurious label, on balanced examples of the fit side."""


Judge = Callable[[Used], Bool[np.ndarray, " latent"]]
"""Which of the used latents are irrelevant to the task."""


class Bench(NamedTuple):
    """What does not depend on a coder: the examples, the classifiers and their labels."""

    tied: Int[np.ndarray, " example"]
    """Examples of the fit side where both labels go together, evenly."""
    balanced: Int[np.ndarray, " example"]
    """Of the fit side, evenly over the four subgroups."""
    held_out: Int[np.ndarray, " example"]
    """All of the held-out side that carry both labels."""
    labels: dict[SideName, dict[str, Bool[np.ndarray, " example"]]]
    original: Linear
    oracle: Linear
    attribute: Linear
    even: Float[np.ndarray, "resample held_out"]
    """Weights of a draw with equal subgroups."""
    every: Float[np.ndarray, "resample held_out"]


def measure_shift(case: Case, contenders: Mapping[str, Contender], config: ShiftConfig, findings: Findings, progress: Progress = no_progress,
                  judge: Judge | None = None) -> None:
    """shift_concept_accuracy, shift_attribute_accuracy and shift_worst_accuracy before and after; details in the tables `shift` and `shift_latents`.

    Args:
        judge: takes the place of the one that the settings name.
    """
    if bool(config.concept) != bool(config.attribute):
        raise ConfigError(asked="measure SHIFT with only one of evaluate.shift.concept and evaluate.shift.attribute", why="it needs two kinds of label",
                          instead="set both, or neither")
    if not config.concept:
        findings.notes.append("shift is not measured: evaluate.shift.concept and evaluate.shift.attribute name no labels")
        return
    _check_lists(contenders, config)
    rows: list[dict[str, Any]] = []
    latents: list[dict[str, Any]] = []
    for number, dataset in enumerate(case.datasets):
        readout = Readout(case, dataset, config.probe_site or case.site, config.pooled_tokens)
        bench = set_up(readout, config)
        if not isinstance(bench, str):
            _measure_subject(readout, bench, config, findings, rows)
        for place, (name, contender) in enumerate(contenders.items()):
            progress(number + place / len(contenders), len(case.datasets), f"{dataset}, shift: {name}")
            lacks = bench if isinstance(bench, str) else lacks_directions(contender)
            if not lacks and judge is None and config.judge == "list" and name not in config.irrelevant:
                lacks = "evaluate.shift.irrelevant lists no latents of it"
            if lacks or isinstance(bench, str):
                findings.lacks(Cell(name, "shift_concept_accuracy", dataset, "ablated"), lacks)
            else:
                _measure_coder(readout, bench, name, contender, config, judge or _judge_of(config), findings, rows, latents)
        progress(number + 1, len(case.datasets), f"{dataset}, shift")
    findings.tables |= {name: pa.Table.from_pylist(found) for name, found in (("shift", rows), ("shift_latents", latents)) if found}


def set_up(readout: Readout, config: ShiftConfig) -> Bench | str:
    """Draw the examples and fit the classifiers; or why that cannot be."""
    case, dataset, seed = readout.case, readout.dataset, readout.case.config.seed
    values = {}
    for role, kind, given in (("concept", config.concept, config.concept_values), ("attribute", config.attribute, config.attribute_values)):
        named = two_labels(case.tokens(dataset, "fit").examples, kind, given, f"evaluate.shift.{role}_values")
        if isinstance(named, str):
            return named
        values[role] = named
    labels, cells = {}, {}
    for side in SIDES:
        examples = case.tokens(dataset, side).examples
        own = {"concept": two_valued(examples, config.concept, values["concept"]), "attribute": two_valued(examples, config.attribute, values["attribute"])}
        cells[side], labels[side] = subgroups(own["concept"], own["attribute"]), {role: label == 1 for role, label in own.items()}
        fewest = min(len(cell) for cell in cells[side])
        if fewest < config.least:
            return (f"the smallest of the four subgroups has {fewest} examples on the {side.replace('_', '-')} side, and {config.least} are needed "
                    "(evaluate.shift.least)")
    x, fit = readout.vectors("fit"), labels["fit"]
    tied, balanced = draw_evenly([cells["fit"][0], cells["fit"][3]], config.fit_examples, seed), draw_evenly(cells["fit"], config.fit_examples, seed + 1)
    held_out = np.sort(np.concatenate(cells["held_out"]))
    tokens, even = case.tokens(dataset, "held_out"), draw_evenly(cells["held_out"], len(held_out), seed + 2)
    every = unit_weights(case.resamples(dataset), tokens.group[tokens.bounds()[:-1]][held_out])
    return Bench(tied, balanced, held_out, labels, fit_probe(x[tied], fit["concept"][tied], config.probe, seed),
                 fit_probe(x[balanced], fit["concept"][balanced], config.probe, seed), fit_probe(x[balanced], fit["attribute"][balanced], config.probe, seed),
                 every * np.isin(held_out, even), every)


def mean_effect(added: sparse.csr_matrix | np.ndarray, right: Bool[np.ndarray, " example"]) -> Float[np.ndarray, " column"]:
    """mean over examples of what each latent adds to the score of the right label: + its contribution for positives, - for negatives."""
    return np.asarray(np.where(right, 1.0, -1.0) @ added).ravel() / len(right)


def _measure_subject(readout: Readout, bench: Bench, config: ShiftConfig, findings: Findings, rows: list[dict[str, Any]]) -> None:
    """The classifier as it is, the one fitted on balanced examples, and channels in place of latents."""
    x = readout.vectors("held_out")[bench.held_out]
    for setting, probe in (("original", bench.original), ("oracle", bench.oracle)):
        _report(readout, bench, SUBJECT, setting, probe.scores(x), 0, findings, rows)
    part, right = _effect_part(readout, bench, config, "attribute")
    effect = mean_effect(readout.channel_contributions("fit", bench.attribute.weights, part, config.steps), right)
    channels = np.flatnonzero(effect > config.neuron_effect)
    means = readout.mean_channels()[channels]
    replaced = readout.channels_replaced("held_out", channels, means, bench.held_out)
    _report(readout, bench, SUBJECT, "neuron skyline", bench.original.scores(replaced), len(channels), findings, rows)


def _measure_coder(readout: Readout, bench: Bench, name: str, contender: Contender, config: ShiftConfig, judge: Judge, findings: Findings,
                   rows: list[dict[str, Any]], table: list[dict[str, Any]]) -> None:
    effects = {}
    for role, probe in (("concept", bench.original), ("attribute", bench.attribute)):
        part, right = _effect_part(readout, bench, config, role)
        effects[role] = mean_effect(readout.contributions(name, contender, "fit", probe.weights, part, config.steps), right)
    order = np.argsort(-effects["concept"], kind="stable")
    used = order[effects["concept"][order] > (0 if config.keep_n else config.keep_effect)][: config.keep_n]
    irrelevant = np.asarray(judge(Used(readout, name, contender, used, effects["attribute"][used])), dtype=bool)
    chosen, skyline = used[irrelevant], np.flatnonzero(effects["attribute"] > config.judge_effect)
    control = matched_latents(chosen, readout.fire_counts(name, contender), readout.case.config.seed)
    after = {setting: readout.ablated(name, contender, "held_out", latents, bench.held_out)
             for setting, latents in (("ablated", chosen), ("feature skyline", skyline), ("random latents", control))}
    again = fit_probe(readout.ablated(name, contender, "fit", chosen, bench.tied), bench.labels["fit"]["concept"][bench.tied], config.probe,
                      readout.case.config.seed)
    for setting, x, probe, n in (("ablated", after["ablated"], bench.original, len(chosen)), ("retrained", after["ablated"], again, len(chosen)),
                                 ("feature skyline", after["feature skyline"], bench.original, len(skyline))):
        _report(readout, bench, name, setting, probe.scores(x), n, findings, rows)
    if len(control) == len(chosen):
        _report(readout, bench, name, "random latents", bench.original.scores(after["random latents"]), len(control), findings, rows)
    else:
        findings.lacks(Cell(name, "shift_concept_accuracy", readout.dataset, "random latents"), "there are fewer other living latents of like firing rates")
    if not len(chosen):
        findings.notes.append(f"shift on {readout.dataset}, {name}: none of the {len(used)} latents that the classifier uses is judged irrelevant, "
                              "so nothing is ablated")
    table += [{"dataset": readout.dataset, "coder": name, "latent": int(latent), "effect": float(effects["concept"][latent]),
               "attribute_effect": float(effects["attribute"][latent]), "irrelevant": bool(judged)} for latent, judged in zip(used, irrelevant, strict=True)]


def _report(readout: Readout, bench: Bench, name: str, setting: str, scores: Float[np.ndarray, " held_out"], n_latents: int, findings: Findings,
            rows: list[dict[str, Any]]) -> None:
    """The three accuracies over all resamples, and those of the subgroups in the table."""
    labels = {role: label[bench.held_out] for role, label in bench.labels["held_out"].items()}
    predicted = scores > 0
    groups = {(first, second): (labels["concept"] == first) & (labels["attribute"] == second) for first in (False, True) for second in (False, True)}
    single = {cell: accuracy(predicted[inside], labels["concept"][inside], bench.every[:, inside]) for cell, inside in groups.items()}
    values = {"shift_concept_accuracy": accuracy(predicted, labels["concept"], bench.even),
              "shift_attribute_accuracy": accuracy(predicted, labels["attribute"], bench.even),
              "shift_worst_accuracy": np.min(list(single.values()), axis=0)}
    for metric, value in values.items():
        findings.add(Cell(name, metric, readout.dataset, setting), value)
    if setting == "ablated":
        findings.add(Cell(name, "shift_n_latents", readout.dataset), MetricValue(value=n_latents, n=len(bench.tied), unit="examples"))
    rows.append({"dataset": readout.dataset, "coder": name, "setting": setting, "n_ablated": n_latents,
                 **{metric: float(value[0]) for metric, value in values.items()},
                 **{f"accuracy_concept_{int(first)}_attribute_{int(second)}": float(value[0]) for (first, second), value in single.items()}})


def _effect_part(readout: Readout, bench: Bench, config: ShiftConfig, role: str) -> tuple[np.ndarray, np.ndarray]:
    """Examples on which effects are taken: tied ones for the classifier, balanced ones for the spurious label."""
    among, labels = bench.tied if role == "concept" else bench.balanced, bench.labels["fit"]
    cells = [among[(labels["concept"][among] == first) & (labels["attribute"][among] == second)] for first in (False, True) for second in (False, True)]
    part = draw_evenly([cell for cell in cells if len(cell)], config.effect_examples, readout.case.config.seed)
    return part, labels[role][part]


def _judge_of(config: ShiftConfig) -> Judge:
    if config.judge == "list":
        return lambda used: np.isin(used.latents, config.irrelevant[used.name])
    return lambda used: used.attribute_effect > config.judge_effect


def _check_lists(contenders: Mapping[str, Contender], config: ShiftConfig) -> None:
    for name, latents in config.irrelevant.items():
        asked = f"judge latents of {name!r} by evaluate.shift.irrelevant"
        if name not in contenders:
            raise ConfigError(asked=asked, why="there is no such coder", instead=f"use one of {', '.join(contenders)}")
        n_latents = contenders[name].n_latents or 0
        outside = [latent for latent in latents if not 0 <= latent < n_latents]
        if outside:
            raise ConfigError(asked=asked, why=f"latent {outside[0]} is out of range, it has {n_latents} latents",
                              instead=f"give latents from 0 to {n_latents - 1}")


FAMILY = Family("shift", "SHIFT", measure_shift, ShiftConfig, needs=("examples", "annotations"), suites=("full",))
