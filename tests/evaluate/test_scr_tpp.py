"""SCR and TPP where two latents are the two labels, so that every accuracy is known; exact effects against passes of the subject."""

import re

import numpy as np
import pytest
import torch
from labelled_toy import HERE, LATER, Basis, NoCodes, PlantedSubject, case_of, contenders, example, measured, values

from sparselight.errors import ConfigError
from sparselight.evaluate.findings import Cell
from sparselight.evaluate.readout import Readout, matched_latents
from sparselight.evaluate.scr_tpp import ScrTppConfig, measure_scr_tpp
from sparselight.evaluate.trained_probes import ProbeConfig, draw_evenly, fit_probe


def two_labels(n, side, spurious=3):
    """Concept in c0 or c1, attribute in c2 or c3, said `spurious` times and so the easier one; noise in c4 to c7."""
    rng, result = np.random.default_rng([3, side == "held"]), []
    for number in range(n):
        concept, attribute = number % 2, number // 2 % 2
        noise = rng.choice(["c4", "c5", "c6", "c7"], 3).tolist()
        words = [f"c{concept}", *[f"c{2 + attribute}"] * spurious, *noise]
        result.append(example(number, words, {"job": ["nurse", "professor"][concept], "sex": ["f", "m"][attribute]}, side))
    return result


FIT, HELD = two_labels(160, "fit"), two_labels(80, "held")
SCR = ScrTppConfig(concept="job", attribute="sex", n=[2, 4], kinds=["job"])


@pytest.mark.parametrize("more", [{}, {"probe_site": LATER}, {"probe": ProbeConfig(solver="adamw", lr=0.05, n_epochs=20, l1=0.001)}])
def test_two_planted_latents_give_an_scr_of_one(more):
    findings = measured(measure_scr_tpp, case_of(FIT, HELD), contenders(basis=Basis()), SCR.model_copy(update=more))
    found = values(findings, "basis")
    assert found["scr_score", "n=2"] == pytest.approx(1, abs=0.05 if "probe" in more else 1e-9)
    assert abs(found["scr_random_score", "n=2"]) < 0.2
    reported = [row for row in findings.tables["scr"].to_pylist() if row["reported"] and row["metric"] == "scr_score" and row["n"] == 2]
    assert [row["direction"] for row in reported] == ["attribute ablated"]
    assert reported[0]["accuracy_biased"] == pytest.approx(0.5, abs=0.1)


def test_the_other_direction_is_taken_where_the_attribute_suffers():
    """With the concept said more often, the biased probe goes by the concept, and the attribute is what ablation brings back."""
    swapped = [[example(number, e.text.split(), {"sex": e.labels["job"], "job": e.labels["sex"]}, side) for number, e in enumerate(part)]
               for part, side in ((FIT, "fit"), (HELD, "held"))]
    findings = measured(measure_scr_tpp, case_of(*swapped), contenders(basis=Basis()), SCR)
    assert values(findings, "basis")["scr_score", "n=2"] == pytest.approx(1)
    assert {row["direction"] for row in findings.tables["scr"].to_pylist() if row["reported"]} == {"concept ablated"}


@pytest.mark.parametrize("site", ["", LATER])
def test_ablating_a_label_costs_its_own_probe_half_and_no_other(site):
    def animals(n, side):
        return [example(number, [f"c{number % 3}", "of", "the"], {"animal": str(number % 3)}, side) for number in range(n)]

    config = ScrTppConfig(n=[1], kinds=["animal"], probe_site=site)
    findings = measured(measure_scr_tpp, case_of(animals(60, "fit"), animals(60, "held")), contenders(basis=Basis()), config)
    found = values(findings, "basis")
    assert found["tpp_intended", "animal, n=1"] == pytest.approx(0.5)
    assert found["tpp_unintended", "animal, n=1"] == pytest.approx(0)
    assert found["tpp_score", "animal, n=1"] == pytest.approx(0.5)


def test_contributions_through_the_subject_are_exact_where_it_is_linear():
    subject, coder = PlantedSubject(), contenders(basis=Basis())["basis"]
    case, examples = case_of(FIT, HELD, subject), np.arange(0, 40, 3)
    weights = np.linspace(-1, 1, 8)
    later = Readout(case, "toy", LATER).contributions("basis", coder, "fit", weights, examples, steps=3).toarray()
    here = Readout(case, "toy", HERE).contributions("basis", coder, "fit", subject.mix.double().numpy() @ weights, examples, steps=1).toarray()
    np.testing.assert_allclose(later, here, atol=1e-6)


def test_integrated_gradients_add_up_to_the_score():
    """Completeness (Sundararajan et al. 2017, proposition 1), up to the midpoint error of many steps."""
    case, coder = case_of(FIT, HELD, PlantedSubject(nonlinear=True)), contenders(basis=Basis())["basis"]
    readout, weights, examples = Readout(case, "toy", LATER), np.linspace(1, 2, 8), np.arange(10)
    added = readout.contributions("basis", coder, "fit", weights, examples, steps=400).toarray().sum(1)
    np.testing.assert_allclose(added, readout.vectors("fit")[examples] @ weights, atol=2e-3)


def test_ablating_here_equals_running_the_subject():
    subject, coder, examples = PlantedSubject(), contenders(basis=Basis())["basis"], np.array([5, 0, 9])
    case = case_of(FIT, HELD, subject)
    here = Readout(case, "toy", HERE).ablated("basis", coder, "held_out", np.array([2, 0]), examples)
    later = Readout(case, "toy", LATER).ablated("basis", coder, "held_out", np.array([2, 0]), examples)
    np.testing.assert_allclose(here @ subject.mix.double().numpy(), later, atol=1e-6)
    x = torch.tensor([[2.0, 1.0, -3.0, *[0.0] * 5]])
    assert coder.coder.encode(x).values.tolist() == [2.0, 1.0]  # the negative part is the coder's error: it stays
    first = Readout(case, "toy", HERE, pooled_tokens=1).vectors("held_out")
    assert (first.max(1) == 1).all()


def test_the_same_site_takes_no_pass_beyond_the_capture():
    subject = PlantedSubject()
    measured(measure_scr_tpp, case_of(FIT, HELD, subject, batch_tokens=10**6), contenders(basis=Basis()), SCR)
    assert subject.n_passes == 2


@pytest.mark.parametrize(("config", "setting", "words"), [
    (ScrTppConfig(concept="job", attribute="age"), "job and age", "no example of the fit side carries the label 'age'"),
    (ScrTppConfig(concept="job", attribute="sex", least=1000), "job and sex", "40 examples on the fit side, and 1000 are needed"),
    (ScrTppConfig(concept="job", attribute="number"), "job and number", "10 labels on the fit side, and evaluate.scr_tpp.attribute_values does not name two"),
])
def test_what_cannot_be_measured_says_why(config, setting, words):
    fit = [example(int(e.id[3:]), e.text.split(), e.labels | {"number": e.id[-1]}, "fit") for e in FIT]
    findings = measured(measure_scr_tpp, case_of(fit, HELD), contenders(basis=Basis()), config)
    assert re.search(words, findings.undefined[Cell("basis", "scr_score", "toy", setting)])


def test_no_correlation_to_remove_is_said_not_scored():
    """Nothing says the attribute: no probe of it is better than the biased one, which goes by the concept."""
    silent = [[example(number, [f"c{number % 2}"], e.labels, side) for number, e in enumerate(part)] for part, side in ((FIT, "fit"), (HELD, "held"))]
    findings = measured(measure_scr_tpp, case_of(*silent), contenders(basis=Basis()), SCR)
    assert "SAEBench counts this as 0" in findings.undefined[Cell("basis", "scr_score", "toy", "job and sex")]


def test_coders_without_directions_and_small_dictionaries():
    findings = measured(measure_scr_tpp, case_of(FIT, HELD), contenders(plain=NoCodes(), basis=Basis()), SCR.model_copy(update={"n": [2, 500]}))
    assert findings.undefined[Cell("plain", "scr_score", "toy", "job and sex")] == "the coder has no codes"
    assert findings.undefined[Cell("basis", "scr_score", "toy", "n=500")] == "the dictionary has fewer latents"


def test_half_a_question_and_a_wrong_site_are_refused():
    with pytest.raises(ConfigError, match="only one of"):
        measured(measure_scr_tpp, case_of(FIT, HELD), contenders(basis=Basis()), ScrTppConfig(concept="job"))
    case = case_of(FIT, HELD)
    case.site = LATER
    with pytest.raises(ConfigError, match="comes to that site before the edit"):
        measured(measure_scr_tpp, case, contenders(basis=Basis()), SCR.model_copy(update={"probe_site": HERE}))
    with pytest.raises(ConfigError, match="lr means nothing to solver = 'exact'"):
        ProbeConfig.parse({"lr": 0.1})


def test_random_latents_fire_about_as_often():
    counts = np.array([100, 90, 80, 1, 2, 3, 0, 1000, 95, 3])
    control = matched_latents(np.array([0, 3]), counts, seed=0)
    assert len(control) == 2
    assert not set(control) & {0, 3, 6}
    assert matched_latents(np.array([0, 3]), counts, seed=0).tolist() == control.tolist()
    assert len(matched_latents(np.arange(9), counts, seed=0)) == 1


def test_draws_and_trained_probes_repeat():
    sets = [np.arange(10), np.arange(20, 25)]
    assert len(draw_evenly(sets, 100, 0)) == 10
    assert len(draw_evenly(sets, 6, 0)) == 6
    x = np.random.default_rng(0).normal(size=(60, 4))
    config = ProbeConfig(solver="adamw", lr=0.05)
    first, again = (fit_probe(x, x[:, 0] > 0, config, seed=1) for _ in range(2))
    assert (first.weights == again.weights).all()
    assert ((first.scores(x) > 0) == (x[:, 0] > 0)).mean() >= 0.9
