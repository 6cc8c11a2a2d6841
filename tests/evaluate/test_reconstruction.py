"""Reconstruction metrics on closed-form cases, and against the same formulas written directly in numpy."""

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from sparselight.errors import SaeError
from sparselight.evaluate.case import Case, Dataset
from sparselight.evaluate.config import CaseConfig
from sparselight.evaluate.contender import Contender
from sparselight.evaluate.controls import ZeroCoder
from sparselight.evaluate.findings import Cell, Findings
from sparselight.evaluate.reconstruction import FAMILY, CoderSums, InputSums, ReconstructionConfig, measure_reconstruction
from sparselight.evaluate.statistics import Resamples
from sparselight.protocols import Codes, Example
from sparselight.subjects import CausalLM
from sparselight.testing import tiny_corpus, tiny_subject

N, D = 400, 6


class Noisy:
    """Adds given noise."""

    def __init__(self, noise: Tensor):
        self.noise = noise

    def reconstruct(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        return x + self.noise


class HandMade:
    """Four latents: 0 fires always, 1 on even tokens, 2 never, 3 is kept as an explicit zero."""

    d_in, n_latents = D, 4

    def encode(self, x: Float[Tensor, "token d_in"]) -> Codes:
        values, latents, indptr = [], [], [0]
        for token in range(len(x)):
            kept = [(0, 1.0), (1, 2.0), (3, 0.0)] if token % 2 == 0 else [(0, 1.0), (3, 0.0)]
            latents += [latent for latent, _ in kept]
            values += [value for _, value in kept]
            indptr.append(len(values))
        return Codes(torch.tensor(values), torch.tensor(latents), torch.tensor(indptr), self.n_latents)

    def decode(self, codes: Codes) -> Float[Tensor, "token d_in"]:
        return codes.to_dense() @ torch.ones(self.n_latents, D)

    def reconstruct(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        return self.decode(self.encode(x))


def activations(seed: int = 0, offset: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(N, D, generator=generator) * torch.tensor([1.0, 5.0, 0.1, 2.0, 1.0, 1.0]) + offset
    return x, torch.randint(0, 20, (N,), generator=generator)


def measured(x: Tensor, group: Tensor, x_hat: Tensor, codes: Codes | None = None, n_latents: int | None = None) -> tuple[dict[str, np.ndarray], CoderSums]:
    """Metrics of all 20 groups, added in three unequal batches."""
    inputs, sums = InputSums.empty(20, torch.full((D,), 2.0)), CoderSums.empty(20, n_latents)
    pieces = [slice(0, N)] if codes is not None else [slice(0, 1), slice(1, 250), slice(250, N)]
    for piece in pieces:
        inputs.add(x[piece], group[piece])
        sums.add(x[piece], x_hat[piece], codes, group[piece])
    return sums.metrics(inputs, Resamples.draw(20, 60, seed=0)), sums


def direct_fvu(x: Tensor, x_hat: Tensor) -> float:
    a, b = x.double().numpy(), x_hat.double().numpy()
    return float(((a - b) ** 2).sum() / ((a - a.mean(0)) ** 2).sum())


def test_a_perfect_coder() -> None:
    x, group = activations()
    metrics, _ = measured(x, group, x.clone())
    assert metrics["fvu"][0] == 0
    assert metrics["explained_variance"][0] == 1
    assert metrics["cosine"][0] == pytest.approx(1, abs=1e-12)
    assert "l0" not in metrics


def test_the_mean_has_fvu_one() -> None:
    x, group = activations()
    metrics, _ = measured(x, group, x.double().mean(0).float().expand_as(x))
    assert metrics["fvu"][0] == pytest.approx(1, abs=1e-6)


def test_zero_has_the_second_moment_as_error_and_no_direction() -> None:
    x, group = activations()
    metrics, _ = measured(x, group, torch.zeros_like(x))
    a = x.double().numpy()
    assert metrics["fvu"][0] == pytest.approx((a**2).sum() / ((a - a.mean(0)) ** 2).sum(), rel=1e-9)
    assert metrics["cosine"][0] == 0


def test_known_noise_gives_the_ratio_of_variances() -> None:
    x, group = activations()
    noise = 0.5 * torch.randn(N, D, generator=torch.Generator().manual_seed(1))
    x_hat, _ = Contender(Noisy(noise), is_control=False).apply(x, "test")
    metrics, _ = measured(x, group, x_hat)
    assert metrics["fvu"][0] == pytest.approx(float((noise.double() ** 2).sum()) / float(((x.double() - x.double().mean(0)) ** 2).sum()), rel=1e-4)


def test_values_and_resamples_equal_the_formula_on_the_repeated_tokens() -> None:
    x, group = activations()
    x_hat = x + 0.3 * torch.randn(N, D, generator=torch.Generator().manual_seed(2))
    metrics, _ = measured(x, group, x_hat)
    weights = Resamples.draw(20, 60, seed=0).weights
    for draw in (0, 1, 2, 60):
        repeats = torch.from_numpy(weights[draw]).long()[group]
        a, b = x.repeat_interleave(repeats, 0), x_hat.repeat_interleave(repeats, 0)
        assert metrics["fvu"][draw] == pytest.approx(direct_fvu(a, b), rel=1e-9)
        assert metrics["explained_variance"][draw] == pytest.approx(1 - direct_fvu(a, b), rel=1e-9)
        assert metrics["cosine"][draw] == pytest.approx(float(torch.nn.functional.cosine_similarity(a.double(), b.double()).mean()), rel=1e-9)


def test_a_large_common_offset_costs_no_precision() -> None:
    x, group = activations(offset=1000.0)
    inputs, sums = InputSums.empty(20, torch.full((D,), 1000.0)), CoderSums.empty(20, None)
    x_hat = x + 0.01
    inputs.add(x, group)
    sums.add(x, x_hat, None, group)
    assert sums.metrics(inputs, Resamples.draw(20, 40, 0))["fvu"][0] == pytest.approx(direct_fvu(x, x_hat), rel=1e-9)


def test_explained_variance_per_dimension_is_the_uniform_average_of_r2() -> None:
    x, group = activations()
    x_hat = x + torch.tensor([0.5, 0.1, 0.2, 1.0, 0.3, 0.7]) * torch.randn(N, D, generator=torch.Generator().manual_seed(4))
    metrics, _ = measured(x, group, x_hat)
    weights = Resamples.draw(20, 60, seed=0).weights
    for draw in (0, 3):
        repeats = torch.from_numpy(weights[draw]).long()[group]
        a, b = x.repeat_interleave(repeats, 0).double(), x_hat.repeat_interleave(repeats, 0).double()
        expected = (1 - (a - b).square().sum(0) / (a - a.mean(0)).square().sum(0)).mean()
        assert metrics["explained_variance_per_dim"][draw] == pytest.approx(float(expected), rel=1e-9)


def test_explained_variance_per_dimension_equals_scikit_learn() -> None:
    r2_score = pytest.importorskip("sklearn.metrics").r2_score
    x, group = activations()
    x_hat = 0.7 * x + 0.3 * x.mean(0)
    metrics, _ = measured(x, group, x_hat)
    assert metrics["explained_variance_per_dim"][0] == pytest.approx(r2_score(x.double(), x_hat.double(), multioutput="uniform_average"), rel=1e-9)
    assert metrics["explained_variance"][0] == pytest.approx(r2_score(x.double(), x_hat.double(), multioutput="variance_weighted"), rel=1e-9)


def test_one_outlier_dimension_rules_explained_variance_alone() -> None:
    x, group = activations()
    x[:, 0] *= 1000
    only_outlier = x.mean(0).expand_as(x).clone()
    only_outlier[:, 0] = x[:, 0]
    metrics, _ = measured(x, group, only_outlier)
    assert metrics["explained_variance"][0] > 0.999
    assert metrics["explained_variance_per_dim"][0] == pytest.approx(1 / D, abs=0.01)


def test_a_dimension_that_does_not_vary_is_left_out() -> None:
    x, group = activations()
    x[:, 2] = 7.3
    metrics, _ = measured(x, group, x + torch.tensor([0, 0, 5.0, 0, 0, 0]))
    assert metrics["explained_variance_per_dim"][0] == pytest.approx(1, abs=1e-9)
    assert metrics["explained_variance"][0] < 1


def test_norms_of_a_shrunken_reconstruction() -> None:
    x, group = activations()
    x[3] = 0
    metrics, _ = measured(x, group, 0.8 * x)
    assert metrics["norm_ratio"][0] == pytest.approx(0.8, rel=1e-6)
    assert metrics["reconstruction_bias"][0] == pytest.approx(0.8, rel=1e-6)
    noise = torch.randn(N, D, generator=torch.Generator().manual_seed(1))
    metrics, _ = measured(x, group, x + noise)
    a, b = x.double(), (x + noise).double()
    assert metrics["reconstruction_bias"][0] == pytest.approx(float(b.square().sum() / (a * b).sum()), rel=1e-9)
    there = a.norm(dim=1) > 0
    assert metrics["norm_ratio"][0] == pytest.approx(float((b.norm(dim=1) / a.norm(dim=1))[there].mean()), rel=1e-9)


def test_constant_activations_have_no_fvu() -> None:
    x = torch.full((N, D), 7.3)
    metrics, _ = measured(x, torch.zeros(N, dtype=torch.long), x + 1)
    assert np.isnan(metrics["fvu"][0])


def test_l0_and_dead_latents_of_hand_made_codes() -> None:
    x, group = activations()
    contender = Contender(HandMade(), is_control=False)
    x_hat, codes = contender.apply(x, "test")
    assert contender.n_latents == 4
    metrics, sums = measured(x, group, x_hat, codes, contender.n_latents)
    assert metrics["l0"][0] == 1.5
    assert sums.dead_frac() == 0.5
    assert torch.equal(x_hat[0], torch.full((D,), 3.0))


def test_a_coder_without_codes_has_neither() -> None:
    contender = Contender(Noisy(torch.zeros(N, D)), is_control=True)
    assert contender.n_latents is None
    assert CoderSums.empty(3, None).dead_frac() is None


@pytest.mark.parametrize(("noise", "why"), [(torch.full((N, D), float("inf")), "not finite for 400 of 400"), (torch.zeros(2, N, D), "returns")])
def test_a_faulty_reconstruction_is_refused(noise: Tensor, why: str) -> None:
    with pytest.raises(SaeError, match=f"cannot evaluate the coder 'x'.*{why}"):
        Contender(Noisy(noise), is_control=False).apply(activations()[0], "evaluate the coder 'x'")


@pytest.fixture(scope="module")
def subject() -> CausalLM:
    return tiny_subject()


def case_of(subject: CausalLM, examples: list[Example], site: str = "resid_post.1") -> Case:
    return Case(site, {"general": Dataset("general", [], examples)}, CaseConfig(n_tokens=600, n_bootstrap=40, batch_tokens=256), subject)


def test_the_family_on_a_case(subject: CausalLM) -> None:
    case, findings = case_of(subject, list(tiny_corpus(32))), Findings()
    tokens = case.tokens("general", "held_out")
    noisy = Contender(Noisy(torch.zeros(1)), is_control=False)
    hand = Contender(Hand32(), is_control=False)
    measure_reconstruction(case, {"same": noisy, "hand": hand, "zero": Contender(ZeroCoder(), is_control=True)}, ReconstructionConfig(), findings)
    assert findings.resampled[Cell("same", "fvu", "general")][0] == 0
    assert findings.resampled[Cell("same", "norm_ratio", "general")][0] == pytest.approx(1)
    x = tokens.read(slice(None)).double()
    expected = float(x.square().sum() / (x - x.mean(0)).square().sum())
    assert findings.resampled[Cell("zero", "fvu", "general")][0] == pytest.approx(expected, rel=1e-6)
    assert "do not point along" in findings.undefined[Cell("zero", "reconstruction_bias", "general")]
    assert findings.resampled[Cell("hand", "l0", "general")][0] == pytest.approx(1.5, abs=0.01)
    assert findings.values[Cell("hand", "n_dead", "general")].value == 2
    dead = findings.values[Cell("hand", "dead_frac", "general")]
    assert (dead.value, dead.n, dead.unit) == (0.5, tokens.n_tokens, "tokens")
    assert findings.values[Cell("hand", "dense_frac", "general", "> 0.1")].value == 0.5
    assert Cell("same", "l0", "general") not in findings.resampled
    table = findings.tables["latents"].to_pylist()
    assert [row["n_fired_tokens"] for row in table] == [tokens.n_tokens, (tokens.n_tokens + 1) // 2, 0, 0]
    assert [row["max_activation"] for row in table] == [1.0, 2.0, None, None]
    histogram = findings.tables["fire_rates"].to_pylist()
    assert sum(row["n_latents"] for row in histogram) == 4
    assert (histogram[0]["high"], histogram[0]["n_latents"]) == (0.0, 2)
    assert (histogram[-1]["high"], histogram[-1]["n_latents"]) == (1.0, 1)
    assert FAMILY.measure is measure_reconstruction


class Hand32(HandMade):
    """The hand-made codes beside activations of width 32, by the parity of the token in its chunk."""

    d_in = 32

    def decode(self, codes: Codes) -> Float[Tensor, "token d_in"]:
        return codes.to_dense() @ torch.ones(self.n_latents, 32)


def test_massive_activations_are_left_out_as_the_token_policy_says(subject: CausalLM) -> None:
    site, examples = "resid_post.1", list(tiny_corpus(32))
    everything = case_of(subject, examples).tokens("general", "held_out")
    norms = everything.read(slice(None)).norm(dim=1)
    limit = float(norms.median())
    kept = case_of(subject.with_max_norms({site: limit}), examples).tokens("general", "held_out")
    assert kept.n_tokens == int((norms <= limit).sum()) < everything.n_tokens
    assert float(kept.read(slice(None)).norm(dim=1).max()) <= limit
    assert kept.groups == everything.groups
