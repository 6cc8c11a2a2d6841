"""The graph of similar latents: closed forms, networkx on random graphs, and the one-pass collection of edges against all pairs."""

import numpy as np
import pytest
from dictionaries import random_rows

from sparselight.evaluate import similarity_graph, weight_directions
from sparselight.evaluate.similarity_graph import StrongestPairs, count_triangles, curve
from sparselight.evaluate.weight_directions import nearest_within

N, D = 90, 8


def collected(n_strongest: int, floor: float, max_edges: int = 10**6) -> StrongestPairs:
    pairs = StrongestPairs(N, n_strongest, floor, max_edges)
    nearest_within(random_rows(N, D), pairs.add)
    return pairs


def all_pairs() -> np.ndarray:
    """Cosines of all pairs, strongest first."""
    rows = random_rows(N, D)
    return np.sort((rows @ rows.T).numpy()[np.triu_indices(N, 1)])[::-1]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(weight_directions.BLOCK_VALUES, "cpu", 11 * N)
    monkeypatch.setattr(similarity_graph, "FIRST_TRIM", 50)
    monkeypatch.setattr(similarity_graph, "COUNT_WORDS", 64)


@pytest.mark.parametrize(("edges", "n", "triangles"), [
    ([], 4, 0), ([(0, 1), (1, 2)], 3, 0), ([(0, 1), (1, 2), (0, 2)], 3, 1), ([(0, n) for n in range(1, 9)], 9, 0),
    ([(i, j) for i in range(70) for j in range(i + 1, 70)], 80, 70 * 69 * 68 // 6),
])
def test_triangles_of_known_graphs(edges: list[tuple[int, int]], n: int, triangles: int) -> None:
    row, column = np.array(edges, dtype=np.int64).reshape(-1, 2).T
    assert count_triangles(row, column, n) == triangles


@pytest.mark.parametrize(("n", "density", "seed"), [(40, 0.2, 0), (130, 0.05, 1), (130, 0.6, 2)])
def test_triangles_and_clustering_agree_with_networkx(n: int, density: float, seed: int) -> None:
    networkx = pytest.importorskip("networkx")
    graph = networkx.gnp_random_graph(n, density, seed=seed)
    row, column = np.array(graph.edges).T
    assert count_triangles(row, column, n) == sum(networkx.triangles(graph).values()) // 3
    point = similarity_graph._point("any", 0.0, similarity_graph.Edges(row, column, np.ones(len(row), dtype=np.float32)), len(row), n)
    assert point.clustering == pytest.approx(networkx.transitivity(graph))
    assert point.density == pytest.approx(networkx.density(graph))


def test_older_numpy_counts_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    row, column = np.triu_indices(70, 1)
    expected = count_triangles(row, column, 70)
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert count_triangles(row, column, 70) == expected


@pytest.mark.parametrize(("n_strongest", "floor"), [(1, 0.5), (200, 0.5), (3000, 0.9), (10**6, 0.0), (1, -1.0)])
def test_every_pair_above_the_floor_and_the_strongest_are_collected(n_strongest: int, floor: float) -> None:
    expected, found = all_pairs(), collected(n_strongest, floor).edges()
    n = max(min(n_strongest, len(expected)), int((expected > floor).sum()))
    np.testing.assert_allclose(found.cosine, expected[:n], atol=1e-6)
    rows = random_rows(N, D)
    np.testing.assert_allclose((rows[found.row] * rows[found.column]).sum(1).numpy(), found.cosine, atol=1e-6)
    assert (found.row < found.column).all()


def test_the_curve_has_the_densities_asked_for_and_the_edges_of_its_thresholds() -> None:
    points, lacking = curve(collected(402, 0.3), [0.3, 0.8], [0.01, 0.1])
    n_pairs, expected = N * (N - 1) // 2, all_pairs()
    assert not lacking
    assert [point.setting for point in points] == ["cos > 0.3", "cos > 0.8", "density 0.01", "density 0.1"]
    assert [point.n_edges for point in points] == [(expected > 0.3).sum(), (expected > 0.8).sum(), round(0.01 * n_pairs), round(0.1 * n_pairs)]
    assert points[2].density == pytest.approx(0.01, rel=0.02)


def test_the_whole_curve_agrees_with_networkx() -> None:
    networkx = pytest.importorskip("networkx")
    rows = random_rows(N, D)
    cosines = (rows @ rows.T).numpy()
    for point in curve(collected(1, 0.2), [0.2, 0.4, 0.6], [])[0]:
        graph = networkx.from_numpy_array(np.triu(cosines > point.threshold, 1))
        assert point.clustering == pytest.approx(networkx.transitivity(graph))


def test_graphs_too_large_to_keep_are_named_and_the_others_are_right() -> None:
    points, lacking = curve(collected(402, -1.0, max_edges=100), [-1.0, 0.3, 0.8], [0.01, 0.1, 0.00001])
    assert lacking == {
        **dict.fromkeys(["cos > -1", "cos > 0.3", "density 0.1"], "its graph has more than 100 edges (geometry.max_edges)"),
        "density 1e-05": f"that is less than one of the {N * (N - 1) // 2} pairs of latents",
    }
    assert [point.setting for point in points] == ["cos > 0.8", "density 0.01"]
    assert points[0].n_edges == (all_pairs() > 0.8).sum()


def test_a_complete_graph() -> None:
    points, _ = curve(collected(10**6, 2.0), [], [1.0])
    assert (points[0].density, points[0].clustering) == (1, 1)
