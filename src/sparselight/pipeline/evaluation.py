"""Evaluation by itself: SAEs and run folders, stores and a corpus, to one folder with a record, tables and everything that a later call can reuse.

Owns: which subject runs, what a call would do (EvaluationPlan), and where its results go. Everything that does not fit together is refused
before any work. The evaluate stage of a run goes through the same `run_suite`.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sparselight.config import Config, apply_overrides
from sparselight.corpus import CorpusConfig, ListCorpus, load_corpus
from sparselight.errors import ConfigError, SparselightError
from sparselight.evaluate import Case, Dataset, EvaluateConfig, choose, run_suite, unmet
from sparselight.pipeline.evaluation_sources import (
    agreed_site,
    check_one_subject,
    check_store,
    find_saes,
    make_dataset,
    subject_settings,
)
from sparselight.protocols import Progress, no_progress
from sparselight.records import EvalRecord, Part, SubjectRef
from sparselight.store import FolderStore
from sparselight.subjects import HuggingFaceSubject, SubjectConfig, load_subject

SPLIT = {"corpus.held_out_frac", "corpus.seed"}  # settings that mean something without a corpus: a single store is divided by them
N_EXTRA = 4  # controls and ablations that stand beside the SAEs, about
PROBE_TOKENS = 2048


class EvaluateTables(Config):
    """The tables of a recipe that an evaluation reads."""

    corpus: CorpusConfig = CorpusConfig()
    subject: SubjectConfig = SubjectConfig()
    evaluate: EvaluateConfig = EvaluateConfig()


class PlannedFamily(Part):
    """One family of a plan."""

    name: str
    title: str
    not_measured: str
    """Why it would not be measured; else empty."""
    passed_tokens: int
    """Tokens that would go through the subject for it, prompts of its own left out."""


class EvaluationPlan(Part):
    """What an evaluation would do."""

    site: str
    coders: list[str]
    n_tokens: dict[str, int]
    """Tokens of each dataset and side: those of a store, or the budget where the subject is to capture them."""
    families: list[PlannedFamily]
    captured_tokens: int
    """Tokens whose activations no store holds."""
    passed_tokens: int
    """Tokens through the subject in all."""
    seconds: float
    """For capturing, passes and encoding, by a short probe of this machine; families that fit probes or run prompts of their own take longer."""


class EvaluationResult(Part):
    """What an evaluation came to: the one object that `--json` prints."""

    folder: str
    record: EvalRecord
    next_command: str


class EvaluationRun:
    """An evaluation ready to run.

    Args:
        places: run folders and SAEs.
        store, held_out: stores of the fit side and the held-out side.
        overrides: `evaluate.x=y`, `corpus.x=y`, `subject.x=y`.
    """

    def __init__(
        self, places: list[str], *, suite: str | None = None, store: str | None = None, held_out: str | None = None, corpus: str | None = None,
        subject: str | None = None, site: str | None = None, controls: bool = True, overrides: list[str] | None = None,
    ):
        self.places, self.found = places, find_saes(places)
        told = {text.partition("=")[0].strip() for text in overrides or []}
        named = corpus is not None or any(name.startswith("corpus.") and name not in SPLIT for name in told)
        if self.found.run is not None and not named and told & SPLIT and not held_out:
            raise ConfigError(asked=f"set {min(told & SPLIT)} for the run {self.found.run.run.folder}", why="its corpus was split when it ran",
                              instead="leave it out, or give --corpus")
        self.tables = read_tables(self._recipe(), suite, corpus, subject, controls, overrides or [])
        choose(self.tables.evaluate.suite)
        self.site = agreed_site(self.found.saes, site)
        self.stores = {side: FolderStore.open(place) for side, place in (("fit", store), ("held_out", held_out)) if place is not None}
        for side, opened in self.stores.items():
            check_store(opened, self.site, self.found.saes, side == "held_out")
        records = {name: sae.record for name, sae in self.found.saes.items() if sae.record is not None}
        self.refs = {name: record.subject for name, record in records.items()}
        self.refs |= {f"the store {opened.location}": opened.manifest.subject for opened in self.stores.values()}
        check_one_subject(self.refs)
        self.notes: list[str] = []
        asked = any(name.startswith("subject.") for name in told) or subject is not None, "subject.source" in told or subject is not None
        if self.found.run is not None and not self.stores and not named:
            self.datasets: Mapping[str, Dataset] = self.found.run.datasets()
            for dataset in self.datasets.values():
                assert isinstance(dataset.held_out_store, FolderStore)
                check_store(dataset.held_out_store, self.site, self.found.saes, True)
            self.subject: HuggingFaceSubject | None = self._subject(*asked, True)
        else:
            loaded = load_corpus(self.tables.corpus) if named else None
            self.datasets = self._own_datasets(loaded)
            self.subject = self._subject(*asked, loaded is not None)
            self._note_training()
        self.case = Case(self.site, self.datasets, self.tables.evaluate, self.subject)

    def _recipe(self) -> dict[str, Any]:
        run = self.found.run
        if run is None:
            return {}
        changed = run.recipe.evaluate.model_dump(mode="json", exclude_defaults=True)  # a table that is set says that its family is wanted
        return {"corpus": run.recipe.corpus.model_dump(mode="json"), "subject": run.recipe.subject.model_dump(mode="json"), "evaluate": changed}

    def _own_datasets(self, corpus: ListCorpus | None) -> dict[str, Dataset]:
        config = self.tables.corpus
        dataset = make_dataset(corpus, self.stores.get("fit"), self.stores.get("held_out"), config.held_out_frac, config.seed)
        return {} if dataset is None else {dataset.name: dataset}

    def _subject(self, named: bool, source: bool, has_text: bool) -> HuggingFaceSubject | None:
        """The subject, where there is text for it to read: the one that is named, or the one that the records name if it can be loaded.

        Args:
            named: whether any setting of it was asked for.
            source: whether the model itself was.

        Raises:
            SubjectError: when it is another than that of the SAEs and stores.
        """
        if not has_text and named:
            raise ConfigError(asked="evaluate with a subject", why="stores hold no text for it to read", instead="give --corpus too, or leave out --subject")
        if not has_text:
            return None
        ref: SubjectRef | None = next(iter(self.refs.values()), None)
        recorded = not source and self.found.run is None
        if recorded and ref is None:
            raise ConfigError(asked="evaluate these SAEs on a corpus", why="no record says of which subject they are", instead="give --subject")
        try:
            told = {name: getattr(self.tables.subject, name) for name in self.tables.subject.model_fields_set}
            subject = load_subject(subject_settings(ref).model_copy(update=told) if recorded and ref is not None else self.tables.subject)
        except SparselightError as err:
            if not recorded or len(self.stores) < 2:
                raise
            self.notes.append(f"the subject {ref.name if ref else ''} was not run: {err.why}")
            return None
        check_one_subject({**self.refs, f"the subject {subject.name}": subject.ref()})
        width = subject.d_site(self.site)
        for name, sae in self.found.saes.items():
            if sae.d_in != width:
                raise ConfigError(asked=f"evaluate {name} at {self.site}", why=f"it reads {sae.d_in} dimensions, activations there have {width}",
                                  instead="give the site that it was trained at")
        return subject

    def _note_training(self) -> None:
        """Say where nothing tells whether held-out examples were trained on."""
        given = {store.fingerprint for store in self.stores.values()}
        unsure = [name for name, sae in self.found.saes.items() if sae.record is None or sae.record.store_fingerprint not in given]
        if unsure and self.datasets:
            self.notes.append(f"no record tells whether {', '.join(unsure)} trained on these held-out examples: only a comparison with the store of the "
                              "training, as --store, would")

    def out(self) -> Path:
        """Where results go when nothing else is said: `evaluation` in the run folder, beside the SAE, or beside all of them."""
        homes = [Path(place) if (Path(place) / "run.json").is_file() else Path(place).parent for place in self.places if Path(place).exists()]
        if len(homes) < len(self.places):
            return Path("evaluation")
        return Path(os.path.commonpath([home.absolute() for home in homes])) / "evaluation"

    def run(self, out: Path, progress: Progress = no_progress) -> EvaluationResult:
        """Measure what is not yet measured in that folder."""
        record = run_suite(self.case, self.found.contenders, self.tables.evaluate, pairs=self.found.pairs, sources=self.found.sources, notes=self.notes,
                           folder=out, progress=progress)
        return EvaluationResult(folder=str(out), record=record, next_command=f"sparselight compare {out}")

    def plan(self) -> EvaluationPlan:
        """What run() would do."""
        config, n_coders = self.tables.evaluate, len(self.found.contenders) + (N_EXTRA if self.tables.evaluate.controls else 2)
        sizes = {f"{name}, {side}": self._size(dataset, side) for name, dataset in self.datasets.items() for side in ("fit", "held_out")}
        captured = sum(sizes[f"{name}, {side}"] for name, dataset in self.datasets.items() for side, store in (
            ("fit", dataset.fit_store), ("held_out", dataset.held_out_store)) if store is None)
        held_out = sum(n_tokens for name, n_tokens in sizes.items() if name.endswith("held_out"))
        families = []
        for family, _ in choose(config.suite):
            why = unmet(self.case, self.found.contenders, family)
            passed = 0 if why or not family.passes else held_out * (1 + family.passes * n_coders)
            families.append(PlannedFamily(name=family.name, title=family.title, not_measured=why, passed_tokens=passed))
        passed = captured + sum(family.passed_tokens for family in families)
        seconds = passed / self._speed() + n_coders * sum(sizes.values()) / self._encoding_speed()
        return EvaluationPlan(site=self.site, coders=list(self.found.contenders), n_tokens=sizes, families=families, captured_tokens=captured,
                              passed_tokens=passed, seconds=seconds)

    def _size(self, dataset: Dataset, side: str) -> int:
        store = dataset.fit_store if side == "fit" else dataset.held_out_store
        return self.tables.evaluate.n_tokens if store is None else min(self.tables.evaluate.n_tokens, store.n_tokens)

    def _speed(self) -> float:
        """Tokens a second through the subject."""
        examples = [example for dataset in self.datasets.values() for example in dataset.held_out[:64]]
        if self.subject is None or not examples:
            return float("inf")
        counts = self.subject.n_tokens(examples)
        first = [example for index, example in enumerate(examples) if sum(counts[:index]) < PROBE_TOKENS]
        batch = self.subject.prepare(first)
        return _rate(lambda: self.subject.capture(batch, [self.site]) if self.subject else None, batch.n_tokens)

    def _encoding_speed(self) -> float:
        sae = next(iter(self.found.saes.values()))
        x = torch.randn(PROBE_TOKENS, sae.d_in, generator=torch.Generator().manual_seed(0))
        return _rate(lambda: sae.encode(x), PROBE_TOKENS)


def _rate(work: Any, n_tokens: int) -> float:
    work()
    began = time.perf_counter()
    work()
    return n_tokens / max(time.perf_counter() - began, 1e-9)


def read_tables(
    recipe: dict[str, Any], suite: str | None, corpus: str | None, subject: str | None, controls: bool, overrides: list[str],
) -> EvaluateTables:
    """Settings from a run's recipe, the command line's own options, and overrides, the later ones first.

    Raises:
        ConfigError: for an unknown or wrong setting.
    """
    data = dict(recipe)
    if corpus is not None:
        data["corpus"] = {"root": corpus}
    if subject is not None:
        data["subject"] = {**data.get("subject", {}), "source": subject}
    data["evaluate"] = {**data.get("evaluate", {}), **({"suite": suite} if suite else {}), **({} if controls else {"controls": False})}
    return EvaluateTables.parse(apply_overrides(data, overrides))
