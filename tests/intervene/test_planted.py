"""On planted features that cause predictions, the measured effect of an edit is the one that follows from the plan."""

import numpy as np
import pytest
import torch

from sparselight.evaluate.planted.config import PlantedConfig
from sparselight.intervene import check_reach, edit_functions, editing, measure_scales
from sparselight.intervene.effects import kl_nats
from sparselight.records import Edit, Where
from sparselight.testing.planted_causal import CAUSAL_SITE, CausalPlanted

N_FEATURES, N_CLASSES = 24, 5
CONFIG = PlantedConfig(d_in=32, n_features=N_FEATURES, mean_active=3.0, n_hierarchies=2, n_children=2, n_compositions=2, n_groups=1, group_size=3, n_dark=2,
                       noise_frac=0.0, example_tokens=16, fit_tokens=512, held_out_tokens=512, seed=3)


@pytest.fixture(scope="module")
def planted() -> tuple:
    effects = torch.randn(N_CLASSES, N_FEATURES, generator=torch.Generator().manual_seed(0))
    subject = CausalPlanted(CONFIG, effects)
    examples = subject.planted.examples("held_out", n_tokens=256)
    truth = torch.from_numpy(subject.planted.truth(examples).toarray())
    return subject, examples, truth, effects, subject.exact_sae()


def make_edit(operation: str, amount: float, latents: tuple[int, ...], **fields: object) -> Edit:
    return Edit(site=CAUSAL_SITE, latents=list(latents), operation=operation, amount=amount, **fields)


def test_the_dictionary_reads_the_planted_magnitudes(planted) -> None:
    subject, examples, truth, _, sae = planted
    x = subject.capture(subject.prepare(examples), [CAUSAL_SITE])[CAUSAL_SITE]
    torch.testing.assert_close(sae.encode(x).to_dense(), truth, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("operation", "amount", "after"), [
    ("ablate", 0.0, lambda m: 0 * m), ("clamp", 1.5, lambda m: 0 * m + 1.5), ("scale", 2.5, lambda m: 2.5 * m), ("add", 0.7, lambda m: m + 0.7),
])
def test_the_effect_of_every_operation_is_the_planned_one(planted, operation, amount, after) -> None:
    subject, examples, truth, effects, sae = planted
    batch = subject.prepare(examples)
    before = subject.predict(batch)
    for chosen in ((0,), (3, 7, 20)):
        change = (after(truth[:, chosen]) - truth[:, chosen]) @ effects[:, chosen].T
        logits = subject.predict(batch, edit_functions(make_edit(operation, amount, chosen), sae))
        torch.testing.assert_close(logits - before, change, rtol=1e-3, atol=2e-3)
        divergence = kl_nats(before.log_softmax(-1), logits.log_softmax(-1))
        torch.testing.assert_close(divergence, kl_nats(before.log_softmax(-1), (before + change).log_softmax(-1)), rtol=1e-2, atol=1e-4)


def test_doses_in_units_of_firings_are_linear_and_reach_what_is_planned(planted) -> None:
    subject, examples, truth, effects, sae = planted
    batch = subject.prepare(examples)
    x, before = subject.capture(batch, [CAUSAL_SITE])[CAUSAL_SITE], subject.predict(batch)
    feature = int(truth.gt(0).sum(0).argmax())
    q99 = np.quantile(truth[:, feature][truth[:, feature] > 0].double().numpy(), 0.99)
    for dose in (-2.0, 0.5, 1.0, 4.0):
        edit = measure_scales(make_edit("add", dose, (feature,), unit="q99"), sae, x)
        assert edit.scales[0] == pytest.approx(q99, rel=1e-3)
        change = subject.predict(batch, edit_functions(edit, sae)) - before
        torch.testing.assert_close(change, (dose * q99 * effects[:, feature]).float().expand_as(change), rtol=1e-2, atol=5e-3)


def test_only_the_named_tokens_change(planted) -> None:
    subject, examples, truth, _, sae = planted
    batch = subject.prepare(examples)
    before, edit = subject.predict(batch), make_edit("clamp", 2.0, (1,), where=Where(positions=[0, -1]))
    functions = edit_functions(edit, sae)
    changed = (subject.predict(batch, functions) - before).abs().amax(1) > 1e-4
    wanted = (batch.position == 0) | (batch.position == CONFIG.example_tokens - 1)
    assert torch.equal(changed, wanted & ((2.0 - truth[:, 1]).abs() > 1e-4))
    with editing(subject, functions):
        assert torch.equal(subject.predict(batch), subject.predict(batch, {}))
        assert not torch.equal(subject.predict(batch), before)
    check_reach(edit, subject, examples)


def test_removing_a_spurious_feature_restores_the_worst_group(planted) -> None:
    """Labels follow a true feature; a spurious one pulls the logits the other way. Without it every group is predicted rightly."""
    _, _, truth, _, sae = planted
    true, spurious = truth.gt(0).sum(0).argsort(descending=True)[:2].tolist()
    effects = torch.zeros(2, N_FEATURES)
    effects[1, true], effects[0, spurious] = 4.0, 16.0
    biased = CausalPlanted(CONFIG, effects)
    batch = biased.prepare(biased.planted.examples("held_out", n_tokens=512))
    truth = torch.from_numpy(biased.planted.truth(biased.planted.examples("held_out", n_tokens=512)).toarray())
    own, other = truth[:, true] > 0.5, truth[:, spurious] > 0.5
    base = biased.predict(batch)
    offset = base[(truth[:, [true, spurious]] == 0).all(1)].mean(0)  # what the constant of the world adds

    def worst(logits: torch.Tensor) -> float:
        predicted = (logits - offset).diff(dim=1)[:, 0] > 1.0
        groups = [predicted[own & kind] for kind in (other, ~other)]
        return min(float(group.float().mean()) for group in groups if len(group))

    assert (own & other).any()
    assert worst(base) < 0.5
    assert worst(biased.predict(batch, edit_functions(make_edit("ablate", 0.0, (spurious,)), sae))) == 1.0
