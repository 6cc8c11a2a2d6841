"""Spurious correlation removal (SCR) and targeted probe perturbation (TPP): does ablating few latents remove one concept and no other?

Both are SAEBench's (arXiv 2503.09532), for any labels of examples. Latents are ranked on the fit side by what they add to a probe's score,
the top n are set to 0 with the reconstruction error kept, and probes are measured on held-out examples. Where ours differ: a probe's epoch is
never chosen on what is reported; where a denominator of SCR is below LEAST_GAP the score is not defined, which SAEBench counts as 0; latents
without effect are not ablated. Random latents of like firing rates are the control. Refuses: settings that name no two labels.
"""

from collections.abc import Mapping

import pyarrow as pa
from pydantic import Field, PositiveInt

from sparselight.config import Config
from sparselight.errors import ConfigError
from sparselight.evaluate.case import Case
from sparselight.evaluate.contender import Contender
from sparselight.evaluate.family import Family
from sparselight.evaluate.findings import Cell, Findings
from sparselight.evaluate.labels import example_kinds
from sparselight.evaluate.readout import Readout, lacks_directions
from sparselight.evaluate.scr import Scr
from sparselight.evaluate.tpp import Tpp
from sparselight.evaluate.trained_probes import ProbeConfig
from sparselight.protocols import Progress, no_progress


class ScrTppConfig(Config):
    """Which labels, how many latents, and how probes are fitted."""

    concept: str = ""
    """SCR: kind of label that a classifier should go by; left empty, SCR is not measured."""
    concept_pairs: list[tuple[str, str]] = Field(default_factory=list)
    """SCR: two labels of that kind each; left empty, its two labels where it has only two. The score is the mean over pairs."""
    attribute: str = ""
    """SCR: kind of label that is spuriously tied to it."""
    attribute_values: list[str] = Field(default_factory=list, max_length=2)
    """SCR: two labels of that kind; the first goes with the first of each pair. Left empty, its two labels in alphabetical order."""
    kinds: list[str] = Field(default_factory=list)
    """TPP: kinds of example labels; left empty, all that occur."""
    max_classes: int = Field(5, ge=2)
    """TPP: labels of a kind, those with the most examples."""
    n: list[PositiveInt] = Field(default=[2, 5, 10, 20, 50, 100, 500], min_length=1)
    """Latents ablated."""
    probe_site: str = ""
    """Where probes read: a site behind that of the coders, or empty for the same, which costs no pass of the subject."""
    probe: ProbeConfig = Field(default_factory=ProbeConfig)
    """SAEBench: solver = "adamw" as it stands."""
    fit_examples: int = Field(4000, ge=4)
    """Most examples that a probe is fitted on."""
    held_out_examples: int = Field(1000, ge=4)
    """Most examples that it is measured on."""
    effect_examples: int = Field(200, ge=4)
    """Examples on which effects are taken where the probe reads a later site; at the same site all of the fit examples."""
    steps: int = Field(10, ge=1)
    """Points of the integrated gradients, at a later site."""
    pooled_tokens: int | None = Field(None, ge=1)
    """First tokens of an example that its mean is taken over; left out, all (SAEBench: 128)."""
    least: int = Field(10, ge=2)
    """Examples that each subgroup or label needs on each side."""


def measure_scr_tpp(case: Case, contenders: Mapping[str, Contender], config: ScrTppConfig, findings: Findings, progress: Progress = no_progress) -> None:
    """scr_score, tpp_score and their parts for every n, beside random latents; single pairs and labels in the tables `scr` and `tpp`."""
    if bool(config.concept) != bool(config.attribute):
        raise ConfigError(asked="measure SCR with only one of evaluate.scr_tpp.concept and evaluate.scr_tpp.attribute", why="it needs two kinds of label",
                          instead="set both, or neither")
    if not config.concept:
        findings.notes.append("scr is not measured: evaluate.scr_tpp.concept and evaluate.scr_tpp.attribute name no labels")
    kinds = {dataset: config.kinds or example_kinds(case.tokens(dataset, "fit").examples) for dataset in case.datasets}
    total, done = sum(len(own) + bool(config.concept) for own in kinds.values()), 0
    if not any(kinds.values()):
        findings.notes.append("tpp is not measured: no example carries a label")
    rows: dict[str, list[dict[str, object]]] = {"scr": [], "tpp": []}
    for dataset in case.datasets:
        readout = Readout(case, dataset, config.probe_site or case.site, config.pooled_tokens)
        works: list[Scr | Tpp] = [Scr(readout, config)] if config.concept else []
        for work in [*works, *(Tpp(readout, config, kind) for kind in kinds[dataset])]:
            findings.notes += work.notes
            for place, (name, contender) in enumerate(contenders.items()):
                progress(done + place / len(contenders), total, f"{dataset}, {work.name}: {name}")
                lacks = work.lacks or lacks_directions(contender)
                if lacks:
                    findings.lacks(Cell(name, f"{work.name}_score", dataset, work.setting), lacks)
                else:
                    work.measure(name, contender, findings, rows[work.name])
            done += 1
            progress(done, total, f"{dataset}, {work.name}")
    findings.tables |= {name: pa.Table.from_pylist(found) for name, found in rows.items() if found}


FAMILY = Family("scr_tpp", "SCR and TPP", measure_scr_tpp, ScrTppConfig, needs=("examples", "annotations"), suites=("full",))
