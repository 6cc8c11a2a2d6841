"""The map of features and two SAEs side by side: known layouts and matchings, the same on every call, within the run folder."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from live_run import make_live_run, sae_of
from numpy.linalg import norm

from sparselight.errors import SaeError, SparselightError
from sparselight.records import RunRecord, SaeRecord, StageRecord
from sparselight.sae import load_sae
from sparselight.sae.disk import save_sae
from sparselight.serve.data import map as maps
from sparselight.serve.data import pairing
from sparselight.serve.data.compare import Comparisons
from sparselight.serve.data.map import Maps, between, layout, principal, to_square, unit_rows
from sparselight.serve.data.pairing import assigned, largest_cosines, make_pairs, most_latents, nearest_first
from sparselight.serve.data.served import ServedRun

WAIT_S = 600.0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ServedRun:
    return ServedRun("live", make_live_run(tmp_path_factory.mktemp("map") / "items", "items"))


def clusters(n_each: int = 12, n: int = 4, d: int = 24, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centers = np.linalg.qr(rng.normal(size=(d, n)))[0].T
    return unit_rows((np.repeat(centers, n_each, axis=0) + 0.05 * rng.normal(size=(n * n_each, d))).astype(np.float32))


def test_similar_directions_lie_together() -> None:
    rows = clusters()
    xy, label = layout(rows, principal(rows, 0), 0), np.repeat(np.arange(4), 12)
    assert xy.min() >= 0 and xy.max() <= 1
    distance = norm(xy[:, None] - xy[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (label[distance.argmin(1)] == label).all()
    np.testing.assert_array_equal(layout(rows, principal(rows, 0), 0), xy)


def test_features_beyond_the_landmarks_lie_at_theirs(monkeypatch) -> None:
    rows = clusters(n_each=40)
    monkeypatch.setattr(maps, "LANDMARKS", 60)
    xy, label = layout(rows, principal(rows, 0), 0), np.repeat(np.arange(4), 40)
    centers = np.stack([np.median(xy[label == one], axis=0) for one in range(4)])
    assert (norm(xy[:, None] - centers[None], axis=2).argmin(1) == label).mean() > 0.95
    placed = np.array([[0.0, 0.0], [1.0, 0.0]] + [[9.0, 9.0]] * 9)
    landmarks = np.eye(11, dtype=np.float32)
    np.testing.assert_allclose(between(landmarks[:1], landmarks, placed)[0], placed[0], atol=1e-6)


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_few_features_have_a_map_too(n) -> None:
    rows = clusters()[:n]
    assert layout(rows, principal(rows, 0) if n else np.zeros((0, 2)), 0).shape == (n, 2)
    assert to_square([[3.0, 3.0]] * n).shape == (n, 2)


def test_the_map_of_a_run_is_kept_in_it(run, connect) -> None:
    waiting = Maps()
    with waiting._one_at_a_time:  # what is laid out in the background does not begin yet
        first = waiting.of(run, "base")
    assert first.layout == "pca" and not first.is_final and len(first.latent) == len(first.x) == len(first.text) == 48
    final = Maps().of(run, "base", wait_s=WAIT_S)
    assert final.is_final and final.layout == "tsne" and final.n_left_out == 0
    kept = list((run.folder / "explorer").glob("map-base-*.parquet"))
    assert len(kept) == 1 and Maps().of(ServedRun("other", run.folder), "base") == final
    kept[0].write_bytes(b"damaged")
    assert Maps().of(ServedRun("other", run.folder), "base", wait_s=WAIT_S).x == final.x
    client = connect(run.folder)
    assert client.get("/api/runs/items/map", params={"source": "base"}).json()["latent"] == list(range(48))
    for source in ("nope", "base'; DROP TABLE cards; --", "../train"):
        assert client.get("/api/runs/items/map", params={"source": source}).status_code == 404


def train_again(run: ServedRun) -> None:
    """Another SAE in the place of the base SAE, as the run tells it; the folder of the first stays."""
    record = RunRecord.load(run.folder / "run.json")
    old, new = run.folder / record.stages["train"], run.folder / "train-again"
    shutil.copytree(old, new)
    sae, told = load_sae(old / "sae"), SaeRecord.load(old / "sae" / "sparselight.json")
    sae.W_dec.copy_(sae_of(sae.d_in, sae.n_latents, seed=7).W_dec)
    save_sae(sae, told, new / "sae")
    stage = StageRecord.load(old / "record.json")
    stage.model_copy(update={"summary": {**stage.summary, "weights": sae.weights_hash()}}).save(new / "record.json")
    record.model_copy(update={"stages": {**record.stages, "train": new.name}}).save(run.folder / "run.json")


@pytest.mark.parametrize("look", [
    lambda run: Maps().of(run, "base", WAIT_S).x, lambda run: Comparisons().compare(run, "base", run, "residual").cosines,
], ids=["map", "comparison"])
def test_an_sae_that_is_trained_again_while_it_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: Callable[[ServedRun], list[float]]) -> None:
    """What was made of the old weights never stands for the new ones: neither in memory nor in the run folder."""
    run, find = ServedRun("run", make_live_run(tmp_path / "items", "items")), ServedRun.weights

    def then_trained_again(self: ServedRun, source: str) -> Path | None:
        found = find(self, source)
        monkeypatch.undo()
        train_again(run)
        return found

    monkeypatch.setattr(ServedRun, "weights", then_trained_again)
    before, after = look(run), look(run)
    shutil.rmtree(run.folder / "explorer", ignore_errors=True)
    assert after == look(ServedRun("fresh", run.folder)) != before


def test_a_rotated_copy_matches_only_where_it_was_not_rotated() -> None:
    rows = clusters(n_each=1, n=10, d=64, seed=3)
    other = rows[::-1].copy()
    other[:3] = unit_rows(np.random.default_rng(1).normal(size=(3, 64)).astype(np.float32))
    pairs = make_pairs(rows, other)
    same = pairs.cosine > 0.999
    assert same.sum() == 7 and (pairs.row[same] + pairs.other[same] == 9).all()
    assert pairs.control.max() < 0.7 and pairs.best_a.shape == (10,)
    np.testing.assert_allclose(pairs.best_a, (rows @ other.T).max(1), rtol=1e-5)
    np.testing.assert_allclose(pairs.best_b, (rows @ other.T).max(0), rtol=1e-5)


def test_an_sae_and_itself_are_the_same_feature_by_feature(run, connect) -> None:
    found = Comparisons().compare(run, "base", run, "base")
    assert found.counts.model_dump() == {"matched": 48, "drifted": 0, "unique_a": 0, "unique_b": 0} and found.same_subject
    assert all(row.a == row.b for row in found.rows) and found.same_label == found.labelled_pairs == 48
    other = Comparisons().compare(run, "base", run, "residual", "unique_b", offset=1, limit=3)
    counts = other.counts
    assert counts.matched + counts.drifted + counts.unique_a == 48 and counts.matched + counts.drifted + counts.unique_b == 12
    assert other.total == counts.unique_b and len(other.rows) == min(3, max(0, counts.unique_b - 1)) and all(row.a is None for row in other.rows)
    client = connect(run.folder)
    answer = client.get("/api/runs/items/compare", params={"a": "base", "b": "items:residual", "kind": "drifted"})
    assert answer.status_code == 200 and answer.json()["total"] == counts.drifted
    for given, status in (({"a": "nope"}, 404), ({"b": "elsewhere:base"}, 404), ({"kind": "all"}, 422), ({"matched_from": "7"}, 422), ({"limit": "0"}, 422)):
        assert client.get("/api/runs/items/compare", params={"a": "base", "b": "base", **given}).status_code == status


@pytest.mark.parametrize("block_bytes", [2**26, 4 * 150 * 7])
def test_pairs_nearest_first(monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    monkeypatch.setattr(pairing, "BLOCK_BYTES", block_bytes)
    rng = np.random.default_rng(0)
    rows = unit_rows(rng.normal(size=(120, 24)).astype(np.float32))
    place = rng.permutation(150)[:120]
    others = unit_rows(rng.normal(size=(150, 24)).astype(np.float32))
    others[place] = unit_rows(rows + 0.1 * rng.normal(size=rows.shape).astype(np.float32))
    found_row, found_other, found_cosine = nearest_first(*map(torch.from_numpy, (rows, others)), n_candidates=5)
    row, other, cosine = assigned(*map(torch.from_numpy, (rows, others)))
    assert dict(zip(found_row.tolist(), found_other.tolist(), strict=True)) == dict(zip(row.tolist(), other.tolist(), strict=True))
    assert np.allclose(np.sort(found_cosine), np.sort(cosine), atol=1e-5) and (np.diff(found_cosine) <= 0).all()
    best, best_other = largest_cosines(*map(torch.from_numpy, (rows, others)))
    assert np.allclose(best, (rows @ others.T).max(1), atol=1e-5) and np.allclose(best_other, (rows @ others.T).max(0), atol=1e-5)
    _, flipped, _ = nearest_first(*map(torch.from_numpy, (others, rows)), n_candidates=5)
    assert len(set(flipped.tolist())) == len(flipped) == 120


def test_large_sides_are_paired_nearest_first_and_say_so(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairing, "EXACT_SIDE", 20)
    found = Comparisons().compare(run, "base", run, "base")
    assert found.counts.matched == 48 and "nearest first" in found.notes[0] and len(found.control_cosines) > 10
    assert not Comparisons().compare(run, "residual", run, "residual").notes
    assert (most_latents(512), most_latents(2**38)) == (65_536, 20)


def test_saes_of_other_widths_are_refused(run, tmp_path) -> None:
    other = ServedRun("text", make_live_run(tmp_path / "text", "text"))
    with pytest.raises(SaeError, match="dimensions"):
        Comparisons().compare(run, "base", other, "base")
    with pytest.raises(SparselightError):
        Comparisons().compare(run, "base", ServedRun("gone", Path(tmp_path / "gone")), "base")
