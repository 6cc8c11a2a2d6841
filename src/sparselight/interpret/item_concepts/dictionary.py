"""The concept dictionary: for each latent the items that it stands for, by three routes, tested on held-out sequences beside three controls.

    label   the candidate (genre, decade, word of the title, popularity, ...) with the highest (recall + true-negative rate) / 2 where it is found
    terms   the words whose mean TF-IDF over the latent's items exceeds that over silent instances' items most (RecSAE, third version)
    items   the items that stand at the latent's instances more often than at others

Controls: raw dimensions, an untrained SAE of the same sparsity, and the SAE's own concepts dealt out to other latents. Refuses: users on both sides.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse

from sparselight.errors import CorpusError
from sparselight.evaluate.controls import untrained
from sparselight.interpret.item_concepts.candidates import Candidates, make_candidates
from sparselight.interpret.item_concepts.config import ItemConceptsConfig
from sparselight.interpret.item_concepts.instances import Instances, activations, at_level, draw_instances, level_edges, raw_activations
from sparselight.interpret.item_concepts.verify import CONFIDENT, Draw, Outcome, coherence, outcome_of, silent, strongest, summarize
from sparselight.protocols import Example, Progress, no_progress
from sparselight.records.item_concepts import ConceptDictionaryRecord, ConceptRoute, ConceptSummary, LatentConcept
from sparselight.sae import Sae
from sparselight.subjects.recommender.subject import USER_VECTOR, RecommenderSubject
from sparselight.subjects.recommender.train import popularity_of

N_SHOWN = 5
ROUTES: tuple[ConceptRoute, ...] = ("label", "terms", "items")


@dataclass(frozen=True, slots=True)
class Found:
    """A concept before it is tested."""

    members: Bool[np.ndarray, " vocabulary"]
    text: str
    label: str = ""
    terms: tuple[str, ...] = ()
    item_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Activity:
    """A coder over both sides: positive activations and those of a high level, [instance, latent]."""

    found_on: sparse.csc_matrix
    found_high: sparse.csc_matrix
    tested_on: sparse.csc_matrix
    tested_high: sparse.csc_matrix
    edges: Float[np.ndarray, " 9"]


def concept_dictionary(
    subject: RecommenderSubject, sae: Sae, found_on: Sequence[Example], tested_on: Sequence[Example], config: ItemConceptsConfig | None = None,
    site: str = USER_VECTOR, progress: Progress = no_progress,
) -> ConceptDictionaryRecord:
    """Find and test the concepts of an SAE at a site of a recommender.

    Args:
        found_on: users whose sequences concepts are searched on, those that the SAE was trained on.
        tested_on: other users.

    Raises:
        CorpusError: when a user stands on both sides, or one side is without a known interaction.
    """
    config = config or ItemConceptsConfig()
    shared = {example.group for example in found_on} & {example.group for example in tested_on}
    if shared:
        raise CorpusError(asked="test concepts on held-out users", why=f"{len(shared)} of them were searched on too, for example {min(shared)!r}",
                          instead="give the two parts of corpus.split()")
    first, second = (draw_instances(subject, part, site, config.instances_per_user, config.relate_to) for part in (found_on, tested_on))
    popularity = popularity_of([subject.history(example) for example in found_on], len(subject.items)).numpy()
    candidates = make_candidates(subject.items, popularity, config.min_items, config.max_items_frac)
    coders = {"sae": activity(activations(sae, first.x), activations(sae, second.x), config)}
    random = untrained(sae, first.x, config.seed)
    coders["untrained SAE"] = activity(activations(random, first.x), activations(random, second.x), config)
    if config.raw_dimensions:
        coders["raw dimensions"] = activity(raw_activations(first.x), raw_activations(second.x), config, own_levels=True)
    summaries: list[ConceptSummary] = []
    concepts: list[LatentConcept] = []
    for number, (name, active) in enumerate(coders.items()):
        draws = {latent: draw for latent in range(active.found_on.shape[1]) if (draw := make_draw(active, latent, config)) is not None}
        found = {latent: find_concepts(active, latent, draw, first if config.protocol == "held_out" else second, candidates, config)
                 for latent, draw in draws.items()}
        more, rows = _test(name, active, draws, found, second, candidates, config)
        summaries += more
        concepts += rows if name == "sae" else []
        progress(number + 1, len(coders), f"concepts of {name}")
    notes = []
    overlapping = sum(one.overlaps for one in concepts if one.route == "label")
    if overlapping:
        notes.append(f"{overlapping} latents are tested on instances that their concept was found on (protocol recsae)")
    if subject.module.reads == "user":
        notes.append("the model reads the user: an instance is a user, and its item the one recommended first")
    return ConceptDictionaryRecord(
        site=site, settings=config.model_dump(mode="json"), n_found_on=len(first if config.protocol == "held_out" else second), n_tested_on=len(second),
        n_candidates=candidates.matrix.shape[1], level_edges=coders["sae"].edges.tolist(), summaries=summaries, concepts=concepts, notes=notes)


def activity(first: sparse.csr_matrix, second: sparse.csr_matrix, config: ItemConceptsConfig, own_levels: bool = False) -> Activity:
    """Levels by the deciles of the side that concepts are found on.

    Args:
        own_levels: every positive value counts as high: the values were already cut at a quantile of each latent.
    """
    pool = first if config.protocol == "held_out" else second
    edges = np.zeros(9) if own_levels else level_edges(pool)
    high, second_high = (at_level(matrix, edges, config.high_level).tocsc() for matrix in (pool, second))
    return Activity(pool.tocsc(), high, second.tocsc(), second_high, edges)


def make_draw(active: Activity, latent: int, config: ItemConceptsConfig) -> Draw | None:
    """The instances of a latent; None where there are too few."""
    n_top, n_positive, n_negative, least = config.sizes
    rng = np.random.default_rng([config.seed, latent])
    high = strongest(active.tested_high, latent, n_top)
    overlaps = False
    if config.protocol == "recsae":
        order = rng.permutation(high)
        found_on, positive = (order, order) if len(order) <= n_positive else (order[:n_positive], order[n_positive:])
        overlaps = len(order) < 2 * n_positive
        if len(positive) < n_positive and len(order) > n_positive:
            positive = np.concatenate([positive, rng.choice(found_on, n_positive - len(positive), replace=False)])
    else:
        found_on = active.found_high.indices[active.found_high.indptr[latent]:active.found_high.indptr[latent + 1]]
        positive = rng.choice(high, min(n_positive, len(high)), replace=False)
    negative = silent(active.tested_on, latent, n_negative, rng)
    if len(found_on) < least or len(positive) < least or not len(negative):
        return None
    return Draw(found_on, positive, negative, overlaps)


def find_concepts(
    active: Activity, latent: int, draw: Draw, instances: Instances, candidates: Candidates, config: ItemConceptsConfig,
) -> dict[ConceptRoute, Found]:
    """The concept of a latent by each route."""
    on = instances.item[draw.found_on]
    part = slice(active.found_on.indptr[latent], active.found_on.indptr[latent + 1])
    quiet = np.ones(len(instances), dtype=bool)
    quiet[active.found_on.indices[part]] = False
    n_vocabulary = candidates.matrix.shape[0]
    fires, off = (np.bincount(items, minlength=n_vocabulary).astype(np.float64) for items in (on, instances.item[quiet]))
    result: dict[ConceptRoute, Found] = {}
    rate_on, rate_off = fires / fires.sum(), off / max(off.sum(), 1.0)
    if candidates.matrix.shape[1]:
        balance = (candidates.matrix.T @ (rate_on - rate_off) + 1) / 2  # (recall + true-negative rate) / 2 of every candidate at once
        best = int(np.argmax(balance))
        inside, label = candidates.matrix[:, [best]].toarray()[:, 0] > 0, candidates.label(best)
        listed = tuple(candidates.items.ids[place - 1] for place in np.flatnonzero(inside).tolist()) if candidates.kinds[best] == "popularity" else ()
        result["label"] = Found(inside, label.replace("=", " "), label, item_ids=listed)
    weights = np.asarray(candidates.words.T @ (rate_on - rate_off)).ravel()
    terms = tuple(candidates.vocabulary[number] for number in np.argsort(-weights, kind="stable")[:config.n_terms] if weights[number] > 0)
    if terms:
        result["terms"] = Found(candidates.with_words(list(terms)), ", ".join(terms), terms=terms)
    places = [int(place) for place in np.argsort(rate_off - rate_on, kind="stable")[:config.n_items] if rate_on[place] > rate_off[place]]
    members = np.zeros(n_vocabulary, dtype=bool)
    members[places] = True
    titles = [candidates.items.titles[place - 1] for place in places]
    result["items"] = Found(members, "; ".join(titles[:N_SHOWN]), item_ids=tuple(candidates.items.ids[place - 1] for place in places))
    return result


def _test(
    name: str, active: Activity, draws: dict[int, Draw], found: dict[int, dict[ConceptRoute, Found]], instances: Instances, candidates: Candidates,
    config: ItemConceptsConfig,
) -> tuple[list[ConceptSummary], list[LatentConcept]]:
    """Outcomes of all latents of a coder; for the SAE also those of its concepts dealt out to other latents."""
    summaries, rows = [], []
    n_latents = active.tested_on.shape[1]
    for route in ROUTES:
        concepts = {latent: routes[route] for latent, routes in found.items() if route in routes}
        outcomes = {latent: outcome_of(concept.members, draws[latent], instances.item) for latent, concept in concepts.items()}
        confident = [latent for latent, one in outcomes.items() if one.confidence >= CONFIDENT - 1e-9]
        summaries.append(summarize(name, name != "sae", route, n_latents, outcomes, coherence(confident, active.tested_on, instances), config.seed))
        if name != "sae":
            continue
        rows += [_row(latent, route, concepts[latent], one, draws[latent], active, instances, candidates) for latent, one in outcomes.items()]
        dealt = dict(zip(concepts, _deal(list(concepts), config.seed), strict=True))
        shuffled = {latent: outcome_of(concepts[other].members, draws[latent], instances.item) for latent, other in dealt.items() if other != latent}
        summaries.append(summarize("shuffled concepts", True, route, n_latents, shuffled, (None, None), config.seed))
    return summaries, rows


def _deal(latents: list[int], seed: int) -> list[int]:
    """Each latent gets that of the next one in a random order, so that nobody keeps its own."""
    order = np.random.default_rng([seed, 1]).permutation(len(latents))
    result = np.empty(len(latents), dtype=np.int64)
    result[order] = np.roll(order, 1)
    return [latents[place] for place in result]


def _row(
    latent: int, route: ConceptRoute, concept: Found, outcome: Outcome, draw: Draw, active: Activity, instances: Instances, candidates: Candidates,
) -> LatentConcept:
    items: Int[np.ndarray, " instance"] = instances.item[strongest(active.tested_on, latent, 50)]
    shown = list(dict.fromkeys(candidates.items.titles[item - 1] for item in items.tolist()))[:N_SHOWN]
    return LatentConcept(
        latent=latent, route=route, text=concept.text, label=concept.label, terms=list(concept.terms), item_ids=list(concept.item_ids), top_items=shown,
        n_found=len(draw.found_on), n_positive=len(draw.positive), n_negative=len(draw.negative), recall=outcome.recall,
        true_negative_rate=outcome.true_negative_rate, precision=outcome.precision, confidence=outcome.confidence, overlaps=draw.overlaps)
