"""Behaviour metrics: formulas on hand-made predictions, and the family on tiny subjects of every kind against whole passes written out."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor, nn

from sparselight.errors import SaeError, SubjectError
from sparselight.evaluate import predictions
from sparselight.evaluate.behaviour import BehaviourConfig, measure_behaviour
from sparselight.evaluate.case import Case, Dataset
from sparselight.evaluate.config import CaseConfig
from sparselight.evaluate.contender import Contender
from sparselight.evaluate.controls import MeanCoder, ZeroCoder
from sparselight.evaluate.family import MEAN, SUBJECT, ZERO
from sparselight.evaluate.findings import Cell, Findings
from sparselight.evaluate.predictions import PredictionSums, compare, own_predictions
from sparselight.protocols import Batch, Example
from sparselight.subjects import CausalLM, MaskedLM, ModuleSubject, TokenSettings
from sparselight.testing import tiny_corpus, tiny_family, tiny_subject
from sparselight.testing.families import family_tokenizer, tiny_model

SITE = "resid_post.1"
CONFIG = BehaviourConfig()


class Same:
    def reconstruct(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        return x


class Shrunk(Same):
    def reconstruct(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        return 0.6 * x


def contenders(mean: Tensor | None = None, **coders: Any) -> dict[str, Contender]:
    named = {name: Contender(coder, is_control=False) for name, coder in coders.items()}
    if mean is None:
        return named
    return named | {ZERO: Contender(ZeroCoder(), is_control=True), MEAN: Contender(MeanCoder(mean), is_control=True)}


def case_of(subject: Any, examples: list[Example], site: str = SITE, batch_tokens: int = 256) -> Case:
    return Case(site, {"general": Dataset("general", [], examples)}, CaseConfig(n_tokens=10**6, n_bootstrap=40, batch_tokens=batch_tokens), subject)


def measured(case: Case, coders: Mapping[str, Contender], config: BehaviourConfig = CONFIG) -> Findings:
    findings = Findings()
    measure_behaviour(case, coders, config, findings)
    return findings


def value(findings: Findings, coder: str, metric: str, setting: str = "") -> float:
    return float(findings.resampled[Cell(coder, metric, "general", setting)][0])


@pytest.fixture(scope="module")
def subject() -> CausalLM:
    return tiny_subject()


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return list(tiny_corpus(24))


@pytest.fixture(scope="module")
def mean(subject: CausalLM, examples: list[Example]) -> Tensor:
    return subject.capture(subject.prepare(examples), [SITE])[SITE].mean(0)


# Formulas.

def test_comparison_of_hand_made_predictions() -> None:
    p, q = torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.7, 0.1]]), torch.tensor([[0.25, 0.5, 0.25], [0.1, 0.8, 0.1]])
    targets, own = torch.tensor([0, 2]), own_predictions(p.log() - 2.0)
    values = compare(q.log() + 5.0, targets, own, BehaviourConfig(ranking_k=(1, 2)))
    torch.testing.assert_close(values["ce"], -torch.tensor([0.25, 0.1]).log())
    torch.testing.assert_close(values["kl"], torch.tensor([stats.entropy(p[0], q[0]), stats.entropy(p[1], q[1])]).float(), rtol=1e-5, atol=1e-6)
    assert values["agree"].tolist() == [0.0, 1.0]
    assert values["right"].tolist() == [0.0, 0.0]
    assert compare(q.log(), torch.tensor([1, 1]), None, CONFIG)["right"].tolist() == [1.0, 1.0]
    assert compare(torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([1]), None, CONFIG)["right"].tolist() == [1.0]  # as likely as the likeliest
    assert values["hit@1"].tolist() == [0.0, 0.0]
    assert values["hit@2"].tolist() == [0.0, 0.0]  # both tie for places 2 and 3, whose middle is 2.5
    worst = compare(q.log(), torch.tensor([1, 1]), own, BehaviourConfig(ranking_k=(1,), ties="worst"))
    assert worst["ndcg@1"].tolist() == [1.0, 1.0]


def test_the_direction_of_the_divergence_is_from_the_subject() -> None:
    p, q = torch.tensor([[0.9, 0.1]]), torch.tensor([[0.5, 0.5]])
    values = compare(q.log(), torch.tensor([0]), own_predictions(p.log()), CONFIG)
    assert float(values["kl"]) == pytest.approx(stats.entropy([0.9, 0.1], [0.5, 0.5]), rel=1e-5)
    assert float(values["kl"]) != pytest.approx(stats.entropy([0.5, 0.5], [0.9, 0.1]), rel=1e-2)


def test_candidates_of_probability_zero_cost_nothing() -> None:
    logits = torch.tensor([[1.0, 2.0, float("-inf")]])
    assert float(compare(logits, torch.tensor([0]), own_predictions(logits), CONFIG)["kl"]) == 0
    assert float(compare(logits, torch.tensor([2]), None, CONFIG)["ce"]) == float("inf")


def test_parts_that_fit_the_cache_make_up_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, other = torch.randn(2, 50, 30, generator=torch.Generator().manual_seed(0))
    targets, config = torch.arange(50) % 30, BehaviourConfig(ranking_k=(3,))
    whole = compare(logits, targets, own_predictions(other), config)
    monkeypatch.setattr(predictions, "CACHED_VALUES", 200)
    parts = compare(logits, targets, own_predictions(other), config)
    for quantity, value in whole.items():
        torch.testing.assert_close(parts[quantity], value)


def test_a_loss_that_is_not_finite_is_whose_fault_it_is() -> None:
    sums, group = PredictionSums(torch.zeros(1, dtype=torch.float64)), torch.tensor([0])
    with pytest.raises(SubjectError, match="not finite for 1 tokens"):
        sums.add(SUBJECT, {"ce": torch.tensor([float("inf")])}, group)
    with pytest.raises(SaeError, match="cannot evaluate x: the cross entropy"):
        sums.add("x", {"ce": torch.tensor([float("nan")])}, group, "evaluate x")


# The family.

def test_values_equal_whole_passes_written_out(subject: CausalLM, examples: list[Example], mean: Tensor) -> None:
    found = measured(case_of(subject, examples), contenders(mean, shrunk=Shrunk()), BehaviourConfig(ranking_k=(5,)))
    batch = subject.prepare(examples)
    scored = subject.scored(batch)
    where = batch.counts.nonzero()[scored] - torch.tensor([0, 1])
    targets = batch.token_id[scored]

    def log_p(reconstruct: Any) -> Tensor:
        edits = None if reconstruct is None else {SITE: reconstruct}
        return subject._logits(batch, edits, where, subject._head).double().log_softmax(-1)

    own, spliced, zero, middle = (log_p(edit) for edit in (None, Shrunk().reconstruct, torch.zeros_like, MeanCoder(mean).reconstruct))
    ce = {name: float(-part.gather(1, targets[:, None]).mean()) for name, part in (("own", own), ("sae", spliced), ("zero", zero), ("mean", middle))}
    kl = {name: float((own.exp() * (own - part)).sum(1).mean()) for name, part in (("sae", spliced), ("zero", zero), ("mean", middle))}
    assert value(found, SUBJECT, "ce_nats") == pytest.approx(ce["own"], rel=1e-5)
    assert value(found, SUBJECT, "perplexity") == pytest.approx(np.exp(ce["own"]), rel=1e-4)
    assert value(found, "shrunk", "ce_nats") == pytest.approx(ce["sae"], rel=1e-5)
    assert value(found, "shrunk", "ce_increase_nats") == pytest.approx(ce["sae"] - ce["own"], abs=1e-5)
    assert value(found, "shrunk", "ce_recovered_zero") == pytest.approx((ce["zero"] - ce["sae"]) / (ce["zero"] - ce["own"]), abs=1e-3)
    assert ce["mean"] < ce["own"]  # a random subject does better without its own activations: nothing is lost that could be recovered
    assert "costs the subject less" in found.undefined[Cell("shrunk", "ce_recovered_mean", "general")]
    for name in ("zero", "mean"):
        assert value(found, "shrunk", f"kl_recovered_{name}") == pytest.approx(1 - kl["sae"] / kl[name], abs=1e-4)
    assert value(found, "shrunk", "kl_nats") == pytest.approx(kl["sae"], rel=1e-4)
    assert value(found, "shrunk", "top1_agreement") == pytest.approx(float((own.argmax(1) == spliced.argmax(1)).double().mean()), abs=1e-3)
    rank = (spliced > spliced.gather(1, targets[:, None])).sum(1) + 1
    assert value(found, "shrunk", "hit_rate", "k=5") == pytest.approx(float((rank <= 5).double().mean()), abs=1e-3)
    assert value(found, ZERO, "ce_recovered_zero") == value(found, ZERO, "kl_recovered_zero") == 0
    assert value(found, MEAN, "kl_recovered_mean") == 0


def test_a_perfect_coder_changes_nothing(subject: CausalLM, examples: list[Example], mean: Tensor) -> None:
    found = measured(case_of(subject, examples), contenders(mean, same=Same()))
    assert value(found, "same", "ce_increase_nats") == value(found, "same", "kl_nats") == 0
    assert value(found, "same", "top1_agreement") == value(found, "same", "ce_recovered_zero") == value(found, "same", "kl_recovered_mean") == 1


@pytest.mark.parametrize("config", [BehaviourConfig(resume=False), BehaviourConfig(logits_mb=1)])
def test_settings_of_memory_and_time_change_no_value(subject: CausalLM, examples: list[Example], mean: Tensor, config: BehaviourConfig) -> None:
    expected = measured(case_of(subject, examples), contenders(mean, shrunk=Shrunk()))
    found = measured(case_of(subject, examples, batch_tokens=4096), contenders(mean, shrunk=Shrunk()), config)
    assert found.resampled.keys() == expected.resampled.keys()
    for cell, values in expected.resampled.items():
        np.testing.assert_allclose(found.resampled[cell], values, rtol=1e-4, atol=1e-5)


def test_without_the_ablations_what_is_recovered_is_not_defined(subject: CausalLM, examples: list[Example]) -> None:
    found = measured(case_of(subject, examples), contenders(shrunk=Shrunk()))
    assert "zero ablation is not among" in found.undefined[Cell("shrunk", "ce_recovered_zero", "general")]
    assert value(found, "shrunk", "kl_nats") > 0


def test_an_ablation_that_costs_nothing_defines_nothing(subject: CausalLM, examples: list[Example]) -> None:
    coders = {"same": Contender(Same(), False), ZERO: Contender(Same(), True)}
    found = measured(case_of(subject, examples), coders)
    assert "less than 1e-06 nats" in found.undefined[Cell("same", "ce_recovered_zero", "general")]


def test_a_masked_model_is_measured_on_hidden_tokens_with_codes_of_the_masked_text(examples: list[Example]) -> None:
    subject = MaskedLM(tiny_model("bert"), family_tokenizer("bert"), "bert", 64, mask_frac=0.34)
    found = measured(case_of(subject, examples, "resid_post.0"), contenders(torch.zeros(16), shrunk=Shrunk(), same=Same()))
    loss = subject.loss(subject.prepare(examples), {"resid_post.0": Shrunk().reconstruct})
    assert value(found, "shrunk", "ce_nats") == pytest.approx(float(loss[~loss.isnan()].double().mean()), rel=1e-4)
    assert value(found, "same", "kl_nats") == 0
    assert value(found, "same", "top1_agreement") == 1
    assert not found.notes


def test_of_hidden_tokens_it_is_counted_how_many_are_filled_in_alike_and_right(examples: list[Example]) -> None:
    """Both shares written out: each round hides a group of tokens, and the likeliest candidate stands beside the token and beside the subject's own."""
    subject, site = MaskedLM(tiny_model("bert"), family_tokenizer("bert"), "bert", 64, mask_frac=0.34), "resid_post.0"
    found = measured(case_of(subject, examples, site), contenders(torch.zeros(16), shrunk=Shrunk()))
    batch = subject.prepare(examples)
    right, own_right, alike, n = 0, 0, 0, 0
    for one in subject.scorings(batch):
        plain, spliced = (subject._logits(one.batch, edits, one.where, subject._head).argmax(1) for edits in (None, {site: Shrunk().reconstruct}))
        targets = batch.token_id[one.tokens]
        right, own_right, alike = right + int((spliced == targets).sum()), own_right + int((plain == targets).sum()), alike + int((plain == spliced).sum())
        n += len(targets)
    assert value(found, "shrunk", "top1_accuracy") == pytest.approx(right / n)
    assert value(found, SUBJECT, "top1_accuracy") == pytest.approx(own_right / n)
    assert value(found, "shrunk", "top1_agreement") == pytest.approx(alike / n)
    assert 0 < alike < n


def test_tokens_that_are_never_hidden_are_counted(examples: list[Example]) -> None:
    subject = MaskedLM(tiny_model("bert"), family_tokenizer("bert"), "bert", 64, mask_frac=0.34, mask_rounds=1)
    found = measured(case_of(subject, examples, "resid_post.0"), contenders(shrunk=Shrunk()))
    batch = subject.prepare(examples)
    assert f"general: {int((~subject.scored(batch)).sum())} of {batch.n_tokens} tokens" in found.notes[0]


def test_single_tokens_have_nothing_before_them() -> None:
    subject = tiny_family("llama", TokenSettings(context_tokens=8, bos="never"))
    found = measured(case_of(subject, [Example("a", "k", "a"), Example("b", "q", "b")]), contenders(torch.zeros(16), shrunk=Shrunk()))
    assert not found.resampled
    assert "no token has a prediction" in found.undefined[Cell("shrunk", "ce_nats", "general")]


def test_an_encoder_has_no_predictions_and_says_so(examples: list[Example]) -> None:
    found = measured(case_of(tiny_family("bert_encoder"), examples, "resid_post.0"), contenders(shrunk=Shrunk()))
    assert not found.resampled
    assert found.undefined[Cell("shrunk", "ce_nats", "general")] == "a subject of kind encoder has none"


def test_massive_activations_are_not_replaced(subject: CausalLM, examples: list[Example], mean: Tensor) -> None:
    limit = float(subject.capture(subject.prepare(examples), [SITE])[SITE].norm(dim=1).median())
    limited = subject.with_max_norms({SITE: limit})
    found = measured(case_of(limited, examples), contenders(mean, shrunk=Shrunk()))
    loss = limited.loss(limited.prepare(examples), {SITE: Shrunk().reconstruct})
    assert value(found, "shrunk", "ce_nats") == pytest.approx(float(loss[~loss.isnan()].double().mean()), rel=1e-5)


class Tower(nn.Module):
    """Embeds, maps, scores: a subject that is no language model."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.body, self.head = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 20)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.body(self.embed(ids)).tanh())


def tower(predicts: bool) -> ModuleSubject:
    def prepare(examples: Any) -> Batch:
        rows = [[int(word) for word in example.text.split()] for example in examples]
        width = max(len(row) for row in rows)
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        counts = torch.tensor([[place < len(row) for place in range(width)] for row in rows])
        example, position = counts.nonzero().unbind(1)
        return Batch(ids, counts, counts, example, position, ids[counts], torch.zeros_like(example), torch.ones_like(example))

    def loss(output: Tensor, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(output[batch.counts], (batch.token_id + 1) % 20, reduction="none")

    probe = [Example("p", "1 2 3", "p")]
    return ModuleSubject(Tower(), prepare, "tower", "1", probe, predict=(lambda output, batch: output[batch.counts]) if predicts else None, loss=loss)


@pytest.mark.parametrize("predicts", [True, False])
def test_a_module_with_a_loss_of_its_own(predicts: bool) -> None:
    subject = tower(predicts)
    items = [Example(f"e{number}", " ".join(str((number * 7 + place * 3) % 20) for place in range(4 + number % 3)), f"g{number}") for number in range(12)]
    config = BehaviourConfig(ranking_k=(5,))
    found = measured(case_of(subject, items, "body:output"), contenders(torch.zeros(8), shrunk=Shrunk(), same=Same()), config)
    batch = subject.prepare(items)
    own, spliced = subject.loss(batch).double().mean(), subject.loss(batch, {"body:output": Shrunk().reconstruct}).double().mean()
    assert value(found, "shrunk", "ce_increase_nats") == pytest.approx(float(spliced - own), abs=1e-6)
    assert value(found, "same", "ce_increase_nats") == 0
    assert "does not say which prediction" in found.undefined[Cell("shrunk", "hit_rate", "general")]
    if predicts:
        assert value(found, "shrunk", "kl_nats") > value(found, "same", "kl_nats") == 0
    else:
        assert found.undefined[Cell("shrunk", "kl_nats", "general")] == "the subject gives losses and no predictions"
