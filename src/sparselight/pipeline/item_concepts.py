"""The concept dictionary of a finished run on a recommender: found on the users that the SAE was trained on, tested on the others, kept in the run's folder.

That of the base SAE with default settings is made by the run itself (`recommender_evidence`); others go to `RUN/concepts/SAE-HASH.json`, named by the SAE and
the settings. The same request again reads the file. Refuses: runs on other subjects.
"""

import hashlib
from pathlib import Path

from sparselight.config import canonical_json
from sparselight.errors import RunError
from sparselight.interpret.item_concepts import ItemConceptsConfig, concept_dictionary
from sparselight.pipeline.opened import OpenRun, open_run
from sparselight.pipeline.recommender_evidence import CONCEPTS
from sparselight.protocols import Progress, no_progress
from sparselight.records.item_concepts import ConceptDictionaryRecord
from sparselight.subjects import RecommenderSubject

FOLDER = "concepts"


def run_concepts(folder: Path, config: ItemConceptsConfig, source: str = "base", progress: Progress = no_progress) -> tuple[ConceptDictionaryRecord, Path]:
    """The dictionary of one SAE of a run, and its file.

    Args:
        source: which SAE: base, residual, stitched.

    Raises:
        RunError: when the run is not on a recommender, or lacks the SAE.
    """
    return concepts_of(open_run(folder), config, source, progress)


def concepts_of(run: OpenRun, config: ItemConceptsConfig, source: str = "base", progress: Progress = no_progress) -> tuple[ConceptDictionaryRecord, Path]:
    """The same of a run that is open."""
    subject = run.subject
    if not isinstance(subject, RecommenderSubject):
        raise RunError(asked=f"name latents of {run.folder} by items", why=f"its subject is of kind {subject.ref().kind}, not a recommender",
                       instead="read its cards: sparselight features")
    sae = run.sae(source)
    name = hashlib.sha256(canonical_json([sae.weights_hash(), config.model_dump(mode="json")]).encode()).hexdigest()[:10]
    made = made_by_the_run(run, config) if source == "base" else None
    path = made or run.folder / FOLDER / f"{source}-{name}.json"
    if path.exists():
        return ConceptDictionaryRecord.load(path), path
    train, held_out = (run.stages.corpus_side(side) for side in ("train", "held_out"))
    record = concept_dictionary(subject, sae, train.examples, held_out.examples, config, run.site, progress)
    record.save(path)
    return record, path


def made_by_the_run(run: OpenRun, config: ItemConceptsConfig) -> Path | None:
    """The dictionary that the run's stage `intervene` left, where it is of these settings."""
    if "intervene" not in run.stages.run.records:
        return None
    path = run.stages.run.path("intervene") / CONCEPTS
    return path if path.exists() and ConceptDictionaryRecord.load(path).settings == config.model_dump(mode="json") else None
