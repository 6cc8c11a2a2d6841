"""Tuning a recommender of a run folder: more or less of a concept, or less of what is popular; the curve of effect and cost, and an edit to serve.

    RUN/tuning/NAME/tuning.json | balance.json    the curve
    RUN/tuning/NAME/edit.json                     the edit at the strength that is kept: `run.edit(path)`, `EditedRecommender`
    RUN/tuning/NAME/tuning.html                   the page

The strength that is kept is the furthest at which NDCG@k falls by no more than `max_cost`, chosen on the users that the SAE was trained on; the curve is of the
others. Refuses: runs on other subjects, labels that no latent stands for, more of what is popular, sites other than the user vector.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool
from pydantic import Field

from sparselight import __version__
from sparselight.config import Config
from sparselight.errors import ConfigError, CorpusError, RunError
from sparselight.files import make_folder
from sparselight.interpret.item_concepts import ItemConceptsConfig, members_of
from sparselight.interpret.item_concepts.labels import latents_for
from sparselight.intervene.concept_tuning import TuningConfig, tune_concept, usual_activity
from sparselight.intervene.recommendation_balance import balance_curve, popularity_latents, taste_segments
from sparselight.intervene.recommendation_lists import recommendation_lists
from sparselight.pipeline.item_concepts import concepts_of
from sparselight.pipeline.opened import OpenRun, open_run
from sparselight.pipeline.recommender_evidence import Studied, studied_run
from sparselight.protocols import Example, Progress, no_progress
from sparselight.records import BalanceRecord, Edit, EditSet, LatentConcept, Part, RecommendationLists, TuningRecord
from sparselight.report.tuning import TunedPage, write_tuning
from sparselight.subjects import RecommenderSubject
from sparselight.subjects.recommender.subject import USER_VECTOR

FOLDER = "tuning"
POPULAR = "popular"
Direction = Literal["more", "less"]
STRENGTHS: dict[Direction, tuple[float, ...]] = {"less": (1.0, 0.75, 0.5, 0.25, 0.0), "more": (0.0, 0.05, 0.1, 0.25, 0.5, 1.0)}
OPERATIONS: dict[Direction, Literal["scale", "add"]] = {"less": "scale", "more": "add"}


class TuneConfig(Config):
    """What is turned, how far, and at what cost."""

    strengths: tuple[float, ...] | None = Field(default=None, min_length=2)
    """less: what the latents are multiplied by, 1 to 0 when not given. more: how many of their own means are added to everybody, 0 to 1. The first of them
    must leave the recommendations as they are: 1, or 0."""
    min_confidence: float = Field(0.8, ge=0, le=1)
    """Latents stand for the concept from this confidence on."""
    n_latents: int = Field(20, ge=1)
    """So many at most: the most confident ones; for what is popular, those whose absence makes lists least popular."""
    k: int = Field(10, ge=2)
    """Length of the lists, and cut-off of HR and NDCG."""
    n_controls: int = Field(2, ge=0)
    """Draws of random latents with like firing rates, for a concept."""
    max_cost: float = Field(0.05, ge=0, le=1)
    """Largest share of NDCG@k that the edit may cost, on the users that it is chosen on."""
    keep: float | None = None
    """Strength of the edit that is written, one of `strengths`; chosen by `max_cost` when not given."""
    seed: int = Field(0, ge=0)
    """Of controls and bootstrap."""


class TunePlan(Part):
    """What would be done."""

    run: str
    goal: str
    n_users: int
    n_strengths: int
    passes: int
    """Over the users, each with all items scored."""
    out: str


class TuneResult(Part):
    """Where the results lie, and what was kept."""

    run: str
    goal: str
    """`less genre=Horror`, `less popular`."""
    source: str
    latents: list[int]
    kept: float
    why_kept: str
    page: str
    record: str
    edit: str
    tuning: TuningRecord | None = None
    balance: BalanceRecord | None = None
    lists: RecommendationLists
    next_command: str


class Tuning:
    """One request on one run: opened and checked when it is made, then planned or done."""

    def __init__(self, run: OpenRun | str | Path, concept: str, direction: Direction, config: TuneConfig | None = None, source: str = "base"):
        self.run = run if isinstance(run, OpenRun) else open_run(run)
        self.concept, self.direction, self.source, self.config = concept, direction, source, config or TuneConfig()
        asked, subject = f"tune the recommendations of {self.run.folder}", self.run.subject
        if not isinstance(subject, RecommenderSubject):
            raise RunError(asked=asked, why=f"its subject is of kind {subject.ref().kind}, not a recommender", instead="steer its features: sparselight steer")
        if self.run.site != USER_VECTOR:
            raise RunError(asked=asked, why=f"its SAEs are of {self.run.site}", instead=f"train one at {USER_VECTOR}")
        if concept == POPULAR and direction == "more":
            raise ConfigError(asked="recommend more of what is popular", why="latents are searched whose absence makes lists less popular",
                              instead="ask for less, or for more of a label: --more popularity=head")
        unused = sorted({"n_controls", "min_confidence"} & self.config.model_fields_set) if concept == POPULAR else []
        if unused:
            raise ConfigError(asked=f"recommend less of what is popular with tune.{unused[0]}", why="it is of labels: random latents are drawn once there, and "
                              "no label is asked for", instead="leave it out")
        neutral = 1.0 if direction == "less" else 0.0
        if self.strengths[0] != neutral:
            raise ConfigError(asked=f"tune with tune.strengths = {list(self.strengths)}", why="the first must leave the recommendations as they are",
                              instead=f"begin with {neutral:g}")
        if self.config.keep is not None and self.config.keep not in self.strengths:
            raise ConfigError(asked=f"keep the edit at tune.keep = {self.config.keep:g}", why="no such strength is measured",
                              instead=f"give one of {', '.join(f'{one:g}' for one in self.strengths)}, or add it to tune.strengths")

    @property
    def strengths(self) -> tuple[float, ...]:
        return self.config.strengths or STRENGTHS[self.direction]

    @property
    def goal(self) -> str:
        return f"{self.direction} {self.concept}"

    @property
    def folder(self) -> Path:
        return self.run.folder / FOLDER / re.sub(r"[^\w.-]+", "-", f"{self.source}-{self.goal}")

    def plan(self) -> TunePlan:
        """Size of the work, by counting; nothing is run."""
        users = len(self.run.stages.corpus_side("held_out"))
        per_strength = 3 if self.concept == POPULAR else 2 + self.config.n_controls
        return TunePlan(run=str(self.run.folder), goal=self.goal, n_users=users, n_strengths=len(self.strengths), passes=per_strength * len(self.strengths),
                        out=str(self.folder))

    def do(self, progress: Progress = no_progress) -> TuneResult:
        """Measure the curve, choose a strength, write edit and page.

        Raises:
            ConfigError: when no latent stands for the concept.
            CorpusError: when no user has a held-out interaction.
        """
        world = studied_run(self.run.stages, self.run.sae(self.source))
        if not world.can_be_ranked:
            raise CorpusError(asked=f"measure {self.goal} on {len(world.tested_on)} users", why="none of them has an interaction that was held out for testing",
                              instead="set corpus.interactions.split = 'leave_one_out' and run again")
        latents = self._latents(world)
        progress(1, 4, "latents chosen")
        record = self._curve(world, latents, world.tested_on)
        progress(2, 4, "curve")
        kept, why = self._keep(world, latents)
        progress(3, 4, "strength chosen")
        edit = self._edit(world, latents, kept)
        lists = recommendation_lists(world.subject, world.sae, {f"{self.goal}, strength {kept:g}": edit.edits}, self._members(world), world.tested_on,
                                     self.concept, k=self.config.k)
        result = self._write(record, edit, lists, (kept, why))
        progress(4, 4, "written")
        return result

    def _latents(self, world: Studied) -> list[int]:
        if self.concept == POPULAR:
            found = popularity_latents(world.subject, world.sae, world.found_on, world.popularity, self.config.n_latents, k=self.config.k)
            if not found:
                raise ConfigError(asked=f"tune {self.run.folder} to {self.goal}", why="no latent's absence makes lists less popular", instead="tune a label")
            return found
        return [one.latent for one in self._concepts[:self.config.n_latents]]

    @cached_property
    def _concepts(self) -> list[LatentConcept]:
        return latents_for(concepts_of(self.run, ItemConceptsConfig(), self.source)[0], self.concept, self.config.min_confidence)

    def _members(self, world: Studied) -> Bool[np.ndarray, " vocabulary"]:
        return world.candidates().members("popularity=head") if self.concept == POPULAR else members_of(self._concepts[0], world.candidates())

    def _curve(self, world: Studied, latents: list[int], users: Sequence[Example], n_controls: int | None = None) -> TuningRecord | BalanceRecord:
        config = TuningConfig(operation=OPERATIONS[self.direction], strengths=self.strengths, k=self.config.k, seed=self.config.seed,
                              n_controls=self.config.n_controls if n_controls is None else n_controls)
        if self.concept == POPULAR:
            return balance_curve(world.subject, world.sae, latents, users, world.popularity, self.strengths, config=config,
                                 segments=taste_segments(world.subject, users, world.popularity))
        return tune_concept(world.subject, world.sae, latents, self._members(world), users, self.concept, config)

    def _keep(self, world: Studied, latents: list[int]) -> tuple[float, str]:
        """The strength of the edit that is written, and why."""
        if self.config.keep is not None:
            return self.config.keep, "asked for (tune.keep)"
        doses = self._curve(world, latents, world.found_on, n_controls=0).doses
        base = doses[0].ndcg.value
        kept = 0
        while kept + 1 < len(doses) and doses[kept + 1].ndcg.value >= (1 - self.config.max_cost) * base:
            kept += 1
        k, cost = self.config.k, 1 - doses[kept].ndcg.value / base if base else 0.0
        if not kept:
            return self.strengths[0], (f"every strength costs more than {self.config.max_cost:.0%} of NDCG@{k} on the users that it is chosen on, so the edit "
                                       "changes nothing: raise tune.max_cost, or choose one with tune.keep")
        return self.strengths[kept], (f"the furthest that costs no more than {self.config.max_cost:.0%} of NDCG@{k} on the users that the SAE was trained on "
                                      f"({cost:.1%} there)")

    def _edit(self, world: Studied, latents: list[int], strength: float) -> EditSet:
        common: dict[str, Any] = {"site": USER_VECTOR, "latents": latents, "amount": strength, "source": self.source, "note": self.goal,
                                  "weights": world.sae.weights_hash()}
        if self.direction == "less":
            edit = Edit(operation="scale", **common)
        else:
            _, means = usual_activity(world.subject, world.sae, world.tested_on, USER_VECTOR)
            edit = Edit(operation="add", unit="active_mean", scales=[float(means[latent]) for latent in latents], **common)
        return EditSet(edits=[edit], subject=world.subject.ref(), title=f"{self.goal}, strength {strength:g}")

    def _write(self, record: TuningRecord | BalanceRecord, edit: EditSet, lists: RecommendationLists, kept: tuple[float, str]) -> TuneResult:
        make_folder(self.folder)
        path = self.folder / f"{record.KIND}.json"
        record.save(path)
        edit.save(self.folder / "edit.json")
        lists.save(self.folder / "lists.json")
        page = self.folder / "tuning.html"
        created = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        write_tuning(TunedPage(str(self.run.folder), self.goal, kept[0], kept[1], record, lists, created, __version__), page)
        curve: dict[str, Any] = {"tuning": record} if isinstance(record, TuningRecord) else {"balance": record}
        return TuneResult(run=str(self.run.folder), goal=self.goal, source=self.source, latents=record.latents, kept=kept[0], why_kept=kept[1], page=str(page),
                          record=str(path), edit=str(self.folder / "edit.json"), lists=lists, next_command=f"sparselight concepts {self.run.folder}", **curve)
