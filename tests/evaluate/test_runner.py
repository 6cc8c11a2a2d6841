"""The whole evaluation on a tiny subject: closed-form coders, rows, paired differences, determinism, refusals."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from sparselight.errors import ConfigError, CorpusError, SaeError, SparselightError
from sparselight.evaluate import Contender, EvaluateConfig, evaluate, pca, untrained
from sparselight.protocols import Codes, Example, Reconstructor
from sparselight.records import EvalRecord, EvalRow
from sparselight.sae import Sae, initialize, stitch
from sparselight.subjects import CausalLM
from sparselight.testing import tiny_corpus, tiny_subject
from sparselight.vocab import METRICS

SITE = "resid_post.1"
CONFIG = EvaluateConfig(n_tokens=700, n_bootstrap=60, batch_tokens=256)


class Perfect:
    def reconstruct(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        return x


class Shrunk:
    def __init__(self, factor: float):
        self.factor = factor

    def reconstruct(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        return self.factor * x


class Broken:
    def reconstruct(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        return x / 0


class Largest(torch.nn.Module):
    """A sparse coder in the standard basis: keeps the `k` largest entries of a token where they are above 0."""

    def __init__(self, d_in: int, k: int):
        super().__init__()
        self.d_in, self.n_latents, self.k = d_in, d_in, k
        self.scale = torch.nn.Parameter(torch.ones(()))

    def encode(self, x: Float[Tensor, "token d_in"]) -> Codes:
        top = x.topk(self.k, dim=1)
        dense = torch.zeros_like(x).scatter(1, top.indices, top.values.clamp(min=0))
        tokens, latents = dense.nonzero(as_tuple=True)
        indptr = torch.cat([torch.zeros(1, dtype=torch.long), torch.bincount(tokens, minlength=len(x)).cumsum(0)])
        return Codes(self.scale * dense[tokens, latents], latents, indptr, self.n_latents)

    def decode(self, codes: Codes) -> Float[Tensor, "token d_in"]:
        return codes.to_dense()

    def reconstruct(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        raise AssertionError("a coder with codes is measured through them")


@pytest.fixture(scope="module")
def subject() -> CausalLM:
    return tiny_subject()


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return list(tiny_corpus(48))


@pytest.fixture(scope="module")
def activations(subject: CausalLM, examples: list[Example]) -> Float[Tensor, "token d_in"]:
    return subject.capture(subject.prepare(examples), [SITE])[SITE]


def coders_of(coders: Mapping[str, Reconstructor]) -> dict[str, Contender]:
    return {name: Contender(coder, is_control=name.startswith("control")) for name, coder in coders.items()}


def run(subject: CausalLM, datasets: Mapping[str, Sequence[Example]], mean: Tensor, coders: Mapping[str, Reconstructor], **more: Any) -> EvalRecord:
    return evaluate(coders_of(coders), subject, datasets, SITE, mean, **({"config": CONFIG} | more))


@pytest.fixture(scope="module")
def record(subject: CausalLM, examples: list[Example], activations: Tensor) -> EvalRecord:
    coders = {"base": Shrunk(0.5), "better": Shrunk(0.75), "perfect": Perfect(), "sparse": Largest(32, 4), "control": Largest(32, 2)}
    domain = [example for example in examples if example.labels["package"] == "security"]
    return run(subject, {"general": examples, "domain": domain}, activations.mean(0), coders)


def find(rows: list[EvalRow], coder: str, metric: str, dataset: str = "general") -> EvalRow:
    found = [row for row in rows if (row.coder, row.metric, row.dataset) == (coder, metric, dataset)]
    assert len(found) == 1
    return found[0]


def value(record: EvalRecord, coder: str, metric: str, dataset: str = "general") -> float:
    return find(record.rows, coder, metric, dataset).value.value


def test_a_perfect_coder_changes_nothing(record: EvalRecord) -> None:
    for dataset in ("general", "domain"):
        assert value(record, "perfect", "fvu", dataset) == 0
        assert value(record, "perfect", "ce_nats", dataset) == value(record, "subject", "ce_nats", dataset)
        assert value(record, "perfect", "ce_increase_nats", dataset) == 0


def test_the_subjects_own_loss_is_that_of_the_subject(record: EvalRecord, subject: CausalLM, examples: list[Example]) -> None:
    assert record.n_tokens["general"] >= 700
    config = EvaluateConfig(n_tokens=10**6, n_bootstrap=40)
    everything = evaluate({"base": Contender(Perfect(), False)}, subject, {"all": examples}, SITE, torch.zeros(32), config)
    loss = subject.loss(subject.prepare(examples))
    assert everything.n_tokens == {"all": len(loss)}
    assert value(everything, "subject", "ce_nats", "all") == pytest.approx(float(loss.double().mean()), abs=1e-5)


def test_values_equal_the_formulas_on_all_tokens(subject: CausalLM, examples: list[Example], activations: Tensor) -> None:
    mean = activations.mean(0)
    record = run(subject, {"all": examples}, mean, {"base": Shrunk(0.75)}, config=EvaluateConfig(n_tokens=10**6, n_bootstrap=40))
    x = activations.double()
    variance = (x - x.mean(0)).square().sum()
    assert value(record, "base", "fvu", "all") == pytest.approx(float((0.25 * x).square().sum() / variance), rel=1e-5)
    assert value(record, "zero ablation", "fvu", "all") == pytest.approx(float(x.square().sum() / variance), rel=1e-5)
    assert value(record, "mean ablation", "fvu", "all") == pytest.approx(1, abs=1e-6)
    assert value(record, "base", "cosine", "all") == pytest.approx(1, abs=1e-6)
    batch = subject.prepare(examples)
    spliced = float(subject.loss(batch, edits={SITE: Shrunk(0.75).reconstruct}).double().mean())
    assert value(record, "base", "ce_nats", "all") == pytest.approx(spliced, abs=1e-5)


def test_the_ablations_recover_nothing_of_themselves(record: EvalRecord) -> None:
    for dataset in ("general", "domain"):
        for row in record.rows:
            if row.dataset == dataset and (row.coder, row.metric) in {("zero ablation", "ce_recovered_zero"), ("mean ablation", "ce_recovered_mean")}:
                assert row.value.value == 0
    assert value(record, "zero ablation", "cosine") == 0


def test_every_coder_has_its_rows_and_only_sparse_ones_have_codes(record: EvalRecord) -> None:
    assert {row.metric for row in record.rows + record.differences} <= set(METRICS)
    coders = ["base", "better", "perfect", "sparse", "control", "zero ablation", "mean ablation"]
    for dataset in ("general", "domain"):
        for coder in coders:
            has = {row.metric for row in record.rows if (row.coder, row.dataset) == (coder, dataset)}
            assert {"fvu", "explained_variance", "cosine", "ce_nats", "ce_increase_nats"} <= has
            assert ({"l0", "dead_frac"} <= has) == (coder in ("sparse", "control"))
    assert {row.coder for row in record.rows if row.is_control} == {"control", "subject", "zero ablation", "mean ablation"}
    assert 1 < value(record, "control", "l0") <= 2 < value(record, "sparse", "l0") <= 4


def test_values_carry_their_evidence(record: EvalRecord) -> None:
    row = find(record.rows, "base", "fvu")
    assert (row.value.n, row.value.unit, row.value.seeds) == (8, "groups", [0])
    assert row.value.low is not None
    assert row.value.high is not None
    assert row.value.low < row.value.value < row.value.high
    dead = find(record.rows, "sparse", "dead_frac").value
    assert (dead.low, dead.n, dead.unit) == (None, record.n_tokens["general"], "tokens")
    assert any("general: only 8 groups" in note for note in record.notes)


def test_differences_are_paired_with_the_base(record: EvalRecord) -> None:
    assert {row.coder for row in record.differences} == {"better", "perfect", "sparse", "control"}
    for metric in ("fvu", "explained_variance", "ce_nats"):
        difference = find(record.differences, "better", metric).value
        assert difference.value == pytest.approx(value(record, "better", metric) - value(record, "base", metric), abs=1e-12)
    change = find(record.differences, "better", "fvu_change_frac").value
    assert change.value == pytest.approx(0.25**2 / 0.5**2 - 1, rel=1e-6)
    assert change.low == pytest.approx(change.high, rel=1e-6)  # the same in every group, so the pairing leaves no uncertainty
    assert not [row for row in record.differences if row.metric in ("l0", "dead_frac")]


def test_differences_of_sparse_coders_have_l0_and_dead(subject: CausalLM, examples: list[Example], activations: Tensor) -> None:
    coders = {"few": Largest(32, 2), "many": Largest(32, 4)}
    record = run(subject, {"general": examples}, activations.mean(0), coders, base="few")
    assert find(record.differences, "many", "l0").value.value > 0
    dead = find(record.differences, "many", "dead_frac").value
    assert dead.value == pytest.approx(value(record, "many", "dead_frac") - value(record, "few", "dead_frac"))


def test_saes_with_a_residual_and_controls(subject: CausalLM, examples: list[Example], activations: Tensor) -> None:
    base, residual = (initialize(Sae(32, n), bias, torch.Generator().manual_seed(n)) for n, bias in ((64, activations.mean(0)), (16, None)))
    base.threshold.fill_(float(activations.std()))
    both = stitch(base, residual)
    coders = {"base": base, "both": both, "control random": untrained(base, activations, seed=1), "control pca": pca(activations, 5)}
    record = run(subject, {"general": examples}, activations.mean(0), coders)
    assert value(record, "both", "l0") > value(record, "base", "l0") > 0
    batch = subject.prepare(examples)
    whole = run(subject, {"general": examples}, activations.mean(0), coders, config=EvaluateConfig(n_tokens=10**6, n_bootstrap=40))
    assert value(whole, "both", "l0") == pytest.approx(float(both.encode(activations).indptr.diff().double().mean()))
    assert value(whole, "control random", "l0") == pytest.approx(value(whole, "base", "l0"), rel=0.01)
    spliced = subject.loss(batch, edits={SITE: both.reconstruct}).double().mean()
    assert value(whole, "both", "ce_nats") == pytest.approx(float(spliced), abs=1e-5)
    x = activations.double()
    error = (x - both.reconstruct(activations).double()).square().sum()
    assert value(whole, "both", "fvu") == pytest.approx(float(error / (x - x.mean(0)).square().sum()), rel=1e-4)
    assert 0 < value(whole, "control pca", "explained_variance") < 1


def test_equal_inputs_give_equal_records(subject: CausalLM, examples: list[Example], activations: Tensor) -> None:
    coders = {"base": Shrunk(0.5), "sparse": Largest(32, 4)}
    first, again = (run(subject, {"general": part}, activations.mean(0), coders) for part in (examples, examples[::-1]))
    timeless = [record.model_copy(update={"families": {name: one.model_copy(update={"seconds": 0}) for name, one in record.families.items()}})
                for record in (first, again)]
    assert timeless[0] == timeless[1]


def test_one_group_gives_values_without_intervals(subject: CausalLM, examples: list[Example], activations: Tensor) -> None:
    single = [example for example in examples if example.group == examples[0].group]
    record = run(subject, {"single": single}, activations.mean(0), {"base": Shrunk(0.5), "other": Shrunk(0.6)})
    assert all(row.value.low is None and row.value.high is None for row in record.rows + record.differences)
    assert any("one group" in note for note in record.notes)


def test_what_is_undefined_is_left_out_and_listed(subject: CausalLM, examples: list[Example], activations: Tensor) -> None:
    record = run(subject, {"general": examples}, activations.mean(0), {"base": Perfect(), "other": Shrunk(0.9)})
    assert not [row for row in record.differences if row.metric == "fvu_change_frac"]
    listed = [(entry.coder, entry.reference, entry.dataset) for entry in record.undefined if entry.metric == "fvu_change_frac"]
    assert listed == [("other", "base", "general")]


def test_tokens_without_a_prediction_are_counted(subject: CausalLM, examples: list[Example], activations: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, whole = subject.prepare(examples), CausalLM.scored
    expected = subject.loss(batch)[batch.position > 0].double().mean()
    monkeypatch.setattr(CausalLM, "scored", lambda self, batch: whole(self, batch) & (batch.position > 0))
    record = run(subject, {"general": examples}, activations.mean(0), {"base": Perfect()}, config=EvaluateConfig(n_tokens=10**6, n_bootstrap=40))
    assert any(f"general: {len(examples)} of {record.n_tokens['general']} tokens have no prediction" in note for note in record.notes)
    assert value(record, "subject", "ce_nats") == pytest.approx(float(expected), abs=1e-5)


def test_progress_ends_at_its_total(subject: CausalLM, examples: list[Example], activations: Tensor) -> None:
    calls: list[tuple[float, float]] = []
    run(subject, {"general": examples}, activations.mean(0), {"base": Perfect()}, progress=lambda done, total, note="": calls.append((done, total)))
    assert calls == sorted(calls)
    assert calls[-1][0] == calls[-1][1]


@pytest.mark.parametrize(("coders", "datasets", "error", "words"), [
    ({"base": Perfect(), "bad": Broken()}, None, SaeError, r"the coder 'bad' on the dataset 'general'.*not finite"),
    ({"base": Sae(32, 4, subtract_b_dec=False, skip=True)}, None, SaeError, "the coder 'base'.*it is a transcoder"),
    ({"base": Perfect()}, {"empty": []}, CorpusError, "the dataset 'empty, held-out side'.*no example"),
    ({"base": Perfect()}, {}, ConfigError, "there is no dataset"),
    ({"basis": Perfect()}, None, ConfigError, "'base'.*not among the coders.*'basis'"),
    ({"base": Perfect(), "subject": Perfect()}, None, ConfigError, "the evaluation's own"),
])
def test_refusals(subject: CausalLM, examples: list[Example], activations: Tensor, coders: dict[str, Reconstructor], datasets: dict[str, list[Example]] | None,
                  error: type[SparselightError], words: str) -> None:
    with pytest.raises(error, match=words):
        run(subject, {"general": examples} if datasets is None else datasets, activations.mean(0), coders)


def test_a_mean_of_another_width_is_refused(subject: CausalLM, examples: list[Example]) -> None:
    with pytest.raises(SaeError, match="width 32"):
        run(subject, {"general": examples}, torch.zeros(31), {"base": Perfect()})
