"""The composition rate: planted compositions are explained, random directions are not, and the value is the formula's."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from dictionaries import case_of, contenders, dictionary, random_rows, unit, value, why_not
from torch import Tensor

from sparselight.errors import ConfigError
from sparselight.evaluate.composition import CompositionConfig, composition_rate, measure_composition, summary, train_meta_sae
from sparselight.evaluate.findings import Cell, Findings

D, N = 24, 240
QUICK = CompositionConfig(n_steps=150, batch_rows=128, lr=1e-2, seeds=(0, 1))
SHORT = CompositionConfig(n_steps=10, batch_rows=64, lr=1e-2, seeds=(0, 1))


def composed(n_parts: int = 2) -> Tensor:
    """Sums of a few of D orthogonal directions."""
    generator = torch.Generator().manual_seed(3)
    chosen = torch.stack([torch.randperm(D, generator=generator)[:n_parts] for _ in range(N)])
    return unit(torch.zeros(N, D).scatter_(1, chosen, 1.0))


def measured(d_in: int | None = None, config: CompositionConfig = SHORT, **coders) -> Findings:
    findings = Findings()
    measure_composition(case_of(d_in), contenders(**coders), config, findings)
    return findings


def test_the_defaults_are_those_of_saebench() -> None:
    config = CompositionConfig()
    assert (config.width_frac, config.k, config.n_steps, config.batch_rows, config.lr) == (0.25, 4, 1500, 1024, 5e-4)
    training = config.training(2049, 7)
    assert (training.n_latents, training.n_steps, training.schedule.decay, training.objective.aux, training.optimizer.weight_decay) == (513, 1500, "none", 0, 0)


def test_compositions_are_explained_and_random_directions_are_not() -> None:
    rates = {name: composition_rate(rows, QUICK) for name, rows in {"composed": composed(), "random": random_rows(N, D)}.items()}
    assert rates["composed"] > 0.9
    assert rates["random"] < rates["composed"] - 0.2


def test_the_value_is_the_formula_at_k_latents_a_row() -> None:
    rows = composed(3)
    meta = train_meta_sae(rows, QUICK, seed=1)
    codes = meta.encode(rows)
    assert meta.n_latents == N // 4
    assert len(codes.values) == pytest.approx(QUICK.k * N, abs=3)  # values that equal the cutoff but for rounding fire too
    x_hat = codes.to_dense().double() @ meta.W_dec.detach().double() + meta.b_dec.detach().double()
    expected = 1 - float((rows - x_hat).square().sum() / (rows - rows.mean(0)).square().sum())
    assert composition_rate(rows, QUICK, seed=1) == pytest.approx(expected, abs=1e-5)


def test_a_seed_gives_the_same_again_and_another_another() -> None:
    rows = random_rows(N, D)
    first, again, other = (composition_rate(rows, SHORT, seed) for seed in (0, 0, 1))
    assert first == again != other


def test_the_mean_over_seeds_comes_with_students_interval() -> None:
    found = summary([0.4, 0.5, 0.6], (0, 1, 2))
    assert (found.value, found.n, found.unit, found.seeds) == (pytest.approx(0.5), 3, "seeds", [0, 1, 2])
    assert (found.low, found.high) == (pytest.approx(0.5 - 4.302653 * 0.1 / 3**0.5, abs=1e-6), pytest.approx(0.5 + 4.302653 * 0.1 / 3**0.5, abs=1e-6))
    assert summary([0.4], (5,)).low is None


def test_the_living_are_measured_by_themselves_and_norms_do_not_matter() -> None:
    alive = np.arange(N) % 3 > 0
    rows = random_rows(N, D)
    rows[alive] = composed()[alive]
    found = measured(D, a=dictionary(3 * rows, alive=alive), living=dictionary(rows[torch.from_numpy(alive)]))
    assert value(found, "a", "composition_rate", "alive") == pytest.approx(value(found, "living", "composition_rate"), abs=1e-3)
    assert value(found, "living", "composition_rate", "alive") == value(found, "living", "composition_rate")
    assert value(found, "a", "composition_rate") != value(found, "a", "composition_rate", "alive")
    assert found.values[Cell("a", "composition_rate")].seeds == [0, 1]


def test_the_work_is_bounded_by_a_sample_of_latents_and_fewer_seeds_of_controls() -> None:
    few = SHORT.model_copy(update={"max_latents": 100})
    given = contenders(a=dictionary(random_rows(N, D)), control=dictionary(random_rows(N, D)), small=dictionary(random_rows(100, D)))
    given["control"] = replace(given["control"], is_control=True)
    found, seen = Findings(), []
    measure_composition(case_of(), given, few, found, lambda done, total, note="": seen.append((done, total)))
    said = [note for note in found.notes if note.startswith("composition of ")]
    assert [note.split(":")[0] for note in said] == ["composition of a", "composition of control"]
    assert "a random sample of 100 of its 240 latents (composition.max_latents)" in said[0]
    assert (found.values[Cell("a", "composition_rate")].seeds, found.values[Cell("control", "composition_rate")].seeds) == ([0, 1], [0])
    assert found.values[Cell("control", "composition_rate")].low is None
    assert seen[-1] == (100, 100)
    whole = measured(a=dictionary(random_rows(N, D)))
    assert value(found, "a", "composition_rate") != value(whole, "a", "composition_rate") and not whole.notes
    assert value(found, "a", "composition_rate") == value(measured(config=few, a=dictionary(random_rows(N, D))), "a", "composition_rate")


@pytest.mark.parametrize(("rows", "why"), [
    (lambda: random_rows(4, D), "4 latents are too few for a MetaSAE of k = 4 (composition.k)"),
    (lambda: random_rows(1, D).repeat(20, 1), "its decoder rows are all the same"),
])
def test_what_has_no_rate_says_why(rows: Callable[[], Tensor], why: str) -> None:
    found = measured(a=dictionary(rows()))
    assert why_not(found, "a", "composition_rate") == why
    assert "no tokens are given" in why_not(found, "a", "composition_rate", "alive")


def test_progress_counts_every_step_and_reaches_its_end() -> None:
    seen: list[tuple[float, float]] = []
    config = CompositionConfig(n_steps=3, batch_rows=8, seeds=(0,))
    measure_composition(case_of(), contenders(a=dictionary(random_rows(N, D)), b=dictionary(random_rows(4, D))), config, Findings(),
                        lambda done, total, note="": seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (12, 12)


@pytest.mark.parametrize("setting", [
    {"seeds": []}, {"seeds": [1, 1]}, {"seeds": [-1]}, {"k": 0}, {"width_frac": 1.5}, {"max_latents": 0}, {"control_seeds": 0},
])
def test_settings_out_of_range_are_refused(setting: dict) -> None:
    with pytest.raises(ConfigError, match="composition"):
        CompositionConfig.parse(setting, "composition")
