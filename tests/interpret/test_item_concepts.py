"""Concepts of items: candidates, levels, RecSAE's confidence by hand, planted concepts that are found, controls that are not."""

import numpy as np
import pytest
import torch
from scipy import sparse

from sparselight.corpus.interactions.items import ItemTable
from sparselight.errors import CorpusError
from sparselight.evaluate.statistics import wilson
from sparselight.interpret.item_concepts import ItemConceptsConfig, concept_dictionary, make_candidates, members_of
from sparselight.interpret.item_concepts.instances import Instances, at_level, level_edges, points
from sparselight.interpret.item_concepts.verify import Draw, coherence, outcome_of
from sparselight.records.item_concepts import ConceptDictionaryRecord
from sparselight.sae import Sae
from sparselight.subjects import PlainRecommender, RecommenderSubject
from sparselight.testing.recommender import GENRES, tiny_interactions

CORPUS = tiny_interactions(80, length=16)
ITEMS = ItemTable.from_examples(CORPUS)
SETTINGS = {"instances_per_user": 8, "n_positive": 10, "n_negative": 10, "min_positive": 3}


def genre_of_items() -> torch.Tensor:
    """[item + 1, genre]: one-hot, and a little that tells items apart."""
    names = list(GENRES)
    table = torch.zeros(len(ITEMS) + 1, len(names) + 1)
    for place, labels in enumerate(ITEMS.labels):
        table[place + 1, names.index(labels["genre"][0])] = 1
    table[1:, -1] = torch.linspace(0, 0.1, len(ITEMS))
    return table


def planted() -> tuple[RecommenderSubject, Sae]:
    """A recommender whose user vector is the mean of the items' genres, and an SAE whose first four latents are genres above 0.4."""
    table = genre_of_items()
    module = PlainRecommender(torch.nn.Linear(1, 1), lambda history, lengths, _users: table[history].sum(1) / lengths[:, None], len(ITEMS), 5,
                              item_vectors=table, max_history=16)
    sae = Sae(5, 6)
    with torch.no_grad():
        sae.W_enc[:, :4] = torch.eye(5)[:, :4]
        sae.W_dec[:4] = torch.eye(5)[:4]
        sae.threshold[:4] = 0.4
        sae.threshold[4:] = 1e6
    return RecommenderSubject(module, ITEMS, "planted"), sae


def test_candidates() -> None:
    titles = ["Alien (1979)", "Aliens (1986)", "Alien: Covenant (2017)", "Toy Story (1995)", "Toy Story 2 (1999)", "Toy Story 3 (2010)"]
    labels = [{"genre": ("Horror",) if "Alien" in title else ("Animation", "Comedy"), "year": (title[-5:-1],)} for title in titles]
    items = ItemTable([str(n) for n in range(6)], titles, labels)
    found = make_candidates(items, np.arange(7.0), min_items=2)
    names = {found.label(number) for number in range(len(found.kinds))}
    assert {"genre=Horror", "genre=Comedy", "series=toy story", "series=alien", "term=toy", "term=alien", "popularity=tail"} <= names
    assert "year=1995" not in names
    assert found.members("series=toy story").tolist() == [False, False, False, False, True, True, True]
    assert found.members("series=alien").tolist() == [False, True, False, True, False, False, False]
    assert found.with_words(["toy"]).tolist() == found.members("term=toy").tolist()
    assert found.listed(["0", "5", "unknown"]).nonzero()[0].tolist() == [1, 6]


def test_levels_are_global_deciles() -> None:
    values = sparse.csr_matrix(np.diag(np.arange(1.0, 101.0)))
    edges = level_edges(values)
    assert [at_level(values, edges, level).nnz for level in (1, 5, 10)] == [100, 60, 10]


def test_confidence_by_hand() -> None:
    members = np.array([False, True, True, False])
    item = np.array([1, 2, 3, 3, 3, 1, 3, 3])
    outcome = outcome_of(members, Draw(np.array([0]), np.array([0, 1, 2]), np.array([3, 4, 5, 6, 7]), False), item)
    assert (outcome.recall, outcome.true_negative_rate, outcome.precision, outcome.confidence) == (2 / 3, 4 / 5, 2 / 3, 6 / 8)


def test_wilson_against_scipy() -> None:
    from scipy.stats import binomtest

    for successes, n in ((0, 7), (3, 9), (9, 9)):
        expected = binomtest(successes, n).proportion_ci(method="wilson")
        value = wilson(successes, n)
        assert (value.low, value.high) == (pytest.approx(expected.low, abs=1e-9), pytest.approx(expected.high, abs=1e-9))


def test_coherence_by_hand() -> None:
    vector = torch.tensor([[1.0, 0], [1, 1], [0, 1]])
    values = sparse.csc_matrix(np.array([[3.0, 0], [2, 1], [0, 2]]))
    instances = Instances(vector, vector, np.array([1, 2, 2]), np.arange(3))
    within, between = coherence([0, 1], values, instances)
    assert within == pytest.approx(np.sqrt(0.5))  # the second latent's instances are about one item
    assert between == pytest.approx(0)


@pytest.mark.parametrize(("length", "n", "expected"), [(5, 10, [0, 1, 2, 3, 4]), (10, 3, [0, 4, 9]), (7, 1, [6]), (0, 3, [])])
def test_points_of_a_history(length: int, n: int, expected: list[int]) -> None:
    assert points(length, n, reads_history=True) == expected


@pytest.mark.parametrize("protocol", ["held_out", "recsae"])
@pytest.mark.parametrize("relate_to", ["recommended", "last"])
def test_planted_genres_are_found_and_their_controls_are_not(protocol: str, relate_to: str) -> None:
    subject, sae = planted()
    found_on, tested_on = CORPUS.split(0.4)
    config = ItemConceptsConfig.parse({**SETTINGS, "protocol": protocol, "relate_to": relate_to})
    record = concept_dictionary(subject, sae, found_on.examples, tested_on.examples, config)
    by_label = {one.latent: one for one in record.concepts if one.route == "label"}
    if (protocol, relate_to) == ("held_out", "recommended"):
        assert {latent: one.label for latent, one in by_label.items()} == {number: f"genre={genre}" for number, genre in enumerate(GENRES)}
    assert set(by_label) == {0, 1, 2, 3}  # the two silent latents have no concept
    summaries = {(one.coder, one.route): one for one in record.summaries}
    own, shuffled = summaries["sae", "label"], summaries["shuffled concepts", "label"]
    assert own.confidence is not None
    assert shuffled.confidence is not None
    assert own.confidence.value > 0.75
    assert shuffled.confidence.value < own.confidence.value - 0.2
    assert (own.n_latents, own.n_scored, own.n_unscored) == (6, 4, 2)
    assert own.n_at_80 >= own.n_at_90 >= own.n_at_100
    assert {one.coder for one in record.summaries} == {"sae", "shuffled concepts", "untrained SAE", "raw dimensions"}
    assert any(one.overlaps for one in record.concepts) <= (protocol == "recsae")
    again = concept_dictionary(subject, sae, found_on.examples, tested_on.examples, config)
    assert again == record


def test_the_record_on_disk_and_members(tmp_path) -> None:
    subject, sae = planted()
    found_on, tested_on = CORPUS.split(0.4)
    record = concept_dictionary(subject, sae, found_on.examples, tested_on.examples, ItemConceptsConfig.parse(SETTINGS))
    record.save(tmp_path / "concepts.json")
    assert ConceptDictionaryRecord.load(tmp_path / "concepts.json") == record
    candidates = make_candidates(ITEMS, np.ones(len(ITEMS) + 1))
    for one in record.concepts:
        assert members_of(one, candidates)[1:].any()
    horror = next(one for one in record.concepts if one.latent == 0 and one.route == "label")
    assert [ITEMS.labels[place]["genre"] for place in np.flatnonzero(members_of(horror, candidates)[1:])] == [("Horror",)] * 12


def test_users_on_both_sides_are_refused() -> None:
    subject, sae = planted()
    with pytest.raises(CorpusError, match=r"searched on too.*corpus\.split"):
        concept_dictionary(subject, sae, CORPUS.examples[:10], CORPUS.examples[5:15])
    from sparselight.protocols import Example

    with pytest.raises(CorpusError, match="none of them has an interaction"):
        concept_dictionary(subject, sae, [Example("a", "x", "a")], CORPUS.examples[:3])
