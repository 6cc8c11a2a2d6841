"""Training, saving and loading recommenders, and those of others: ReChorus' published SASRec with its SAE, Cornac's models."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sparselight.corpus import CorpusConfig, load_corpus
from sparselight.corpus.interactions.items import ItemTable
from sparselight.errors import ConfigError, SubjectError
from sparselight.sae.formats import load_sae
from sparselight.subjects import RecommenderConfig, from_cornac, load_rechorus, load_recommender, train_recommender
from sparselight.subjects.recommender.folder import read_record
from sparselight.subjects.recommender.scoring import SeenItems, target_ranks
from sparselight.subjects.recommender.train import draw_negatives, make_targets, ranking_of
from sparselight.testing import check_subject
from sparselight.testing.recommender import tiny_interactions, tiny_recommender

DATA = Path(__file__).parents[3] / "shared" / "data"
RECSAE, MOVIELENS = DATA / "recsae_ml1m", DATA / "ml-latest-small"
needs_data = pytest.mark.skipif(not (RECSAE.is_dir() and MOVIELENS.is_dir()), reason="the published recommender and ml-latest-small are not here")
CORPUS = tiny_interactions(40)


def settings(architecture: str, **more: object) -> RecommenderConfig:
    sizes = {"d": 12, "batch_rows": 64, "max_epochs": 8, "lr": 0.02, **({"max_history": 6} if architecture in ("sasrec", "timirec") else {})}
    return RecommenderConfig.parse({"architecture": architecture, **sizes, **more})


@pytest.mark.parametrize("architecture", ["sasrec", "timirec", "bpr_mf", "lightgcn"])
@pytest.mark.parametrize("loss", ["softmax", "bpr"])
def test_training_beats_an_untrained_model_and_is_the_same_twice(architecture: str, loss: str, tmp_path: Path) -> None:
    config = settings(architecture, loss=loss)
    subject = train_recommender(CORPUS, tmp_path / "a", config)
    history = [subject.history(example) for example in CORPUS]
    test = {value.part: value for value in read_record(tmp_path / "a").results}["test"]
    chance = 10 / len(subject.items)
    assert test.n == len(history)
    assert test.hr["10"] > 1.3 * chance
    if loss == "softmax" and architecture in ("sasrec", "lightgcn"):
        again = train_recommender(CORPUS, tmp_path / "b", config)
        assert again.fingerprint == subject.fingerprint
    check_subject(load_recommender(tmp_path / "a"), CORPUS.examples[:3])


def test_a_folder_is_trained_once(tmp_path: Path) -> None:
    config = settings("bpr_mf", max_epochs=1)
    first = train_recommender(CORPUS, tmp_path, config)
    written = (tmp_path / "model.safetensors").stat().st_mtime_ns
    assert train_recommender(CORPUS, tmp_path, config).fingerprint == first.fingerprint
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == written
    with pytest.raises(SubjectError, match="another corpus or with other settings"):
        train_recommender(CORPUS, tmp_path, settings("bpr_mf", max_epochs=2))


def test_damage_is_noticed(tmp_path: Path) -> None:
    train_recommender(CORPUS, tmp_path, settings("bpr_mf", max_epochs=1))
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(SubjectError, match="its files are damaged"):
        load_recommender(tmp_path)
    (tmp_path / "recommender.json").write_text("{}")
    with pytest.raises(SubjectError, match="damaged"):
        load_recommender(tmp_path)


def test_held_out_interactions_are_no_targets_and_no_negatives() -> None:
    subject = tiny_recommender("sasrec", CORPUS)
    histories = [subject.history(example) for example in CORPUS]
    targets = make_targets(histories, subject.n_vocabulary, with_first=False)
    assert len(targets.at) == sum(int(history.trained().sum()) - 1 for history in histories)
    chosen = torch.arange(len(targets.at))
    rows, lengths, users, items = targets.rows(chosen, 6)
    for row in (0, 5, len(chosen) - 1):
        tokens = histories[int(users[row])].tokens
        t = int(np.flatnonzero(tokens == int(items[row]))[0])
        assert histories[int(users[row])].part[t] == ""
        assert rows[row, :lengths[row]].tolist() == tokens[max(0, t - 6):t].tolist()
    negatives = draw_negatives(users, targets.has, subject.module.n_items, torch.Generator().manual_seed(0))
    trained = [set(history.tokens[history.trained()].tolist()) for history in histories]
    assert not any(int(item) in trained[int(user)] for user, item in zip(users, negatives, strict=True))


def test_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(SubjectError, match="no user has two interactions"):
        train_recommender(tiny_interactions(3, length=1), tmp_path, settings("sasrec"))
    with pytest.raises(ConfigError, match="n_heads = 2 means nothing to bpr_mf"):
        RecommenderConfig.parse({"architecture": "bpr_mf", "n_heads": 2})


@needs_data
def test_the_published_sasrec_and_its_sae() -> None:
    """500 users of ml-latest-small with six positives or more: HR@10 0.080, and of the SAE fvu 0.045 with 514 latents, as measured apart from this code."""
    corpus = load_corpus(CorpusConfig.parse({
        "kind": "interactions", "root": str(MOVIELENS), "interactions": {"min_value": 4.0, "only_items": str(RECSAE / "item_ids.tsv"), "split": "none"}}))
    file = RECSAE / "SASRec_SAE__ML_1MTOPK__emb64_L2_H2__k16_scale32.pt"
    subject = load_rechorus(file, RECSAE / "item_ids.tsv", n_heads=2, items=ItemTable.from_examples(corpus))
    alone = load_rechorus(RECSAE / "SASRec__ML_1MTOPK__emb64_L2_H2.pt", RECSAE / "item_ids.tsv", n_heads=2)
    assert all(torch.equal(a, b) for a, b in zip(subject.module.state_dict().values(), alone.module.state_dict().values(), strict=True))
    assert subject.items.titles[0] == "Toy Story (1995)"
    histories = [history for example in corpus if len(history := subject.history(example)) >= 6][:500]
    batch = subject.prepare_at(histories, [len(history) - 2 for history in histories])
    x = subject.capture(batch, ["user_vector"])["user_vector"]
    targets = torch.tensor([int(history.tokens[-1]) for history in histories])
    seen = SeenItems.of([torch.from_numpy(history.tokens) for history in histories])
    rank = target_ranks(subject.module, x, targets, seen)
    assert float((rank <= 10).float().mean()) == pytest.approx(0.080, abs=0.001)
    sae = load_sae(file, k=16)
    codes = sae.encode(x)
    x_hat = sae.decode(codes)
    assert float((x - x_hat).pow(2).sum() / (x - x.mean(0)).pow(2).sum()) == pytest.approx(0.045, abs=0.001)
    assert len(codes.latents[codes.values > 0].unique()) == 514
    assert float((target_ranks(subject.module, x_hat, targets, seen) <= 10).float().mean()) > 0.06


@needs_data
def test_what_is_no_such_model(tmp_path: Path) -> None:
    ids = RECSAE / "item_ids.tsv"
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(SubjectError, match=r"no model known here.*PlainRecommender"):
        load_rechorus(tmp_path / "other.pt", ids)
    torch.save({"a": object}, tmp_path / "code.pt")
    with pytest.raises(SubjectError, match="more than tensors"):
        load_rechorus(tmp_path / "code.pt", ids)
    file = RECSAE / "SASRec__ML_1MTOPK__emb64_L2_H2.pt"
    with pytest.raises(SubjectError, match="64 cannot be divided among 7 heads"):
        load_rechorus(file, ids, n_heads=7)
    (tmp_path / "ids.tsv").write_text("movieId\titem_id\n1\t1\n")
    with pytest.raises(SubjectError, match="name the 3125 items"):
        load_rechorus(file, tmp_path / "ids.tsv", n_heads=2)


@pytest.fixture(scope="module")
def cornac_data() -> object:
    cornac = pytest.importorskip("cornac", reason="cornac is not installed (pip install 'sparselight[recsys]')")
    subject = tiny_recommender("sasrec", CORPUS)
    histories = [subject.history(example) for example in CORPUS]
    rows = [(history.user, subject.items.ids[token - 1], 1.0, t) for history in histories for t, token in enumerate(history.tokens.tolist())
            if not history.part[t]]
    return cornac, rows


@pytest.mark.filterwarnings("ignore")
def test_cornac_factor_models(cornac_data: tuple[object, list[tuple[str, str, float, int]]]) -> None:
    _, rows = cornac_data
    from cornac.data import Dataset
    from cornac.models import BPR, MostPop

    data = Dataset.from_uir([row[:3] for row in rows], seed=0)
    with pytest.raises(SubjectError, match=r"not fitted.*fit\(\)"):
        from_cornac(BPR())
    model = BPR(k=8, max_iter=5, seed=0, num_threads=1).fit(data)
    subject = from_cornac(model, ItemTable.from_examples(CORPUS))
    check_subject(subject, CORPUS.examples[:3])
    batch = subject.prepare(CORPUS.examples[:3])
    scores = subject.module.score(subject.user_vectors(batch))
    for row, example in enumerate(CORPUS.examples[:3]):
        expected = model.score(model.uid_map[example.group])
        expected = expected - expected[0]  # Cornac leaves out what all items share
        assert np.allclose(scores[row, 1:] - scores[row, 1], expected, atol=1e-4)
    with pytest.raises(SubjectError, match=r"product of user and item vectors.*PlainRecommender"):
        from_cornac(MostPop().fit(data))


@pytest.mark.filterwarnings("ignore")
def test_cornac_sasrec(cornac_data: tuple[object, list[tuple[str, str, float, int]]]) -> None:
    _, rows = cornac_data
    from cornac.data.dataset import SequentialDataset
    from cornac.models import SASRec

    data = SequentialDataset.from_usit([(user, user, item, t) for user, item, _, t in rows], seed=0)
    model = SASRec(embedding_dim=8, n_epochs=1, batch_size=32, max_len=6, n_sample=8, seed=0).fit(data)
    subject = from_cornac(model, ItemTable.from_examples(CORPUS))
    check_subject(subject, CORPUS.examples[:3])
    history = subject.history(CORPUS[0])
    batch = subject.prepare_at([history], [4])
    expected = model.score(0, [token - 1 for token in history.tokens[:5].tolist()])
    assert np.allclose(subject.module.score(subject.user_vectors(batch))[0, 1:], expected, atol=1e-5)


@pytest.mark.parametrize("architecture", ["bpr_mf", "sasrec"])
def test_ranking_does_not_depend_on_the_order_of_users(architecture: str) -> None:
    corpus = tiny_interactions(16)
    subject = tiny_recommender(architecture, corpus)
    histories = [subject.history(example) for example in corpus]
    assert ranking_of(subject, histories[::-1], "test") == ranking_of(subject, histories, "test")
    alone = ranking_of(subject, histories[5:6], "test")
    rank = target_ranks(subject.module, subject.user_vectors(subject.prepare_at(histories[5:6], [len(histories[5]) - 2])),
                        torch.from_numpy(histories[5].tokens[-1:]), SeenItems.of([torch.from_numpy(histories[5].tokens)]))
    assert alone is not None
    assert alone.hr["10"] == float(rank[0] <= 10)
