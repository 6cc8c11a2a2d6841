"""From a recipe to a finished run folder: what the command line and the public API call."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparselight.pipeline.engine import Run, Watcher, execute
from sparselight.pipeline.estimate import Plan, make_plan
from sparselight.pipeline.recipe import Recipe, load_recipe
from sparselight.pipeline.showing import headline
from sparselight.pipeline.stages import RunStages, next_command
from sparselight.records import EvalRecord, Part
from sparselight.report.words import words_of

__all__ = ["Plan", "Recipe", "Result", "Watcher", "load_recipe", "plan", "run_pipeline"]


class Result(Part):
    """What a run came to: the one object that `--json` prints."""

    folder: str
    stages: dict[str, str]
    """Stage to its folder, relative to `folder`."""
    wall_s: dict[str, float]
    report: str | None
    headline: list[str]
    summaries: dict[str, dict[str, Any]]
    next_command: str


def run_pipeline(recipe: Recipe, out: Path, until: str | None = None, watcher: Watcher | None = None) -> Result:
    """Run a recipe in a folder; finished stages are skipped, interrupted ones go on."""
    run = execute(out, recipe.name, recipe.model_dump(mode="json"), lambda run: RunStages(recipe, run, watcher).stages(), until, watcher)
    return make_result(run, recipe)


def plan(recipe: Recipe, out: Path) -> Plan:
    """What run_pipeline would do."""
    run = Run(out)
    return make_plan(recipe, RunStages(recipe, run, plans_only=True), run)


def make_result(run: Run, recipe: Recipe) -> Result:
    wall_s = {stage: record.wall_s for stage, record in run.records.items()}
    summaries: Mapping[str, dict[str, Any]] = {stage: record.summary for stage, record in run.records.items()}
    words = words_of(recipe.model_dump())
    lines = headline(EvalRecord.load(run.path("evaluate") / "evaluation.json"), words) if "evaluate" in run.records else []
    finished = "report" in run.records
    return Result(
        folder=str(run.folder), stages={stage: run.path(stage).name for stage in run.records}, wall_s=wall_s,
        report=f"{run.path('report').name}/report.html" if finished else None, headline=lines, summaries=dict(summaries),
        next_command=next_command(run.folder) if finished else "the same command without --until",
    )
