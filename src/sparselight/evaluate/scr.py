"""Spurious correlation removal on one dataset: the probes of each pair of labels, and what ablations make of the biased one.

SAEBench's SCR (arXiv 2503.09532). Refuses pairs of which a subgroup is too small, and pairs without a correlation to remove, with the reason.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from sparselight.evaluate.ablation_effects import effect_part, number_or_none, random_like, ranked_by, report_sizes, sizes_of
from sparselight.evaluate.case import SideName
from sparselight.evaluate.contender import Contender
from sparselight.evaluate.findings import Findings
from sparselight.evaluate.probes import accuracy, unit_weights
from sparselight.evaluate.readout import Readout, difference
from sparselight.evaluate.statistics import Resampled
from sparselight.evaluate.trained_probes import Linear, draw_evenly, fit_probe, subgroups, two_labels, two_valued

if TYPE_CHECKING:
    from sparselight.evaluate.scr_tpp import ScrTppConfig

LEAST_GAP = 0.001  # between the accuracies of the clean and the biased probe
SIDES: tuple[SideName, SideName] = ("fit", "held_out")


class Pair(NamedTuple):
    """Two labels and a spurious attribute: the probes, what they are measured on, and how well they do unedited."""

    name: str
    clean: dict[str, Linear]
    biased: Linear
    fit: Int[np.ndarray, " example"]
    fit_labels: dict[str, np.ndarray]
    held_out: Int[np.ndarray, " example"]
    held_out_labels: dict[str, np.ndarray]
    weight: Float[np.ndarray, "resample example"]
    start: dict[str, Resampled]
    """Accuracy of the biased probe on the concept and on the attribute."""
    gap: dict[str, Resampled]
    """By how much the clean probe is better; nan below LEAST_GAP."""


class Scr:
    """SCR on one dataset."""

    name = "scr"

    def __init__(self, readout: Readout, config: "ScrTppConfig"):
        self.readout, self.config, self.setting, self.lacks = readout, config, f"{config.concept} and {config.attribute}", ""
        self.pairs: list[Pair] = []
        self.notes: list[str] = []
        found = self._values()
        if isinstance(found, str):
            self.lacks = found
            return
        reasons = [why for why in (self._prepare(pair, found[1]) for pair in found[0]) if why]
        self.lacks = "" if self.pairs else "; ".join(reasons)
        self.notes = [f"scr on {readout.dataset}: {why}; this pair is left out" for why in reasons] if self.pairs else []

    def measure(self, name: str, contender: Contender, findings: Findings, rows: list[dict[str, object]]) -> None:
        found: dict[tuple[str, int], list[Resampled]] = {}
        for pair in self.pairs:
            side = "concept" if pair.start["concept"][0] < pair.start["attribute"][0] else "attribute"
            for measured, ablated in (("concept", "attribute"), ("attribute", "concept")):
                ranked, control = self._rankings(name, contender, pair, ablated)
                for metric, latents in (("scr_score", ranked), ("scr_random_score", control)):
                    for n in sizes_of(self.config, contender, latents, [ranked]):
                        vectors = self.readout.ablated(name, contender, "held_out", latents[:n], pair.held_out)
                        after = accuracy(pair.biased.scores(vectors) > 0, pair.held_out_labels[measured], pair.weight)
                        score = (after - pair.start[measured]) / pair.gap[measured]
                        if measured == side:
                            found.setdefault((metric, n), []).append(score)
                        rows.append({"dataset": self.readout.dataset, "coder": name, "pair": pair.name, "metric": metric, "direction": f"{ablated} ablated",
                                     "reported": measured == side, "n": n, "n_ablated": min(n, len(latents)), "score": number_or_none(score),
                                     "accuracy_biased": float(pair.start[measured][0]), "accuracy_after": float(after[0]),
                                     "accuracy_gap": number_or_none(pair.gap[measured])})
        means = {key: np.mean(values, axis=0) for key, values in found.items() if len(values) == len(self.pairs)}
        report_sizes(findings, self.readout.dataset, name, "", self.config.n, means, ("scr_score", "scr_random_score"))

    def _rankings(self, name: str, contender: Contender, pair: Pair, label: str) -> tuple[np.ndarray, np.ndarray]:
        """Latents by |mean code of positives - mean of negatives| * |<clean probe, W_dec[f]>|, or what takes its place at a later site; and a control."""
        examples, y = effect_part(self.readout, self.config, pair.fit, pair.fit_labels[label])
        added = self.readout.contributions(name, contender, "fit", pair.clean[label].weights, examples, self.config.steps)
        ranked = ranked_by(np.abs(difference(added, y)), max(self.config.n))
        return ranked, random_like(self.readout, name, contender, ranked)

    def _values(self) -> tuple[list[tuple[str, str]], list[str]] | str:
        """The pairs and the two values of the attribute, or why there are none."""
        examples, config = self.readout.case.tokens(self.readout.dataset, "fit").examples, self.config
        attribute = two_labels(examples, config.attribute, config.attribute_values, "evaluate.scr_tpp.attribute_values")
        concept = two_labels(examples, config.concept, [], "evaluate.scr_tpp.concept_pairs")
        if isinstance(attribute, str):
            return attribute
        if config.concept_pairs:
            return config.concept_pairs, attribute
        return concept if isinstance(concept, str) else ([(concept[0], concept[1])], attribute)

    def _prepare(self, pair: tuple[str, str], attribute_values: Sequence[str]) -> str:
        """Draw the examples and fit the three probes of a pair; returns why not, if that is so."""
        case, dataset, config, name = self.readout.case, self.readout.dataset, self.config, " and ".join(pair)
        cells: dict[SideName, list[np.ndarray]] = {}
        labels: dict[SideName, dict[str, np.ndarray]] = {}
        for side in SIDES:
            examples = case.tokens(dataset, side).examples
            own = {"concept": two_valued(examples, config.concept, pair), "attribute": two_valued(examples, config.attribute, attribute_values)}
            labels[side] = own
            cells[side] = subgroups(own["concept"], own["attribute"])
            fewest = min(len(cell) for cell in cells[side])
            if fewest < config.least:
                return (f"the smallest of the four subgroups of {name} has {fewest} examples on the {side.replace('_', '-')} side, "
                        f"and {config.least} are needed (evaluate.scr_tpp.least)")
        seed, vectors = case.config.seed, {side: self.readout.vectors(side) for side in SIDES}
        fit, held_out = draw_evenly(cells["fit"], config.fit_examples, seed), draw_evenly(cells["held_out"], config.held_out_examples, seed + 1)
        tied = draw_evenly([cells["fit"][0], cells["fit"][3]], config.fit_examples, seed + 2)
        clean = {kind: fit_probe(vectors["fit"][fit], labels["fit"][kind][fit] == 1, config.probe, seed) for kind in ("concept", "attribute")}
        biased = fit_probe(vectors["fit"][tied], labels["fit"]["concept"][tied] == 1, config.probe, seed)
        resamples, tokens = case.resamples(dataset), case.tokens(dataset, "held_out")
        weight = unit_weights(resamples, tokens.group[tokens.bounds()[:-1]][held_out])
        right = {kind: labels["held_out"][kind][held_out] == 1 for kind in clean}
        start, gap = {}, {}
        for kind, probe in clean.items():
            start[kind] = accuracy(biased.scores(vectors["held_out"][held_out]) > 0, right[kind], weight)
            gap[kind] = accuracy(probe.scores(vectors["held_out"][held_out]) > 0, right[kind], weight) - start[kind]
            gap[kind] = np.where(gap[kind] >= LEAST_GAP, gap[kind], np.nan)
        chosen = "concept" if start["concept"][0] < start["attribute"][0] else "attribute"
        if np.isnan(gap[chosen][0]):
            return (f"for {name} the clean probe of the {chosen} is not {LEAST_GAP} better on the held-out side than the biased one "
                    f"({start[chosen][0]:.3f}), so there is no spurious correlation to remove (SAEBench counts this as 0)")
        fit_labels = {kind: labels["fit"][kind][fit] == 1 for kind in clean}
        self.pairs.append(Pair(name, clean, biased, fit, fit_labels, held_out, right, weight, start, gap))
        return ""
