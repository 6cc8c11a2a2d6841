"""Which latents to turn: every way of searching finds the planted one; attributions are exact where the subject is linear, and complete where it is not."""

import numpy as np
import pytest
import torch
from labelled_toy import Basis, case_of, contenders
from planted_readout import SITE, PlantedReadout, TrueCoder
from test_scr_tpp import two_labels

from sparselight.errors import ConfigError, CorpusError
from sparselight.evaluate.shift import ShiftConfig
from sparselight.intervene import edit_function
from sparselight.intervene.attribution import attribute, goal_metric
from sparselight.intervene.baselines import TextSample
from sparselight.intervene.goals import TokenGoal
from sparselight.intervene.search import by_association, by_attribution, by_difference, by_explanation, by_output, prune_spurious
from sparselight.records import Card, Evidence, Explanation, MetricValue
from sparselight.testing import tiny_corpus, tiny_subject

FEATURE = 3


@pytest.fixture(scope="module")
def subject() -> PlantedReadout:
    return PlantedReadout()


@pytest.fixture(scope="module")
def sample(subject) -> TextSample:
    return TextSample.take(subject, TrueCoder(subject), SITE, subject.examples("fit", n_tokens=1600))


def test_every_search_finds_the_planted_latent(subject, sample):
    present = np.asarray(subject.truth(sample.examples)[:, [FEATURE]].todense()).ravel() > 0
    goal = TokenGoal((FEATURE + 1,), "its token")
    coder = TrueCoder(subject)
    attribution = attribute(subject, coder, SITE, sample.examples, lambda log_probs, _batch: log_probs[torch.from_numpy(present), FEATURE + 1].sum())
    found = {
        "association": by_association(sample, "base", present, "it"), "difference": by_difference(sample, "base", present),
        "output": by_output(subject, coder, SITE, "base", goal.token_ids), "attribution": by_attribution(attribution, "base"),
    }
    assert {way: candidates[0].latent for way, candidates in found.items()} == dict.fromkeys(found, FEATURE)
    assert found["association"][0].score == pytest.approx(1.0, abs=0.02)


def test_searches_without_anything_to_find(sample):
    nowhere = np.zeros(sample.n_tokens, dtype=bool)
    with pytest.raises(CorpusError, match="occurs at none of"):
        by_association(sample, "base", nowhere, "it")
    with pytest.raises(CorpusError, match="0 and"):
        by_difference(sample, "base", nowhere)


def card(latent: int, text: str, promotes: list[str]) -> Card:
    value = MetricValue(value=1.0, n=10)
    evidence = Evidence(precision=value, recall=value, f1=value, control_f1=value, threshold=0.0, n_fires=50, n_labelled=50)
    return Card(latent=latent, source="base", fire_rate=0.1, domain_fire_rate=0.1, max_activation=1.0, contexts=[], promotes=promotes, suppresses=[],
                explanation=Explanation(text=text, label="", explainer="statistical", evidence=evidence) if text else None)


def test_explanations_are_searched_by_phrase_then_by_word():
    cards = [card(0, "the word `key`", []), card(1, "a public key of a certificate", ["cert"]), card(2, "", [" key"]), card(3, "numbers", [])]
    assert [one.latent for one in by_explanation(cards, "public key")] == [1, 0, 2]
    assert by_explanation(cards, "zebra") == []
    assert [one.why for one in by_explanation(cards, "certificates")] == ["found by its beginning"]
    with pytest.raises(ConfigError, match="no word in it"):
        by_explanation(cards, "  ?")


def test_attribution_of_something_linear_is_what_ablation_does(subject):
    """The metric is a logit difference, linear in the activations: gradient x activation equals the effect of ablating, latent by latent."""
    coder, examples = TrueCoder(subject), subject.examples("held_out", n_tokens=160)
    found = attribute(subject, coder, SITE, examples, lambda log_probs, _batch: (log_probs[:, 2] - log_probs[:, 5]).sum())
    batch = subject.prepare(examples)
    before = subject.predict(batch)
    for latent in (1, 4, 7):
        after = subject.predict(batch, {SITE: lambda x, latent=latent: x - coder.encode(x).to_dense()[:, [latent]] * coder.W_dec[latent]})
        expected = float(((before - after)[:, 2] - (before - after)[:, 5]).mean())
        assert found.latents[latent] == pytest.approx(expected, abs=1e-4)
    assert found.metric - found.baseline == pytest.approx(found.latents.sum() + found.error, abs=1e-4)


def test_integrated_gradients_add_up(make_sae):
    tiny, sae = tiny_subject(), make_sae()
    examples = tiny_corpus(3).examples
    goal = TokenGoal((40, 41), "two tokens")
    rough, fine = (attribute(tiny, sae, "resid_post.1", examples, goal_metric(goal), steps) for steps in (1, 64))
    gap = abs(fine.metric - fine.baseline - fine.latents.sum() - fine.error)
    assert gap < 0.02 * max(1.0, abs(fine.metric - fine.baseline))
    assert gap <= abs(rough.metric - rough.baseline - rough.latents.sum() - rough.error)
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()


def test_metrics_that_are_none(subject):
    examples = subject.examples("held_out", n_tokens=32)
    with pytest.raises(ConfigError, match="no single number"):
        attribute(subject, TrueCoder(subject), SITE, examples, lambda log_probs, _batch: log_probs[:, 0])
    with pytest.raises(ConfigError, match="0 steps"):
        attribute(subject, TrueCoder(subject), SITE, examples, lambda log_probs, _batch: log_probs.sum(), steps=0)


def test_ablating_the_pruned_latents_restores_the_worst_group():
    """SHIFT as an edit: the classifier learned on tied labels is right in every subgroup once the spurious latents are off."""
    case = case_of(two_labels(160, "fit"), two_labels(80, "held"))
    coders = contenders(basis=Basis())
    pruned = prune_spurious(case, coders, "basis", ShiftConfig(concept="job", attribute="sex", keep_effect=0.02))
    assert pruned.edit.latents == [2, 3]
    worst = {cell.setting: float(value[0]) for cell, value in pruned.findings.resampled.items() if cell.metric == "shift_worst_accuracy"}
    assert worst["original"] < 0.2
    assert worst["ablated"] == 1
    apply = edit_function(pruned.edit, Basis())
    x = torch.eye(8)
    assert apply(x)[[2, 3]].abs().max() < 1e-6
    assert torch.equal(apply(x)[[0, 1]], x[[0, 1]])


def test_pruning_without_labels_is_refused():
    case = case_of(two_labels(160, "fit"), two_labels(80, "held"))
    with pytest.raises((CorpusError, ConfigError)):
        prune_spurious(case, contenders(basis=Basis()), "basis", ShiftConfig(concept="nothing", attribute="sex"))


