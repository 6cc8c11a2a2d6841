"""Association of latents with labels: planted detectors, nothing where labels are shuffled, choices on the fit side alone, and refusals."""

from dataclasses import replace

import numpy as np
import pytest
from annotated import Columns, ReadOff, annotated_case, on
from scipy import stats

from sparselight.errors import ConfigError, CorpusError
from sparselight.evaluate.association import METRICS, AssociationConfig, measure_association
from sparselight.evaluate.case import Case, Dataset
from sparselight.evaluate.contender import Contender
from sparselight.evaluate.controls import MeanCoder
from sparselight.evaluate.findings import Cell, Findings
from sparselight.protocols import Example

CONFIG = AssociationConfig(n_shuffles=3, n_permutations=39, pooling=("max", "mean"))
D = 9


def planted(columns: Columns) -> np.ndarray:
    """0 alpha, 1 beta, 2 the first token of a gamma span, 3 topic tea, 4 everywhere, 5 to 7 chance, 8 dead."""
    rng, n = columns.rng, len(columns.letter)
    return np.stack([on(columns.region == "alpha", rng), on(columns.region == "beta", rng), on((columns.region == "gamma") & columns.first, rng),
                     on(columns.topic == "tea", rng), on(np.ones(n, dtype=bool), rng), *(on(rng.random(n) < rate, rng) for rate in (0.1, 0.3, 0.5)),
                     np.zeros(n)], axis=1)


def chance(columns: Columns) -> np.ndarray:
    """Latents that know nothing of the labels."""
    return np.stack([on(columns.rng.random(len(columns.letter)) < rate, columns.rng) for rate in np.linspace(0.02, 0.9, D)], axis=1)


def measured(case: Case, config: AssociationConfig = CONFIG, **coders: object) -> Findings:
    findings = Findings()
    given = coders or {"sae": ReadOff(D)}
    measure_association(case, {name: Contender(coder, False) for name, coder in given.items()}, config, findings)  # type: ignore[arg-type]
    return findings


def value(findings: Findings, metric: str, setting: str, coder: str = "sae") -> float:
    cell = Cell(coder, metric, "some", setting)
    return float(findings.resampled[cell][0]) if cell in findings.resampled else findings.values[cell].value


def row(findings: Findings, label: str, criterion: str = "f1", level: str = "spans", rank: int = 1) -> dict[str, object]:
    rows = findings.tables["association_labels"].to_pylist()
    wanted = (label, criterion, level, rank)
    return next(item for item in rows if (item["label"], item["criterion"], item["level"], item["rank"]) == wanted)


@pytest.fixture(scope="module")
def found() -> Findings:
    return measured(annotated_case(planted))


def test_a_planted_detector_has_f1_1_and_is_not_chance(found: Findings) -> None:
    for label, latent in (("alpha", 0), ("beta", 1)):
        best = row(found, label)
        assert (best["latent"], best["precision"], best["recall"], best["f1"], best["auroc"]) == (latent, 1.0, 1.0, 1.0, 1.0)
        assert (best["f1_low"], best["f1_high"], best["auroc_low"]) == (1.0, 1.0, 1.0)
        assert best["q_screen"] < 1e-50
        assert best["p_permutation"] == pytest.approx(1 / 40)
        assert best["null_f1_max"] < 0.8
    assert row(found, "tea", level="examples, max")["latent"] == row(found, "tea", level="examples, mean")["latent"] == 3
    assert row(found, "tea", level="examples, max")["f1"] == 1


def test_a_latent_on_one_token_of_each_span_finds_every_domain(found: Findings) -> None:
    best = row(found, "gamma", "f1_domain")
    assert (best["latent"], best["precision"], best["recall_domain"], best["f1_domain"]) == (2, 1.0, 1.0, 1.0)
    assert best["recall"] == pytest.approx(1 / 3)
    assert best["f1"] == pytest.approx(0.5)


def test_aggregates_follow_from_the_labels(found: Findings) -> None:
    assert value(found, "association_f1", "spans, by domain") == 1
    assert value(found, "association_f1", "spans") == pytest.approx(np.mean([1, 1, row(found, "gamma")["f1"]]))
    assert value(found, "association_labels", "spans") == 3  # gamma reaches 1/2
    assert value(found, "association_labels_frac", "spans") == 1
    assert value(found, "association_auroc", "spans") == pytest.approx(np.mean([1, 1, 2 / 3]))
    assert value(found, "association_supported_frac", "spans") == 1
    associated = found.tables["association_latents"].filter([level == "spans" for level in found.tables["association_latents"]["level"].to_pylist()])
    assert {0, 1, 2} <= {item["latent"] for item in associated.to_pylist() if item["associated"]} <= {0, 1, 2, 3}
    strong = sum(item["associated"] and item["f1"] >= 0.5 for item in associated.to_pylist())
    assert value(found, "association_latents_frac", "spans, F1 >= 0.5") == strong / 8
    assert value(found, "association_latents_frac", "spans") == sum(associated["associated"].to_pylist()) / 8  # the dead latent does not count


def test_base_rates_are_those_of_firing_everywhere(found: Findings) -> None:
    everywhere = next(item for item in found.tables["association_latents"].to_pylist() if item["latent"] == 4 and item["level"] == "spans")
    assert everywhere["f1"] == pytest.approx(everywhere["f1_everywhere"])
    assert everywhere["f1_everywhere"] == pytest.approx(2 * everywhere["base_rate"] / (1 + everywhere["base_rate"]))
    assert everywhere["associated"] is False


def test_the_screen_is_fishers_test_up_to_its_bound(found: Findings) -> None:
    for item in found.tables["association_latents"].to_pylist():
        n = 1440 if item["level"] == "spans" else 60
        exact = stats.hypergeom.logsf(item["n_hits"] - 1, n, item["n_labelled"], item["n_fires"]) / np.log(10)
        assert item["log10_p"] >= exact - 1e-8


def test_latents_that_know_nothing_do_as_well_as_with_shuffled_labels() -> None:
    found = measured(annotated_case(chance), CONFIG.model_copy(update={"n_shuffles": 8}))
    assert abs(value(found, "association_f1", "spans") - value(found, "association_null_f1", "spans")) < 0.05
    assert value(found, "association_supported_frac", "spans") == 0
    assert value(found, "association_latents_frac", "spans") <= 1 / D
    assert value(found, "association_auroc", "spans") == pytest.approx(0.5, abs=0.05)


def test_latent_and_threshold_come_from_the_fit_side_alone() -> None:
    case, other = annotated_case(planted), annotated_case(planted)
    shift = 5 * other.datasets["some"].held_out_store.x  # type: ignore[union-attr]
    other.datasets["some"].held_out_store.x = shift.roll(1, dims=1)  # type: ignore[union-attr]
    first, second = (measured(each).tables["association_labels"] for each in (case, other))
    for column in ("label", "latent", "threshold", "fit_score"):
        assert first[column].to_pylist() == second[column].to_pylist()
    assert first["f1"].to_pylist() != second["f1"].to_pylist()


def test_equal_inputs_give_equal_findings() -> None:
    first, second = measured(annotated_case(planted)), measured(annotated_case(planted))
    assert first.tables["association_labels"].equals(second.tables["association_labels"])
    assert all(np.array_equal(values, second.resampled[cell], equal_nan=True) for cell, values in first.resampled.items())


def test_rare_labels_and_labels_of_everything_are_listed_not_measured() -> None:
    case = annotated_case(planted)
    found = measured(case, CONFIG.model_copy(update={"min_positives": 250}))
    left = {item["concept"]: item["why"] for item in found.tables["association_left_out"].to_pylist()}
    assert "too rare: " in left["gamma"]
    assert "alpha" not in left
    assert "labels are too rare" in " ".join(found.notes)
    assert not any(np.isnan(values[0]) for values in found.resampled.values())


def test_one_class_only_is_said() -> None:
    case = annotated_case(planted)
    some = case.datasets["some"]
    one = [[Example(e.id, e.text, e.group, {"language": "old"}, ()) for e in side] for side in (some.fit, some.held_out)]
    found = measured(Case(case.site, {"some": Dataset("some", *one, some.fit_store, some.held_out_store)}, case.config))
    assert "one class only" in found.tables["association_left_out"]["why"].to_pylist()[0]
    assert "none of its 1 labels" in found.undefined[Cell("sae", "association_f1", "some", "examples, max")]
    assert "no annotation of spans" in found.undefined[Cell("sae", "association_f1", "some", "spans")]


def test_what_cannot_be_measured_is_said() -> None:
    found = measured(annotated_case(planted), mean=MeanCoder(np.zeros(1)), sae=ReadOff(D))  # type: ignore[arg-type]
    dead = measured(annotated_case(lambda columns: np.zeros((len(columns.letter), D))))
    for metric in METRICS:
        assert found.undefined[Cell("mean", metric, "some", "spans")] == "it has no latents"
        assert dead.undefined[Cell("sae", metric, "some", "spans")] == "no latent fires on the fit side"
    assert "association_labels" not in dead.tables


def test_one_group_has_scores_and_no_permutations() -> None:
    case = annotated_case(planted)
    some = case.datasets["some"]
    sides = [[Example(e.id, e.text, name, e.labels, e.spans) for e in side] for name, side in (("f", some.fit), ("h", some.held_out))]
    found = measured(Case(case.site, {"some": Dataset("some", *sides, some.fit_store, some.held_out_store)}, case.config),
                     CONFIG.model_copy(update={"min_groups": 1}))
    assert "one group" in found.undefined[Cell("sae", "association_supported_frac", "some", "spans")]
    assert value(found, "association_f1", "spans, by domain") == 1


def test_an_unknown_kind_and_a_bad_grid_are_refused() -> None:
    with pytest.raises(CorpusError, match=r"evaluate\.association\.kinds.*use 'region'"):
        measured(annotated_case(planted), CONFIG.model_copy(update={"kinds": ("regio",)}))
    for grid in ([], [0.5, 0.2], [0.0, 1.0], [-0.1]):
        with pytest.raises(ConfigError, match=r"evaluate\.association\.thresholds"):
            AssociationConfig.parse({"thresholds": grid}, "evaluate.association")


def with_unknown(case: Case, share: float = 0.2) -> Case:
    """The same case, where the label of some alpha spans is not known: latent 0 still fires on them."""
    def hidden(example: Example, number: int) -> Example:
        spans = tuple(replace(span, name="unlabelled", value="unlabelled") if span.value == "alpha" and (number * 7 + span.start) % 5 < 5 * share else span
                      for span in example.spans)
        return replace(example, spans=spans)

    dataset = case.datasets["some"]
    sides = {side: [hidden(example, number) for number, example in enumerate(getattr(dataset, side))] for side in ("fit", "held_out")}
    return Case(case.site, {"some": replace(dataset, **sides)}, case.config)


def test_tokens_whose_labels_nobody_knows_are_no_counterexamples() -> None:
    case = with_unknown(annotated_case(planted))
    found = measured(case)
    best = row(found, "alpha")
    assert (best["latent"], best["f1"], best["precision"]) == (0, 1.0, 1.0)
    held = case.tokens("some", "held_out")
    n = sum(span.end - span.start for example in held.examples for span in example.spans if span.name == "unlabelled")
    assert any(f"{n:,} of {held.n_tokens:,} tokens of the held-out side are not known" in note for note in found.notes)
    assert not {item["kind"] for item in found.tables["association_labels"].to_pylist()} & {"unlabelled"}
    assert best["n_labelled"] < row(measured(annotated_case(planted)), "alpha")["n_labelled"]
