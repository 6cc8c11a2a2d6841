"""The explain stage of a run, and what later commands open of it: the run's catalogue, and the material to draw examples from.

The stage leaves its own catalogue and the activations of the sample; the run's catalogue, `RUN/catalogue.duckdb`, is made of it and of what evaluation
and interventions found, and is the one to which explanations, scores and edits are added. It is made anew when a stage was redone; explanations of
other explainers are then carried over for every SAE whose weights are the same. Refuses: runs whose stage explain is not finished.
"""

import json
import math
import os
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparselight.errors import RunError, StoreError
from sparselight.files import folder_lock
from sparselight.interpret.cache import ActivationCache
from sparselight.interpret.catalogue import FILE_NAME, Catalogue, write_catalogue
from sparselight.interpret.catalogue.writing import LOCK, add_table
from sparselight.interpret.contexts import Windows
from sparselight.interpret.controls import Reference
from sparselight.interpret.directions import directions_of
from sparselight.interpret.evidence import domain_ratio, is_supported
from sparselight.interpret.examples import CoderMaterial, LatentExamples, draw_examples
from sparselight.interpret.explain import STRONGEST, Extras, iter_cards
from sparselight.interpret.label_rule import EXPLAINER
from sparselight.interpret.patches import WholeExamples
from sparselight.interpret.strongest import load_strongest
from sparselight.interpret.tokens import SetTokens, make_frame
from sparselight.pipeline.associations import read_associations
from sparselight.pipeline.media import RunPictures
from sparselight.protocols import Progress
from sparselight.records import Card, InterventionRecord, RunRecord, StageRecord

if TYPE_CHECKING:
    from sparselight.pipeline.stages import RunStages

ACTIVATIONS = "activations"
MODALITIES = {"protein": "residues", "interactions": "items", "image_text": "image"}
"""Kinds of corpus that are not shown as text."""
SOURCES = {"base": "train", "residual": "residual"}
"""Source of cards to the stage that trained it."""
DOMAIN_RATIO = 3.0
_MAKING = threading.Lock()  # threads of one process wait for each other; another process is refused


def explain_run(stages: "RunStages", folder: Path, progress: Progress) -> dict[str, Any]:
    """The stage: cards of all latents into `catalogue.duckdb`, activations of the sample into `activations`.

    Returns:
        Counts of cards, also by grade for each SAE.
    """
    coders = {"base": stages.base(), "residual": stages.residual_sae()}
    modality = modality_of(stages)
    controls: list[dict[str, Any]] = []

    def note_control(source: str, control: str, found: Reference) -> None:
        for log_n_fires, f1 in zip(found.log_n_fires.tolist(), found.f1.tolist(), strict=True):
            controls.append({"source": source, "control": control, "n_explain": round(math.exp(log_n_fires)), "f1": f1})

    blocks = iter_cards(coders, stages.token_sets("train"), stages.token_sets("held_out"), stages.site, stages.subject, stages.recipe.explain,
                        folder / ACTIVATIONS, progress, Extras(modality != "text", pictures_of(stages)), note_control)
    counts: Counter[str] = Counter()
    grades: dict[str, Counter[str]] = {source: Counter() for source in coders}
    write_catalogue(_counted(blocks, counts, grades), folder, modality, controls)
    return {**{f"n_{name}": counts[name] for name in ("cards", "explained", "supported", "domain_supported")},
            "grades": {source: dict(sorted(own.items())) for source, own in grades.items()}}


def _counted(blocks: Iterable[list[Card]], counts: Counter[str], grades: dict[str, Counter[str]]) -> Iterator[list[Card]]:
    for block in blocks:
        for card in block:
            supported = is_supported(card)
            counts.update(cards=1, explained=card.explanation is not None, supported=supported,
                          domain_supported=supported and domain_ratio(card) >= DOMAIN_RATIO)
            grades[card.source][card.grade] += 1
        yield block


def modality_of(stages: "RunStages") -> str:
    """How contexts of a run are shown: `text`, `residues`, `items` or `image`."""
    return MODALITIES.get(stages.recipe.corpus.kind, "text")


def pictures_of(stages: "RunStages") -> RunPictures | None:
    """The images of a run, where its modality has some."""
    return RunPictures(stages.run.folder, stages.subject) if modality_of(stages) == "image" else None


class ExampleMaker:
    """Draws examples of latents of a finished run, as explainers and scorers need them.

    Raises:
        RunError: when the activations that the stage left are missing or were made of another sample.
    """

    def __init__(self, stages: "RunStages"):
        config, folder = stages.recipe.explain, stages.run.path("explain") / ACTIVATIONS
        explain_sets, score_sets = ([SetTokens.of(token_set) for token_set in stages.token_sets(side)] for side in ("train", "held_out"))
        frame = make_frame(explain_sets, score_sets, config.explain_tokens, config.score_tokens, config.seed)
        self.config, self.modality = config.examples, modality_of(stages)
        sets, pictures = [*explain_sets, *score_sets], pictures_of(stages)
        self.windows = Windows(sets, frame, cache(stages.subject.token_text), config.context_tokens, self.modality != "text", pictures)
        coders = {"base": stages.base(), "residual": stages.residual_sae()}
        self.material = {
            source: CoderMaterial(ActivationCache(folder / source, frame.digest()), partial(load_strongest, folder / source / STRONGEST), directions_of(coder),
                                  WholeExamples(source, coder, sets, stages.site).of if pictures else None)
            for source, coder in coders.items()
        }

    def draw(self, latents: Sequence[tuple[str, int]]) -> dict[tuple[str, int], LatentExamples]:
        """Examples of these latents, (source, latent): the same ones at every call.

        Raises:
            ConfigError: when there is no such latent.
        """
        return draw_examples(latents, self.material, self.windows, self.config)


def run_catalogue(run: str | Path) -> Catalogue:
    """The catalogue of a run folder, made or brought up to date where needed; of a folder that cannot be written, the one that the stage left.

    Raises:
        RunError: when it is no run folder, or its stage explain is not finished.
    """
    run = Path(run)
    with _MAKING:  # the record is read inside: whoever waited makes it of the stages as they are then
        record = RunRecord.load(run / "run.json")
        if "explain" not in record.stages:
            raise RunError(asked=f"open the catalogue of {run}", why="its stage explain is not finished",
                           instead=f"run its recipe with --out {run} --until explain")
        return _up_to_date(run, record, _origin(run, record), run / FILE_NAME)


def _up_to_date(run: Path, record: RunRecord, origin: dict[str, str], path: Path) -> Catalogue:
    if _is_made_of(path, origin):
        return Catalogue(path)
    try:
        with folder_lock(run / LOCK, asked=f"change the catalogue {path}"), tempfile.TemporaryDirectory(dir=run, prefix=".catalogue-") as scratch:
            _make(run, record, origin, Path(scratch), path)
    except (OSError, StoreError):  # a folder that cannot be written
        return Catalogue(run / record.stages["explain"])
    return Catalogue(path)


def _make(run: Path, record: RunRecord, origin: dict[str, str], scratch: Path, path: Path) -> None:
    new = scratch / FILE_NAME
    _link(run / record.stages["explain"] / FILE_NAME, new)
    catalogue = Catalogue(new)
    catalogue.add_associations(read_associations(run / record.stages["evaluate"], _n_latents(catalogue)) if "evaluate" in record.stages else {})
    if path.is_file():
        _carry_over(path, origin, catalogue)
    if "intervene" in record.stages:
        catalogue.add_edits(InterventionRecord.load(run / record.stages["intervene"] / "interventions.json").results)
    catalogue.close()
    add_table(new, "origin", [{"record": json.dumps(origin)}])
    new.replace(path)


def _link(path: Path, new: Path) -> None:
    """The same file under another name, which costs nothing: whoever changes a catalogue does so in a copy. Where there are no links, a copy."""
    try:
        os.link(path, new)
    except OSError:
        shutil.copyfile(path, new)


def _carry_over(path: Path, origin: dict[str, str], new: Catalogue) -> None:
    """Explanations that other explainers made of SAEs whose weights have not changed, and the edits that were tried with their latents."""
    try:
        old = Catalogue(path)
        before = _read_origin(old)
    except RunError:
        return
    kept, edits = {}, []
    for source in new.sources():
        if before.get(f"weights of {source}") == origin.get(f"weights of {source}"):
            edits += old.edits(source)
            keys = old.sql(f"SELECT DISTINCT latent FROM explanations WHERE source = '{source}' AND explainer != '{EXPLAINER}'")
            for latent in keys.column("latent").to_pylist():
                kept[source, latent] = [explanation for explanation in old.card(source, latent).explanations if explanation.explainer != EXPLAINER]
    old.close()
    new.add_explanations(kept)
    new.add_edits(edits)


def _n_latents(catalogue: Catalogue) -> dict[str, int]:
    return {row["source"]: row["n"] for row in catalogue.sql("SELECT source, count(*) AS n FROM cards GROUP BY source ORDER BY min(number)").to_pylist()}


def _origin(run: Path, record: RunRecord) -> dict[str, str]:
    """What a catalogue is made of: the stages' folders, and the weights of each SAE."""
    stages = {name: record.stages[name] for name in ("explain", "evaluate", "intervene") if name in record.stages}
    weights = {f"weights of {source}": str(StageRecord.load(run / record.stages[stage] / "record.json").summary.get("weights"))
               for source, stage in SOURCES.items() if stage in record.stages}
    return stages | weights


def _is_made_of(path: Path, origin: dict[str, str]) -> bool:
    try:
        return path.is_file() and _read_origin(Catalogue(path)) == origin
    except RunError:
        return False


def _read_origin(catalogue: Catalogue) -> dict[str, str]:
    try:
        return dict(json.loads(catalogue.sql("SELECT record FROM origin").column("record")[0].as_py()))
    except ValueError as err:  # no such table, or not what we wrote
        raise RunError(asked=f"see what {catalogue.path} was made of", why=str(err), instead="delete that file") from None
