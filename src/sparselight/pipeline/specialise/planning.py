"""What a specialization would do and how long each part takes: for --dry-run, and so that one bar can show all of it.

Refuses nothing: what is not known before the domain is selected is estimated from its budget.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparselight.pipeline.engine import Run
from sparselight.pipeline.estimate import EFFICIENCY, probe_flops, training_seconds
from sparselight.pipeline.estimate import make_plan as make_run_plan
from sparselight.pipeline.specialise.sources import NEEDED, Source, SpecialiseRecipe, open_run, ready_source
from sparselight.pipeline.specialise.variants import BASE_SHARE, RESIDUAL, advised_tokens, budgets_of, shared_hash, training_order
from sparselight.pipeline.stages import RunStages, share_of
from sparselight.protocols import Progress
from sparselight.records import Part
from sparselight.sae.formats import load_sae
from sparselight.train import n_latents_for

SPLICED = 1.5  # passes of the subject that a coder costs in measuring behaviour, encoding and counting concepts included
CARD_TOKENS_PER_S = 4000  # of making cards: on the machine of studies/demo/results.json


class SpecialiseStep(Part):
    """One step of a plan."""

    name: str
    finished: bool
    n_tokens: int
    """Training tokens, or tokens measured."""
    seconds: float | None
    """Null where it cannot be said yet."""


class SpecialisePlan(Part):
    """What a specialization would do."""

    name: str
    folder: str
    steps: list[SpecialiseStep]
    n_domain_tokens: int | None
    """Training tokens of the domain; null where it is not harvested yet."""
    advised_tokens: int
    seconds: float
    """Of the steps of which it is known."""


def make_plan(recipe: SpecialiseRecipe, run: Path | None, out: Path, own_domain: bool) -> SpecialisePlan:
    """Every step with its state and expected seconds."""
    flops, source = probe_flops(), ready_source(recipe, run, out, own_domain)
    stages = source or (RunStages(recipe.run_recipe(), Run(out / "run")) if run is None else Source(recipe, open_run(run, recipe.base is None)))
    d_in, n_base, n_parameters = stages.subject.d_site(recipe.harvest.site), width_of_base(recipe, run, stages), stages.subject.n_parameters()
    config, forward_s = recipe.specialise, 2 * n_parameters / (flops * EFFICIENCY["behaviour"])
    folder = None if source is None else out / f"variants-{shared_hash(config, source.base(), source.store('general_train'), source.store('domain_train'))}"

    def training(name: str, place: str) -> SpecialiseStep:
        width = n_base + (0 if name.startswith("finetune") else config.n_new)
        work = config.n_new + BASE_SHARE * n_base if name in RESIDUAL else width
        done = folder is not None and (folder / place / "sae").exists()
        seconds = 0.0 if done else 1.0 if name == "grafted" else training_seconds(d_in, round(work), config.n_tokens, flops)
        return SpecialiseStep(name=place, finished=done, n_tokens=0 if name == "grafted" else config.n_tokens, seconds=seconds)

    variants = training_order(config)
    n_domain = None if source is None else source.store("domain_train").n_tokens
    budgets = () if "boost" not in variants else (config.budgets or ()) if n_domain is None else budgets_of(config, n_domain)
    n_measured = 2 * recipe.evaluate.n_tokens * (2 if config.equal_l0 else 1) * (len(variants) + 3)
    n_cards = 2 * (recipe.explain.explain_tokens + recipe.explain.score_tokens)
    steps = [
        *first_steps(recipe, run, out, own_domain, source, flops, n_parameters), *(training(name, name) for name in variants),
        *(training("boost", f"budgets/{budget}") for budget in budgets),
        SpecialiseStep(name="evaluate", finished=False, n_tokens=n_measured, seconds=SPLICED * n_measured * forward_s),
        SpecialiseStep(name="cards", finished=False, n_tokens=n_cards, seconds=n_cards / CARD_TOKENS_PER_S),
    ]
    return SpecialisePlan(name=recipe.name, folder=str(out), steps=steps, n_domain_tokens=n_domain, advised_tokens=advised_tokens(config, d_in),
                          seconds=sum(step.seconds or 0 for step in steps))


def first_steps(
    recipe: SpecialiseRecipe, run: Path | None, out: Path, own_domain: bool, source: Source | None, flops: float, n_parameters: int,
) -> list[SpecialiseStep]:
    """What comes before the variants."""
    if run is None:
        place = Run(out / "run")
        plan = make_run_plan(recipe.run_recipe(), RunStages(recipe.run_recipe(), place), place)
        wanted = NEEDED[:-1] if recipe.base else NEEDED
        return [SpecialiseStep(name=row.stage, finished=row.finished, n_tokens=row.n_tokens, seconds=row.seconds) for row in plan.rows if row.stage in wanted]
    if not own_domain:
        return []
    n_tokens, done = recipe.select.max_tokens, source is not None
    seconds = 2 * n_parameters * n_tokens / (flops * EFFICIENCY["harvest"])
    return [SpecialiseStep(name="select", finished=done, n_tokens=n_tokens, seconds=0.0 if done else None if "dense" in recipe.select.retrieve else 5.0),
            SpecialiseStep(name="harvest", finished=done, n_tokens=n_tokens, seconds=0.0 if done else seconds)]


def width_of_base(recipe: SpecialiseRecipe, run: Path | None, stages: RunStages) -> int:
    """Latents of the base SAE, which may not be trained yet."""
    if recipe.base is not None:
        return load_sae(recipe.base).n_latents
    if run is not None and isinstance(stages, Source) and stages.run.records:
        return stages.base().n_latents
    return n_latents_for(recipe.train, stages.subject.d_site(recipe.harvest.site))


class Phases:
    """The parts of a specialization as shares of one Progress, and the seconds that each took."""

    def __init__(self, recipe: SpecialiseRecipe, progress: Progress, makes_run: bool, own_domain: bool):
        config, n = recipe.specialise, len(recipe.specialise.variants)
        n_budgets = (2 if config.budgets is None else len(config.budgets)) if "boost" in config.variants else 0
        self.weights = {  # about the share of the time that each takes; only the bar depends on them
            "sources": 12.0 if makes_run else 3.0 if own_domain else 0.2, "variants": 1.5 * n, "budgets": 0.8 * n_budgets, "evaluation": 1.0 * n,
            "evaluation_equal_l0": 0.5 * n if config.equal_l0 else 0.0, "evaluation_budgets": 0.2 * n_budgets, "cards": 2.0,
        }
        self.progress = progress
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[Progress]:
        """Progress of one part."""
        began, report = time.monotonic(), share_of(self.progress, list(self.weights.values()), list(self.weights).index(name))
        yield lambda done, total, note="": report(done, total, f"{name}, {note}" if note else name)
        report(1, 1)
        self.seconds[name] = time.monotonic() - began
