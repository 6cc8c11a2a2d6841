"""Sparse probing on planted activations, where the answer is known, and against scikit-learn on the same codes."""

import numpy as np
import pytest
from labelled_toy import Basis, NoCodes, case_of, contenders, example, measured, span, values
from sklearn.linear_model import LogisticRegression

from sparselight.evaluate.family import SUBJECT
from sparselight.evaluate.findings import Cell
from sparselight.evaluate.probing import FAMILY, ProbingConfig, measure_probing
from sparselight.protocols import Example


def planted(n, side, seed=0, animals=("c0", "c1", "c2")):
    """The label is the first word; the rest is noise in c4 to c7."""
    rng = np.random.default_rng([seed, side == "held"])
    result = []
    for number in range(n):
        word = animals[number % len(animals)]
        noise = rng.choice(["c4", "c5", "c6", "c7", "of"], 4).tolist()
        result.append(example(number, [word, *noise], {"animal": word}, side))
    return result


def noisy(n, side):
    """Labels that words make more likely, no more."""
    rng = np.random.default_rng([5, side == "held"])
    return [example(number, rng.choice([f"c{i}" for i in range(8)], 5, p=np.roll([0.3, *[0.1] * 7], number % 3)).tolist(), {"kind": "abc"[number % 3]}, side)
            for number in range(n)]


CONFIG = ProbingConfig(least=4)


def test_a_latent_that_is_the_label_suffices():
    findings = measured(measure_probing, case_of(planted(60, "fit"), planted(45, "held")), contenders(basis=Basis()), CONFIG)
    for coder in ("basis", SUBJECT):
        found = values(findings, coder)
        for k in (1, 2, 5):
            assert found["probe_accuracy", f"animal, k={k}"] == 1
            assert found["probe_f1", f"animal, k={k}"] == 1
            assert found["probe_auroc", f"animal, k={k}"] == 1
        assert found["probe_accuracy", "animal, all"] == 1
    assert values(findings, SUBJECT)["probe_positive_frac", "animal"] == 0.5
    rows = findings.tables["probing"].to_pylist()
    chosen = {row["label"]: row["latents"] for row in rows if row["coder"] == "basis" and row["setting"] == "k=1"}
    assert chosen == {"c0": [0], "c1": [1], "c2": [2]}
    assert all(row["base_rate_held_out"] == pytest.approx(1 / 3) for row in rows)


def test_useless_latents_are_at_chance():
    case = case_of(planted(120, "fit"), planted(120, "held"))
    found = values(measured(measure_probing, case, contenders(useless=Basis(only=[4, 5, 6, 7])), CONFIG), "useless")
    assert abs(found["probe_accuracy", "animal, k=5"] - 0.5) < 0.12
    assert abs(found["probe_auroc", "animal, k=5"] - 0.5) < 0.15


@pytest.mark.parametrize("k", [1, 2, 5])
def test_values_are_those_of_scikit_learn(k):
    fit, held = noisy(90, "fit"), noisy(60, "held")
    config = ProbingConfig(balanced=False, k=[k], least=4)
    found = values(measured(measure_probing, case_of(fit, held), contenders(basis=Basis()), config), "basis")

    def pooled(examples):
        return np.array([[example.text.split().count(f"c{i}") / 5 for i in range(8)] for example in examples]), [e.labels["kind"] for e in examples]

    (x, kinds), (x_held, kinds_held), expected = pooled(fit), pooled(held), []
    for label in "abc":
        y = np.array(kinds) == label
        top = np.argsort(-np.abs(x[y].mean(0) - x[~y].mean(0)), kind="stable")[:k]
        model = LogisticRegression(C=1.0, max_iter=1000, tol=1e-8).fit(x[:, top], y)
        expected.append(model.score(x_held[:, top], np.array(kinds_held) == label))
    assert found["probe_accuracy", f"kind, k={k}"] == pytest.approx(np.mean(expected), abs=1e-12)


def test_spans_are_probed_token_by_token():
    def tokens(n, side):
        rng = np.random.default_rng([2, side == "held"])
        result = []
        for number in range(n):
            words = ["c0" if rng.random() < 0.3 else f"c{rng.integers(3, 8)}" for _ in range(6)] + ["c0"]
            text = " ".join(words)
            spans = [span(text, "c0", "entity", "zero")] if "c0" in words[:6] else []
            starts = [3 * place for place, word in enumerate(words) if word == "c0"]
            spans = [type(span(text, "c0", "", ""))(start, start + 2, "entity", "zero") for start in starts]
            result.append(Example(f"{side}{number}", text, f"{side}{number}", {}, tuple(spans)))
        return result

    findings = measured(measure_probing, case_of(tokens(20, "fit"), tokens(20, "held")), contenders(basis=Basis()), CONFIG)
    assert values(findings, "basis")["probe_accuracy", "entity, k=1"] == 1
    assert values(findings, SUBJECT)["probe_accuracy", "entity, all"] == 1


def test_what_cannot_be_measured_says_why():
    fit, held = planted(30, "fit"), planted(30, "held")

    def why(case, coder, config=CONFIG, setting="animal", **coders):
        findings = measured(measure_probing, case, contenders(**{coder: Basis(), **coders}), config)
        return findings.undefined[Cell(coder, "probe_accuracy", "toy", setting)]

    assert "no codes" in why(case_of(fit, held), "plain", plain=NoCodes())
    assert "no latent fires" in why(case_of(fit, held), "dead", dead=Basis(only=[3]))
    assert "carry the same one" in why(case_of(planted(9, "fit", animals=("c0",)), held), "basis")
    assert "none of its 3 labels has 11 units" in why(case_of(fit, held), "basis", ProbingConfig(least=11))
    assert "'plant'" in why(case_of(fit, held), "basis", ProbingConfig(kinds=["plant"]), "plant")
    unlabelled = [Example(e.id, e.text, e.group) for e in held]
    assert "none of its 3 labels" in why(case_of(fit, unlabelled), "basis")
    assert "only 8 to choose from" in why(case_of(fit, held), "basis", ProbingConfig(k=[1, 20], least=4), "animal, k=20")


def test_rare_labels_are_left_out_and_noted():
    rare = [example(100 + number, ["c3"], {"animal": "c3"}, "fit") for number in range(2)]
    findings = measured(measure_probing, case_of(planted(30, "fit") + rare, planted(30, "held")), contenders(basis=Basis()), CONFIG)
    assert {row["label"] for row in findings.tables["probing"].to_pylist()} == {"c0", "c1", "c2"}
    assert any("3 of 4 labels are probed" in note for note in findings.notes)


def test_a_draw_is_capped_balanced_and_the_same_again():
    config = ProbingConfig(least=4, fit_units=20, held_out_units=10)
    found = [measured(measure_probing, case_of(planted(90, "fit"), planted(90, "held")), contenders(basis=Basis()), config) for _ in range(2)]
    assert found[0].tables["probing"].equals(found[1].tables["probing"])
    for row in found[0].tables["probing"].to_pylist():
        assert (row["n_fit"], row["n_held_out"], row["n_held_out_positive"]) == (20, 10, 5)


def test_the_family_declares_itself():
    assert FAMILY.default() == ProbingConfig()
