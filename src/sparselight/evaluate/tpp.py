"""Targeted probe perturbation on one kind of label: what ablating the latents of each label costs each label's probe.

SAEBench's TPP (arXiv 2503.09532). Refuses kinds with fewer than two labels that occur often enough, with the reason.
"""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from sparselight.evaluate.ablation_effects import effect_part, random_like, ranked_by, report_sizes, sizes_of
from sparselight.evaluate.contender import Contender
from sparselight.evaluate.findings import Findings
from sparselight.evaluate.labels import example_kinds
from sparselight.evaluate.probes import accuracy, unit_weights
from sparselight.evaluate.probing import ProbingConfig, Task, draw_task
from sparselight.evaluate.readout import Readout, difference
from sparselight.evaluate.trained_probes import Linear, fit_probe

if TYPE_CHECKING:
    from sparselight.evaluate.scr_tpp import ScrTppConfig


class Tpp:
    """TPP on one kind of label of one dataset."""

    name = "tpp"

    def __init__(self, readout: Readout, config: "ScrTppConfig", kind: str):
        case, self.readout, self.config, self.kind = readout.case, readout, config, kind
        self.setting, self.notes = kind, list[str]()
        self.task: Task | None = None
        self.probes: list[Linear] = []
        settings = ProbingConfig(max_classes=config.max_classes, least=config.least, fit_units=config.fit_examples, held_out_units=config.held_out_examples)
        if self.kind not in example_kinds(case.tokens(self.readout.dataset, "fit").examples):
            self.lacks = f"no example of the fit side carries the label {self.kind!r}"
            return
        task, self.lacks = draw_task(case, self.readout.dataset, self.kind, settings, self.notes, "evaluate.scr_tpp")
        if task is None or len(task.names) < 2:
            self.lacks = self.lacks or f"only one of its labels has {config.least} examples with it and without it on both sides (evaluate.scr_tpp.least)"
            return
        self.task = task
        vectors = self.readout.vectors("fit")[task.fit.units]
        self.probes = [fit_probe(vectors[members], carries, config.probe, case.config.seed)
                       for members, carries in zip(task.fit.members, task.fit.carries, strict=True)]

    def measure(self, name: str, contender: Contender, findings: Findings, rows: list[dict[str, object]]) -> None:
        task = self.task
        assert task is not None
        rankings = [self._ranking(name, contender, label) for label in range(len(task.names))]
        controls = [random_like(self.readout, name, contender, ranked) for ranked in rankings]
        drops = {(metric, n): self._drops(name, contender, [latents[:n] for latents in ordered])
                 for metric, ordered in (("tpp_score", rankings), ("tpp_random_score", controls))
                 for n in sizes_of(self.config, contender, min(ordered, key=len), rankings)}
        off, values = ~np.eye(len(task.names), dtype=bool), {}
        for (metric, n), drop in drops.items():
            intended, unintended = np.diagonal(drop, axis1=1, axis2=2).mean(1), drop[:, off].mean(1)
            values[metric, n] = intended - unintended
            if metric == "tpp_score":
                values |= {("tpp_intended", n): intended, ("tpp_unintended", n): unintended}
            rows += [{"dataset": task.dataset, "coder": name, "kind": task.kind, "label": label, "metric": metric, "n": n,
                      "n_ablated": min(n, len((rankings if metric == "tpp_score" else controls)[place])), "intended_drop": float(drop[0, place, place]),
                      "unintended_drop": float(drop[0, place, off[place]].mean())} for place, label in enumerate(task.names)]
        report_sizes(findings, task.dataset, name, f"{task.kind}, ", self.config.n, values, ("tpp_score", "tpp_random_score"))

    def _ranking(self, name: str, contender: Contender, label: int) -> Int[np.ndarray, " ranked"]:
        """By max(0, mean code with the label - mean without) * <probe, W_dec[f]>, or what takes its place at a later site."""
        assert self.task is not None
        examples, y = effect_part(self.readout, self.config, self.task.fit.units[self.task.fit.members[label]], self.task.fit.carries[label])
        added = self.readout.contributions(name, contender, "fit", self.probes[label].weights, examples, self.config.steps)
        rises = difference(self.readout.codes("fit", name, contender)[examples], y) > 0
        return ranked_by(np.where(rises, difference(added, y), 0), max(self.config.n))

    def _drops(self, name: str, contender: Contender, latents: list[np.ndarray]) -> Float[np.ndarray, "resample ablated probe"]:
        """Accuracy that each probe loses by each label's ablation."""
        task = self.task
        assert task is not None
        resamples, held_out = self.readout.case.resamples(task.dataset), task.held_out
        states = [self.readout.vectors("held_out")[held_out.units],
                  *(self.readout.ablated(name, contender, "held_out", chosen, held_out.units) for chosen in latents)]
        lost = []
        for probe, members, carries in zip(self.probes, held_out.members, held_out.carries, strict=True):
            predicted = np.stack([probe.scores(state[members]) > 0 for state in states], axis=1)
            right = accuracy(predicted, np.broadcast_to(carries[:, None], predicted.shape), unit_weights(resamples, held_out.group[members]))
            lost.append(right[:, :1] - right[:, 1:])
        return np.stack(lost, axis=2)
