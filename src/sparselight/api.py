"""The public functions, one a stage: the same code that `sparselight run` calls, on objects instead of run folders.

Each imports its stage when it is called, so that a program pays only for what it uses; what a stage gives as it is stands in `FROM`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparselight.errors import ConfigError
from sparselight.protocols import Example, Progress, Subject, no_progress
from sparselight.records import Card, Condition, Edit, EditSet, EvalRecord, SequenceSteeringRecord, SteeringRecord, UniprotFetch, Where
from sparselight.serve import notebook as _notebook  # noqa: F401  (draws what show() gives)

if TYPE_CHECKING:
    from sparselight.corpus import ListCorpus
    from sparselight.corpus.protein.fetch import Form
    from sparselight.evaluate.planted import PlantedData
    from sparselight.evaluate.sequences import summarize_sequences
    from sparselight.intervene import editing, generate_with, unmask
    from sparselight.intervene.goals import Goal
    from sparselight.intervene.sequence_goals import SequenceGoal
    from sparselight.pipeline import Result
    from sparselight.pipeline.layers import measure_layers
    from sparselight.pipeline.naming import Which
    from sparselight.pipeline.naming_result import NamingResult
    from sparselight.pipeline.opened import open_run
    from sparselight.pipeline.specialise.running import SpecialiseResult
    from sparselight.pipeline.structure import view_structure
    from sparselight.pipeline.tuning import TuneResult
    from sparselight.records.item_concepts import ConceptDictionaryRecord, LatentConcept
    from sparselight.records.tuning import TuningRecord
    from sparselight.report.compare_data import Comparison
    from sparselight.sae import Sae, graft, stitch
    from sparselight.sae.formats import export_sae, load_sae
    from sparselight.sae.formats.wrap import sae_from_arrays, wrap_coder
    from sparselight.serve.frozen import freeze
    from sparselight.serve.running import Server
    from sparselight.store import FolderStore
    from sparselight.subjects import HuggingFaceSubject, RecommenderSubject
    from sparselight.train import influence

__all__ = [
    "Condition", "Edit", "EditSet", "Where", "compare", "concept_dictionary", "editing", "evaluate", "explain", "export_sae", "fetch_uniprot", "freeze",
    "generate_with", "graft", "harvest", "influence", "load_corpus", "load_sae", "load_subject", "measure_layers", "name_latents", "open_run", "plant", "run",
    "sae_from_arrays", "select", "serve", "specialise", "steer", "steer_sequences", "steer_study", "stitch", "summarize_sequences", "train", "train_many",
    "train_recommender", "tune", "tune_concept", "unmask", "view_structure", "wrap_coder",
]
FROM = {
    "editing": "intervene", "export_sae": "sae.formats", "freeze": "serve.frozen", "generate_with": "intervene", "graft": "sae", "influence": "train",
    "load_sae": "sae.formats", "measure_layers": "pipeline.layers", "open_run": "pipeline.opened", "sae_from_arrays": "sae.formats.wrap", "stitch": "sae",
    "summarize_sequences": "evaluate.sequences", "unmask": "intervene", "view_structure": "pipeline.structure", "wrap_coder": "sae.formats.wrap",
}
"""Public functions that are a stage's own, and its module."""


def __getattr__(name: str) -> Any:
    if name not in FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"sparselight.{FROM[name]}"), name)


def load_subject(source: str = "demo", **settings: Any) -> HuggingFaceSubject:
    """Load the model under study: `demo`, a Hugging Face name, a folder, or with kind="module" what a function returns (`FILE.py:FUNCTION`).

    Settings are those of `subject` in a recipe.
    """
    from sparselight.subjects import SubjectConfig
    from sparselight.subjects import load_subject as load

    return load(SubjectConfig.parse({"source": source, **settings}, "subject"))


def load_corpus(root: str = "stdlib", **settings: Any) -> ListCorpus:
    """Read a corpus: `stdlib` or a folder. Settings are those of `corpus` in a recipe."""
    from sparselight.corpus import CorpusConfig
    from sparselight.corpus import load_corpus as load

    return load(CorpusConfig.parse({"root": root, **settings}, "corpus"))


def fetch_uniprot(
    out: str | Path, query: str = "", *, ids: Sequence[str] = (), form: Form = "txt", max_entries: int | None = None, progress: Progress = no_progress,
) -> UniprotFetch:
    """Fetch entries of UniProt by a query or by ids into one file that `load_corpus` reads; called again, it fetches what is missing."""
    from sparselight.corpus.protein.fetch import UniprotRequest
    from sparselight.corpus.protein.fetch import fetch_uniprot as fetch

    return fetch(UniprotRequest(query, ids, form, max_entries), Path(out), progress)


def select(
    corpus: ListCorpus, subject: HuggingFaceSubject, seeds: Sequence[str] = (), max_tokens: int = 200_000, site: str | None = None, **settings: Any,
) -> ListCorpus:
    """The examples of a corpus that are most like the seeds, up to a budget in tokens. Settings are those of `select` in a recipe.

    Args:
        site: where activations are taken for `retrieve=["dense"]` with the subject's own vectors; the one that a recipe harvests by default if not given.
    """
    from sparselight.pipeline.embedding import TextVectors
    from sparselight.select import SelectConfig, select_examples
    from sparselight.store import HarvestConfig

    config = SelectConfig.parse({"seeds": list(seeds), "max_tokens": max_tokens, **settings}, "select")
    vectors = TextVectors(config, subject, site or HarvestConfig().site) if "dense" in config.retrieve else None
    return corpus.subset(sorted(select_examples(corpus, config, subject.n_tokens, vectors=vectors).examples))


def harvest(subject: HuggingFaceSubject, corpus: ListCorpus, site: str, folder: str | Path, progress: Progress = no_progress, **settings: Any) -> FolderStore:
    """Store the activations of a corpus at a site; an interrupted store in that folder is gone on with."""
    from sparselight.store import HarvestConfig
    from sparselight.store import harvest as store_activations

    config = HarvestConfig.parse({"site": site, **settings}, "harvest")
    return store_activations(subject, corpus.examples, [site], folder, config, corpus.fingerprint(), progress)


def plant(folder: str | Path, recipe: str | Path | None = None, progress: Progress = no_progress, **settings: Any) -> PlantedData:
    """Make activations of known features, as two stores with the truth beside them; what was begun in the folder is finished.

    Args:
        recipe: a TOML file, or one of recipes/synthetic by name (`hierarchies`, `wide`, `dark`); settings given by keyword come after it.
    """
    from sparselight.config import load_toml
    from sparselight.evaluate.planted import PlantedConfig
    from sparselight.evaluate.planted import plant as make
    from sparselight.pipeline.recipe import find_recipe

    table = {} if recipe is None else load_toml(find_recipe(recipe, "synthetic"))
    return make(PlantedConfig.parse({**table, **settings}, "plant"), Path(folder), progress)


def train(
    store: FolderStore, folder: str | Path, base: Sae | None = None, site: str | None = None, progress: Progress = no_progress, *,
    init: Sae | None = None, silent: FolderStore | None = None, **settings: Any,
) -> Sae:
    """Train an SAE on a store; with `base`, a residual SAE on what that frozen SAE leaves. Settings are those of `train` in a recipe.

    Args:
        init: go on from this SAE (fine-tuning); what the settings leave open, architecture and width first, is taken from it.
        silent: where `silent_frac` of each batch comes from: rows on which a residual SAE shall give back 0.
    """
    from sparselight.train import TrainConfig, train_sae

    config = TrainConfig.parse(settings, "train")
    return train_sae(store, None, site or only_site(store), config, Path(folder), store.manifest.subject, base, progress, init=init, silent=silent)


def train_many(
    store: FolderStore | Mapping[str, FolderStore], folder: str | Path, sweep: Mapping[str, Mapping[str, Any]], base: Sae | Mapping[str, Sae] | None = None,
    site: str | None = None, progress: Progress = no_progress, *, init: Sae | Mapping[str, Sae] | None = None, silent: FolderStore | None = None,
    **settings: Any,
) -> dict[str, Sae]:
    """Train several SAEs on one stream of a store, each as `train` would by itself.

    Args:
        store: one for all, or one for each name (domains side by side); each is streamed once.
        folder: each goes into the folder of its name in it.
        sweep: for each name what differs from the settings given by keyword, tables setting by setting.
        base: a base SAE for all, or for some by name: those become residual SAEs.
        init: an SAE to go on from, for all or for some by name.
        silent: as for `train`, one for all.
    """
    from sparselight.pipeline.train_recipe import merged
    from sparselight.train import TrainConfig
    from sparselight.train import train_many as train_all

    configs = {name: TrainConfig.parse(merged(settings, changes), f"sweep.{name}") for name, changes in sweep.items()}
    first = next(iter(store.values())) if isinstance(store, Mapping) else store
    return train_all(store, None, site or only_site(first), configs, Path(folder), first.manifest.subject, base, progress, inits=init, silent=silent)


def evaluate(
    subject: HuggingFaceSubject, coders: Mapping[str, Sae], datasets: Mapping[str, ListCorpus], store: FolderStore,
    site: str | None = None, progress: Progress = no_progress, *, fit: Mapping[str, ListCorpus] | None = None, suite: str = "core",
    folder: str | Path | None = None, **settings: Any,
) -> EvalRecord:
    """Measure SAEs on held-out examples beside their controls. Settings are those of `evaluate` in a recipe.

    Args:
        coders: by name; differences are taken to the first.
        datasets: held-out examples by name; none of them may be in the store.
        store: training activations, on which the controls and the mean are fitted.
        fit: annotated examples by name of the dataset, on which probes and thresholds are fitted; without them, those are what the store alone allows.
        suite: `core`, `full`, or families of metrics, joined by commas (docs/reference/metrics.md).
        folder: where record, tables and finished families are kept; the same call again measures only what is missing.
    """
    from sparselight.evaluate import Case, Contender, Dataset, EvaluateConfig, run_suite
    from sparselight.pipeline.evaluation_sources import bare_examples

    site, fit = site or only_site(store), fit or {}
    config = EvaluateConfig.parse({"suite": suite, **settings}, "evaluate")
    cases = {}
    for name, held_out in datasets.items():
        if name in fit:
            stored = {example.id for example in fit[name]} <= store.number_of().keys()
            cases[name] = Dataset(name, fit[name].annotate(fit[name].examples), held_out.annotate(held_out.examples), store if stored else None)
        else:
            cases[name] = Dataset(name, bare_examples(store), held_out.annotate(held_out.examples), store)
    contenders = {name: Contender(coder, is_control=False) for name, coder in coders.items()}
    return run_suite(Case(site, cases, config, subject), contenders, config, folder=None if folder is None else Path(folder), progress=progress)


def compare(*places: str | Path, out: str | Path | None = None, anyway: bool = False) -> Comparison:
    """Evaluated SAEs side by side, with paired differences where they were measured on the same tokens.

    Args:
        places: evaluation files or folders, run folders, SAE folders.
        out: where comparison.html, comparison.json and comparison.parquet are written; nowhere if not given.
        anyway: compare also what was not measured alike; nothing is paired across it then.
    """
    from sparselight.pipeline.comparison import compare as side_by_side
    from sparselight.pipeline.comparison import write

    comparison = side_by_side([str(place) for place in places], anyway)
    if out is not None:
        write(comparison, Path(out))
    return comparison


def explain(
    subject: HuggingFaceSubject, coders: Mapping[str, Sae], explain_on: Mapping[str, FolderStore], score_on: Mapping[str, FolderStore], corpus: ListCorpus,
    site: str | None = None, progress: Progress = no_progress, **settings: Any,
) -> list[Card]:
    """A card for every latent: what predicts its firing on `explain_on`, with its evidence on `score_on` beside shuffled labels.

    Args:
        explain_on, score_on: stores by name (`general`, `domain`); no example may stand on both sides.
        corpus: holds the examples of all the stores.
    """
    from sparselight.interpret import ExplainConfig, TokenSet
    from sparselight.interpret import explain as make_cards

    by_id = {example.id: example for example in corpus}
    site = site or only_site(next(iter(explain_on.values())))

    def sets(stores: Mapping[str, FolderStore]) -> list[TokenSet]:
        result = []
        for name, store in stores.items():
            examples = {identifier: by_id[identifier] for identifier in store.examples().column("id").to_pylist()}
            result.append(TokenSet(name, store, np.arange(store.n_tokens), examples, corpus.annotate))
        return result

    return make_cards(coders, sets(explain_on), sets(score_on), site, subject, ExplainConfig.parse(settings, "explain"), progress)


def name_latents(
    run: str | Path, endpoint: str | None = None, model: str | None = None, *, explainer: Which = "llm", scorers: Sequence[str] | None = None,
    latents: Sequence[str] = (), top: int = 50, grade: str | None = None, source: str | None = None, recipe: str | None = None,
    overrides: Sequence[str] = (), progress: Progress = no_progress,
) -> NamingResult:
    """Name latents of a finished run with a language model and score the names on held-out examples, beside controls; both go into the run's catalogue.

    Args:
        endpoint: server of the OpenAI protocol; with explainer "statistical" and scorers that ask none, it is not needed.
        latents: `residual/12`, ...; without them `top` latents, those first that fire more often in the domain.
        recipe: recsae, maira2, contrastive, or a TOML file.
        overrides: `explain.llm.max_cost=2`, ...
    """
    from sparselight.pipeline.naming import NamingRun

    with NamingRun(run, which=explainer, scorers=scorers, latents=latents, top=top, grade=grade, source=source, endpoint=endpoint, model=model, recipe=recipe,
                   overrides=overrides) as naming:
        return naming.run(progress)


def specialise(
    source: str | Path, out: str | Path | None = None, overrides: Sequence[str] = (), progress: Progress = no_progress, *,
    run: str | Path | None = None, base: str | Path | None = None, variants: Sequence[str] | None = None, budgets: Sequence[int] | None = None,
) -> SpecialiseResult:
    """Variants of a base SAE for one domain, trained on equal terms and measured beside each other; what is finished is not done again.

    Args:
        source: a run folder, which is only read, or a recipe by path or name.
        out: where everything goes; by default `specialise` in the run folder, or runs/RECIPE.
        run: under a recipe, a run folder whose corpus, general activations and base SAE are used.
        base: a base SAE in place of the run's, or of one to be trained.
        variants, budgets: the settings of `specialise` by these names.
    """
    from sparselight.pipeline.specialise.running import SpecialiseRun

    given = {"run": None if run is None else str(run), "base": None if base is None else str(base)}
    return SpecialiseRun(str(source), out=None if out is None else Path(out), overrides=overrides, variants=variants, budgets=budgets, **given).run(progress)


def steer(
    subject: HuggingFaceSubject, sae: Sae, latents: Sequence[int], operation: str, amount: float, prompt: str,
    n_tokens: int = 40, temperature: float = 0.0, seed: int = 0, site: str | None = None,
) -> str:
    """Continue a text with latents edited (vocab.EDIT_OPERATIONS: ablate, clamp, scale, add); returns the continuation.

    Args:
        site: where the SAE was trained; needed only for an SAE without a sparselight.json.
    """
    from sparselight.intervene import edit_function

    site = site or (sae.record.site if sae.record else None)
    if site is None:
        raise ConfigError(asked="steer with this SAE", why="it does not say at which site it was trained", instead="give site=, such as 'resid_post.2'")
    edit = Edit(site=site, latents=list(latents), operation=operation, amount=amount)
    return subject.generate(prompt, n_tokens, {site: edit_function(edit, sae)}, temperature, seed)


def steer_study(
    subject: HuggingFaceSubject, sae: Sae, latent: int, fit: Sequence[Example], general: Sequence[Example], goal: str | Goal | None = None,
    prompts: Sequence[str] = (), site: str | None = None, title: str = "", progress: Progress = no_progress, **settings: Any,
) -> SteeringRecord:
    """Dose-response, side effects and baselines of one latent. Settings are those of `SteerConfig` (docs/guides/steering.md).

    Args:
        fit: text on which references, directions and probes are taken; none of it may be in `general`.
        general: text on which side effects, and goals on predictions, are measured.
        goal: as on the command line (`tokens: key`), a goal of `sparselight.intervene.goals`, or None for what follows where the latent fires.
        prompts: what is continued; without them no text is generated.
    """
    from sparselight.intervene.goal_forms import parse_goal
    from sparselight.intervene.study import steer_study as study
    from sparselight.intervene.study_setting import Setting, SteerConfig

    config, site = SteerConfig.parse(settings, "steer"), site or (sae.record.site if sae.record else None)
    if site is None:
        raise ConfigError(asked="steer with this SAE", why="it does not say at which site it was trained", instead="give site=, such as 'resid_post.2'")
    chosen = parse_goal(goal, subject, site, fit) if isinstance(goal, str) else goal
    return study(Setting(subject, sae, site, "sae", latent, chosen, fit, general, prompts, title), config, progress)


def steer_sequences(
    subject: Subject, sae: Sae, latent: int, goal: str | SequenceGoal, fit: Sequence[Example], natural: Sequence[Example], other: int | None = None,
    site: str | None = None, title: str = "", progress: Progress = no_progress, **settings: Any,
) -> SequenceSteeringRecord:
    """Protein sequences written with a latent held up and beside it, judged and counted. Settings are those of `SequenceSteerConfig`.

    Args:
        goal: `pattern: zinc_finger_C2H2`, `label: transmembrane region=helix`, or a goal of `sparselight.intervene.sequence_goals`.
        fit: proteins on which references, firing rates and the probe of a label are taken; none of their groups may be in `natural`.
        natural: held-out proteins, on which the judge is tried.
        other: the latent of another concept, to compare with.
    """
    from sparselight.intervene.sequence_goals import sequence_goal
    from sparselight.intervene.sequence_study import SequenceSetting, SequenceSteerConfig, study_sequences

    config, site = SequenceSteerConfig.parse(settings, "steer"), site or (sae.record.site if sae.record else None)
    if site is None:
        raise ConfigError(asked="steer with this SAE", why="it does not say at which site it was trained", instead="give site=, such as 'resid_post.2'")
    chosen = sequence_goal(goal, subject, site, fit) if isinstance(goal, str) else goal
    return study_sequences(SequenceSetting(subject, sae, site, "sae", latent, chosen, fit, natural, other, title=title), config, progress)


def run(recipe: str | Path, out: str | Path, overrides: Sequence[str] = ()) -> Result:
    """Run a whole recipe (`demo`, or a TOML file) in a folder; finished stages are skipped."""
    from sparselight.pipeline import load_recipe, run_pipeline

    return run_pipeline(load_recipe(recipe, overrides), Path(out))


def serve(*runs: str | Path, **settings: Any) -> Server:
    """Serve run folders as pages on this machine, beside the program: in a notebook, a script. Settings: `ServeSettings`; the port is a free one.

    Returns:
        The server, running: its `url`, and `stop()`; it also stops at the end of a `with` block and with the program.
    """
    from sparselight.serve.running import serve_beside
    from sparselight.serve.settings import ServeSettings

    return serve_beside([Path(run) for run in runs], ServeSettings.parse({"port": 0, **settings}, "serve"))


def only_site(store: FolderStore) -> str:
    sites = list(store.manifest.sites)
    if len(sites) != 1:
        raise ConfigError(asked="use this store without naming a site", why=f"it holds {len(sites)} sites", instead=f"give site=, one of {', '.join(sites)}")
    return sites[0]


def train_recommender(corpus: ListCorpus, folder: str | Path, progress: Progress = no_progress, **settings: Any) -> RecommenderSubject:
    """Train a recommender on a corpus of interactions; settings are those of `subject.recommender` in a recipe."""
    from sparselight.subjects import RecommenderConfig
    from sparselight.subjects import train_recommender as train_model

    return train_model(corpus, folder, RecommenderConfig.parse(settings, "subject.recommender"), progress)


def concept_dictionary(
    subject: RecommenderSubject, sae: Sae, found_on: ListCorpus, tested_on: ListCorpus, site: str = "user_vector", progress: Progress = no_progress,
    **settings: Any,
) -> ConceptDictionaryRecord:
    """What the latents of a recommender's SAE stand for in items, with confidence on other users, beside controls. Settings: `ItemConceptsConfig`."""
    from sparselight.interpret.item_concepts import ItemConceptsConfig
    from sparselight.interpret.item_concepts import concept_dictionary as make

    return make(subject, sae, found_on.examples, tested_on.examples, ItemConceptsConfig.parse(settings, "item_concepts"), site, progress)


def tune(run: str | Path, *, more: str = "", less: str = "", source: str = "base", progress: Progress = no_progress, **settings: Any) -> TuneResult:
    """More or less of a concept in the lists of a run's recommender, or `less="popular"`: curve, page, and the edit to serve. Settings: `TuneConfig`.

    Args:
        more: a label of the run's concept dictionary, such as `genre=Horror`.
        less: the same, or `popular`.

    Raises:
        ConfigError: unless exactly one of them is given, and for labels that no latent stands for.
    """
    from sparselight.pipeline.tuning import TuneConfig, Tuning

    if bool(more) == bool(less):
        raise ConfigError(asked=f"tune the recommendations of {run}", why="one edit has one goal", instead="give more= or less=, such as more='genre=Horror'")
    tuning = Tuning(run, more or less, "more" if more else "less", TuneConfig.parse(settings, "tune"), source)
    return tuning.do(progress)


def tune_concept(
    subject: RecommenderSubject, sae: Sae, concept: LatentConcept, users: ListCorpus, latents: Sequence[int] = (), site: str = "user_vector",
    progress: Progress = no_progress, **settings: Any,
) -> TuningRecord:
    """Turn the latents of a concept up and down for some users and measure what their recommendations do. Settings: `TuningConfig`.

    Args:
        concept: of a concept dictionary.
        users: one, a segment, or all; those with a held-out interaction are measured.
        latents: the concept's own when left out; several may stand for one concept.
    """
    from sparselight.interpret.item_concepts import make_candidates, members_of
    from sparselight.intervene.concept_tuning import TuningConfig
    from sparselight.intervene.concept_tuning import tune_concept as tune_latents

    members = members_of(concept, make_candidates(subject.items, np.zeros(len(subject.items) + 1), min_items=1, max_items_frac=1.0))
    config = TuningConfig.parse(settings, "tuning")
    return tune_latents(subject, sae, list(latents) or [concept.latent], members, users.examples, concept.text, config, site, progress)
