"""Metrics against planted truth on dictionaries whose score is known: the truth itself, merged latents, sums, a random dictionary."""


import numpy as np
import pytest
import torch
from scipy import sparse
from torch import Tensor
from torch.nn.functional import normalize

from sparselight.errors import CorpusError
from sparselight.evaluate.case import Case, Dataset
from sparselight.evaluate.config import CaseConfig
from sparselight.evaluate.contender import Contender
from sparselight.evaluate.findings import Cell, Findings
from sparselight.evaluate.planted import PlantedConfig, PlantedData, plant
from sparselight.evaluate.synthetic import SyntheticConfig, measure_synthetic
from sparselight.protocols import Codes, Example

CONFIG = PlantedConfig(d_in=48, n_features=80, mean_active=4.0, n_hierarchies=4, n_children=3, n_compositions=6, n_groups=2, group_size=4, n_dark=4,
                       dark_rate=2e-3, scale_spread=0.0, magnitude_spread=0.0, noise_frac=0.0, example_tokens=16, fit_tokens=4_000, held_out_tokens=6_000)


class Oracle:
    """A coder that is told the activation of every latent: rows of `x` are recognized by their bytes. `mix` is [feature, latent]."""

    def __init__(self, data: PlantedData, mix: Tensor, W_dec: Tensor):
        self.W_dec, self.d_in, self.n_latents = W_dec, W_dec.shape[1], len(W_dec)
        self.codes = {}
        for side, store in (("fit", data.fit), ("held_out", data.held_out)):
            z = self.latents(data, data.subject.truth(data.subject.examples(side))) @ mix.numpy()
            for x, row in zip(store.read(np.arange(store.n_tokens), "planted"), z, strict=True):
                self.codes[x.numpy().tobytes()] = row

    def latents(self, data: PlantedData, truth: sparse.csr_matrix) -> np.ndarray:
        return truth.toarray()

    def encode(self, x: Tensor) -> Codes:
        dense = sparse.csr_matrix(np.stack([self.codes[row.numpy().tobytes()] for row in x]))
        return Codes(torch.from_numpy(dense.data).float(), torch.from_numpy(dense.indices).long(), torch.from_numpy(dense.indptr).long(), self.n_latents)

    def decode(self, codes: Codes) -> Tensor:
        return codes.to_dense() @ self.W_dec

    def reconstruct(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))


class Absorbing(Oracle):
    """Parents' latents are silent wherever a child is on; each child's latent points to child + parent."""

    def latents(self, data: PlantedData, truth: sparse.csr_matrix) -> np.ndarray:
        z, parent = truth.toarray(), data.subject.world.roles.parent
        for child in data.subject.world.roles.of("child"):
            z[z[:, child] > 0, parent[child]] = 0
        return z


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PlantedData:
    return plant(CONFIG, tmp_path_factory.mktemp("planted"))


def measured(data: PlantedData, coder: object, is_control: bool = False) -> Findings:
    case = Case("planted", {"planted": data.dataset()}, CaseConfig(n_tokens=6_000, n_bootstrap=60))
    findings = Findings()
    measure_synthetic(case, {"sae": Contender(coder, is_control)}, SyntheticConfig(), findings)  # type: ignore[arg-type]
    return findings


def value(findings: Findings, metric: str, setting: str = "") -> float:
    cell = Cell("sae", metric, "planted", setting)
    return findings.values[cell].value if cell in findings.values else float(findings.resampled[cell][0])


def test_the_planted_dictionary_scores_one(data: PlantedData) -> None:
    D = data.subject.world.directions
    found = measured(data, Oracle(data, torch.eye(80), D))
    assert not found.undefined
    for metric, setting in [("planted_cosine", ""), ("planted_cosine", "alive"), ("planted_cosine", "alive, one to one"), ("planted_recall", "cos > 0.9"),
                            ("planted_recall", "cos > 0.9, dark"), ("planted_precision", "cos > 0.9"), ("planted_f1", "")]:
        assert value(found, metric, setting) == pytest.approx(1, abs=1e-6), (metric, setting)
    assert value(found, "planted_composition") == 0
    assert value(found, "planted_absorption") == 0
    assert value(found, "planted_absorption", "silent") == 0
    assert (found.resampled[Cell("sae", "planted_f1", "planted")] == 1).all()
    features = found.tables["synthetic_features"]
    assert features.column("latent").to_pylist() == list(range(80))
    by_decade = [cell for cell in found.values if "frequency" in cell.setting]
    assert sum(found.values[cell].n for cell in by_decade) == 80


def test_merged_children_are_absorption(data: PlantedData) -> None:
    D, roles = data.subject.world.directions, data.subject.world.roles
    W = D.clone()
    children = roles.of("child")
    W[children] = normalize(D[children] + D[roles.parent[children]])
    found = measured(data, Absorbing(data, torch.eye(80) * 2**0.5, W))
    assert value(found, "planted_absorption") == 1
    assert value(found, "planted_absorption", "silent") == 1
    assert value(found, "planted_recall", "cos > 0.9, child") == 0
    assert value(found, "planted_composition") == pytest.approx(12 / 80)
    assert value(found, "planted_composition", "a parent and its child") == pytest.approx(12 / 80)
    absorbed = dict(zip(*(found.tables["synthetic_features"].column(name).to_pylist() for name in ("kind", "absorbed_frac")), strict=True))
    assert absorbed["parent"] == 1
    assert absorbed["plain"] is None


def test_a_silent_parent_that_nobody_carries_is_no_absorption(data: PlantedData) -> None:
    found = measured(data, Absorbing(data, torch.eye(80), data.subject.world.directions))
    assert value(found, "planted_absorption", "silent") == 1
    assert value(found, "planted_absorption") < 0.05  # random directions of parent and child may have a large cosine
    assert value(found, "planted_f1") < 1


def test_sums_of_pairs_are_composition(data: PlantedData) -> None:
    """One latent for each pair in place of its two features."""
    D, roles = data.subject.world.directions, data.subject.world.roles
    left = np.array([feature for feature in roles.of("component") if feature < roles.partner[feature]])
    others = np.setdiff1d(np.arange(80), roles.of("component"))
    W = torch.cat([D[others], normalize(D[left] + D[roles.partner[left]])])
    mix = torch.zeros(80, len(W))
    mix[others, torch.arange(len(others))] = 1
    mix[left, len(others) + torch.arange(6)] = mix[roles.partner[left], len(others) + torch.arange(6)] = 0.7
    found = measured(data, Oracle(data, mix, W))
    assert value(found, "planted_composition") == pytest.approx(6 / len(W))
    assert value(found, "planted_composition", "a planted pair") == pytest.approx(6 / len(W))
    assert value(found, "planted_recall", "cos > 0.9, component") == 0
    assert value(found, "planted_precision", "cos > 0.9") == pytest.approx(len(others) / len(W))
    names = found.tables["synthetic_latents"].column("features").to_pylist()[-1]
    assert {int(name[1:]) for name in names} == {int(left[-1]), int(roles.partner[left[-1]])}


def test_a_random_dictionary_scores_low(data: PlantedData) -> None:
    W = normalize(torch.randn(80, 48, generator=torch.Generator().manual_seed(5)))
    found = measured(data, Oracle(data, torch.eye(80)[torch.randperm(80, generator=torch.Generator().manual_seed(1))], W), is_control=True)
    assert value(found, "planted_recall", "cos > 0.9") == 0
    assert value(found, "planted_composition") < 0.1
    assert value(found, "planted_f1") < 0.3
    assert Cell("sae", "planted_absorption", "planted") in found.undefined or value(found, "planted_absorption") < 0.5


def test_f1_agrees_with_scikit_learn(data: PlantedData) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    D, generator = data.subject.world.directions, np.random.default_rng(0)
    noisy = Oracle(data, torch.eye(80), D)
    noisy.codes = {key: row * (generator.random(80) < 0.7) + (generator.random(80) < 0.02) for key, row in noisy.codes.items()}
    found = measured(data, noisy)
    truth = data.subject.truth(data.subject.examples("held_out")).toarray() > 0
    fired = noisy.encode(data.held_out.read(np.arange(data.held_out.n_tokens), "planted")).to_dense().numpy() != 0
    expected = [metrics.f1_score(truth[:, feature], fired[:, feature]) for feature in range(80) if truth[:, feature].sum() >= 10]
    assert value(found, "planted_f1") == pytest.approx(np.mean(expected), abs=1e-9)


def test_what_cannot_be_measured_is_said(data: PlantedData) -> None:
    D = data.subject.world.directions
    dead = measured(data, Oracle(data, torch.zeros(80, 80), D))
    assert set(dead.undefined.values()) == {"0 of its 80 latents fire on any of the 10000 tokens"}

    class Dense:
        def reconstruct(self, x: Tensor) -> Tensor:
            return x

    assert set(measured(data, Dense()).undefined.values()) == {"it has no codes"}
    plain = Case("planted", {"other": Dataset("other", [Example("a", "a", "a")], [Example("b", "b", "b")])}, CaseConfig())
    with pytest.raises(CorpusError, match="none of the datasets is planted data"):
        measure_synthetic(plain, {}, SyntheticConfig(), Findings())
