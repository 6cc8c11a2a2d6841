"""Planted worlds have the structure that their settings promise, and their stores are ordinary stores."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy import sparse

from sparselight.errors import ConfigError, RunError, StoreError, SubjectError
from sparselight.evaluate.planted import PlantedConfig, PlantedSubject, World, open_planted, plant, planted_behind
from sparselight.evaluate.planted.world import NOBODY, feature_name, scale_rates
from sparselight.protocols import Example
from sparselight.sae import Sae, initialize
from sparselight.testing import check_subject

SMALL = PlantedConfig(d_in=24, n_features=60, mean_active=4.0, n_hierarchies=3, n_children=3, n_compositions=5, n_groups=2, group_size=4, n_dark=6,
                      dark_rate=2e-3, example_tokens=16, fit_tokens=20_000, held_out_tokens=1_000)


@pytest.fixture(scope="module")
def subject() -> PlantedSubject:
    return PlantedSubject(SMALL)


@pytest.fixture(scope="module")
def truth(subject: PlantedSubject) -> sparse.csr_matrix:
    return subject.truth(subject.examples("fit"))


def test_it_is_a_subject(subject: PlantedSubject) -> None:
    check_subject(subject, subject.examples("held_out")[:3])


def test_roles_are_disjoint_and_complete(subject: PlantedSubject) -> None:
    roles = subject.world.roles
    sizes = {kind: len(roles.of(kind)) for kind in ("plain", "parent", "child", "component", "grouped", "dark")}
    assert sizes == {"plain": 24, "parent": 3, "child": 9, "component": 10, "grouped": 8, "dark": 6}
    assert (roles.parent[roles.of("child")] != NOBODY).all()
    assert (roles.partner[roles.partner[roles.of("component")]] == roles.of("component")).all()
    assert np.bincount(roles.group[roles.of("grouped")]).tolist() == [4, 4]


def test_parents_are_on_wherever_a_child_is(subject: PlantedSubject, truth: sparse.csr_matrix) -> None:
    on, roles = truth.toarray() > 0, subject.world.roles
    for child in roles.of("child"):
        assert on[:, child].any()
        assert on[on[:, child], roles.parent[child]].all()


def test_rates_are_as_planned(subject: PlantedSubject, truth: sparse.csr_matrix) -> None:
    """Counted frequencies agree with the exact ones within 5 standard errors, and their sum with mean_active."""
    n, expected = truth.shape[0], subject.world.frequency
    counted = np.bincount(truth.indices, minlength=60) / n
    assert (abs(counted - expected) < 5 * np.sqrt(expected * (1 - expected) / n)).all()
    dark = subject.world.roles.of("dark")
    np.testing.assert_allclose(expected[dark], -np.expm1(-2e-3))
    total = -np.log1p(-np.delete(expected, dark)).sum()  # the sum of rates: coincidences counted
    assert total == pytest.approx(4.0, rel=1e-6)


def test_joint_firings_are_as_planned(subject: PlantedSubject, truth: sparse.csr_matrix) -> None:
    """Half of the firings of a pair's rarer feature are with its partner, but for coincidence."""
    on, roles = truth.astype(bool).astype(float), subject.world.roles
    for left in roles.of("component"):
        right = roles.partner[left]
        if subject.world.frequency[left] < subject.world.frequency[right]:
            joint = float(on[:, [left]].multiply(on[:, [right]]).sum()) / float(on[:, [left]].sum())
            assert 0.4 < joint < 0.65


def test_rates_follow_the_power_law_up_to_the_cut() -> None:
    weight = np.arange(1, 101) ** -1.5
    rate = scale_rates(weight, np.ones(100), 2.0, 0.25)
    assert rate.sum() == pytest.approx(2.0)
    assert rate.max() == 0.25
    free = rate < 0.25
    np.testing.assert_allclose(rate[free] / weight[free], (rate[free] / weight[free])[0])


def test_activations_are_the_sum_of_what_is_on(subject: PlantedSubject) -> None:
    examples = subject.examples("held_out")[5:8]
    x = subject.capture(subject.prepare(examples), ["planted"])["planted"]
    signal = torch.from_numpy(subject.truth(examples) @ subject.world.directions.numpy()) + subject.world.bias
    noise = x - signal
    assert float(noise.std()) == pytest.approx(subject.world.noise_std, rel=0.1)
    quiet = PlantedSubject(SMALL.model_copy(update={"noise_frac": 0.0}))
    again = quiet.capture(quiet.prepare(examples), ["planted"])["planted"]
    torch.testing.assert_close(again, torch.from_numpy(quiet.truth(examples) @ quiet.world.directions.numpy()) + quiet.world.bias, atol=1e-5, rtol=0)


def test_noise_has_its_share_of_the_variance() -> None:
    """About: features count as independent. Without structure they are."""
    plain = SMALL.model_copy(update={"n_hierarchies": 0, "n_compositions": 0, "n_groups": 0, "noise_frac": 0.3})
    subject = PlantedSubject(plain)
    x = subject.block(0, 0).x
    assert plain.d_in * subject.world.noise_std**2 / float(x.var(0).sum()) == pytest.approx(0.3, rel=0.15)


def test_an_example_is_the_same_alone_and_among_others(subject: PlantedSubject) -> None:
    examples = subject.examples("fit")
    some = [examples[index] for index in (700, 3, 64)]
    whole = subject.capture(subject.prepare(some), ["planted"])["planted"]
    again = PlantedSubject(SMALL)
    for number, example in enumerate(some):
        batch = again.prepare([example])
        assert torch.equal(again.capture(batch, ["planted"])["planted"], whole[16 * number:16 * (number + 1)])
        assert (subject.truth([example]) != again.truth([example])).nnz == 0


def test_children_may_lean_towards_their_parents() -> None:
    world = World.build(SMALL.model_copy(update={"child_cosine": 0.4}))
    children = world.roles.of("child")
    cosines = (world.directions[children] * world.directions[world.roles.parent[children]]).sum(1)
    torch.testing.assert_close(cosines, torch.full_like(cosines, 0.4))
    torch.testing.assert_close(world.directions.norm(dim=1), torch.ones(60))


def test_a_training_of_the_same_seed_does_not_begin_at_the_truth() -> None:
    sae = initialize(Sae(24, 60), None, torch.Generator().manual_seed(SMALL.seed))
    assert float((World.build(SMALL).directions @ sae.W_dec.detach().T).diagonal().max()) < 0.9


def test_spans_name_what_is_on(subject: PlantedSubject) -> None:
    example = subject.examples("held_out", ["parent", "child"])[0]
    on = subject.truth([example])
    kinds = np.array(subject.world.roles.kind)
    expected = {(token, feature) for token, feature in zip(*on.nonzero(), strict=True) if kinds[feature] in ("parent", "child")}
    assert {(span.start // 7, int(span.value[1:])) for span in example.spans} == expected
    assert all(span.name == kinds[int(span.value[1:])] for span in example.spans)


def test_the_folder_holds_ordinary_stores_and_the_truth(tmp_path, subject: PlantedSubject) -> None:
    data = plant(SMALL, tmp_path)
    assert (data.fit.n_tokens, data.held_out.n_tokens) == (20_000, 1_008)
    data.fit.verify()
    examples = subject.examples("held_out")
    x = subject.capture(subject.prepare(examples), ["planted"])["planted"]
    torch.testing.assert_close(data.held_out.read(np.arange(1_008), "planted"), x, rtol=2**-8, atol=0)
    active = pq.read_table(tmp_path / "held_out.active.parquet")
    own = subject.truth(examples).tocoo()
    assert (active.column("example").to_numpy() * 16 + active.column("position").to_numpy()).tolist() == own.row.tolist()
    assert active.column("feature").to_numpy().tolist() == own.col.tolist()
    np.testing.assert_array_equal(active.column("magnitude").to_numpy(), own.data)
    features = pq.read_table(tmp_path / "features.parquet")
    child = int(subject.world.roles.of("child")[0])
    assert features.column("parent").to_pylist()[child] == feature_name(int(subject.world.roles.parent[child]))
    assert open_planted(tmp_path).subject.fingerprint == subject.fingerprint
    assert planted_behind(data.fit) is not None
    plant(SMALL, tmp_path)  # again: nothing to do
    with pytest.raises(StoreError, match="other settings"):
        plant(SMALL.model_copy(update={"seed": 1}), tmp_path)


def test_what_it_did_not_make_is_refused(tmp_path, subject: PlantedSubject) -> None:
    with pytest.raises(SubjectError, match="did not make it"):
        subject.prepare([Example("doc", "text", "g")])
    with pytest.raises(SubjectError, match="no such site"):
        subject.d_site("resid_post.0")
    with pytest.raises(RunError, match="no such file"):
        open_planted(tmp_path)
    with pytest.raises(ConfigError, match="need 175 features"):
        PlantedConfig.parse({"n_features": 100, "n_hierarchies": 5, "n_children": 4, "n_compositions": 50, "n_groups": 2, "group_size": 5, "n_dark": 40}, "p")


def test_sixteen_thousand_features() -> None:
    """The size that the suite promises: a block of tokens, with its truth, in bounded memory."""
    subject = PlantedSubject(PlantedConfig(n_features=16_384, d_in=64, n_dark=2_000, mean_active=16.0))
    assert subject.world.frequency.min() < 2.1e-4
    block = subject.block(1, 0)
    assert block.magnitudes.shape == (4_096, 16_384)
    assert 12 < block.magnitudes.nnz / 4_096 < 20
