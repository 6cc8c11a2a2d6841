"""What a run on a recommender measures beyond the edits of every run: its concept dictionary, what turning concepts does, and what less popularity costs.

    concepts.json             of the base SAE, found on the training users, tested on the others
    tuning/GROUP.json         the label of most latents of a group (genre, era, franchise or word of the title), its latents scaled together
    lists.json                one user's recommendations without that concept and with more of it
    balance.json              popularity, spread, quality and the gap between users of popular and rare taste, as popularity's latents are turned down

Lies in the folder of the stage `intervene`. Refuses nothing: what a run cannot show (no label verified, nothing held out) has no file.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from sparselight.evaluate.ranking_fidelity import Ranked
from sparselight.interpret.item_concepts import ItemConceptsConfig, concept_dictionary, make_candidates, members_of
from sparselight.interpret.item_concepts.candidates import Candidates
from sparselight.interpret.item_concepts.labels import group_of, one_a_group, verified
from sparselight.intervene.concept_tuning import TuningConfig, tune_concept
from sparselight.intervene.recommendation_balance import balance_curve, popularity_latents, taste_segments
from sparselight.intervene.recommendation_lists import recommendation_lists
from sparselight.protocols import Example, Progress
from sparselight.records import Edit
from sparselight.records.item_concepts import ConceptDictionaryRecord, LatentConcept
from sparselight.records.recommendations import RecommendationLists
from sparselight.records.tuning import BalanceRecord, TuningRecord
from sparselight.report.recommender import RecommenderFindings
from sparselight.sae import Sae
from sparselight.subjects import RecommenderSubject
from sparselight.subjects.recommender.subject import USER_VECTOR
from sparselight.subjects.recommender.train import popularity_of

if TYPE_CHECKING:
    from sparselight.pipeline.stages import RunStages

CONCEPTS, LISTS, BALANCE, TUNING = "concepts.json", "lists.json", "balance.json", "tuning"
N_LATENTS = 20  # turned down for less popular recommendations
N_CONTROLS = 2
VARIANTS = {"turned off": 0.0, "four times as strong": 4.0}

Labels = dict[str, list[LatentConcept]]


@dataclass
class Studied:
    """A recommender with one SAE and its two sides of users."""

    subject: RecommenderSubject
    sae: Sae
    found_on: list[Example]
    tested_on: list[Example]
    site: str

    @cached_property
    def popularity(self) -> Float[Tensor, " vocabulary"]:
        """Training interactions of each item, of the users that the SAE was trained on."""
        return popularity_of([self.subject.history(example) for example in self.found_on], len(self.subject.items))

    @property
    def can_be_ranked(self) -> bool:
        """Whether one of the other users has an interaction that was held out."""
        return len(Ranked(self.subject, self.tested_on, "test")) > 0

    def candidates(self) -> Candidates:
        """Every label with an item, popularity as on the training users."""
        return make_candidates(self.subject.items, self.popularity.numpy(), min_items=1, max_items_frac=1.0)


def studied_run(stages: "RunStages", sae: Sae) -> Studied:
    """The recommender of a run with one of its SAEs."""
    assert isinstance(stages.subject, RecommenderSubject)
    return Studied(stages.subject, sae, stages.corpus_side("train").examples, stages.corpus_side("held_out").examples, stages.site)


def measure_recommender(stages: "RunStages", folder: Path, progress: Progress) -> dict[str, Any]:
    """Leave the files; returns what the stage's summary says of them."""
    world = studied_run(stages, stages.base())
    concepts = concept_dictionary(world.subject, world.sae, world.found_on, world.tested_on, ItemConceptsConfig(), world.site)
    concepts.save(folder / CONCEPTS)
    labels = verified(concepts.concepts)
    progress(1, 4, "concepts")
    if world.can_be_ranked:
        _tune(world, labels, folder)
        progress(2, 4, "concepts turned")
        if world.site == USER_VECTOR:
            _balance(world, folder)
    progress(3, 4, "popularity turned down")
    if labels and world.site == USER_VECTOR:
        _list(world, labels, folder)
    progress(4, 4, "recommendations")
    return {"n_concepts_at_80": sum(map(len, labels.values())), "n_labels": len(labels)}


def _tune(world: Studied, labels: Labels, folder: Path) -> None:
    config = TuningConfig(n_controls=N_CONTROLS)
    for label in one_a_group(labels):
        latents = [one.latent for one in labels[label]]
        members = members_of(labels[label][0], world.candidates())
        record = tune_concept(world.subject, world.sae, latents, members, world.tested_on, label, config, world.site)
        record.save(folder / TUNING / f"{group_of(label).replace(' ', '-')}.json")


def _balance(world: Studied, folder: Path) -> None:
    latents = popularity_latents(world.subject, world.sae, world.found_on, world.popularity, N_LATENTS)
    if latents:
        segments = taste_segments(world.subject, world.tested_on, world.popularity)
        balance_curve(world.subject, world.sae, latents, world.tested_on, world.popularity, segments=segments).save(folder / BALANCE)


def _list(world: Studied, labels: Labels, folder: Path) -> None:
    label = one_a_group(labels)[0]
    latents = [one.latent for one in labels[label]]
    variants = {name: [Edit(site=world.site, latents=latents, operation="scale", amount=amount)] for name, amount in VARIANTS.items()}
    members = members_of(labels[label][0], world.candidates())
    recommendation_lists(world.subject, world.sae, variants, members, world.tested_on, label).save(folder / LISTS)


def read_findings(folder: Path) -> RecommenderFindings | None:
    """What `measure_recommender` left; None for a run on another subject."""
    if not (folder / CONCEPTS).exists():
        return None
    return RecommenderFindings(
        concepts=ConceptDictionaryRecord.load(folder / CONCEPTS),
        tunings=[TuningRecord.load(path) for path in sorted((folder / TUNING).glob("*.json"))],
        lists=RecommendationLists.load(folder / LISTS) if (folder / LISTS).exists() else None,
        balance=BalanceRecord.load(folder / BALANCE) if (folder / BALANCE).exists() else None)
