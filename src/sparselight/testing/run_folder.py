"""A run folder made of given cards, for tests of what shows runs: the records of every stage and a catalogue, without a subject, stores or weights.

Owns the least that a folder needs so that it is read as a finished run. What is in it is as its maker says: nothing was trained. Refuses nothing.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparselight.files import make_folder, write_bytes
from sparselight.interpret.catalogue import write_catalogue
from sparselight.pipeline.explaining import MODALITIES
from sparselight.records import Card, EditResult, EvalRecord, InterventionRecord, RunRecord, SaeRecord, StageRecord

DIGEST = "0123456789abcdef" * 4


@dataclass(frozen=True)
class MadeRun:
    """What a made run says of itself."""

    name: str = "made"
    modality: str = "text"
    subject: str = "made"
    site: str = "resid_post.0"
    machine: str = "a machine"
    version: str = "0"
    recipe: Mapping[str, Any] = field(default_factory=dict)
    summaries: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By stage."""
    evaluation: EvalRecord | None = None
    edits: Sequence[EditResult] = ()
    saes: Mapping[str, SaeRecord] = field(default_factory=dict)
    """`base`, `residual`."""
    logs: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """Lines of the training logs, by SAE."""


def make_run_folder(folder: Path, blocks: Iterable[list[Card]], made: MadeRun | None = None) -> Path:
    """Write a run folder whose catalogue holds these cards.

    Args:
        blocks: the cards, some at a time.
    """
    made = made or MadeRun()
    stages = ["corpus", "select", "harvest", *(stage for source, stage in (("base", "train"), ("residual", "residual")) if source in made.saes),
              *(["evaluate"] if made.evaluation else []), "explain", *(["intervene"] if made.edits else []), "report"]
    places = {stage: f"{stage}-{DIGEST[:10]}" for stage in stages}
    for place in places.values():
        make_folder(folder / place)
    write_catalogue(blocks, folder / places["explain"], made.modality)
    for source, record in made.saes.items():
        trained = folder / places["train" if source == "base" else "residual"]
        record.save(trained / "sae" / "sparselight.json")
        write_bytes(trained / "log.jsonl", "".join(json.dumps(line) + "\n" for line in made.logs.get(source, ())).encode())
    if made.evaluation:
        made.evaluation.save(folder / places["evaluate"] / "evaluation.json")
    if made.edits:
        InterventionRecord(results=list(made.edits)).save(folder / places["intervene"] / "interventions.json")
    for stage, place in places.items():
        summary = {"harvest": {"site": made.site}}.get(stage, {}) | dict(made.summaries.get(stage, {}))
        StageRecord(stage=stage, hash=DIGEST, output=DIGEST, inputs={}, config={}, wall_s=1.0, machine=made.machine, sparselight_version=made.version,
                    summary=summary, files={}).save(folder / place / "record.json")
    kind = next((kind for kind, modality in MODALITIES.items() if modality == made.modality), "text")
    recipe = {"name": made.name, "corpus": {"kind": kind}, "subject": {"source": made.subject}, **made.recipe}
    RunRecord(name=made.name, recipe=recipe, stages=places, wall_s=dict.fromkeys(stages, 1.0)).save(folder / "run.json")
    return folder
