"""Recommenders as subjects: the contract, prefixes as rows, what is masked, the loss, sites, edits, and what is refused."""

import numpy as np
import pytest
import torch

from sparselight.errors import SubjectError
from sparselight.intervene import edit_function
from sparselight.protocols import Example
from sparselight.records import Edit, Where
from sparselight.sae import Sae
from sparselight.subjects import PlainRecommender, RecommenderSubject, SubjectConfig, load_subject
from sparselight.subjects.recommender import scoring
from sparselight.subjects.recommender.scoring import MASKED, SeenItems, target_ranks, top_items
from sparselight.subjects.recommender.subject import seen_of
from sparselight.testing import check_subject
from sparselight.testing.recommender import tiny_interactions, tiny_recommender

ARCHITECTURES = ("sasrec", "timirec", "bpr_mf", "lightgcn")
CORPUS = tiny_interactions(16)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_contract(architecture: str) -> None:
    check_subject(tiny_recommender(architecture, CORPUS), CORPUS.examples[:5])


@pytest.mark.parametrize("architecture", ["sasrec", "timirec"])
def test_a_token_is_what_the_model_sees_right_after_an_interaction(architecture: str) -> None:
    subject, example = tiny_recommender(architecture, CORPUS), CORPUS[0]
    batch = subject.prepare([example])
    x = subject.capture(batch, ["user_vector"])["user_vector"]
    tokens = batch.token_id
    for t in (0, 3, len(tokens) - 1):
        history = tokens[max(0, t + 1 - subject.module.max_history):t + 1][None]
        alone = subject.module(history, torch.tensor([history.shape[1]]), torch.zeros(1, dtype=torch.int64))
        assert torch.allclose(alone[0], x[t], atol=1e-5)
    titles = [subject.token_text(token) for token in tokens.tolist()]
    assert titles == example.text.split("\n")


def test_what_the_user_has_is_masked_and_the_loss_is_a_softmax_over_the_rest() -> None:
    subject, example = tiny_recommender("sasrec", CORPUS), CORPUS[3]
    batch = subject.prepare([example])
    scores, loss, tokens = subject.predict(batch), subject.loss(batch), batch.token_id.tolist()
    raw = subject.module.score(subject.user_vectors(batch))
    for t in range(len(tokens)):
        masked = set((scores[t] == MASKED).nonzero()[:, 0].tolist())
        assert masked == {0, *tokens[:t + 1]}  # also what is older than the six interactions that the model sees
    assert loss[0].isnan()
    for t in (1, 8):
        others = [item for item in range(1, subject.n_vocabulary) if item not in tokens[:t]]
        expected = raw[t - 1, others].logsumexp(0) - raw[t - 1, tokens[t]]
        assert torch.allclose(loss[t], expected, atol=1e-5)


def test_the_loss_of_a_user_model_is_that_of_its_held_out_interactions() -> None:
    subject, example = tiny_recommender("bpr_mf", CORPUS), CORPUS[2]
    batch = subject.prepare([example])
    history = subject.history(example)
    assert batch.n_tokens == 1
    assert (int(batch.char_start[0]), int(batch.char_end[0])) == (0, len(example.text))
    raw = subject.module.score(subject.user_vectors(batch))[0]
    seen = set(history.tokens[history.trained()].tolist())
    nats = []
    for target in history.tokens[~history.trained()].tolist():
        others = [item for item in range(1, subject.n_vocabulary) if item not in seen]
        nats.append(float(raw[others].logsumexp(0) - raw[target]))
    assert len(nats) == 2
    assert float(subject.loss(batch)[0]) == pytest.approx(np.mean(nats), rel=1e-5)


def test_inner_sites_and_edits() -> None:
    subject = tiny_recommender("sasrec", CORPUS)
    batch = subject.prepare(CORPUS.examples[:2])
    both = subject.capture(batch, ["blocks.1:output", "user_vector"])
    assert torch.allclose(both["blocks.1:output"], both["user_vector"])  # the last block's state at the last interaction is the user vector
    before = subject.predict(batch)
    for site in ("user_vector", "blocks.0:output"):
        after = subject.predict(batch, {site: lambda x: x + 1})
        assert not torch.allclose(before, after)
        assert torch.equal(before == MASKED, after == MASKED)
    with pytest.raises(SubjectError, match=r"'user_vector' alone.*module path"):
        subject.d_site("resid_post.0")
    with pytest.raises(SubjectError, match="no module 'block'"):
        subject.d_site("block:output")


def test_an_edit_at_some_positions_changes_those_alone() -> None:
    subject, examples = tiny_recommender("sasrec", CORPUS), CORPUS.examples[:2]
    sae = Sae(subject.module.d, 4)
    with torch.no_grad():
        sae.W_dec.copy_(torch.eye(4, subject.module.d))
    batch = subject.prepare(examples)
    edit = Edit(site="user_vector", latents=[1], operation="add", amount=2.0, where=Where(positions=[0, 3]))
    changed = (subject.predict(batch, {"user_vector": edit_function(edit, sae)}) != subject.predict(batch)).any(1)
    assert changed.tolist() == [position in (0, 3) for position in batch.position.tolist()]


def test_output_effects_are_score_differences() -> None:
    subject = tiny_recommender("lightgcn", CORPUS)
    batch = subject.prepare(CORPUS.examples[:1])
    direction = torch.randn(1, 16, generator=torch.Generator().manual_seed(0))
    moved = subject.module.score(subject.user_vectors(batch, {"user_vector": lambda x: x + direction})) - subject.module.score(subject.user_vectors(batch))
    assert torch.allclose(subject.output_effects(direction, "user_vector")[0, 1:], moved[0, 1:], atol=1e-4)
    with pytest.raises(SubjectError, match="only the user vector"):
        subject.output_effects(direction, "users:output")


def test_unknown_items_are_refused_by_name_or_dropped() -> None:
    subject = tiny_recommender("sasrec", CORPUS)
    stranger = tiny_interactions(4, n_per_genre=20, seed=3)[0]
    with pytest.raises(SubjectError, match=r"does not know the item '\d+'.*unknown_items = 'drop'"):
        subject.prepare([stranger])
    dropping = RecommenderSubject(subject.module, subject.items, "tiny", unknown_items="drop")
    known = [line for line in stranger.text.split("\n") if line in subject.items.titles]
    assert [dropping.token_text(token) for token in dropping.prepare([stranger]).token_id.tolist()] == known
    assert dropping.fingerprint != subject.fingerprint


def test_unknown_users_and_empty_histories() -> None:
    empty = Example("nobody", "no items here", "nobody")
    for architecture in ARCHITECTURES:
        subject = tiny_recommender(architecture, CORPUS)
        assert subject.n_tokens([empty, CORPUS[0]])[0] == 0
        assert subject.prepare([empty]).n_tokens == 0
        assert subject.predict(subject.prepare([empty])).shape == (0, subject.n_vocabulary)
    stranger = Example("x", CORPUS[0].text, "stranger", {}, CORPUS[0].spans)
    with pytest.raises(SubjectError, match="represent the user 'stranger'.*models? that reads histories|represent the user 'stranger'"):
        tiny_recommender("bpr_mf", CORPUS).prepare([stranger])


def test_a_score_that_is_no_product() -> None:
    table = torch.randn(len(tiny_recommender("sasrec", CORPUS).items) + 1, 8, generator=torch.Generator().manual_seed(0))
    network = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh(), torch.nn.Linear(8, len(table)))

    def represent(history: torch.Tensor, lengths: torch.Tensor, users: torch.Tensor) -> torch.Tensor:
        return table[history].sum(1) / lengths[:, None]

    module = PlainRecommender(network, represent, len(table) - 1, 8, score=network, max_history=6)
    subject = RecommenderSubject(module, tiny_recommender("sasrec", CORPUS).items, "mlp")
    check_subject(subject, CORPUS.examples[:3])
    with pytest.raises(SubjectError, match="not a product"):
        subject.output_effects(torch.zeros(1, 8), "user_vector")
    with pytest.raises(SubjectError, match="either item_vectors or score"):
        PlainRecommender(network, represent, 3, 8)


def test_scoring_in_blocks_is_scoring_at_once() -> None:
    subject = tiny_recommender("sasrec", CORPUS)
    batch = subject.prepare(CORPUS.examples)
    vectors = subject.user_vectors(batch)
    seen = SeenItems.of([torch.tensor([1 + row % 5, 7]) for row in range(len(vectors))])
    whole, blocks = top_items(subject.module, vectors, 5, seen), top_items(subject.module, vectors, 5, seen, block_values=100)
    assert torch.equal(whole.items, blocks.items)
    assert not (whole.items == 7).any()
    targets = torch.full((len(vectors),), 7)
    rank = target_ranks(subject.module, vectors, targets, seen, block_values=100)
    scores = subject.module.score(vectors)
    for row in (0, 9):
        candidates = [item for item in range(1, subject.n_vocabulary) if item not in (1 + row % 5, 7)]
        assert int(rank[row]) == 1 + sum(bool(scores[row, item] >= scores[row, 7]) for item in candidates)


def test_ties_count_against_the_target() -> None:
    subject = tiny_recommender("sasrec", CORPUS)
    flat = torch.zeros(3, 16)
    assert target_ranks(subject.module, flat, torch.tensor([1, 5, 9])).tolist() == [subject.module.n_items] * 3


def test_load_subject_refuses_what_a_recommender_does_not_use() -> None:
    with pytest.raises(SubjectError, match=r"subject\.pack"):
        load_subject(SubjectConfig.parse({"kind": "recommender", "source": "nowhere", "pack": True}))
    with pytest.raises(SubjectError, match=r"trained on a corpus.*train_recommender"):
        load_subject(SubjectConfig.parse({"kind": "recommender", "source": "train"}))
    with pytest.raises(SubjectError, match="there is no such file"):
        load_subject(SubjectConfig.parse({"kind": "recommender", "source": "nowhere"}))
    with pytest.raises(SubjectError, match=r"subject\.recommender"):
        load_subject(SubjectConfig.parse({"recommender": {"d": 32}}))


@pytest.mark.parametrize("k", [1, 5, 200])
def test_top_lists_by_stretches_of_items_are_those_of_the_whole(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = tiny_recommender("sasrec", CORPUS)
    batch = subject.prepare(CORPUS.examples[:6])
    vectors, seen = subject.user_vectors(batch), seen_of(batch)
    whole = top_items(subject.module, vectors, k, seen)
    monkeypatch.setattr(scoring, "ITEM_BLOCK", 7)
    parts = top_items(subject.module, vectors, k, seen, block_values=100)
    torch.testing.assert_close(parts.scores, whole.scores)
    free = whole.scores > MASKED
    assert torch.equal(parts.items[free], whole.items[free])
    assert torch.equal(top_items(subject.module, vectors, k).items, top_items(subject.module, vectors, k, None, block_values=30).items)
