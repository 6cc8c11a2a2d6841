"""Explains and scores many latents: a batch is explained, then scored, then the next, so that a cap leaves whole latents; controls stand beside every score.

`shuffled`: the explanation of another latent, on this one's examples. Any other control is a set of latents of another coder (raw neurons, an untrained SAE),
explained and scored by the same procedure. A control is measured on explain.scorers.n_control_latents latents and stands beside every score as the mean and
2.5 to 97.5 % range over them: what the procedure gives to nothing.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from sparselight.interpret.contexts import LatentExamples
from sparselight.interpret.llm.asking import Asker
from sparselight.interpret.llm.costing import Costing
from sparselight.interpret.llm.examiner import Examiner
from sparselight.interpret.llm.explainer import LlmExplainer
from sparselight.interpret.llm.job import BATCH_LATENTS, Controls, Job, Named
from sparselight.interpret.scorers.plan import Scorer
from sparselight.protocols import Progress, no_progress
from sparselight.records import Explanation, MetricValue, Score


class Namer:
    """Explains and scores.

    Args:
        explainer: None to score given explanations only.
        asker: None where no scorer asks a language model.
    """

    def __init__(self, explainer: LlmExplainer | None, scorers: Sequence[Scorer], asker: Asker | None, n_control_latents: int, seed: int = 0):
        self.examiner = Examiner(explainer, scorers, asker)
        self.costing = Costing(self.examiner, n_control_latents)
        self.n_control_latents, self.seed = n_control_latents, seed

    def run(self, job: Job, progress: Progress = no_progress) -> Named:
        """Explain and score all of a job.

        Raises:
            ConfigError: when a cap is too small for one latent.
            EndpointError: when the server fails; answers that came are on disk.
        """
        self.costing.check_caps(job)
        self.examiner.n_done, self.examiner.n_questions = 0, self.costing.n_questions(job)
        named = Named()
        size = max(BATCH_LATENTS, self.n_control_latents)
        for start in range(0, len(job.items), size):
            items = job.items[start : start + size]
            self._name(items, job.given, named, progress)
            if start == 0 and self.n_control_latents:
                self._shuffled(items, named, progress)
                for control, rows in job.controls.items():
                    self._other_latents(control, rows, named, progress)
        for explanations in named.explanations.values():
            explanations[:] = [with_controls(explanation, named.controls) for explanation in explanations]
        return named

    def _name(self, items: Sequence[LatentExamples], given: Mapping[str, Sequence[Explanation]], named: Named, progress: Progress) -> None:
        """Explain and score some latents."""
        todo = [(item, explanation) for item in items for explanation in given.get(item.key, ())]
        made, why_not = self.examiner.explain(items, progress)
        todo += [(item, made[item.key]) for item in items if item.key in made]
        named.why_not |= why_not
        scores = self.examiner.score([(item, explanation.text) for item, explanation in todo], progress)
        for (item, explanation), found in zip(todo, scores, strict=True):
            kept = [score for score in explanation.scores if score.scorer not in {new.scorer for new in found}]
            named.explanations.setdefault(item.key, []).append(explanation.model_copy(update={"scores": [*kept, *found]}))

    def _shuffled(self, items: Sequence[LatentExamples], named: Named, progress: Progress) -> None:
        """Explanations of other latents, an explainer at a time."""
        scorers = [scorer for scorer in self.examiner.scorers if scorer.uses_explanation]
        for explainer in sorted({explanation.explainer for rows in named.explanations.values() for explanation in rows}):
            texts = {item.key: explanation.text for item in items for explanation in named.explanations.get(item.key, ()) if explanation.explainer == explainer}
            pairs = exchanged([item for item in items if item.key in texts], texts, self.n_control_latents, self.seed)
            self._pool(explainer, "shuffled", self.examiner.score(pairs, progress, scorers), named)

    def _other_latents(self, control: str, rows: Sequence[LatentExamples], named: Named, progress: Progress) -> None:
        """Latents of another coder, explained and scored alike."""
        explainer = self.examiner.explainer
        if explainer is None:
            return
        chosen = np.random.default_rng(self.seed).permutation(len(rows))[: self.n_control_latents]
        items = [rows[index] for index in sorted(chosen.tolist())]
        made, _ = self.examiner.explain(items, progress)
        pairs = [(item, made[item.key].text) for item in items if item.key in made]
        named.control_explanations[control] = [made[item.key] for item, _ in pairs]
        self._pool(explainer.name, control, self.examiner.score(pairs, progress), named)

    def _pool(self, explainer: str, control: str, rows: Sequence[Sequence[Score]], named: Named) -> None:
        """Mean and range over the control latents, by scorer and metric."""
        found: dict[tuple[str, str], list[float]] = {}
        for score in (score for row in rows for score in row):
            for metric, measured in score.values.items():
                found.setdefault((score.scorer, metric), []).append(measured.value)
        for (scorer, metric), values in found.items():
            low, high = np.quantile(values, [0.025, 0.975]).tolist() if len(values) > 1 else (None, None)
            pooled = MetricValue(value=float(np.mean(values)), low=low, high=high, n=len(values), unit="latents", seeds=[self.seed])
            named.controls.setdefault(explainer, {}).setdefault(scorer, {}).setdefault(control, {})[metric] = pooled


def exchanged(items: Sequence[LatentExamples], texts: Mapping[str, str], n: int, seed: int) -> list[tuple[LatentExamples, str]]:
    """Up to n latents, each with the explanation of another that says something else; a latent without such another is left out."""
    order = [items[index] for index in np.random.default_rng(seed).permutation(len(items)).tolist()]
    pairs = []
    for number, item in enumerate(order[:n]):
        others = (order[(number + step) % len(order)] for step in range(1, len(order)))
        other = next((other for other in others if texts[other.key] != texts[item.key]), None)
        if other is not None:
            pairs.append((item, texts[other.key]))
    return pairs


def with_controls(explanation: Explanation, controls: Controls) -> Explanation:
    """The explanation, its scores beside their controls."""
    known = controls.get(explanation.explainer, {})

    def beside(score: Score) -> Score:
        return score.model_copy(update={"controls": {**score.controls, **known.get(score.scorer, {})}}) if score.values else score

    return explanation.model_copy(update={"scores": [beside(score) for score in explanation.scores]})
