"""How a run was made: its recipe, the record of each stage, the end of each training log, and the last naming by a language model.

Refuses nothing beyond what the records refuse.
"""

from typing import Any

from sparselight.report.prose import recipe_toml
from sparselight.serve.data.overview import LOGS
from sparselight.serve.data.served import ServedRun, read_json
from sparselight.serve.models import LogStage, RunLog, TrainingTail

TAIL_LINES = 20


def run_log(run: ServedRun) -> RunLog:
    """Everything of the log page."""
    tails = [TrainingTail(source=source, lines=run.training_log(stage)[-TAIL_LINES:]) for source, stage in LOGS.items() if run.path(stage) is not None]
    stages = [
        LogStage(stage=stage, folder=run.record.stages[stage], hash=record.hash, wall_s=record.wall_s, machine=record.machine,
                 version=record.sparselight_version, inputs=record.inputs, summary=record.summary, n_files=len(record.files),
                 n_bytes=sum(record.files.values()))
        for stage in run.finished() if (record := run.stage(stage)) is not None
    ]
    return RunLog(name=run.record.name, recipe_toml=recipe_toml(run.record.recipe), training=tails, llm=naming(run), stages=stages)


def naming(run: ServedRun) -> dict[str, Any] | None:
    """Counts of the last naming by a language model, None where there was none."""
    content = read_json(run.folder / "llm" / "naming.json")
    if not isinstance(content, dict):
        return None
    told = {name: content[name] for name in ("questions", "grades", "controls", "capped") if name in content}
    return told | {"n_latents": len(content["latents"])} if isinstance(content.get("latents"), list) else told
