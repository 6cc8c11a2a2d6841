"""Tuning a recommender's latents: planted directions move the items that they stand for, controls do not; balance curves; the exported module."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sparselight.corpus.interactions.items import ItemTable
from sparselight.errors import ConfigError, CorpusError
from sparselight.intervene import edited_recommender
from sparselight.intervene.concept_tuning import TuningConfig, tune_concept
from sparselight.intervene.edited_recommender import EditedRecommender
from sparselight.intervene.recommendation_balance import balance_curve, popularity_latents, taste_segments
from sparselight.intervene.recommendation_lists import recommendation_lists
from sparselight.protocols import Example
from sparselight.records import Edit
from sparselight.records.tuning import BalanceRecord, TuningRecord
from sparselight.sae import Sae
from sparselight.subjects import PlainRecommender, RecommenderSubject
from sparselight.subjects.recommender.scoring import MASKED
from sparselight.subjects.recommender.subject import seen_of
from sparselight.testing.recommender import GENRES, tiny_interactions

CORPUS = tiny_interactions(40, length=12)
ITEMS = ItemTable.from_examples(CORPUS)
N_GENRES = len(GENRES)
POPULAR = N_GENRES  # the dimension that all popular items share


def popularity() -> torch.Tensor:
    """A popularity that falls with the place of an item in its genre."""
    return torch.tensor([0.0, *(100.0 / (1 + place % 12) for place in range(len(ITEMS)))])


def planted(popular: float = 0.01) -> tuple[RecommenderSubject, Sae]:
    """Genres and popularity as directions of items and users, and an SAE that has exactly those."""
    table = torch.zeros(len(ITEMS) + 1, N_GENRES + 1)
    for place, labels in enumerate(ITEMS.labels):
        table[place + 1, list(GENRES).index(labels["genre"][0])] = 1 + 0.001 * place
    table[1:, POPULAR] = popular * popularity()[1:]

    def represent(history: torch.Tensor, lengths: torch.Tensor, users: torch.Tensor) -> torch.Tensor:
        return table[history].sum(1) / lengths[:, None] + 0.05

    module = PlainRecommender(torch.nn.Linear(1, 1), represent, len(ITEMS), N_GENRES + 1, item_vectors=table, max_history=12)
    sae = Sae(N_GENRES + 1, N_GENRES + 1)
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(N_GENRES + 1))
        sae.W_dec.copy_(torch.eye(N_GENRES + 1))
    return RecommenderSubject(module, ITEMS, "planted"), sae


def members(genre: str) -> np.ndarray:
    return np.array([False, *(genre in labels["genre"] for labels in ITEMS.labels)])


def test_a_concept_goes_down_and_up_and_controls_do_not(tmp_path: Path) -> None:
    subject, sae = planted()
    record = tune_concept(subject, sae, [0], members("Horror"), CORPUS.examples, "genre Horror", TuningConfig(n_controls=2))
    share = {dose.strength: dose.share.value for dose in record.doses}
    assert share[0.0] < share[1.0] < share[4.0]
    assert record.monotonicity == pytest.approx(1, abs=0.11)
    for run in record.controls:
        controls = {dose.strength: dose.share.value for dose in run}
        assert controls[4.0] <= controls[1.0]  # more of another genre leaves less room
    unchanged = next(dose for dose in record.doses if dose.strength == 1)
    assert (unchanged.overlap.value, unchanged.tau.value, unchanged.hr_change.value, unchanged.ndcg_change.value) == (1, 1, 0, 0)
    assert unchanged.rank_gain.value == 0
    off = next(dose for dose in record.doses if dose.strength == 0)
    assert off.rank_gain.value < 0
    assert off.overlap.value < 1
    assert record.n_items == 12
    assert record.n_users == 40
    record.save(tmp_path / "tuning.json")
    assert TuningRecord.load(tmp_path / "tuning.json") == record


def test_one_user_and_a_segment() -> None:
    subject, sae = planted()
    one = tune_concept(subject, sae, [0], members("Horror"), CORPUS.examples[:1], config=TuningConfig(n_controls=1))
    assert one.n_users == 1
    assert one.doses[0].share.low is None
    segment = [example for example in CORPUS if example.labels["taste"] == "Horror"]
    some = tune_concept(subject, sae, [0], members("Horror"), segment, config=TuningConfig(n_controls=0))
    everybody = tune_concept(subject, sae, [0], members("Horror"), CORPUS.examples, config=TuningConfig(n_controls=0))
    assert some.doses[2].share.value > everybody.doses[2].share.value
    assert some.controls == []


def test_what_is_added_reaches_those_who_have_nothing_of_it() -> None:
    subject, sae = planted()
    segment = [example for example in CORPUS if example.labels["taste"] == "War"]
    config = TuningConfig(n_controls=1, operation="add", strengths=(0.0, 2.0, 6.0))
    record = tune_concept(subject, sae, [0], members("Horror"), segment, config=config)
    share = [dose.share.value for dose in record.doses]
    assert share[0] < share[1] < share[2]
    assert record.doses[0].overlap.value == 1
    assert record.controls[0][2].share.value < share[2] - 0.3  # another direction does less


def test_what_cannot_be_tuned() -> None:
    subject, sae = planted()
    with pytest.raises(ConfigError, match="names no item"):
        tune_concept(subject, sae, [0], np.zeros(len(ITEMS) + 1, dtype=bool), CORPUS.examples)
    with pytest.raises(CorpusError, match="none of them has an interaction of the part 'test'"):
        tune_concept(subject, sae, [0], members("War"), [Example("a", "x", "a")])
    with torch.no_grad():
        sae.threshold[2] = 1e6
    with pytest.raises(ConfigError, match="latent 2.*active at no interaction of these 40 users"):
        tune_concept(subject, sae, [2], members("War"), CORPUS.examples, config=TuningConfig(operation="add"))
    assert tune_concept(subject, sae, [2], members("War"), CORPUS.examples, config=TuningConfig(n_controls=0)).active_frac == 0
    with pytest.raises(ConfigError, match="latent 99 is out of range"):
        tune_concept(subject, sae, [99], members("War"), CORPUS.examples)


def test_the_popularity_latent_is_found_and_turning_it_down_debiases(tmp_path: Path) -> None:
    subject, sae = planted(popular=0.1)
    users = CORPUS.examples
    assert popularity_latents(subject, sae, users, popularity(), n=1, by="slope") == [POPULAR]
    assert popularity_latents(subject, sae, users, popularity(), n=1, by="effect", k=3) == [POPULAR]
    likes = {one.group: one.labels["taste"] == "Horror" for one in users}
    segments = {"horror": [user for user in likes if likes[user]], "others": [user for user in likes if not likes[user]]}
    record = balance_curve(subject, sae, [POPULAR], users, popularity(), segments=segments)
    levels = [dose.popularity.value for dose in record.doses]
    assert levels == sorted(levels, reverse=True)
    assert levels[-1] < levels[0]
    assert record.doses[-1].coverage >= record.doses[0].coverage
    assert record.doses[0].popularity == record.penalty[0].popularity
    assert record.penalty[-1].popularity.value < record.penalty[0].popularity.value
    assert record.doses[0].gap is not None
    assert record.control[0].popularity == record.doses[0].popularity
    record.save(tmp_path / "balance.json")
    assert BalanceRecord.load(tmp_path / "balance.json") == record
    with pytest.raises(ConfigError, match="a gap is between two"):
        balance_curve(subject, sae, [POPULAR], users, popularity(), segments={"all": []})


def test_the_exported_module_scores_as_the_edited_subject_does(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, sae = planted()
    edit = Edit(site="user_vector", latents=[0], operation="scale", amount=3.0)
    served = EditedRecommender(subject.module, sae, [edit])
    batch = subject.prepare(CORPUS.examples[:3])
    assert batch.inputs is not None
    inputs = (batch.input_ids, batch.inputs["lengths"], batch.inputs["users"])
    from sparselight.intervene import edit_function

    expected = subject.predict(batch, {"user_vector": edit_function(edit, sae)})
    scores = served(*inputs)
    assert torch.equal(scores[expected != MASKED], expected[expected != MASKED])
    only = torch.zeros(batch.n_tokens, dtype=torch.bool)
    only[2] = True
    part, plain = served(*inputs, edited=only), subject.module.score(subject.user_vectors(batch))
    assert torch.equal(part[2], scores[2])
    assert torch.equal(part[~only], plain[~only])
    top = served.recommend(*inputs, k=4, seen=seen_of(batch))
    assert top.items.tolist() == expected.topk(4, dim=1).indices.tolist()
    assert EditedRecommender(subject.module, sae, []).state_dict().keys() >= {"coder.W_dec"}
    with pytest.raises(ConfigError, match=r"export an edit at 'module:output'"):
        EditedRecommender(subject.module, sae, [Edit(site="module:output", latents=[0], operation="ablate")])
    rows = torch.arange(len(batch.inputs["lengths"]))
    whole = served.recommend(*inputs, k=3)
    monkeypatch.setattr(edited_recommender, "BLOCK_ROWS", 4)
    parts = served.recommend(*inputs, k=3, edited=rows >= 0)
    assert torch.equal(parts.items, whole.items)


def test_lists_show_one_user_before_and_after() -> None:
    subject, sae = planted()
    variants = {"off": [Edit(site="user_vector", latents=[0], operation="scale", amount=0.0)],
                "up": [Edit(site="user_vector", latents=[0], operation="add", amount=9.0)]}
    found = recommendation_lists(subject, sae, variants, members("Horror"), CORPUS.examples, "genre Horror", k=5)
    plain, off, up = found.lists
    assert [item.rank_before for item in plain.items] == [1, 2, 3, 4, 5]
    assert not any(item.in_concept for item in off.items)
    assert sum(item.in_concept for item in up.items) >= sum(item.in_concept for item in plain.items) > 0
    assert "change most" in found.chosen
    own = {title for title, _ in zip(found.history, found.history_in_concept, strict=True)}
    assert not own & {item.title for item in plain.items}, "what the user has is not recommended"
    other = recommendation_lists(subject, sae, variants, members("Horror"), CORPUS.examples, user=CORPUS[1].group, k=5)
    assert other.user == CORPUS[1].group
    with pytest.raises(ConfigError, match="not among these users"):
        recommendation_lists(subject, sae, variants, members("Horror"), CORPUS.examples, user="nobody")
    with pytest.raises(ConfigError, match="there is no edit"):
        recommendation_lists(subject, sae, {}, members("Horror"), CORPUS.examples)
    with pytest.raises(CorpusError, match="none of them has an interaction"):
        recommendation_lists(subject, sae, variants, members("Horror"), [Example("empty", "", "empty")])


def test_taste_divides_users_at_the_median() -> None:
    subject, _ = planted()
    segments = taste_segments(subject, CORPUS.examples, popularity())
    assert set(segments["popular taste"]).isdisjoint(segments["rare taste"])
    assert sum(map(len, segments.values())) == len(CORPUS)
    level = {example.group: float(popularity()[subject.history(example).tokens].mean()) for example in CORPUS}
    assert min(level[user] for user in segments["popular taste"]) >= max(level[user] for user in segments["rare taste"])
