"""Grades, on cases at the edges of the rule; controls of like firing counts."""

import numpy as np
import pytest

from sparselight.interpret.controls import Reference
from sparselight.interpret.evidence import grade_score, graded
from sparselight.records import Card, Explanation, MetricValue, Score


def score_of(value, low, scorer="label_rule", metric="f1", n_positive=20, **controls):
    own = MetricValue(value=value, low=low, high=1.0, n=5)
    made = {name: {metric: MetricValue(value=high / 2, high=high, n=20)} for name, high in controls.items()}
    return Score(scorer=scorer, values={metric: own}, controls=made, n_positive=n_positive, n_negative=50)


@pytest.mark.parametrize(("score", "grade"), [
    (score_of(0.8, 0.6, rolled_labels=0.3, raw_neuron=0.59), "A"),
    (score_of(0.8, 0.6, rolled_labels=0.3, raw_neuron=0.6), "B"),  # an untrained coder reaches the lower end
    (score_of(0.8, 0.6, rolled_labels=0.3, random_latent=0.9), "B"),
    (score_of(0.8, 0.49, rolled_labels=0.3), "B"),  # the lower end is below the floor
    (score_of(0.5, 0.31, rolled_labels=0.3), "B"),
    (score_of(0.49, 0.31, rolled_labels=0.3), "C"),
    (score_of(0.9, 0.3, rolled_labels=0.3), "D"),  # not above chance
    (score_of(0.9, 0.4, shuffled=0.45), "D"),
    (score_of(0.9, 0.8, n_positive=19), "D"),
    (score_of(0.9, None), "D"),  # one group: no interval
    (score_of(0.9, 0.75, "detection", "balanced_accuracy"), "A"),
    (score_of(0.9, 0.65, "detection", "balanced_accuracy"), "B"),
    (score_of(0.65, 0.55, "detection", "balanced_accuracy"), "C"),
    (score_of(0.65, 0.5, "detection", "balanced_accuracy"), "D"),  # guessing
    (score_of(0.9, 0.8, "intruder", "accuracy"), "D"),  # says nothing of an explanation
    (Score(scorer="label_rule", why_not="it fires on none of the 10 held-out tokens"), "D"),
])
def test_grades(score, grade):
    verdict = grade_score(score)
    assert verdict.grade == grade
    assert verdict.why


def test_the_best_explanation_leads_and_equal_ones_keep_their_order():
    card = Card(latent=0, source="base", fire_rate=0, domain_fire_rate=0, max_activation=0, explanation=None, contexts=[], promotes=[], suppresses=[])
    good, weak = score_of(0.8, 0.6), score_of(0.4, 0.3)

    def said(name, *scores):
        return Explanation(text=name, explainer=name, scores=list(scores))

    assert graded(card, [said("one", weak), said("two", weak, good), said("three", good)]).explanation.text == "two"
    assert graded(card, [said("one"), said("two")]).grade == "D"
    assert graded(card, []).explanation is None


def test_control_latents_are_those_that_fire_about_as_often():
    n_fires = np.array([0] * 5 + [10] * 30 + [1000] * 30)
    reference = Reference.of(n_fires, np.array([9.0] * 5 + [0.1] * 29 + [0.3] + [0.7] * 30))
    rare, frequent = reference.near(10, 0), reference.near(900, 0)
    assert (rare.value < 0.15, rare.high <= 0.3, frequent.n) == (True, True, 20)
    assert frequent.value == pytest.approx(0.7)
    assert reference.near(100_000, 0) is None  # none fires that often
    assert reference.near(0, 0) is None
    assert Reference.of(np.zeros(3, dtype=int), np.zeros(3)).near(5, 0) is None
