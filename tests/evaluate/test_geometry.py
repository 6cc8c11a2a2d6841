"""Geometry of one dictionary on closed-form cases, against the whole matrix of cosines, and random directions against simulation and the paper's scale."""

import numpy as np
import pytest
import torch
from dictionaries import case_of, contenders, dictionary, random_rows, value, why_not

from sparselight.errors import ConfigError, SaeError
from sparselight.evaluate import weight_directions
from sparselight.evaluate.contender import Contender
from sparselight.evaluate.controls import MeanCoder
from sparselight.evaluate.findings import Findings
from sparselight.evaluate.geometry import FAMILY, GeometryConfig, measure_geometry
from sparselight.evaluate.random_directions import expected_max_cosine
from sparselight.evaluate.weight_directions import nearest_across, nearest_within, partners

N, D = 60, 16


def measured(case=None, config: GeometryConfig = GeometryConfig(), **coders) -> Findings:  # noqa: B008
    findings = Findings()
    measure_geometry(case or case_of(), contenders(**coders), config, findings)
    return findings


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(weight_directions.BLOCK_VALUES, "cpu", 7 * N)


def test_orthonormal_rows_are_as_far_apart_as_can_be() -> None:
    found = measured(a=dictionary(torch.eye(D)))
    assert value(found, "a", "mean_max_cosine") == 0
    assert value(found, "a", "mean_max_abs_cosine") == 0
    assert value(found, "a", "mean_max_cosine_encoder") == 0
    assert value(found, "a", "encoder_decoder_cosine") == 1
    assert value(found, "a", "graph_density", "cos > 0.3") == 0
    assert why_not(found, "a", "clustering_coefficient", "cos > 0.3") == "no two of its 0 edges meet"


def test_each_row_twice_has_a_twin_and_three_times_a_clique() -> None:
    twice, thrice = torch.eye(D).repeat(2, 1), 2 * torch.eye(D).repeat(3, 1)
    found = measured(twice=dictionary(twice), thrice=dictionary(thrice))
    for name in ("twice", "thrice"):
        assert value(found, name, "mean_max_cosine") == pytest.approx(1)
    assert value(found, "twice", "graph_density", "cos > 0.7") == pytest.approx(D / (D * (2 * D - 1)))
    assert why_not(found, "twice", "clustering_coefficient", "cos > 0.7") == f"no two of its {D} edges meet"
    assert value(found, "thrice", "clustering_coefficient", "cos > 0.7") == 1


def test_the_maximum_is_signed_and_the_absolute_one_is_not() -> None:
    found = measured(a=dictionary(torch.cat([torch.eye(4), -torch.eye(4)])))
    assert value(found, "a", "mean_max_cosine") == 0
    assert value(found, "a", "mean_max_abs_cosine") == pytest.approx(1)


def test_blocks_give_what_the_whole_matrix_gives(small_blocks: None) -> None:
    rows = random_rows(N, D)
    cosines = rows @ rows.T
    cosines.fill_diagonal_(-2)
    found = nearest_within(rows)
    torch.testing.assert_close(found.cosine, cosines.amax(1))
    assert torch.equal(found.latent, cosines.argmax(1))
    torch.testing.assert_close(found.absolute, cosines.fill_diagonal_(0).abs().amax(1))
    torch.testing.assert_close(partners(rows), (found.cosine, found.latent))
    others = random_rows(N - 9, D, seed=1)
    own, theirs = nearest_across(rows, others)
    torch.testing.assert_close(own, (rows @ others.T).amax(1))
    torch.testing.assert_close(theirs, (rows @ others.T).amax(0))


def test_norms_do_not_matter_and_rows_of_norm_zero_count_as_zero() -> None:
    rows = random_rows(N, D)
    scaled = rows * torch.linspace(0.01, 30, N).unsqueeze(1)
    found = measured(a=dictionary(rows), scaled=dictionary(scaled), holed=dictionary(torch.cat([torch.eye(4), torch.zeros(2, 4)])))
    assert value(found, "scaled", "mean_max_cosine") == pytest.approx(value(found, "a", "mean_max_cosine"), abs=1e-6)
    assert value(found, "holed", "mean_max_cosine") == 0
    assert found.notes == ["holed: 2 decoder rows are 0; their cosines count as 0"]


def test_dead_latents_count_only_where_all_do() -> None:
    alive = np.arange(N) >= 20
    rows = torch.cat([random_rows(1, D).repeat(20, 1), random_rows(N - 20, D, seed=1)])
    found = measured(case_of(D), a=dictionary(rows, alive=alive), living=dictionary(rows[20:]), dead=dictionary(rows, alive=alive & False))
    assert value(found, "a", "mean_max_cosine") > value(found, "a", "mean_max_cosine", "alive")
    for metric, setting in [("mean_max_cosine", ""), ("mean_max_cosine_encoder", ""), ("mean_max_cosine_random", ""), ("clustering_coefficient", "cos > 0.3")]:
        both = ", ".join(part for part in (setting, "alive") if part)
        assert value(found, "a", metric, both) == pytest.approx(value(found, "living", metric, setting))
        assert value(found, "living", metric, both) == value(found, "living", metric, setting)
    assert found.values[next(cell for cell in found.values if cell.coder == "a" and cell.setting == "alive")].n == 40
    assert why_not(found, "dead", "mean_max_cosine", "alive") == f"0 of its {N} latents fire on any of the 12 tokens"
    table = found.tables["geometry_latents"].to_pydict()
    assert table["alive"][:N] == alive.tolist()
    assert table["fire_rate"][:N] == alive.astype(float).tolist()


def test_without_tokens_nobody_is_known_to_be_alive() -> None:
    found = measured(a=dictionary(random_rows(N, D)))
    assert "no tokens are given" in why_not(found, "a", "mean_max_cosine", "alive")
    assert "no tokens are given" in why_not(found, "a", "clustering_coefficient", "density 0.01, alive")
    assert found.tables["geometry_latents"].column("alive").null_count == N


def test_the_table_names_each_latents_neighbor() -> None:
    rows = random_rows(N, D)
    table = measured(a=dictionary(3 * rows)).tables["geometry_latents"].to_pydict()
    cosines = (rows @ rows.T).fill_diagonal_(-2)
    assert table["nearest"] == cosines.argmax(1).tolist()
    assert table["max_cosine"] == pytest.approx(cosines.amax(1).tolist(), abs=1e-6)
    assert table["decoder_norm"] == pytest.approx([3.0] * N, rel=1e-6)


def test_coders_without_directions_lack_them_and_transcoders_have_no_common_space() -> None:
    findings = Findings()
    coders = contenders(transcoder=dictionary(random_rows(N, D), random_rows(N, 9)))
    measure_geometry(case_of(), {"mean": Contender(MeanCoder(torch.zeros(D)), is_control=True), **coders}, GeometryConfig(), findings)
    assert "no decoder directions" in why_not(findings, "mean", "mean_max_cosine")
    assert why_not(findings, "transcoder", "encoder_decoder_cosine") == f"it reads 9 dimensions and gives back {D}"
    assert -1 < value(findings, "transcoder", "mean_max_cosine_encoder") < 1


def test_weights_that_are_not_finite_are_refused() -> None:
    sae = dictionary(random_rows(N, D))
    with torch.no_grad():
        sae.W_dec[3, 2] = torch.nan
    with pytest.raises(SaeError, match="'a': its W_dec holds values that are not finite"):
        measured(a=sae)


@pytest.mark.parametrize("setting", [{"cosine_thresholds": [1.0]}, {"densities": [0.0]}, {"densities": [1.5]}, {"max_edges": 0}, {"thresholds": []}])
def test_settings_out_of_range_are_refused(setting: dict) -> None:
    with pytest.raises(ConfigError, match="geometry"):
        GeometryConfig.parse(setting, "geometry")


@pytest.mark.parametrize(("d", "m", "chunk", "mean", "penalty"), [
    (2304, 65536, 1024, 0.0890, 0.00466), (2304, 65536, 8192, 0.0890, 0.00632), (4096, 65536, 4096, 0.0669, 0.00320), (4096, 65536, 16384, 0.0669, 0.00388),
])
def test_random_directions_agree_with_published_simulations(d: int, m: int, chunk: int, mean: float, penalty: float) -> None:
    """Mean max cosine of random unit rows, and the mean square of the maximum inside a chunk, to the precision of one simulation."""
    assert expected_max_cosine(d, m - 1) == pytest.approx(mean, rel=5e-3)
    assert expected_max_cosine(d, chunk - 1, power=2) == pytest.approx(penalty, rel=0.015)


def test_random_directions_agree_with_a_simulation() -> None:
    rows = random_rows(4096, 256)
    found = nearest_within(rows)
    assert float(found.cosine.mean()) == pytest.approx(expected_max_cosine(256, 4095), rel=5e-3)
    assert float(found.absolute.mean()) == pytest.approx(expected_max_cosine(256, 4095, absolute=True), rel=5e-3)  # one simulation scatters by 0.2 %


def test_one_other_direction_in_the_plane_and_in_space() -> None:
    """E of one cosine is 0; of its absolute value 2/pi in the plane and 1/2 in space."""
    assert expected_max_cosine(3, 1) == pytest.approx(0, abs=1e-7)
    assert expected_max_cosine(3, 1, absolute=True) == pytest.approx(0.5, abs=1e-6)
    assert expected_max_cosine(2, 1, absolute=True) == pytest.approx(2 / np.pi, abs=1e-5)
    assert expected_max_cosine(3, 1, power=2) == pytest.approx(1 / 3, abs=1e-6)


def test_the_family_is_declared() -> None:
    assert FAMILY.measure is measure_geometry
    assert FAMILY.config is GeometryConfig
