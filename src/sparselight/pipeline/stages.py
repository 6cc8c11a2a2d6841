"""The stages of a recipe: what each reads of the ones before, does, and leaves in its folder.

    corpus     train.parquet, held_out.parquet            select     domain_train.parquet, domain_held_out.parquet, selection.parquet
    harvest    general_train/ general_held_out/ domain_train/ domain_held_out/   (activation stores)
    train      sae/, log.jsonl                            residual   sae/, control/sae/, stitched/, log.jsonl
    evaluate   evaluation.json, values.parquet, tables/   explain    catalogue.duckdb, activations/
    intervene  interventions.json (more: recommender_evidence)    report     report.html
"""

import shlex
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from sys import version_info
from typing import Any, NamedTuple, cast

import numpy as np

from sparselight.config import Config
from sparselight.corpus import CLASSES, ListCorpus, load_corpus, source_fingerprint
from sparselight.errors import CorpusError
from sparselight.evaluate import Case, Contender, Dataset, run_suite
from sparselight.interpret import TokenSet, load_catalogue
from sparselight.pipeline.associations import with_associations
from sparselight.pipeline.engine import Run, Stage, Watcher
from sparselight.pipeline.explaining import explain_run, modality_of
from sparselight.pipeline.recipe import Recipe
from sparselight.pipeline.recommender_evidence import measure_recommender
from sparselight.pipeline.recommending import trained_subject, trains_own
from sparselight.pipeline.selecting import VECTORS_FOLDER, make_selection, stage_inputs
from sparselight.pipeline.showing import pick_edits, why_no_predictions, write_run_report
from sparselight.protocols import Example, Progress, Subject
from sparselight.records import EvalRecord, InterventionRecord
from sparselight.sae import Sae, load_sae, save_stitched, stitch
from sparselight.store import FolderStore, harvest
from sparselight.subjects import HuggingFaceSubject, RecommenderSubject, SubjectConfig, load_subject
from sparselight.subjects.own_code import code_fingerprint
from sparselight.train import CHANGES_NO_RESULT, TrainConfig, n_latents_for, train_sae
from sparselight.vocab import STAGES

RESIDUAL_PAIRS = [("base+residual", "base+general residual")]
"""What training on the domain brought beyond more latents."""


class RunCoder(NamedTuple):
    """An SAE of a run, and where it lies."""

    contender: Contender
    folder: str


class RunStages:
    """The stage list of one recipe over one run folder, and how later code opens what the stages left."""

    def __init__(self, recipe: Recipe, run: Run, watcher: Watcher | None = None, plans_only: bool = False):
        self.recipe, self.run, self.watcher, self.plans_only = recipe, run, watcher, plans_only

    def stages(self) -> list[Stage]:
        """All stages in order, each with the settings and inputs that determine its output."""
        recipe = self.recipe
        d_in = self.subject.d_site(self.site)  # refused here, before any work, when the subject has no such site
        for table, config in (("train", recipe.train), ("residual", recipe.residual)):
            n_latents_for(config, d_in, table)
        seed_groups = list(recipe.select.seeds)
        subject = subject_inputs(recipe.subject, self.subject)
        return [
            Stage("corpus", (), {**plain(recipe.corpus), "source": source_fingerprint(recipe.corpus), "always_train": seed_groups}, self.corpus),
            Stage("select", ("corpus",), {**plain(recipe.select), **stage_inputs(recipe.select, self.site), **subject}, self.select),
            Stage("harvest", ("corpus", "select"), {**plain(recipe.harvest), **plain(recipe.sample), **subject}, self.harvest, repairs=True),
            Stage("train", ("harvest",), training(recipe.train), self.train),
            Stage("residual", ("harvest", "train"), training(recipe.residual), self.residual),
            Stage("evaluate", ("corpus", "harvest", "train", "residual"), plain(recipe.evaluate), self.evaluate, code=("evaluate",)),
            Stage("explain", ("corpus", "harvest", "train", "residual"), {**without_llm(recipe.explain), "python": version_info[:2]}, self.explain,
                  code=("interpret",)),
            Stage("intervene", ("corpus", "explain"), plain(recipe.intervene), self.intervene, code=("interpret", "intervene", "pipeline")),
            Stage("report", STAGES[:-1], {"name": recipe.name}, self.report, code=("interpret", "report", "pipeline")),
        ]

    # What the stages left, opened once.

    @cached_property
    def subject(self) -> HuggingFaceSubject:
        if trains_own(self.recipe):
            return cast("HuggingFaceSubject", trained_subject(self.recipe, self.run.folder, self.watcher, self.plans_only))
        return load_subject(self.recipe.subject)

    def corpus_side(self, side: str) -> ListCorpus:
        return self._load_corpus(self.run.path("corpus") / f"{side}.parquet")

    def domain_side(self, side: str) -> ListCorpus:
        return self._load_corpus(self.run.path("select") / f"domain_{side}.parquet")

    def _load_corpus(self, path: Path) -> ListCorpus:
        return CLASSES[self.recipe.corpus.kind].load(path, str(self.recipe.corpus.path()))

    def store(self, name: str) -> FolderStore:
        return FolderStore.open(self.run.path("harvest") / name)

    def base(self) -> Sae:
        return load_sae(self.run.path("train") / "sae")

    def residual_sae(self) -> Sae:
        return load_sae(self.run.path("residual") / "sae")

    @property
    def site(self) -> str:
        return self.recipe.harvest.site

    # The stages.

    def corpus(self, folder: Path, progress: Progress) -> dict[str, Any]:
        corpus = load_corpus(self.recipe.corpus)
        progress(1, 2)
        train, held_out = corpus.split(self.recipe.corpus.held_out_frac, self.recipe.corpus.seed, self.recipe.select.seeds)
        train.save(folder / "train.parquet")
        held_out.save(folder / "held_out.parquet")
        progress(2, 2)
        return {
            "output": f"{train.fingerprint()}-{held_out.fingerprint()}", "origin": corpus.origin, "n_examples": len(corpus), "n_groups": len(corpus.groups()),
            "n_chars": sum(len(example.text) for example in corpus), "n_groups_held_out": len(held_out.groups()),
        }

    def select(self, folder: Path, progress: Progress) -> dict[str, Any]:
        train, held_out = self.corpus_side("train"), self.corpus_side("held_out")
        both, selection = make_selection(train, held_out, self.recipe.select, self.subject, self.site, self.run.folder / VECTORS_FOLDER, progress)
        sides = {"train": [i for i in selection.examples if i < len(train)], "held_out": [i for i in selection.examples if i >= len(train)]}
        groups = {side: sorted({both[i].group for i in indices}) for side, indices in sides.items()}
        for side, indices in sides.items():
            if not indices:
                raise CorpusError(asked=f"select a {side} part of the domain", why=f"none of the {len(selection.examples)} selected examples is in it",
                                  instead="raise select.max_tokens, change corpus.held_out_frac, or give other seeds (select.seeds)")
            both.subset(indices).save(folder / f"domain_{side}.parquet")
        selection.save(folder / "selection.parquet")
        sizes = {f"n_groups_{side}": len(names) for side, names in groups.items()}
        return {**selection.summary(), **sizes, "n_examples_held_out": len(sides["held_out"]), "groups_held_out": groups["held_out"][:12]}

    def harvest(self, folder: Path, progress: Progress) -> dict[str, Any]:
        sample, count = self.recipe.sample, self.subject.n_tokens
        parts = {
            "general_train": self.corpus_side("train").sample(sample.general_tokens, count, sample.seed),
            "general_held_out": self.corpus_side("held_out").sample(sample.held_out_tokens, count, sample.seed),
            "domain_train": self.domain_side("train"), "domain_held_out": self.domain_side("held_out"),
        }
        sizes = [sum(len(example.text) for example in part) for part in parts.values()]
        summary: dict[str, Any] = {"site": self.site}
        for number, (name, part) in enumerate(parts.items()):
            store = harvest(self.subject, part.examples, [self.site], folder / name, self.recipe.harvest, part.fingerprint(),
                            share_of(progress, sizes, number))
            summary[f"{name}_tokens"] = store.n_tokens
            summary[f"{name}_groups"] = len(part.groups())
        summary["d_in"] = store.manifest.sites[self.site]
        summary["bytes"] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        return summary

    def train(self, folder: Path, progress: Progress) -> dict[str, Any]:
        sae = train_sae(self.store("general_train"), None, self.site, self.recipe.train, folder, self.subject.ref(), progress=progress)
        return sae_summary(sae)

    def residual(self, folder: Path, progress: Progress) -> dict[str, Any]:
        base, config, ref = self.base(), self.recipe.residual, self.subject.ref()
        residual = train_sae(self.store("domain_train"), None, self.site, config, folder, ref, base, share_of(progress, [1, 1], 0))
        train_sae(self.store("general_train"), None, self.site, config, folder / "control", ref, base, share_of(progress, [1, 1], 1))
        save_stitched(stitch(base, residual), folder / "stitched")
        return sae_summary(residual)

    def evaluate(self, folder: Path, progress: Progress) -> dict[str, Any]:
        config, coders = self.recipe.evaluate, self.coders()
        case = Case(self.site, self.datasets(), config, self.subject)
        record = run_suite(case, {name: coder.contender for name, coder in coders.items()}, config, pairs=RESIDUAL_PAIRS,
                           sources={name: coder.folder for name, coder in coders.items()}, folder=folder, progress=progress)
        return {"n_tokens": record.n_tokens, "passed_tokens": case.passed_tokens, "families": list(record.families)}

    def explain(self, folder: Path, progress: Progress) -> dict[str, Any]:
        return explain_run(self, folder, progress)

    def intervene(self, folder: Path, progress: Progress) -> dict[str, Any]:
        cards = load_catalogue(self.run.path("explain"))
        coders = {"base": self.base(), "residual": self.residual_sae()}
        examples = {example.id: example for side in ("train", "held_out") for part in (self.corpus_side(side), self.domain_side(side)) for example in part}
        results = pick_edits(self.subject, coders, cards, examples, self.held_out("general"), self.site, self.recipe.intervene, progress)
        InterventionRecord(results=results).save(folder / "interventions.json")
        why = {} if results else {"why_no_edits": why_no_predictions(self.subject, self.held_out("general")) or "no feature with evidence fires in a text"}
        return {"n_edits": len(results), **why, **(measure_recommender(self, folder, progress) if isinstance(self.subject, RecommenderSubject) else {})}

    def report(self, folder: Path, progress: Progress) -> dict[str, Any]:
        evaluation = EvalRecord.load(self.run.path("evaluate") / "evaluation.json")
        edits = InterventionRecord.load(self.run.path("intervene") / "interventions.json").results
        cards = with_associations(load_catalogue(self.run.path("explain")), self.run.path("evaluate"))
        write_run_report(self.run, self.recipe, evaluation, cards, edits,
                         {"base": self.base(), "residual": self.residual_sae()}, folder / "report.html", next_command(self.run.folder), modality_of(self))
        progress(1, 1)
        return {"bytes": (folder / "report.html").stat().st_size}

    # Pieces shared by several stages.

    def coders(self) -> dict[str, "RunCoder"]:
        """The SAEs of the run as the evaluation compares them, each with its folder."""
        base, train, residual = self.base(), self.run.path("train"), self.run.path("residual")
        control = load_sae(residual / "control" / "sae")
        return {
            "base": RunCoder(Contender(base, is_control=False), str(train / "sae")),
            "base+residual": RunCoder(Contender(stitch(base, self.residual_sae()), is_control=False), str(residual / "stitched")),
            "base+general residual": RunCoder(Contender(stitch(base, control), is_control=True), str(residual / "control" / "sae")),
        }

    def datasets(self) -> dict[str, Dataset]:
        """General and domain text: what was trained on as fit side, what was held out from all training as the other; activations from the stores."""
        train, held_out = self.corpus_side("train"), self.corpus_side("held_out")
        whole = type(train)([*train, *held_out], train.origin)
        result = {}
        for name in ("general", "domain"):
            fit, measured = self.store(f"{name}_train"), self.store(f"{name}_held_out")
            result[name] = Dataset(name, examples_in(fit, train), examples_in(measured, held_out), fit, measured, whole.annotate)
        return result

    def held_out(self, name: str) -> list[Example]:
        """Held-out examples of `general` or `domain`, those that were harvested."""
        side = self.corpus_side("held_out") if name == "general" else self.domain_side("held_out")
        return examples_in(self.store(f"{name}_held_out"), side)

    def token_sets(self, side: str) -> list[TokenSet]:
        """The general and the domain store of one side with their examples, which are annotated where they are looked at."""
        sets, whole = [], self.corpus_side(side)
        for name in ("general", "domain"):
            store = self.store(f"{name}_{side}")
            sets.append(TokenSet(name, store, np.arange(store.n_tokens), {example.id: example for example in examples_in(store, whole)}, whole.annotate))
        return sets


def plain(config: Config) -> dict[str, Any]:
    return config.model_dump(mode="json")


def subject_inputs(config: SubjectConfig, subject: Subject) -> dict[str, Any]:
    """What of a subject determines what a stage makes with it."""
    code = code_fingerprint(config)
    return {"subject": plain(config), "fingerprint": subject.fingerprint, **({"code": code} if code else {})}


def without_llm(config: Config) -> dict[str, Any]:
    """The settings of explaining that the stage itself reads: it asks no language model."""
    return config.model_dump(mode="json", exclude={"llm", "scorers"})


def next_command(folder: Path) -> str:
    """What to do once a run is complete: look round in it."""
    return f"sparselight serve {shlex.quote(str(folder))}"


def training(config: TrainConfig) -> dict[str, Any]:
    """The settings of a training that change its result."""
    return config.model_dump(mode="json", exclude=CHANGES_NO_RESULT)


def examples_in(store: FolderStore, corpus: ListCorpus) -> list[Example]:
    """The examples of a corpus that a store holds, in the store's order."""
    by_id = {example.id: example for example in corpus}
    return [by_id[identifier] for identifier in store.examples().column("id").to_pylist()]


def sae_summary(sae: Sae) -> dict[str, Any]:
    assert sae.record is not None
    record = sae.record
    return {"n_latents": sae.n_latents, "l0": record.l0, "n_dead": record.n_dead, "n_tokens_seen": record.n_tokens_seen, "weights": sae.weights_hash()}


def share_of(progress: Progress, sizes: Sequence[float], number: int) -> Progress:
    """A Progress for part `number` of work whose parts have these sizes."""
    before, whole = sum(sizes[:number]), sum(sizes)

    def report(done: float, total: float, note: str = "") -> None:
        progress(before + sizes[number] * done / max(total, 1e-9), whole, note)

    return report
