"""Coverage of token ids and labels by frequency, its curve in closed form, errors and entropies of rare tokens against direct formulas, refusals."""

import numpy as np
import pytest
import torch
from annotated import Columns, ReadOff, annotated_case, on
from scipy import integrate, stats

from sparselight.errors import ConfigError, CorpusError
from sparselight.evaluate.case import Case
from sparselight.evaluate.contender import Contender
from sparselight.evaluate.controls import MeanCoder
from sparselight.evaluate.coverage import METRICS, CoverageConfig, cumulative_area, measure_coverage, octave, rarest
from sparselight.evaluate.coverage_tokens import TokenCodes
from sparselight.evaluate.findings import Cell, Findings
from sparselight.protocols import Codes

D = 6


def planted(columns: Columns) -> np.ndarray:
    """0 reads the letter d (the rarest), 1 the letter a (the most frequent), 2 beta, 3 chance, 4 everywhere, 5 dead."""
    rng, n = columns.rng, len(columns.letter)
    return np.stack([on(columns.letter == "d", rng), on(columns.letter == "a", rng), on(columns.region == "beta", rng), on(rng.random(n) < 0.1, rng),
                     on(np.ones(n, dtype=bool), rng), np.zeros(n)], axis=1)


class Half(ReadOff):
    """Rebuilds half of every activation."""

    def decode(self, codes: Codes) -> torch.Tensor:
        return codes.to_dense() / 2


def measured(case: Case, config: CoverageConfig = CoverageConfig(), **coders: object) -> Findings:  # noqa: B008
    findings = Findings()
    given = coders or {"sae": ReadOff(D)}
    contenders = {name: Contender(coder, name.startswith("control")) for name, coder in given.items()}  # type: ignore[arg-type]
    measure_coverage(case, contenders, config, findings)
    return findings


def value(findings: Findings, metric: str, setting: str = "", coder: str = "sae") -> float:
    cell = Cell(coder, metric, "some", setting)
    return float(findings.resampled[cell][0]) if cell in findings.resampled else findings.values[cell].value


def test_what_is_read_off_is_covered_and_the_rest_is_not() -> None:
    found = measured(annotated_case(planted))
    rows = {(item["level"], item["concept"]): item for item in found.tables["coverage_concepts"].to_pylist()}
    assert rows["token ids", "100 'd'"]["covered"]
    assert (rows["token ids", "100 'd'"]["latent"], rows["token ids", "100 'd'"]["precision"], rows["token ids", "100 'd'"]["recall"]) == (0, 1.0, 1.0)
    assert rows["token ids", "97 'a'"]["covered"]
    assert not rows["token ids", "99 'c'"]["covered"]
    assert rows["spans", "beta"]["covered"]
    assert not rows["spans", "gamma"]["covered"]
    assert value(found, "coverage_frac", "token ids") == 2 / 4
    assert value(found, "coverage_tail_frac", "token ids") == 1  # d alone is the rarest tenth
    assert value(found, "coverage_tail_recall", "token ids") == 1
    assert value(found, "coverage_area", "token ids") == pytest.approx((3.5 / 4 + 0.5 / 4) / 2)  # the rarest and the most frequent of four
    assert value(found, "coverage_tail_frac", "spans") == 0  # gamma is the rarest


def test_bins_count_all_concepts_and_measure_those_that_occur_often_enough() -> None:
    found = measured(annotated_case(planted), CoverageConfig(min_positives=200))
    rows = [item for item in found.tables["coverage_bins"].to_pylist() if item["level"] == "token ids"]
    assert sum(item["n_concepts"] for item in rows) == 4
    assert 0 < sum(item["n_measured"] for item in rows) < 4
    for item in rows:
        assert item["to_count"] == 2 * item["from_count"] - 1
        assert (item["covered_frac"] is None) == (item["n_measured"] == 0)
    curve = [item for item in found.tables["coverage_curve"].to_pylist() if item["level"] == "spans"]
    assert curve[-1]["concepts_frac"] == 1


def test_floors_decide() -> None:
    strict = measured(annotated_case(planted), CoverageConfig(min_precision=1.0, min_recall=1.0))
    assert value(strict, "coverage_frac", "token ids") == 2 / 4
    loose = measured(annotated_case(planted), CoverageConfig(min_precision=0.01, min_recall=0.5))
    assert value(loose, "coverage_frac", "token ids") == 1  # a latent that fires everywhere has recall 1


def test_the_area_in_closed_form() -> None:
    counts = np.array([1, 2, 3, 4, 5, 6, 7, 8])
    everything, rare = np.ones((1, 8), dtype=bool), (counts <= 2)[None]
    assert cumulative_area(everything, counts)[0] == pytest.approx(0.5)
    x, y = np.arange(9) / 8, np.array([0, 0.5, 1, 1, 1, 1, 1, 1, 1])
    assert cumulative_area(rare, counts)[0] == pytest.approx(integrate.trapezoid(y, x))
    assert np.isnan(cumulative_area(np.zeros((1, 8), dtype=bool), counts)[0])
    tied = np.array([5, 5, 5, 5, 9, 9, 9, 9])
    one = [cumulative_area(np.eye(8, dtype=bool)[[index]], tied)[0] for index in range(8)]
    assert len({round(area, 12) for area in one[:4]}) == len({round(area, 12) for area in one[4:]}) == 1  # order among equals is nothing


def test_the_tail_takes_all_that_are_as_rare() -> None:
    np.testing.assert_array_equal(rarest(np.array([5, 1, 1, 1, 9, 9, 9, 9, 9, 9]), 0.1), [False, True, True, True, *[False] * 6])
    np.testing.assert_array_equal(rarest(np.array([3, 2]), 0.1), [False, True])
    np.testing.assert_array_equal(octave(np.array([1, 2, 3, 4, 7, 8, 1023, 1024])), [0, 1, 1, 2, 2, 3, 9, 10])


def test_entropy_and_largest_activation_equal_scipy() -> None:
    dense = np.array([[1, 1, 1, 1], [5, 0, 0, 0], [0, 0, 0, 0], [1, -2, 3, 0]], dtype=np.float32)
    own = TokenCodes.of(ReadOff(4).encode(torch.from_numpy(dense)))
    assert own.entropy[0] == pytest.approx(np.log(4))
    assert own.entropy[1] == 0
    assert own.entropy[3] == pytest.approx(stats.entropy([1, 2, 3]))
    np.testing.assert_array_equal(own.largest, [1, 5, 0, 3])
    np.testing.assert_array_equal(own.fires, [True, True, False, True])


def test_errors_of_rare_tokens_equal_the_direct_formula() -> None:
    case = annotated_case(planted)
    found = measured(case, half=Half(D), mean=MeanCoder(torch.zeros(D)))
    tokens = case.tokens("some", "held_out")
    x = tokens.read(slice(None)).double().numpy()
    scale, tail = ((x - x.mean(0)) ** 2).sum(1).mean(), tokens.token_id == ord("d")
    error = (x**2).sum(1)[tail] / 4 / scale
    assert value(found, "tail_error", coder="half") == pytest.approx(error.mean())
    assert value(found, "tail_error_variance", coder="half") == pytest.approx(error.var())
    assert value(found, "tail_error_max", coder="half") == pytest.approx(error.max())
    assert value(found, "tail_error", coder="mean") == pytest.approx(4 * error.mean())  # it answers 0
    rows = found.tables["coverage_tokens"].to_pylist()
    assert [item["token_id"] for item in rows[:4]] == [97, 98, 99, 100]
    assert rows[3]["mean_error"] == pytest.approx(error.mean())
    assert rows[4]["mean_entropy_nats"] is None  # no latents


def test_over_all_tokens_the_error_is_the_fraction_of_variance_unexplained() -> None:
    case = annotated_case(planted)
    found = measured(case, CoverageConfig(tail_frac=1.0), half=Half(D))
    x = case.tokens("some", "held_out").read(slice(None)).double().numpy()
    assert value(found, "tail_error", coder="half") == pytest.approx((x**2 / 4).sum() / ((x - x.mean(0)) ** 2).sum())


def test_counts_are_compared_with_the_reference_latent_by_latent() -> None:
    found = measured(annotated_case(planted), sae=ReadOff(D), twin=Half(D), control_other=ReadOff(D))
    rows = [item for item in found.tables["coverage_counts"].to_pylist() if item["coder"] == "twin"]
    assert [item["n_fired_tokens"] for item in rows] == sorted((item["n_fired_tokens"] for item in rows), reverse=True)
    assert all(item["log_ratio"] == pytest.approx(0) and item["reference"] == "sae" for item in rows)
    assert all(item["log_ratio"] is None for item in found.tables["coverage_counts"].to_pylist() if item["coder"] == "sae")


def test_dictionaries_whose_latents_do_not_belong_together_are_not_compared() -> None:
    turned = ReadOff(D)
    turned.W_dec = turned.W_dec.roll(1, dims=0)
    found = measured(annotated_case(planted), sae=ReadOff(D), turned=turned)
    assert any("not compared latent by latent" in note for note in found.notes)
    assert all(item["log_ratio"] is None for item in found.tables["coverage_counts"].to_pylist())


def test_what_cannot_be_measured_is_said() -> None:
    found = measured(annotated_case(planted), mean=MeanCoder(torch.zeros(D)))
    assert all(found.undefined[Cell("mean", metric, "some", "token ids")] == "it has no latents" for metric in METRICS)
    assert "coverage_counts" not in found.tables
    dead = measured(annotated_case(lambda columns: np.zeros((len(columns.letter), D))))
    assert value(dead, "coverage_frac", "token ids") == 0
    assert "covers no concept" in dead.undefined[Cell("sae", "coverage_area", "some", "token ids")]
    assert "no latent fires" in dead.undefined[Cell("sae", "token_entropy_nats", "some")]
    assert "do not vary" in dead.undefined[Cell("sae", "tail_error", "some")]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(CorpusError, match=r"evaluate\.coverage\.kinds"):
        measured(annotated_case(planted), CoverageConfig(kinds=("regio",)))
    with pytest.raises(ConfigError, match=r"evaluate\.coverage\.reference.*use 'sae'"):
        measured(annotated_case(planted), CoverageConfig(reference="sea"))
    with pytest.raises(ConfigError, match=r"mean.*it has no latents"):
        measured(annotated_case(planted), CoverageConfig(reference="mean"), sae=ReadOff(D), mean=MeanCoder(torch.zeros(D)))
