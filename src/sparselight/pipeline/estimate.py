"""What a run would cost: stages, tokens, bytes and expected seconds, from the recipe and a short speed probe of this machine."""

import time
from typing import TYPE_CHECKING

import torch

from sparselight.pipeline.engine import Run, stage_folder, stage_hash
from sparselight.pipeline.recipe import Recipe
from sparselight.pipeline.selecting import expected_seconds
from sparselight.records import Part, StageRecord
from sparselight.train import n_latents_for

if TYPE_CHECKING:
    from sparselight.pipeline.stages import RunStages

# Share of the probe's matrix speed that a stage reaches, fitted to the stage times of one run (studies/demo/results.json) on the machine named there,
# whose probe gave 338 GFLOP/s. Only the estimate depends on them; other machines and larger models will differ.
EFFICIENCY = {"harvest": 0.55, "train": 0.65, "behaviour": 0.46}
BYTES_PER_VALUE = {"bfloat16": 2, "float16": 2, "float32": 4, "int8": 1}


class PlanRow(Part):
    """One stage of a plan."""

    stage: str
    finished: bool
    n_tokens: int
    n_bytes: int
    seconds: float | None
    """Null where it cannot be said yet."""


class Plan(Part):
    """All stages of a run before it is run."""

    name: str
    rows: list[PlanRow]
    seconds: float
    """Of the stages of which it is known."""
    n_bytes: int


def make_plan(recipe: Recipe, stages: "RunStages", run: Run) -> Plan:
    """Estimate every stage; a finished one costs nothing."""
    flops = probe_flops()
    d_in = stages.subject.d_site(recipe.harvest.site)
    n_harvest = recipe.sample.general_tokens + recipe.sample.held_out_tokens + recipe.select.max_tokens
    n_parameters = stages.subject.n_parameters()
    value_bytes = BYTES_PER_VALUE[recipe.harvest.dtype]

    def training(n_latents: int, n_tokens: int) -> float:
        return training_seconds(d_in, n_latents, n_tokens, flops)

    widths = {"train": n_latents_for(recipe.train, d_in), "residual": n_latents_for(recipe.residual, d_in)}
    forward_s = 2 * n_parameters / (flops * EFFICIENCY["behaviour"])
    n_explain = 2 * (recipe.explain.explain_tokens + recipe.explain.score_tokens)
    sizes: dict[str, tuple[int, float, float | None]] = {
        "corpus": (0, 0, 4.0), "select": (recipe.select.max_tokens, 0, None if "dense" in recipe.select.retrieve or recipe.select.rerank == "tracin" else 5.0),
        "harvest": (n_harvest, n_harvest * (d_in * value_bytes + 12), 2 * n_parameters * n_harvest / (flops * EFFICIENCY["harvest"])),
        "train": (recipe.train.n_tokens, 12 * d_in * widths["train"], training(widths["train"], recipe.train.n_tokens)),
        "residual": (2 * recipe.residual.n_tokens, 12 * d_in * widths["residual"], 2 * training(sum(widths.values()), recipe.residual.n_tokens)),
        "evaluate": (2 * recipe.evaluate.n_tokens, 0, 2 * recipe.evaluate.n_tokens * 9 * forward_s),
        "explain": (n_explain, 1000 * sum(widths.values()), n_explain * 1.8e-4),
        "intervene": (recipe.intervene.side_effect_tokens, 0, 4 * recipe.intervene.n_features * recipe.intervene.side_effect_tokens * forward_s),
        "report": (0, 1_000_000, 1.0),
    }
    rows, known = [], True
    for stage in stages.stages():
        known = known and all(name in run.records for name in stage.inputs)
        digest = stage_hash(stage, run.records) if known else ""
        path = stage_folder(run.folder, stage.name, digest) / "record.json"
        finished = known and path.exists()
        if finished:
            run.records[stage.name] = StageRecord.load(path)
        n_tokens, n_bytes, seconds = sizes[stage.name]
        if stage.name == "select" and known and not finished:
            seconds = expected_seconds(stages)
        if finished:
            n_bytes, seconds = 0, 0.0
        rows.append(PlanRow(stage=stage.name, finished=finished, n_tokens=n_tokens, n_bytes=int(n_bytes), seconds=seconds))
    return Plan(name=recipe.name, rows=rows, seconds=sum(row.seconds or 0 for row in rows), n_bytes=sum(row.n_bytes for row in rows))


def training_seconds(d_in: int, n_latents: int, n_tokens: int, flops: float) -> float:
    """Expected seconds of a training: the encoder's product, and half as much for all else."""
    return 2 * d_in * n_latents * n_tokens * 1.5 / (flops * EFFICIENCY["train"])


def probe_flops(side: int = 1024, repeats: int = 4) -> float:
    """Floating point operations a second of a square fp32 matrix product, best of a few."""
    a, best = torch.randn(side, side), float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best
