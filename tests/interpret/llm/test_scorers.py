"""Scorers on latents of known meaning: closed forms, controls at chance, and no score where there can be none."""

import json

import numpy as np
import pytest

from sparselight.errors import ConfigError
from sparselight.interpret.llm import Asker, LlmClient, Prompts, Sampling, ScorersConfig
from sparselight.interpret.llm.reading import Reading
from sparselight.interpret.renderers import RENDERERS, TextRenderer, renderer_for
from sparselight.interpret.scorers import Detection, Fuzzing, Intruder, LevelPrediction, Similarity, global_deciles, make_scorers, tfidf_vectors
from sparselight.interpret.scorers.binary import Judgments, auroc, binary_score
from sparselight.interpret.scorers.level_prediction import level_of
from sparselight.records import Card
from sparselight.testing import LlmServer

RENDERER = TextRenderer()


def scorer_of(kind, **settings):
    return kind(ScorersConfig(**settings), Prompts("text"), RENDERER, Sampling(50))


@pytest.fixture
def asker(tmp_path, fast):
    with LlmServer() as server, LlmClient(fast(server), tmp_path) as client:
        yield Asker(client, Prompts("text"))


def score(scorer, item, text, asker):
    plan = scorer.plan(item, text)
    return plan.score(asker.ask(plan.requests) if plan.requests else [])


def judgments(judged, positive, near=None, groups=None):
    near = near or [0] * len(judged)
    return Judgments(np.array(judged), np.array(positive, bool), np.array(near, bool), groups or [str(number) for number in range(len(judged))])


def test_binary_values_by_hand():
    found = binary_score("detection", judgments([1, 1, 0, 1, 1, 0, 0, 0, 1, 0, -1], [1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 1], [0] * 8 + [1, 1, 0]), 200, 0)
    values = {name: metric.value for name, metric in found.values.items()}
    tp, fn, fp, tn = 3, 1, 1, 3
    assert values == pytest.approx({
        "recall": tp / (tp + fn), "true_negative_rate": tn / (tn + fp), "balanced_accuracy": 0.75, "precision": tp / (tp + fp),
        "f1": 2 * tp / (2 * tp + fp + fn), "near_miss_true_negative_rate": 0.5})
    assert (found.n_positive, found.n_negative, found.n_unanswered) == (4, 4, 1)
    assert found.values["balanced_accuracy"].low < 0.75 < found.values["balanced_accuracy"].high
    assert found.values["f1"].n == 8


def test_groups_are_resampled_whole():
    one = binary_score("x", judgments([1, 0, 0, 0], [1, 1, 0, 0], groups=["a", "a", "b", "b"]), 100, 0)
    assert one.values["balanced_accuracy"].low is None  # one group a side
    assert one.values["balanced_accuracy"].value == 0.75


def test_a_judge_that_never_says_yes_has_no_precision():
    found = binary_score("x", judgments([0, 0, 0, 0], [1, 1, 0, 0]), 100, 0)
    assert "precision" not in found.values
    assert (found.values["f1"].value, found.values["balanced_accuracy"].value) == (0.0, 0.5)


def test_auroc_is_the_rank_statistic():
    found = auroc(np.array([3.0, 1.0]), np.array([2.0, 1.0, 0.0]), ["a", "b"], ["c", "d", "e"], 100, 0)
    assert found.value == pytest.approx((3 + 1.5) / 6)
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=30).round(1), rng.normal(size=20).round(1)
    expected = sklearn.roc_auc_score([1] * 30 + [0] * 20, np.concatenate([x, y]))
    assert auroc(x, y, list(map(str, range(30))), list(map(str, range(20))), 10, 0).value == pytest.approx(expected)


@pytest.mark.parametrize("kind", [Detection, Fuzzing, LevelPrediction])
def test_the_right_explanation_scores_1_and_another_chance(kind, asker, latent):
    item = latent(0, "zebra")
    right, wrong = (score(scorer_of(kind), item, f"the word {word}", asker) for word in ("zebra", "walrus"))
    assert right.values["balanced_accuracy"].value == 1.0 == right.values["precision"].value
    assert wrong.values["balanced_accuracy"].value == 0.5
    assert right.why_not == "" == wrong.why_not
    if kind is Detection:
        assert (right.n_positive, right.n_negative) == (8, 8)
        assert right.values["near_miss_true_negative_rate"].value == 1.0
    if kind is Fuzzing:
        assert (right.n_positive, right.n_negative) == (4, 4)
    if kind is LevelPrediction:
        assert right.values["confidence"].value == 1.0
        assert wrong.values["confidence"].value == pytest.approx(wrong.n_negative / (wrong.n_positive + wrong.n_negative))


def test_intruder(asker, latent):
    found = score(scorer_of(Intruder, n_trials=6), latent(0, "zebra"), "", asker)
    assert found.values["accuracy"].value == 1.0
    assert found.controls["chance"]["accuracy"].value == 0.2
    assert found.values["accuracy"].n == 6
    trials = scorer_of(Intruder, n_trials=20).trials(latent(0, "zebra"))
    assert len({trial.intruder for trial in trials}) > 1
    assert all("zebra" not in " ".join(trial.shown[trial.intruder].tokens) for trial in trials)


def test_a_judge_sees_neither_marks_nor_strengths(asker, latent):
    plan = scorer_of(Detection).plan(latent(0, "zebra"), "x")
    assert all("<<" not in request.messages[-1].text for request in plan.requests)
    assert len(plan.requests) == -(-(8 + 8 + 3) // 5)
    assert plan.requests == scorer_of(Detection).plan(latent(0, "zebra"), "x").requests
    assert plan.requests != scorer_of(Detection, seed=1).plan(latent(0, "zebra"), "x").requests


@pytest.mark.parametrize("kind", [Detection, Fuzzing, Intruder, LevelPrediction])
def test_too_few_examples_are_no_score(kind, latent):
    plan = scorer_of(kind).plan(latent(0, "zebra", n=2), "x")
    assert plan.requests == []
    assert "explain.scorers.min_examples" in plan.score([]).why_not
    assert plan.score([]).values == {}


def test_too_many_unanswered_are_no_score(latent):
    plan = scorer_of(Detection).plan(latent(0, "zebra"), "x")
    found = plan.score([Reading(None, "refused")] * len(plan.requests))
    assert found.values == {}
    assert "19 of 19" in found.why_not and "refused" in found.why_not
    readings = [Reading(None, "garbage"), *(Reading({"fits": [1] * len(request.schema["properties"]["fits"]["description"])}) for request in plan.requests[1:])]
    sizes = [request.schema["properties"]["fits"]["minItems"] for request in plan.requests]
    readings = [Reading(None, "garbage"), *(Reading({"fits": [1] * size}) for size in sizes[1:])]
    assert plan.score(readings).n_unanswered == 5


def test_fully_active_examples_cannot_be_marked_wrongly(latent, context):
    item = latent(0, "zebra")
    full = [context(["a", "b"], {0: 1.0, 1: 1.0}, f"e{number}") for number in range(4)]
    plan = scorer_of(Fuzzing).plan(type(item)(0, "base", score_positive=full, score_negative=item.score_negative), "x")
    assert "every token" in plan.why_not


def test_levels_are_global_deciles():
    edges = np.linspace(1, 9, 9)
    assert [level_of(value, edges) for value in (0.0, 0.5, 1.0, 1.01, 5.0, 9.0, 99.0)] == [0, 1, 1, 2, 5, 9, 10]
    rng = np.random.default_rng(0)
    pools = [rng.exponential(scale, size=n) for scale, n in ((1.0, 4000), (5.0, 1000))]
    cards = [
        Card(latent=number, source="base", fire_rate=0, domain_fire_rate=0, max_activation=float(pool.max()), explanation=None, contexts=[], promotes=[],
             suppresses=[], n_fires=len(pool), quantiles=np.quantile(pool, np.linspace(0, 1, 11)).tolist())
        for number, pool in enumerate(pools)]
    found = global_deciles(cards)
    np.testing.assert_allclose(found[:7], np.quantile(np.concatenate(pools), np.linspace(0.1, 0.9, 9))[:7], rtol=0.1)
    assert global_deciles([]) is None


def test_shared_examples_are_flagged(latent, asker):
    item = latent(0, "zebra")
    leaky = type(item)(0, "base", explain=item.score_positive[:2], score_positive=item.score_positive, score_negative=item.score_negative)
    assert "shown to the explainer" in score(scorer_of(LevelPrediction), leaky, "the word zebra", asker).note
    assert "shown to the explainer" not in score(scorer_of(LevelPrediction), item, "the word zebra", asker).note


def test_similarity_without_a_model(latent):
    items = [latent(number, word) for number, word in enumerate(("zebra", "walrus"))]
    texts = [RENDERER.prompt(context) for item in items for context in (*item.score_positive, *item.score_negative)]
    scorer = Similarity("keywords", ScorersConfig(), RENDERER, tfidf_vectors(texts))
    assert scorer.plan(items[0], "zebras and the like").score([]).values["auroc"].value > 0.9
    assert abs(scorer.plan(items[0], "the walrus").score([]).values["auroc"].value - 0.5) < 0.25


def test_an_encoder_is_any_function(latent):
    def vectors(texts):
        return np.array([[float("zebra" in text), 1.0] for text in texts])
    found = make_scorers(ScorersConfig(names=("embedding",)), Prompts("text"), RENDERER, Sampling(9), {"embedding": vectors})
    assert found[0].plan(latent(0, "zebra"), "zebra").score([]).values["auroc"].value == 1.0
    with pytest.raises(ConfigError, match=r"explain\.scorers\.encoder"):
        make_scorers(ScorersConfig(names=("embedding",)), Prompts("text"), RENDERER, Sampling(9))


def test_json_schemas_are_plain_json(latent):
    for kind in (Detection, Fuzzing, Intruder, LevelPrediction):
        for request in scorer_of(kind).plan(latent(0, "zebra"), "x").requests:
            assert json.loads(json.dumps(request.body("m", "schema")))


@pytest.mark.parametrize("modality", sorted(RENDERERS))
def test_every_modality_is_judged_without_marks(modality, latent, context):
    """Each renderer with each scorer: what a judge sees says nothing of where the latent fires, but the right marks where marks are the question."""
    def of_modality(found):
        return [item.model_copy(update={"marks": ["", "a mark", *[""] * 5], "grid": (1, 2) if modality == "image" else None}) for item in found]

    plain = latent(0, "zebra")
    item = type(plain)(0, "base", *(of_modality(getattr(plain, name)) for name in ("explain", "score_positive", "score_negative", "near_miss")))
    for kind in (Detection, LevelPrediction, Fuzzing, Intruder):
        plan = kind(ScorersConfig(), Prompts(modality), renderer_for(modality), Sampling(50)).plan(item, "x")
        texts = [request.messages[-1].text for request in plan.requests]
        assert texts
        if kind in (Detection, LevelPrediction):
            assert not any("<<" in text or "fires on" in text for text in texts)


def test_a_history_ends_with_the_item_in_question(context, latent):
    item = latent(0, "zebra")
    firing = [context(["one", "zebra", "later"], {1: 1.0 + number}, f"e{number}") for number in range(4)]
    item = type(item)(0, "base", score_positive=firing, score_negative=item.score_negative)
    plan = LevelPrediction(ScorersConfig(), Prompts("items"), renderer_for("items"), Sampling(50), {"base": np.linspace(0.01, 0.09, 9)}).plan(item, "x")
    assert sum("2. zebra" in request.messages[-1].text and "later" not in request.messages[-1].text for request in plan.requests) == 4
