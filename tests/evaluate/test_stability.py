"""Dictionaries against each other: permuted copies, other subspaces, planted combinations, and the sparse matching against the exact one."""

import numpy as np
import pytest
import torch
from dictionaries import case_of, contenders, dictionary, random_rows, unit, value, why_not
from scipy.optimize import nnls
from torch import Tensor

from sparselight.evaluate import weight_directions
from sparselight.evaluate.contender import Contender
from sparselight.evaluate.controls import MeanCoder
from sparselight.evaluate.decomposition import decompose, nonnegative_least_squares
from sparselight.evaluate.findings import Findings
from sparselight.evaluate.matching import match
from sparselight.evaluate.stability import StabilityConfig, coder_pairs, measure_stability

N, D = 50, 20
BOTH = "decoder and encoder"


def measured(d_in: int | None = None, config: StabilityConfig = StabilityConfig(), **coders) -> Findings:  # noqa: B008
    findings = Findings()
    measure_stability(case_of(d_in), contenders(**coders), config, findings)
    return findings


def test_a_permuted_copy_is_the_same_dictionary() -> None:
    rows, order = random_rows(N, D), torch.randperm(N, generator=torch.Generator().manual_seed(1))
    found = measured(a=dictionary(rows), b=dictionary(5 * rows[order]))
    for coder, other in (("a", "b"), ("b", "a")):
        for setting in (f"against {other}", f"against {other}, {BOTH}"):
            assert value(found, coder, "mean_matched_cosine", setting) == pytest.approx(1, abs=1e-6)
            assert value(found, coder, "matched_frac", setting) == 1
        assert value(found, coder, "unique_frac", f"against {other}") == 0
        assert value(found, coder, "mean_max_cosine_across", f"against {other}") == pytest.approx(1, abs=1e-6)
        assert value(found, coder, "combined_frac", f"against {other}") == 0  # one part is no combination
    table = found.tables["matched_latents"].to_pydict()
    assert [int(order[other]) for other in table["other_latent"]] == table["latent"] == list(range(N))
    assert table["encoder_cosine"] == pytest.approx([1.0] * N, abs=1e-6)


def test_dictionaries_of_orthogonal_subspaces_have_nothing_in_common() -> None:
    none = torch.zeros(N, D)
    found = measured(a=dictionary(torch.cat([random_rows(N, D), none], 1)), b=dictionary(torch.cat([none, random_rows(N, D)], 1)))
    assert value(found, "a", "unique_frac", "against b") == 1
    assert value(found, "a", "matched_frac", "against b") == 0
    assert value(found, "a", "mean_matched_cosine", "against b") == 0
    assert value(found, "a", "combined_frac", "against b") == 0


def test_uniqueness_counts_latents_below_the_limit_in_both_directions() -> None:
    a, b = torch.eye(6)[:4], torch.stack([torch.eye(6)[0], torch.tensor([0, 0.3, 0, 0, 0.954, 0]), torch.tensor([0, 0, 0.19, 0, 0, 0.982])])
    found = measured(a=dictionary(a), b=dictionary(b))
    assert value(found, "a", "unique_frac", "against b") == 0.5
    assert value(found, "b", "unique_frac", "against a") == pytest.approx(1 / 3)


def test_a_latent_is_found_again_by_the_encoder_too_only_where_both_cosines_are_large() -> None:
    rows = torch.eye(8)
    found = measured(a=dictionary(rows, rows), b=dictionary(rows, torch.cat([rows[:6], rows[[7, 6]]])))
    assert value(found, "a", "matched_frac", "against b") == 1
    assert value(found, "a", "matched_frac", f"against b, {BOTH}") == 0.75
    assert value(found, "a", "mean_matched_cosine", f"against b, {BOTH}") == pytest.approx((6 + 2 * 0.5) / 8)


def test_a_larger_dictionary_keeps_latents_without_partner() -> None:
    rows = random_rows(N, D)
    found = measured(a=dictionary(rows), b=dictionary(torch.cat([random_rows(30, D, 5), rows])))
    assert value(found, "a", "matched_frac", "against b") == 1
    assert value(found, "b", "matched_frac", "against a") == N / (N + 30)
    assert value(found, "b", "mean_matched_cosine", "against a") == pytest.approx(1, abs=1e-6)


def test_every_sae_meets_every_other_both_ways_and_each_control_one_way() -> None:
    coders = contenders(a=dictionary(random_rows(9, D)), b=dictionary(random_rows(9, D, 1)), control=dictionary(random_rows(9, D, 2)))
    assert list(coder_pairs({**coders, "mean": Contender(MeanCoder(torch.zeros(D)), is_control=True)})) == [("a", "b"), ("a", "control"), ("b", "control")]
    findings = Findings()
    measure_stability(case_of(), coders, StabilityConfig(), findings)
    assert {(cell.coder, cell.setting) for cell in findings.values if cell.metric == "unique_frac"} == {
        ("a", "against b"), ("b", "against a"), ("a", "against control"), ("b", "against control")}


def test_one_dictionary_alone_is_noted() -> None:
    assert measured(a=dictionary(random_rows(9, D))).notes == ["stability: there are no two coders with latents to set beside each other"]


def test_the_living_are_matched_with_the_living() -> None:
    alive = np.arange(N) >= 10
    rows = random_rows(N, D)
    found = measured(D, a=dictionary(rows, alive=alive), b=dictionary(rows, alive=alive[::-1].copy()), dead=dictionary(rows, alive=alive & False))
    assert value(found, "a", "matched_frac", "against b") == 1
    expected = match([rows[10:]], [rows[:40]], 99, 9)
    shared = sum(int(row) + 10 == int(other) for row, other in zip(expected.row, expected.other, strict=True))
    assert value(found, "a", "matched_frac", "against b, alive") == pytest.approx(shared / 40)
    assert why_not(found, "a", "unique_frac", "against dead, alive") == f"dead: 0 of its {N} latents fire on any of the 12 tokens"
    table = found.tables["matched_latents"].filter(np.array(found.tables["matched_latents"].column("latents").to_pylist()) == "alive").to_pydict()
    assert set(table["latent"]) == set(range(10, N))


def test_dictionaries_of_other_widths_and_wrapped_ones_lack_it() -> None:
    found = measured(a=dictionary(random_rows(N, D)), b=dictionary(random_rows(N, D + 1)))
    assert why_not(found, "a", "matched_frac", "against b") == f"a gives back {D} dimensions and b {D + 1}"
    transcoder = measured(a=dictionary(random_rows(N, D)), b=dictionary(random_rows(N, D), random_rows(N, D + 2)))
    assert value(transcoder, "a", "matched_frac", "against b") == 1
    assert why_not(transcoder, "a", "matched_frac", f"against b, {BOTH}") == f"one reads {D} dimensions and the other {D + 2}"


@pytest.mark.parametrize(("n", "m"), [(60, 60), (60, 75), (75, 60)])
def test_the_sparse_matching_with_all_candidates_is_the_exact_one(n: int, m: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(weight_directions.BLOCK_VALUES, "cpu", 500)
    a, b = random_rows(n, D), random_rows(m, D, 1)
    exact, sparse = match([a, a], [b, b], 100, 0), match([a, a], [b, b], 1, 100)
    assert np.array_equal(exact.row, sparse.row)
    assert np.array_equal(exact.other, sparse.other)


def test_the_sparse_matching_with_few_candidates_is_one_to_one_and_nearly_as_good() -> None:
    a, b = random_rows(200, D), unit(random_rows(200, D) + 0.6 * random_rows(200, D, 1))
    exact, sparse = match([a], [b], 200, 0), match([a], [b], 150, 3)
    assert sorted(sparse.row) == sorted(sparse.other) == list(range(200))
    totals = [float((a[found.row] * b[found.other]).sum()) for found in (exact, sparse)]
    assert 0.97 * totals[0] < totals[1] <= totals[0] + 1e-4


def test_a_matching_that_would_be_guesswork_is_refused() -> None:
    """All latents of one side have the same nearest latents, so most find no partner among them."""
    a = unit(torch.eye(D)[0] + 0.01 * random_rows(40, D))
    b = unit(torch.cat([torch.eye(D)[:1] + 0.01 * random_rows(2, D, 3), -torch.eye(D)[:1] + 0.01 * random_rows(60, D, 4)]))
    found = match([a], [b], 3, 1)
    assert isinstance(found, str)
    assert "have no partner among the 1 nearest" in found
    assert "stability.match_candidates" in found


def test_planted_combinations_are_found_with_their_coefficients() -> None:
    parts = torch.eye(D)
    whole = torch.stack([parts[0], 0.8 * parts[1] + 0.6 * parts[2], unit((2 * parts[3] + parts[4] + parts[5]).unsqueeze(0))[0],
                         0.8 * parts[6] - 0.6 * parts[7], 0.995 * parts[8] + 0.0999 * parts[9], parts.sum(0) / D**0.5])
    found = measured(a=dictionary(whole), b=dictionary(parts))
    assert value(found, "a", "combined_frac", "against b") == pytest.approx(2 / 6)
    table = found.tables["combined_latents"].to_pydict()
    mine = [index for index, coder in enumerate(table["coder"]) if coder == "a"]
    assert [table["latent"][index] for index in mine] == [0, 1, 2, 4]  # no negative part, no more than four; 4 is near enough to one part
    assert [table["parts"][index] for index in mine[:2]] == [[0], [1, 2]]
    assert table["coefficients"][mine[1]] == pytest.approx([0.8, 0.6], abs=1e-6)
    assert (table["parts"][mine[2]][0], sorted(table["parts"][mine[2]])) == (3, [3, 4, 5])
    assert table["coefficients"][mine[2]] == pytest.approx([2 / 6**0.5, 1 / 6**0.5, 1 / 6**0.5], abs=1e-6)
    assert table["cosine"][mine[2]] == pytest.approx(1, abs=1e-6)


def test_small_coefficients_are_no_case() -> None:
    found = decompose(unit(torch.tensor([[0.9, 0.43, 0.05]])), torch.eye(3), 3, 0.9999)
    assert (found.cases(0.9999, 0.01).tolist(), found.cases(0.9999, 0.1).tolist()) == ([True], [False])


def test_equal_rows_are_no_fault() -> None:
    others = torch.cat([torch.eye(3)[:1]] * 5 + [torch.eye(3)[1:2]])
    found = decompose(unit(torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])), others, 4, 0.99)
    assert found.cosine.tolist() == pytest.approx([1, 0], abs=1e-6)
    assert found.n_parts().tolist() == [2, 0]


def test_combinations_can_be_left_out() -> None:
    found = measured(config=StabilityConfig(max_parts=0), a=dictionary(random_rows(9, D)), b=dictionary(random_rows(9, D, 1)))
    assert not any(cell.metric == "combined_frac" for cell in [*found.values, *found.undefined])
    assert "combined_latents" not in found.tables


def test_least_squares_agrees_with_scipys_wherever_no_row_is_let_go_and_is_never_better() -> None:
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(120, 3, 10, generator=generator, dtype=torch.float64)
    target: Tensor = torch.randn(120, 10, generator=generator, dtype=torch.float64)
    found = nonnegative_least_squares(basis, target)
    assert (found >= 0).all()
    n_equal = 0
    for own, one, coefficients in zip(basis, target, found, strict=True):
        best, least = nnls(own.T.numpy(), one.numpy())
        assert float(torch.linalg.vector_norm(one - coefficients @ own)) >= least - 1e-9
        if (torch.linalg.lstsq(own.T, one).solution >= 0).all():
            np.testing.assert_allclose(coefficients, best, atol=1e-6)
            n_equal += 1
    assert n_equal > 5
