"""Training by itself, without a run: from a store, or the store of a run folder, to one SAE or a sweep of them in a folder.

Owns: which store is meant, what a call would do (TrainPlan), and what came of it (TrainResult).
"""

from pathlib import Path

from pydantic import Field

from sparselight.errors import ConfigError, RunError
from sparselight.pipeline.estimate import probe_flops, training_seconds
from sparselight.pipeline.train_recipe import TrainRecipe
from sparselight.protocols import Progress, no_progress
from sparselight.records import Part, RunRecord
from sparselight.sae import ARCHITECTURES, Sae, load_sae
from sparselight.sae.formats import load_sae as load_any_sae
from sparselight.store import FolderStore
from sparselight.train import TrainConfig, export_best, n_latents_for, train_many, train_sae
from sparselight.train.checkpoint import Checkpoints
from sparselight.train.finetune import settle
from sparselight.train.folder import Job, check_fit
from sparselight.train.log import read_log
from sparselight.train.notes import notes_on
from sparselight.train.training import resolve_device

LAST_LINES = 10  # of the log, whose mean fvu is shown


class PlannedSae(Part):
    """One SAE of a plan."""

    name: str
    architecture: str
    d_in: int
    n_latents: int
    n_tokens: int
    n_steps: int
    done_steps: int
    """Where its last checkpoint stands."""
    finished: bool
    n_bytes: int
    """Of the finished SAE on disk."""
    seconds: float
    notes: list[str] = Field(default_factory=list)
    """What its record would say beside the numbers."""


class TrainPlan(Part):
    """What a training would do."""

    store: str
    site: str
    n_store_tokens: int
    saes: list[PlannedSae]
    seconds: float
    device: str


class TrainedSae(Part):
    """What came of one SAE."""

    name: str
    folder: str
    """Of the SAE in inference form."""
    best: str | None
    """The same of its best state, where that was asked for."""
    architecture: str
    n_latents: int
    fvu: float
    """Mean over the last lines of the log, on training batches."""
    l0: float
    n_dead: int
    weights: str
    """Hash of the weights."""
    notes: list[str] = Field(default_factory=list)
    """What its record says beside the numbers."""


class TrainResult(Part):
    """What a training came to: the one object that `--json` prints."""

    folder: str
    site: str
    saes: list[TrainedSae]
    next_command: str


def open_source(source: str) -> FolderStore:
    """A store by its folder or URL, or the general training store of a run folder.

    Raises:
        RunError: when a run folder holds no harvest.
        StoreError: when there is no complete store.
    """
    folder = Path(source)
    if not (folder / "run.json").is_file():
        return FolderStore.open(source)
    stages = RunRecord.load(folder / "run.json").stages
    if "harvest" not in stages:
        raise RunError(asked=f"train on the run {folder}", why="its activations are not harvested", instead="run it with --until harvest")
    return FolderStore.open(folder / stages["harvest"] / "general_train")


def choose_site(store: FolderStore, site: str | None) -> str:
    """The site that is asked for, or the only one."""
    sites = list(store.manifest.sites)
    if site is None and len(sites) > 1:
        raise ConfigError(asked="train on this store without --site", why=f"it holds {len(sites)} sites", instead=f"give --site, one of {', '.join(sites)}")
    return site or sites[0]


class TrainRun:
    """A recipe on a store, in a folder. Everything that does not fit is refused here, before any work."""

    def __init__(
        self, source: str, recipe: TrainRecipe, folder: Path, site: str | None = None, base: Path | None = None, init: str | None = None,
        silent: str | None = None,
    ):
        if recipe.needs_base and base is None:
            raise ConfigError(asked="train by this recipe", why="it trains on what a base SAE leaves, and none is given",
                              instead="give --base, the folder of an SAE")
        if recipe.needs_init and init is None:
            raise ConfigError(asked="train by this recipe", why="it goes on training from an SAE, and none is given", instead="give --init, where one lies")
        self.source, self.recipe, self.folder = source, recipe, folder
        self.store = open_source(source)
        self.site = choose_site(self.store, site)
        self.base, self.init = None if base is None else load_sae(base), None if init is None else load_any_sae(init)
        self.silent = None if silent is None else open_source(silent)
        self.jobs = [Job(self.store, None, self.site, self.store.manifest.subject, name, settle(config, self.init, f"sweep.{name}" if name else "train"),
                         folder / name, self.base, self.init, self.silent) for name, config in recipe.configs.items()]
        for job in self.jobs:
            check_fit(job)

    def plan(self) -> TrainPlan:
        """What run() would do."""
        flops, d_in = probe_flops(), self.store.manifest.sites[self.site]
        saes = [self._planned(job, d_in, flops) for job in self.jobs]
        device = resolve_device(self.jobs[0].config.device)
        return TrainPlan(store=str(self.store.folder), site=self.site, n_store_tokens=self.store.n_tokens, saes=saes, seconds=sum(one.seconds for one in saes),
                         device=str(device))

    def _planned(self, job: Job, d_in: int, flops: float) -> PlannedSae:
        config, n_latents = job.config, n_latents_for(job.config, d_in)
        d_out = self.store.manifest.sites[config.target_site or self.site]
        finished, checkpoints = (job.folder / "sae").exists(), Checkpoints(job.folder / "checkpoints", 0).files()
        done = config.n_steps if finished else int(checkpoints[-1].stem.removeprefix("step-")) if checkpoints else 0
        n_values = n_latents * (d_in + d_out + 2) + d_out + (d_in * d_out if config.skip else 0)
        return PlannedSae(
            name=job.name or self.folder.name, architecture=describe(config), d_in=d_in, n_latents=n_latents, n_tokens=config.n_steps * config.batch_tokens,
            n_steps=config.n_steps, done_steps=done, finished=finished, n_bytes=4 * n_values,
            seconds=training_seconds(d_in, n_latents, (config.n_steps - done) * config.batch_tokens, flops), notes=notes_on(job),
        )

    def run(self, progress: Progress = no_progress, best: bool = False) -> TrainResult:
        """Train, or go on, or find all finished.

        Args:
            best: save the best states too.
        """
        subject, configs = self.store.manifest.subject, self.recipe.configs
        if list(configs) == [""]:
            saes = {"": train_sae(self.store, None, self.site, configs[""], self.folder, subject, self.base, progress, init=self.init, silent=self.silent)}
        else:
            saes = train_many(self.store, None, self.site, configs, self.folder, subject, self.base, progress, inits=self.init, silent=self.silent)
        rows = [self._trained(job, saes[job.name], best) for job in self.jobs]
        shown = Path(rows[0].folder)
        return TrainResult(folder=str(self.folder), site=self.site, saes=rows, next_command=self._next(shown))

    def _trained(self, job: Job, sae: Sae, best: bool) -> TrainedSae:
        if best:
            export_best(job.store, None, job.site, job.config, job.folder, job.subject, job.base, init=job.init, silent=job.silent)
        lines, record = read_log(job.folder / "log.jsonl")[-LAST_LINES:], sae.record
        assert record is not None
        return TrainedSae(
            name=job.name or self.folder.name, folder=str(job.folder / "sae"), best=str(job.folder / "best") if best else None,
            architecture=describe(job.config), n_latents=sae.n_latents, fvu=sum(line["fvu"] for line in lines) / max(len(lines), 1),
            l0=record.l0, n_dead=record.n_dead, weights=sae.weights_hash(), notes=record.notes,
        )

    def _next(self, sae: Path) -> str:
        """A residual SAE on top of the first one, or the first one in Python."""
        if self.base is None and self.jobs[0].config.target_site is None:
            return f"sparselight train DOMAIN_STORE --recipe residual --base {sae} --site {self.site}"
        return f"python -c \"import sparselight as sl; print(sl.load_sae('{sae}'))\""


def describe(config: TrainConfig) -> str:
    """An SAE's kind in a few words."""
    kind = f"{config.architecture} k={config.k:g}" if "k" in ARCHITECTURES[config.architecture].settings else config.architecture
    return kind if config.target_site is None else f"{kind} to {config.target_site}"
