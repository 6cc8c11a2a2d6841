"""Naming the latents of a finished run with a language model: which latents, what it would cost, and what comes of it, in the run's catalogue.

Owns: the choice of latents, settings from the run's recipe, a recipe of the package and the command line, and what is left in the run folder: `llm/answers`
(every answer that was paid for), `llm/naming.json` (what the last call did). Examples come from what the stage `explain` left. Refuses: runs without that
stage, latents that are not there, scorers without what they need.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from sparselight.config import Config, apply_overrides, load_toml
from sparselight.errors import ConfigError, SubjectError
from sparselight.files import folder_lock, write_bytes
from sparselight.interpret import ExplainConfig
from sparselight.interpret.evidence import GRADES
from sparselight.interpret.examples import ExamplesConfig
from sparselight.interpret.llm import Asker, LlmClient, LlmConfig, LlmExplainer, Prompts, Sampling, ScorersConfig
from sparselight.interpret.llm.job import Job, Named
from sparselight.interpret.llm.naming import Namer
from sparselight.interpret.llm.pictures import PromptPictures
from sparselight.interpret.llm.show import unmarked
from sparselight.interpret.scorers import ASKS, Vectors, global_deciles, make_scorers, tfidf_vectors
from sparselight.interpret.scorers.similarity import plain
from sparselight.pipeline.embedding import MEAN_POOLED, embed
from sparselight.pipeline.evaluation_sources import open_run
from sparselight.pipeline.explaining import run_catalogue
from sparselight.pipeline.naming_examples import RunExamples
from sparselight.pipeline.naming_result import CostEstimate, NamedLatent, NamingPlan, NamingResult, Questions
from sparselight.pipeline.recipe import find_recipe
from sparselight.protocols import Example, Progress, no_progress
from sparselight.records import Card, Explanation, Score
from sparselight.subjects import SubjectConfig, load_subject
from sparselight.subjects.encoder import POOLED

Which = Literal["llm", "statistical", "both"]
VECTOR_LATENTS = 256  # on whose examples the weights of words are fitted
ANSWERS, RECORD = Path("llm") / "answers", Path("llm") / "naming.json"


class NamingSettings(Config):
    """The part of the table `explain` that naming reads."""

    examples: ExamplesConfig = ExamplesConfig()
    llm: LlmConfig = LlmConfig()
    scorers: ScorersConfig = ScorersConfig()


class NamingTables(Config):
    """The tables of a recipe that naming reads."""

    explain: NamingSettings = NamingSettings()


class NamingRun:
    """A call, ready to be estimated or run.

    Args:
        folder: a run whose stage `explain` is finished.
        which: who explains; `statistical` scores the explanations that are there.
        latents: `residual/12`, ...; without them `top` latents by how much more often they fire in the domain.
        grade: only latents of this grade now.
        recipe: a file or a name of recipes/explain, read before the options.
        overrides: `explain.llm.x=y`, `explain.scorers.x=y`, `explain.examples.x=y`.
    """

    def __init__(
        self, folder: str | Path, *, which: Which = "llm", scorers: Sequence[str] | None = None, latents: Sequence[str] = (), top: int = 50,
        grade: str | None = None, source: str | None = None, endpoint: str | None = None, model: str | None = None, recipe: str | None = None,
        overrides: Sequence[str] = (),
    ):
        self.folder, self.which = Path(folder), which
        self.stages = open_run(self.folder)
        self.settings = read_settings(self.stages.recipe.explain, recipe, endpoint, model, scorers, overrides)
        self.catalogue = run_catalogue(self.folder)
        self.cards = self._choose(latents, top, grade, source)
        self.examples = RunExamples(self.stages, self.settings.examples)
        self._stack = ExitStack()

    def __enter__(self) -> "NamingRun":
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def plan(self) -> NamingPlan:
        """What run() would cost; asks nothing."""
        job, llm = self.job, self.settings.llm
        estimate = self.namer.costing.estimate(job)
        caps = {name: value for name in ("max_calls", "max_tokens", "max_cost") if (value := getattr(llm, name)) is not None}
        return NamingPlan(
            folder=str(self.folder), explainers=self._explainers(), scorers=list(self.settings.scorers.names), endpoint=llm.endpoint, model=llm.model,
            n_latents=len(job.items), n_without_examples=sum(not item.explain for item in job.items),
            n_control_latents=min(self.settings.scorers.n_control_latents, len(job.items)), estimate=CostEstimate.of(estimate), caps=caps)

    def run(self, progress: Progress = no_progress) -> NamingResult:
        """Explain and score, and write both into the catalogue.

        Raises:
            ConfigError, EndpointError: as `Namer.run`; answers that came are kept, and the same call goes on from them.
        """
        with folder_lock(self.folder / ANSWERS.parent, asked=f"name the latents of {self.folder}"):
            named = self.namer.run(self.job, progress)
            self._save(named)
            result = self._result(named)
            write_bytes(self.folder / RECORD, (result.model_dump_json(indent=1) + "\n").encode())
        return result

    # What is named, and by whom.

    def _choose(self, latents: Sequence[str], top: int, grade: str | None, source: str | None) -> list[Card]:
        """Cards to work on, without repeats."""
        if latents:
            return [self.catalogue.card(*parse_key(key)) for key in dict.fromkeys(latents)]
        cards = [card for card in self.catalogue.search(source=source, sort="domain_ratio") if card.n_fires and (grade is None or card.grade == grade)]
        if not cards:
            raise ConfigError(asked=f"name latents of {self.folder}", why=f"no latent that fires is {'of grade ' + grade if grade else 'there'}",
                              instead="give another --grade or --source, or --latents")
        return cards[:top]

    def _explainers(self) -> list[str]:
        return [*(["statistical"] if self.which != "llm" else []), *([f"llm ({self.settings.llm.style})"] if self.which != "statistical" else [])]

    @cached_property
    def job(self) -> Job:
        """Examples of the latents, explanations that are to be scored as they are, and latents of other coders."""
        keys = [(card.source, card.latent) for card in self.cards]
        given = {}
        if self.which != "llm":
            given = {card.key: [found for found in card.explanations if found.explainer == "statistical"] for card in self.cards}
            if self.which == "statistical" and not any(given.values()):
                raise ConfigError(asked="score statistical explanations", why="none of these latents has one", instead="take other latents, or --explainer llm")
        controls = {}
        if self.which != "statistical" and self.settings.scorers.n_control_latents:
            controls = self.examples.controls(self.settings.scorers.controls, self.settings.scorers.n_control_latents, sorted({key[0] for key in keys}))
        return Job(self.examples.draw(keys), given, controls)

    @cached_property
    def namer(self) -> Namer:
        """Explainer and scorers."""
        settings, renderer, modality = self.settings, self.examples.renderer, self.examples.modality
        prompts = Prompts(modality, settings.llm.prompts)
        asks = self.which != "statistical" or any(name in ASKS for name in settings.scorers.names)
        client = self._stack.enter_context(LlmClient(settings.llm, self.folder / ANSWERS)) if asks else None
        sampling = client.sampling if client else Sampling(settings.llm.max_answer_tokens)
        pictures = self._pictures()
        explainer = LlmExplainer(settings.llm, prompts, renderer, sampling, pictures) if self.which != "statistical" else None
        scorers = make_scorers(settings.scorers, prompts, renderer, sampling, self._vectors(), self._deciles(), pictures)
        return Namer(explainer, scorers, Asker(client, prompts) if client else None, settings.scorers.n_control_latents, settings.scorers.seed)

    def _pictures(self) -> PromptPictures | None:
        """What a model that takes pictures is shown.

        Raises:
            ConfigError: when they are asked for, and the run has none.
        """
        if self.settings.llm.images and self.examples.modality != "image":
            raise ConfigError(asked="show pictures to a language model (explain.llm.images)", why=f"the run is of {self.examples.modality}, without images",
                              instead="leave explain.llm.images out")
        return PromptPictures(self.folder, self.settings.llm.max_images) if self.settings.llm.images else None

    def _vectors(self) -> dict[str, Vectors]:
        names, found = self.settings.scorers.names, {}
        if "embedding" in names and self.settings.scorers.encoder:
            found["embedding"] = encoder_vectors(self.settings.scorers, str(self.stages.subject.device))
        if "keywords" in names:
            contexts = [context for item in self.job.items[:VECTOR_LATENTS] for context in (*item.score_positive, *item.score_negative)]
            found["keywords"] = tfidf_vectors(plain(self.examples.renderer.prompt(unmarked(context))) for context in contexts)
        return found

    def _deciles(self) -> dict[str, np.ndarray]:
        if "level_prediction" not in self.settings.scorers.names:
            return {}
        found = {source: global_deciles(self.catalogue.search(source=source)) for source in {card.source for card in self.cards}}
        return {source: edges for source, edges in found.items() if edges is not None}

    # What came of it.

    def _save(self, named: Named) -> None:
        """Into the catalogue; what earlier calls found of the very same explanation by other scorers stays."""
        before = {card.key: {(found.explainer, found.text): found.scores for found in card.explanations} for card in self.cards}
        self.catalogue.add_explanations({
            parse_key(key): [with_scores(found, before[key].get((found.explainer, found.text), [])) for found in rows]
            for key, rows in named.explanations.items()})

    def _result(self, named: Named) -> NamingResult:
        examiner = self.namer.examiner
        client = examiner.asker.client if examiner.asker else None
        questions = Questions.of(examiner.tally, client.budget if client else None)
        after = {card.key: self.catalogue.card(card.source, card.latent).grade for card in self.cards}
        latents = [NamedLatent(key=card.key, grade=after[card.key], explanations=named.explanations.get(card.key, []), why_not=named.why_not.get(card.key, ""))
                   for card in self.cards]
        controls = {explainer: {scorer: {control: {metric: value.value for metric, value in values.items()} for control, values in rows.items()}
                                for scorer, rows in found.items()} for explainer, found in named.controls.items()}
        grades = {grade: list(after.values()).count(grade) for grade in GRADES}
        return NamingResult(folder=str(self.folder), latents=latents, controls=controls, questions=questions, capped=examiner.capped, grades=grades,
                            next_command=f"sparselight features {self.folder} --grade B")


def with_scores(explanation: Explanation, earlier: Sequence[Score]) -> Explanation:
    """The explanation with earlier scores of scorers that did not take part, or that reached a cap."""
    done = {score.scorer for score in explanation.scores if not score.why_not}
    known = {score.scorer for score in earlier if score.scorer not in done}
    return explanation.model_copy(update={"scores": [*(score for score in earlier if score.scorer in known),
                                                     *(score for score in explanation.scores if score.scorer not in known)]})


def read_settings(run: ExplainConfig, recipe: str | None, endpoint: str | None, model: str | None, scorers: Sequence[str] | None,
                  overrides: Sequence[str]) -> NamingSettings:
    """Settings of the run, of a recipe, of options and of overrides, the later ones first.

    Raises:
        ConfigError: for an unknown or wrong setting.
    """
    data = load_toml(find_recipe(recipe, "explain")) if recipe else {}
    told = data.get("explain", {})
    own = run.model_dump(mode="json", include={"examples", "llm", "scorers"})
    tables = {name: {**settings, **told.get(name, {})} for name, settings in own.items()}
    tables["llm"] |= {name: value for name, value in (("endpoint", endpoint), ("model", model)) if value is not None}
    tables["scorers"] |= {} if scorers is None else {"names": list(scorers)}
    return NamingTables.parse(apply_overrides({**data, "explain": {**told, **tables}}, overrides)).explain


def parse_key(key: str) -> tuple[str, int]:
    """`residual/12` as (source, latent).

    Raises:
        ConfigError: when it is no such name.
    """
    source, slash, number = key.rpartition("/")
    if not slash or not number.isdigit() or not source:
        raise ConfigError(asked=f"name the latent {key!r}", why="that is no latent's name", instead="write residual/12, several joined by commas")
    return source, int(number)


def encoder_vectors(config: ScorersConfig, device: str) -> Vectors:
    """Vectors of explain.scorers.encoder; a text that occurred before is not encoded again.

    Raises:
        ConfigError: when it cannot be loaded.
    """
    try:
        encoder = load_subject(SubjectConfig(source=config.encoder, kind="encoder", pooling="mean" if config.encoder in MEAN_POOLED else "auto", device=device,
                                             context_tokens=config.encoder_tokens))
    except SubjectError as err:
        instead = err.instead.replace("subject.source", "explain.scorers.encoder").replace("subject.context_tokens", "explain.scorers.encoder_tokens")
        if "subject.pooling" in instead:
            instead = "give an encoder whose sentence-transformers files (modules.json, 1_Pooling) say how it pools"
        raise ConfigError(asked=f"score with explain.scorers.encoder = {config.encoder!r}", why=err.why, instead=instead) from None
    known: dict[str, np.ndarray] = {}

    def vectors(texts: Sequence[str]) -> np.ndarray:
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            examples = [Example(str(number), text, str(number)) for number, text in enumerate(new)]
            known.update(zip(new, embed(encoder, examples, POOLED), strict=True))
        return np.stack([known[text] for text in texts])

    return vectors
