"""The select stage, and selecting by itself: what `sparselight select` does with a run folder or a recipe.

Owns: how a corpus that is split, the models that vectors come from and the settings become one Selection; what else enters the stage's hash (seed
files, encoder, site); several strategies side by side. A run folder is only read: other settings than its own are tried without leaving a trace, but
for the cached vectors. Refuses: changes to a run's other tables.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sparselight.config import apply_overrides, load_toml
from sparselight.corpus import ListCorpus
from sparselight.errors import ConfigError, RunError, nearest
from sparselight.files import sha256_file
from sparselight.pipeline.embedding import TextVectors
from sparselight.pipeline.engine import Run, Stage, Watcher, execute, finished_record, stage_folder, stage_hash
from sparselight.pipeline.influence import SaeInfluence
from sparselight.pipeline.recipe import Recipe, find_recipe
from sparselight.pipeline.selection_view import SelectPlan, SelectResult, describe, overlaps
from sparselight.protocols import Progress, no_progress
from sparselight.records import RunRecord, StageRecord
from sparselight.select import Influence, SelectConfig, Selection, find_seeds, select_examples
from sparselight.subjects import HuggingFaceSubject

if TYPE_CHECKING:
    from sparselight.pipeline.stages import RunStages

VECTORS_FOLDER = "vectors"
STRATEGIES = ("bm25", "dense", "bm25+dense", "dense+bm25")
SECONDS_A_CHAR = 4e-7  # reading, BM25 and near copies; measured on the demo's corpus


def make_selection(
    train: ListCorpus, held_out: ListCorpus, config: SelectConfig, subject: HuggingFaceSubject, site: str, cache: Path | None = None,
    progress: Progress = no_progress, influence: Influence | None = None, vectors: TextVectors | None = None,
) -> tuple[ListCorpus, Selection]:
    """Both sides of a corpus as one, and what is selected of it.

    Args:
        site: where the subject's activations are taken for dense retrieval.
        cache: folder in which vectors are kept.
        influence: for select.rerank = "tracin", in place of that on select.sae.
        vectors: where to take vectors from, in place of a new TextVectors.
    """
    both = type(train)([*train, *held_out], train.origin)
    sides = np.arange(len(both)) >= len(train)
    if vectors is None and "dense" in config.retrieve:
        vectors = TextVectors(config, subject, site, cache, progress)
    if influence is None and config.rerank == "tracin":
        seeds = find_seeds(list(both), config, sides)
        influence = SaeInfluence(config, subject, site, [*(both[index] for index in seeds.inside), *seeds.outside], progress)
    selection = select_examples(both, config, subject.n_tokens, progress, held_out=sides, vectors=vectors, influence=influence)
    if vectors is not None and config.search == "faiss":
        vectors.save_index(list(both))
    return both, selection


def expected_seconds(stages: "RunStages", n_selections: int = 1, has_vectors: bool = False) -> float | None:
    """Of the stage: known once the corpus is read, and not known of gradients.

    Args:
        n_selections: as many orders of the texts.
        has_vectors: an order needs vectors, whatever the settings say.
    """
    config, record = stages.recipe.select, stages.run.records.get("corpus")
    if record is None or config.rerank == "tracin":
        return None
    seconds = record.summary["n_chars"] * SECONDS_A_CHAR * n_selections
    if has_vectors or "dense" in config.retrieve:
        vectors = TextVectors(config, stages.subject, stages.site, stages.run.folder / VECTORS_FOLDER)
        seconds += vectors.expected_seconds([*stages.corpus_side("train"), *stages.corpus_side("held_out")])
    return seconds


def stage_inputs(config: SelectConfig, site: str) -> dict[str, Any]:
    """What changes a selection besides its settings and the subject: contents of seed files, the encoder's files, the site of the vectors."""
    found: dict[str, Any] = {}
    if config.seed_files:
        found["seed_file_hashes"] = [sha256_file(path) if path.is_file() else "" for path in (Path(name).expanduser() for name in config.seed_files)]
    if "dense" in config.retrieve and config.encoder == "subject":
        found["site"] = site
    elif "dense" in config.retrieve:
        found["encoder_files"] = _files(config.encoder)
    if config.rerank == "tracin":
        found |= {"site": site, "sae_files": _files(config.sae or "")}
    return found


def _files(folder: str) -> list[list[Any]]:
    """What stands in a local folder, to notice a change; nothing for a name on a hub."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file()) if folder and Path(folder).is_dir() else []
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]


class Sides(NamedTuple):
    """A corpus as a run divides it."""

    train: ListCorpus
    held_out: ListCorpus


class SelectRun:
    """A selection in a run folder, or from a recipe.

    Args:
        source: a run folder, or a recipe by path or name; a recipe needs the tables corpus and select only.
        overrides: `select.a=b`; of a recipe also other tables.
        out: the run folder of a recipe.
        compare: strategies to put beside the settings' own.
        truth: `kind=value` of a label that examples of the domain have.

    Raises:
        ConfigError: for an unknown strategy, or changes that a run folder cannot take.
    """

    def __init__(self, source: str, overrides: Sequence[str] = (), out: Path | None = None, compare: Sequence[str] = (), truth: str | None = None):
        from sparselight.pipeline.stages import RunStages  # it calls make_selection

        self.source, self.truth = source, truth
        self.compare = [check_strategy(name) for name in dict.fromkeys(compare)]
        self.is_run = (Path(source) / "run.json").is_file()
        self.records: dict[str, StageRecord] = {}
        if self.is_run:
            self.folder, self.recipe = Path(source), self._recipe_of_run(overrides, out)
        else:
            self.folder, self.recipe = out or Path("runs") / Path(source).stem, partial_recipe(source, overrides)
        self.stages = RunStages(self.recipe, Run(self.folder, self.records))

    def plan(self) -> SelectPlan:
        """What `run` would do."""
        config, n_examples, n_chars, seconds = self.recipe.select, None, None, None
        record = self._known_corpus()
        finished = self._is_finished()
        if record is not None:
            n_examples, n_chars = record.summary["n_examples"], record.summary["n_chars"]
            new = len(self._compared()) + (not finished)
            seconds = expected_seconds(self.stages, new, self._needs_vectors()) if new else 0.0
        return SelectPlan(source=str(self.folder if self.is_run else self.source), strategies=[strategy_name(config), *self._compared()],
                          max_tokens=config.max_tokens, n_examples=n_examples, n_chars=n_chars, finished=finished, seconds=seconds)

    def run(self, progress: Progress = no_progress, influence: Influence | None = None) -> SelectResult:
        """Select, and look at what was selected."""
        if not self.is_run:
            self._run_stages(progress)
        stages, config = self.stages, self.recipe.select
        sides = Sides(stages.corpus_side("train"), stages.corpus_side("held_out"))
        vectors = TextVectors(config, stages.subject, stages.site, self.folder / VECTORS_FOLDER, progress) if self._needs_vectors() else None
        configs = {strategy_name(config): config, **{name: config.model_copy(update={"retrieve": tuple(name.split("+"))}) for name in self._compared()}}
        selections = {}
        for name, one in configs.items():
            if one is config and self._is_finished():
                selections[name] = Selection.load(stages.run.path("select") / "selection.parquet")
            else:
                _, selections[name] = make_selection(*sides, one, stages.subject, stages.site, progress=progress, influence=influence, vectors=vectors)
        examples = [*sides.train, *sides.held_out]
        shown = [describe(name, selection, examples, len(sides.train), stages.subject, self.truth) for name, selection in selections.items()]
        return SelectResult(
            source=str(self.folder), n_examples=len(examples), max_tokens=config.max_tokens, guard=config.guard, strategies=shown,
            overlap=overlaps(selections), next_command=self._next_command(),
        )

    def _run_stages(self, progress: Progress) -> None:
        self._check_folder()

        def make_stages(run: Run) -> list[Stage]:
            self.stages = type(self.stages)(self.recipe, run)
            return self.stages.stages()

        watcher = Watcher(progress=lambda _stage: progress)
        run = execute(self.folder, self.recipe.name, self.recipe.model_dump(mode="json"), make_stages, "select", watcher)
        self.records = run.records

    def _check_folder(self) -> None:
        """Refuse to take a run that is further on back to its selection."""
        if not (self.folder / "run.json").is_file():
            return
        try:
            record = RunRecord.load(self.folder / "run.json")
        except RunError:  # marked as a run before its first stage was finished
            return
        if set(record.stages) - {"corpus", "select"} and Recipe.parse(record.recipe) != self.recipe:
            raise RunError(asked=f"select into {self.folder}", why="it holds a run with other settings whose later stages would no longer belong to it",
                           instead=f"give another --out, or try the settings without a trace: sparselight select {self.folder} --set select.NAME=VALUE")

    def _recipe_of_run(self, overrides: Sequence[str], out: Path | None) -> Recipe:
        asked = f"select in the run {self.source}"
        if out is not None:
            raise ConfigError(asked=f"{asked} into --out {out}", why="a run folder is only read", instead="give the recipe in place of the run folder")
        for override in overrides:
            if not override.strip().startswith("select."):
                raise ConfigError(asked=f"{asked} with {override!r}", why="only the table select can be tried on a finished corpus",
                                  instead="write select.NAME=VALUE, or give the recipe in place of the run folder")
        record = RunRecord.load(Path(self.source) / "run.json")
        if "corpus" not in record.stages:
            raise RunError(asked=asked, why="its corpus is not read yet", instead="give its recipe, or run it")
        for stage in ("corpus", "select"):
            if stage in record.stages:
                self.records[stage] = StageRecord.load(Path(self.source) / record.stages[stage] / "record.json")
        self.recorded = Recipe.parse(record.recipe)
        return Recipe.parse(apply_overrides(record.recipe, overrides))

    def _compared(self) -> list[str]:
        return [name for name in self.compare if name != strategy_name(self.recipe.select)]

    def _needs_vectors(self) -> bool:
        return any("dense" in name for name in [strategy_name(self.recipe.select), *self._compared()])

    def _known_corpus(self) -> StageRecord | None:
        if not self.is_run:
            stage = self.stages.stages()[0]
            found = finished_record(stage_folder(self.folder, stage.name, stage_hash(stage, {})))
            if found is not None:
                self.records["corpus"] = found
        return self.records.get("corpus")

    def _is_finished(self) -> bool:
        if self.is_run:
            return "select" in self.records and self.recorded.select == self.recipe.select
        if "select" not in self.records and "corpus" in self.records:
            stage = self.stages.stages()[1]
            found = finished_record(stage_folder(self.folder, stage.name, stage_hash(stage, self.records)))
            if found is not None:
                self.records["select"] = found
        return "select" in self.records

    def _next_command(self) -> str:
        if self.is_run and self._is_finished():
            return f"sparselight train {self.folder}"
        if self.is_run:
            return "the recipe of this run with the settings that you prefer, in a new run folder: sparselight run RECIPE --set select.NAME=VALUE --out FOLDER"
        return f"sparselight run {self.source} --out {self.folder}"


def partial_recipe(source: str, overrides: Sequence[str]) -> Recipe:
    """A recipe whose tables train and residual may be left out: no selection reads them, nor what `specialise` does with the domain."""
    data = apply_overrides(load_toml(find_recipe(source)), overrides)
    tables = {name: table for name, table in data.items() if name not in ("base", "specialise")}  # of `specialise`, whose selection is the same
    return Recipe.parse({**{name: {} for name in ("train", "residual")}, **tables})


def check_strategy(name: str) -> str:
    """Refuse a strategy that does not exist."""
    if name not in STRATEGIES:
        raise ConfigError(asked=f"compare with the strategy {name!r}", why="there is no such strategy", instead=nearest(name, STRATEGIES))
    return name


def strategy_name(config: SelectConfig) -> str:
    return "+".join(config.retrieve)
