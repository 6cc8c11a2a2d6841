"""Where a specialization takes its parts from: a finished run, a recipe on top of one, or a recipe by itself.

    run folder              the run's corpus, domain, stores and base SAE; nothing is harvested
    recipe with a run       the run's corpus, general stores and base SAE; the recipe's domain is selected and harvested
    recipe                  all of it: corpus, selection, harvest and base SAE come first, as a run in the folder `run`

Owns: which settings may come from where, and the two stages of a domain of its own. A run folder is only read, but for cached vectors. Refuses:
tables of a recipe that say otherwise than the run under it, a base SAE of another site, and a domain in which held-out text is a seed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparselight.config import Config, apply_overrides, load_toml
from sparselight.corpus import CorpusConfig, ListCorpus
from sparselight.errors import ConfigError, CorpusError, RunError, SaeError
from sparselight.evaluate import EvaluateConfig
from sparselight.interpret import ExplainConfig
from sparselight.pipeline.engine import Run, Stage, Watcher, execute
from sparselight.pipeline.recipe import Recipe, SampleConfig, find_recipe
from sparselight.pipeline.selecting import stage_inputs
from sparselight.pipeline.specialise.config import SpecialiseConfig
from sparselight.pipeline.stages import RunStages, plain, share_of, subject_inputs
from sparselight.protocols import Progress
from sparselight.records import RunRecord, StageRecord
from sparselight.sae import Sae
from sparselight.sae.formats import load_sae
from sparselight.select import SelectConfig, find_seeds
from sparselight.store import FolderStore, HarvestConfig, harvest
from sparselight.subjects import SubjectConfig
from sparselight.train import TrainConfig

OF_THE_RUN = ("corpus", "subject", "sample", "harvest", "train")
"""Tables that a run under a recipe has settled."""
OWN = ("specialise", "evaluate", "explain")
"""Tables that may be changed on a run folder."""
NEEDED = ("corpus", "select", "harvest", "train")


class SpecialiseEvaluateConfig(EvaluateConfig):
    """What is measured of every variant. Unlike elsewhere no further controls are made: `base` and `boost_general` are those of a specialization."""

    suite: str = "reconstruction,behaviour,geometry,coverage"
    """Suites and families of metrics, joined by commas."""
    controls: bool | list[str] = False
    """Whether controls that were not trained are measured too."""
    n_tokens: int = 15_000
    """Held-out tokens a dataset; every variant is measured on the same ones."""


class SpecialiseRecipe(Config):
    """A complete specialization."""

    name: str = "specialization"
    """Shown in the report."""
    base: str | None = None
    """A base SAE in place of one that `train` makes: a folder, or whatever `convert` reads, such as hf://OWNER/NAME/PATH."""
    corpus: CorpusConfig = CorpusConfig()
    select: SelectConfig
    subject: SubjectConfig = SubjectConfig()
    sample: SampleConfig = SampleConfig()
    harvest: HarvestConfig = HarvestConfig()
    train: TrainConfig = TrainConfig()
    specialise: SpecialiseConfig = SpecialiseConfig()
    evaluate: SpecialiseEvaluateConfig = SpecialiseEvaluateConfig()
    explain: ExplainConfig = ExplainConfig(explain_tokens=60_000, score_tokens=40_000)

    def run_recipe(self) -> Recipe:
        """The recipe of the run that lies under it."""
        return Recipe(name=self.name, corpus=self.corpus, select=self.select, subject=self.subject, sample=self.sample, harvest=self.harvest,
                      train=self.train, residual=TrainConfig())


class Source(RunStages):
    """What a specialization reads: corpus sides, stores, subject and base SAE, with a domain of its own where it has one."""

    def __init__(self, recipe: SpecialiseRecipe, run: Run, domain: Run | None = None):
        super().__init__(recipe.run_recipe(), run)
        self.settings, self.domain = recipe, domain
        self._base: Sae | None = None

    def domain_side(self, side: str) -> ListCorpus:
        return super().domain_side(side) if self.domain is None else self._load_corpus(self.domain.path("select") / f"domain_{side}.parquet")

    def store(self, name: str) -> FolderStore:
        own = self.domain is not None and name.startswith("domain")
        return FolderStore.open(self.domain.path("harvest") / name) if own and self.domain is not None else super().store(name)

    def base(self) -> Sae:
        if self._base is None:
            self._base = load_sae(self.base_place)
        return self._base

    @property
    def base_place(self) -> str:
        return self.settings.base or str(self.run.path("train") / "sae")

    def selection(self) -> dict[str, Any]:
        return (self.domain or self.run).records["select"].summary

    def check_apart(self) -> None:
        """Refuse a domain in which text that is measured is a seed.

        Raises:
            CorpusError: naming an example.
        """
        held_out = self.domain_side("held_out")
        texts = {example.text: example.id for example in held_out}
        seeds = find_seeds([], self.recipe.select.model_copy(update={"seeds": (), "seed_labels": ()})).outside if outside_seeds(self.recipe.select) else []
        shared = [texts[seed.text] for seed in seeds if seed.text in texts]
        if shared:
            raise CorpusError(asked="measure variants on held-out text of the domain",
                              why=f"{len(shared)} of its examples are seeds, for example {shared[0]!r}",
                              instead="leave that seed out, or set select.guard = 'drop'")


def outside_seeds(config: SelectConfig) -> bool:
    """Whether some seeds stand outside the corpus."""
    return bool(config.seed_files or config.seed_texts or config.query)


def read_recipe(source: str, run: str | None, overrides: Sequence[str]) -> tuple[SpecialiseRecipe, Path | None]:
    """The settings, and the folder of the run that they stand on, if there is one.

    Args:
        source: a run folder, or a recipe by path or name.
        run: a run folder under a recipe.

    Raises:
        ConfigError: for settings that are the run's, or wrong ones.
        RunError: for a run that is not far enough.
    """
    if (Path(source) / "run.json").is_file():
        if run is not None:
            raise ConfigError(asked=f"specialise the run {source} on the run {run}", why="one run folder is enough",
                              instead="give a recipe and --run, or one run folder")
        return recipe_of_run(Path(source), overrides), Path(source)
    data = apply_overrides(load_toml(find_recipe(source)), overrides)
    if "select" not in data:
        raise ConfigError(asked=f"specialise by the recipe {source!r}", why="no seed says what the domain is",
                          instead="set one of select.seeds, select.seed_files, select.seed_texts, select.seed_labels, select.query")
    if run is None:
        return SpecialiseRecipe.parse({name: value for name, value in data.items() if name not in ("residual", "intervene")}), None
    theirs = plain_tables(Path(run))
    recipe = SpecialiseRecipe.parse({**{name: table for name, table in theirs.items() if name in OF_THE_RUN}, **data})
    known = Recipe.parse(theirs)
    for name in OF_THE_RUN:
        if name in data and getattr(recipe, name) != getattr(known, name):
            raise ConfigError(asked=f"specialise the run {run} by {source!r}",
                              why=f"its table {name} is not that of the run, whose corpus, activations and base SAE are to be used",
                              instead=f"leave {name} out of the recipe, or leave out --run")
    return recipe, Path(run)


def recipe_of_run(folder: Path, overrides: Sequence[str]) -> SpecialiseRecipe:
    for override in overrides:
        if override.strip().partition(".")[0].partition("=")[0].strip() not in (*OWN, "base", "name"):
            raise ConfigError(asked=f"specialise the run {folder} with {override!r}", why="a run folder is only read",
                              instead=f"set something of {', '.join(OWN)}, or give a recipe with another domain and --run {folder}")
    theirs = plain_tables(folder)
    return SpecialiseRecipe.parse(apply_overrides({name: theirs[name] for name in ("name", *OF_THE_RUN, "select")}, overrides))


def plain_tables(folder: Path) -> dict[str, Any]:
    """The recipe of a run as it was resolved."""
    return RunRecord.load(folder / "run.json").recipe


def open_run(folder: Path, needs_base: bool) -> Run:
    """A run that is far enough.

    Raises:
        RunError: naming the stage that is missing.
    """
    record = RunRecord.load(folder / "run.json")
    for stage in NEEDED if needs_base else NEEDED[:-1]:
        if stage not in record.stages:
            raise RunError(asked=f"specialise the run {folder}", why=f"its stage {stage} is not finished",
                           instead="run its recipe to the end, or give a recipe")
    return Run(folder, {stage: StageRecord.load(folder / place / "record.json") for stage, place in record.stages.items()})


def make_source(recipe: SpecialiseRecipe, run: Path | None, out: Path, own_domain: bool, progress: Progress) -> Source:
    """All parts, those that are missing made first.

    Args:
        run: the run under it; None to make one in `out`.
        own_domain: whether the recipe brings a domain of its own to a run.
    """
    if run is None:
        source = Source(recipe, made_run(recipe, out / "run", "harvest" if recipe.base else "train", progress))
    else:
        source = Source(recipe, open_run(run, recipe.base is None))
        if own_domain:
            source.domain = made_domain(source, out / "domain", progress)
    source.check_apart()
    check_base_site(source)
    return source


def ready_source(recipe: SpecialiseRecipe, run: Path | None, out: Path, own_domain: bool) -> Source | None:
    """The parts where all of them are there already, made by these settings; None where some are still to be made."""
    if run is None:
        made = is_made(out / "run", plain(recipe.run_recipe()), ("train" if recipe.base is None else "harvest",))
        return Source(recipe, open_run(out / "run", recipe.base is None)) if made else None
    source = Source(recipe, open_run(run, recipe.base is None))
    if not own_domain:
        return source
    if not is_made(out / "domain", plain(source.recipe), ("harvest",)):
        return None
    record = RunRecord.load(out / "domain" / "run.json")
    source.domain = Run(out / "domain", {stage: StageRecord.load(out / "domain" / place / "record.json") for stage, place in record.stages.items()})
    return source


def is_made(folder: Path, recipe: dict[str, Any], stages: Sequence[str]) -> bool:
    """Whether a folder holds these stages by this recipe."""
    try:
        record = RunRecord.load(folder / "run.json")
    except RunError:  # none, or one that was interrupted in its first stage
        return False
    return record.recipe == recipe and set(stages) <= set(record.stages)


def check_base_site(source: Source) -> None:
    """Refuse a base SAE that was trained elsewhere in the subject, before its width or values could hide that."""
    record = source.base().record
    if record is not None and record.site != source.site:
        raise SaeError(asked=f"specialise the SAE {source.base_place} at {source.site}", why=f"it was trained at {record.site}",
                       instead=f"harvest {record.site} (harvest.site), or give an SAE of {source.site}")


def made_run(recipe: SpecialiseRecipe, folder: Path, until: str, progress: Progress) -> Run:
    names = NEEDED[:NEEDED.index(until) + 1]
    watcher = Watcher(progress=lambda stage: stage_progress(share_of(progress, [1, 1, 6, 6][:len(names)], names.index(stage)), stage))
    whole = recipe.run_recipe()
    return execute(folder, recipe.name, plain(whole), lambda run: RunStages(whole, run).stages(), until, watcher)


def made_domain(source: Source, folder: Path, progress: Progress) -> Run:
    """A domain of a run's corpus, selected and harvested: the general stores are not touched."""
    recipe, run = source.recipe, source.run
    subject = subject_inputs(recipe.subject, source.subject)
    corpus = {"corpus": run.records["corpus"].output}

    def harvest_domain(place: Path, report: Progress) -> dict[str, Any]:
        assert source.domain is not None
        return harvest_sides(source, place, report)

    def make_stages(domain: Run) -> list[Stage]:
        source.domain = domain
        return [
            Stage("select", (), {**plain(recipe.select), **stage_inputs(recipe.select, source.site), **subject, **corpus}, source.select),
            Stage("harvest", ("select",), {**plain(recipe.harvest), **subject}, harvest_domain, repairs=True),
        ]

    watcher = Watcher(progress=lambda stage: stage_progress(share_of(progress, [1, 3], 0 if stage == "select" else 1), stage))
    return execute(folder, recipe.name, plain(recipe), make_stages, None, watcher)


def harvest_sides(source: Source, place: Path, progress: Progress) -> dict[str, Any]:
    """Activations of both sides of the domain."""
    parts: Mapping[str, ListCorpus] = {f"domain_{side}": source.domain_side(side) for side in ("train", "held_out")}
    sizes, summary = [sum(len(example.text) for example in part) for part in parts.values()], dict[str, Any]()
    for number, (name, part) in enumerate(parts.items()):
        store = harvest(source.subject, part.examples, [source.site], place / name, source.recipe.harvest, part.fingerprint(),
                        share_of(progress, sizes, number))
        summary |= {f"{name}_tokens": store.n_tokens, f"{name}_groups": len(part.groups())}
    return summary


def stage_progress(progress: Progress, stage: str) -> Progress:
    def report(done: float, total: float, note: str = "") -> None:
        progress(done, total, f"{stage}: {note}" if note else stage)

    return report
