"""Disentanglement: pairs, the exchange in closed form, planted attributes read by probes, and a tiny language model that knows some facts."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from sparselight.errors import ConfigError
from sparselight.evaluate.case import Case, Dataset, Tokens
from sparselight.evaluate.config import CaseConfig
from sparselight.evaluate.contender import Contender
from sparselight.evaluate.controls import MeanCoder, pca
from sparselight.evaluate.findings import Findings
from sparselight.evaluate.ravel import RavelConfig, measure_ravel
from sparselight.evaluate.ravel import language_model as lm
from sparselight.evaluate.ravel.mask import basis_of, channels, exchanged, train_mask
from sparselight.evaluate.ravel.measure import CHANNELS, METRICS
from sparselight.evaluate.ravel.pairs import ANY, Pairs, Units, draw_pairs
from sparselight.protocols import Codes, Example, Span
from sparselight.subjects import CausalLM
from sparselight.testing import tiny_subject

N_BOOTSTRAP = 40
COLORS, SHAPES = ("red", "blue", "green"), ("ball", "cube", "cone")


@dataclass
class PositiveCoder:
    """Latents are the positive products with orthonormal directions, so that decode(encode(x)) is x where x is a positive sum of them."""

    W_dec: Float[Tensor, "latent d_in"]

    def __post_init__(self) -> None:
        self.n_latents, self.d_in = self.W_dec.shape

    def encode(self, x: Float[Tensor, "token d_in"]) -> Codes:
        dense = (x @ self.W_dec.T).clamp(min=0)
        token, latent = dense.nonzero(as_tuple=True)
        indptr = torch.cat([torch.zeros(1, dtype=torch.long), torch.bincount(token, minlength=len(x)).cumsum(0)])
        return Codes(dense[token, latent], latent, indptr, self.n_latents)

    def decode(self, codes: Codes) -> Float[Tensor, "token d_in"]:
        return codes.to_dense() @ self.W_dec

    def reconstruct(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        return self.decode(self.encode(x))


def units_of(values: list[list[int]], asks: list[int] | None = None) -> Units:
    table = np.array(values)
    return Units(torch.zeros(len(table), 2), table, np.full(len(table), ANY) if asks is None else np.array(asks), np.arange(len(table)))


# Pairs.


def test_pairs_differ_in_what_is_read() -> None:
    rng = np.random.default_rng(0)
    units = units_of(rng.integers(3, size=(50, 3)).tolist(), rng.integers(3, size=50).tolist())
    pairs = draw_pairs(units, 1, 400, np.random.default_rng(1))
    assert pairs is not None
    assert pairs.is_cause.sum() == 400
    assert len(pairs.base) == 800
    assert (pairs.attribute[pairs.is_cause] == 1).all()
    assert set(pairs.attribute[~pairs.is_cause]) == {0, 2}
    own, other = (units.values[which, pairs.attribute] for which in (pairs.base, pairs.source))
    assert (own != other).all()
    assert (pairs.value == np.where(pairs.is_cause, other, own)).all()
    assert (units.asks[pairs.base] == pairs.attribute).all()
    assert (units.asks[pairs.source] == pairs.attribute).all()


def test_every_differing_pair_is_equally_likely() -> None:
    pairs = draw_pairs(units_of([[0, 0], [0, 1], [1, 0], [2, 1]]), 0, 20_000, np.random.default_rng(0))
    assert pairs is not None
    for base, shares in ((0, [0, 0, 1 / 2, 1 / 2]), (3, [1 / 3, 1 / 3, 1 / 3, 0])):
        sources = pairs.source[pairs.is_cause & (pairs.base == base)]
        assert np.bincount(sources, minlength=4) / len(sources) == pytest.approx(shares, abs=0.03)


def test_units_that_do_not_differ_give_no_pairs() -> None:
    assert draw_pairs(units_of([[0, 0], [0, 1]]), 0, 10, np.random.default_rng(0)) is None
    assert draw_pairs(units_of([[0, 0], [1, 0]]), 0, 10, np.random.default_rng(0)) is None


# The exchange.


@pytest.mark.parametrize("n_latents", [12, 300])
def test_exchange_is_the_formula(n_latents: int) -> None:
    """decode((1 - m) z_base + m z_source), for few latents and for many of which few fire."""
    generator = torch.Generator().manual_seed(0)
    coder = PositiveCoder(torch.randn(n_latents, 12, generator=generator))
    x = torch.randn(20, 12, generator=generator)
    basis, why = basis_of(Contender(coder, is_control=False), [x])
    assert basis is not None
    assert not why
    if n_latents > 12:
        basis = basis._replace(codes=[basis.codes[0].multiply(basis.codes[0] > 6).tocsr()])
    rng = np.random.default_rng(0)
    columns = rng.integers(20, size=(2, 50))
    pairs = Pairs(columns[0], columns[1], np.zeros(50, dtype=int), np.zeros(50, dtype=int), np.ones(50, dtype=bool))
    mask = rng.random(n_latents) < 0.5
    z = torch.from_numpy(basis.codes[0].toarray())
    m = torch.from_numpy(mask).float()
    expected = ((1 - m) * z[pairs.base] + m * z[pairs.source]) @ coder.W_dec
    assert torch.allclose(exchanged(basis, 0, pairs, mask), expected, atol=1e-4)


def test_bases_of_pca_and_of_channels_are_the_activations() -> None:
    x = torch.randn(30, 6, generator=torch.Generator().manual_seed(0)) + 3
    whole = Pairs(np.arange(10), np.arange(10, 20), np.zeros(10, dtype=int), np.zeros(10, dtype=int), np.ones(10, dtype=bool))
    found, _ = basis_of(Contender(pca(x, 6), is_control=True), [x])
    for basis in (found, channels([x])):
        assert basis is not None
        n_latents = len(basis.directions)
        assert torch.allclose(exchanged(basis, 0, whole, np.zeros(n_latents, dtype=bool)), x[:10], atol=1e-4)
        assert torch.allclose(exchanged(basis, 0, whole, np.ones(n_latents, dtype=bool)), x[10:20], atol=1e-4)
    assert basis_of(Contender(MeanCoder(x.mean(0)), is_control=True), [x]) == (None, "the coder has no codes")


# The probe readout.


def planted(side: str, n: int, rotation: Float[Tensor, "d_in d_in"], seed: int) -> Tokens:
    """One token an example, with a color and a shape: x is a sum of the axes of both, rotated."""
    rng = np.random.default_rng(seed)
    color, shape = rng.integers(3, size=(2, n))
    x = torch.zeros(n, 8)
    x[np.arange(n), color] = x[np.arange(n), 3 + shape] = 1
    x += 0.05 * torch.from_numpy(rng.normal(size=x.shape)).float()
    examples = [Example(f"{side}{at}", "ab", f"{side}{at // 4}", {"color": COLORS[color[at]]}, (Span(0, 2, "shape", SHAPES[shape[at]]),)) for at in range(n)]
    groups = sorted({one.group for one in examples})
    number, every = np.array([groups.index(one.group) for one in examples]), np.arange(n)
    return Tokens(f"planted, {side}", examples, every, number, groups, 0 * every, 0 * every, 0 * every, 0 * every + 2, (x @ rotation).float(), every, "s")


ROTATION = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0))).Q


@pytest.fixture(scope="module")
def case() -> Case:
    fit, held_out = planted("fit", 400, ROTATION, 0), planted("held_out", 200, ROTATION, 1)
    result = Case("s", {"planted": Dataset("planted", fit.examples, held_out.examples)}, CaseConfig(n_bootstrap=N_BOOTSTRAP))
    result.put_tokens("planted", fit, held_out)
    return result


def test_planted_attributes_come_apart_in_their_own_latents(case: Case) -> None:
    findings = Findings()
    controls = {"PCA": pca(case.tokens("planted", "fit").read(slice(None)), 8), "mean": MeanCoder(torch.zeros(8))}
    coders = {"planted": Contender(PositiveCoder(ROTATION), is_control=False), **{name: Contender(coder, True) for name, coder in controls.items()}}
    measure_ravel(case, coders, RavelConfig(n_pairs=300, n_test_pairs=200), findings)
    values = {(cell.coder, cell.metric): float(found[0]) for cell, found in findings.resampled.items()}
    assert {name for name, _ in values} == {"planted", "PCA", CHANNELS}
    assert values["planted", "ravel_disentanglement"] > 0.97
    assert values["planted", "ravel_disentanglement"] > values[CHANNELS, "ravel_disentanglement"] + 0.1
    for name in ("planted", "PCA", CHANNELS):
        assert values[name, "ravel_disentanglement"] == pytest.approx((values[name, "ravel_cause"] + values[name, "ravel_isolation"]) / 2)
    assert all(found.shape == (N_BOOTSTRAP + 1,) for found in findings.resampled.values())
    assert {cell.setting for cell in findings.resampled} == {"probe readout"}
    assert {cell.coder for cell in findings.undefined} == {"mean"}
    rows = [row for row in findings.tables["ravel"].to_pylist() if row["coder"] == "planted"]
    assert [row["attribute"] for row in rows] == ["color", "shape"]
    assert all(3 <= row["n_masked"] <= 5 for row in rows)  # its own three axes, and perhaps one that holds only noise
    assert any("200 of 200 held-out tokens" in note for note in findings.notes)


def test_masks_of_nothing_and_of_all_are_worth_one_half(case: Case) -> None:
    """What the docs say of the reference points: cause and isolation are 0 and 1, or 1 and 0."""
    from sparselight.evaluate.ravel.probe_readout import probe_task

    task, _ = probe_task(case, "planted", RavelConfig())
    assert task is not None
    basis = channels([units.x for units in task.units])
    pairs = draw_pairs(task.units[1], 0, 200, np.random.default_rng(0))
    assert pairs is not None
    for size, cause in ((np.zeros, 0), (np.ones, 1)):
        right = task.readouts[1].right(pairs, exchanged(basis, 1, pairs, size(8, dtype=bool)))
        assert (right[pairs.is_cause].mean(), right[~pairs.is_cause].mean()) == (cause, 1 - cause)


@pytest.mark.parametrize(("settings", "words"), [
    ({"attributes": ("color",)}, "1 kind(s) of annotation have two values with 20 or more tokens on both sides"),
    ({"attributes": ("color", "taste")}, "two kinds are needed (ravel.attributes)"),
    ({"least_units": 300}, "0 kind(s)"),
])
def test_too_few_attributes_are_said(case: Case, settings: dict[str, object], words: str) -> None:
    findings = Findings()
    measure_ravel(case, {"planted": Contender(PositiveCoder(ROTATION), is_control=False)}, RavelConfig.parse(settings), findings)
    assert not findings.resampled
    assert {(cell.coder, cell.metric) for cell in findings.undefined} == {(name, metric) for name in ("planted", CHANNELS) for metric in METRICS}
    assert all(words in why for why in findings.undefined.values())


def test_datasets_without_a_fit_side_are_said(case: Case) -> None:
    held_out, findings = Case("s", {"planted": Dataset("planted", (), case.datasets["planted"].held_out)}, CaseConfig(n_bootstrap=N_BOOTSTRAP)), Findings()
    measure_ravel(held_out, {"planted": Contender(PositiveCoder(ROTATION), is_control=False)}, RavelConfig(), findings)
    assert set(findings.undefined.values()) == {"the dataset has no fit side, on which masks are trained"}


def test_masks_are_the_same_when_trained_again(case: Case) -> None:
    found = []
    for _ in range(2):
        findings = Findings()
        measure_ravel(case, {"planted": Contender(PositiveCoder(ROTATION), is_control=False)}, RavelConfig(n_pairs=40, n_test_pairs=40), findings)
        found.append(findings)
    assert all(np.array_equal(found[0].resampled[cell], found[1].resampled[cell], equal_nan=True) for cell in found[0].resampled)


# The language model readout.

ENTITIES = [f"e{number}" for number in range(36)]
FACTS = {entity: (COLORS[number % 3], SHAPES[number // 3 % 3]) for number, entity in enumerate(ENTITIES)}
TEMPLATES = {"color": ("the {entity} has color",), "shape": ("the {entity} has shape",)}
LM_CONFIG = RavelConfig(templates=TEMPLATES, n_pairs=60, n_test_pairs=20, n_generated_tokens=2, lr=1e-2)


@pytest.fixture(scope="module")
def knower() -> CausalLM:
    """A tiny language model trained on the facts until it knows them."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    names = ["<s>", "<unk>", "the", "has", "color", "shape", *COLORS, *SHAPES, *ENTITIES]
    tokenizer = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(vocab_size=len(names), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                                             max_position_embeddings=32, bos_token_id=0, eos_token_id=0))
    text = [f"the {entity} has {attribute} {FACTS[entity][index]}" for entity in ENTITIES for index, attribute in enumerate(TEMPLATES)]
    ids = torch.tensor([[0, *tokenizer.encode(line).ids, 0] for line in text])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return CausalLM(model, PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>", unk_token="<unk>"), "knower", 16)


def fact_case(subject: CausalLM | None, n_fit: int = 24) -> Case:
    examples = [Example(entity, f"the {entity} has", entity, dict(zip(TEMPLATES, FACTS[entity], strict=True)), (Span(4, 4 + len(entity), "entity", "thing"),))
                for entity in ENTITIES]
    return Case("embed", {"facts": Dataset("facts", examples[:n_fit], examples[n_fit:])}, CaseConfig(n_bootstrap=N_BOOTSTRAP), subject)


def test_facts_are_read_from_what_the_subject_writes(knower: CausalLM) -> None:
    case = fact_case(knower)
    task, why = lm.language_task(case, "facts", LM_CONFIG)
    assert task is not None, why
    fit, held_out = task.units
    assert (len(fit.group), len(held_out.group)) == (48, 24)
    assert "48 of 48 prompts of the fit side and 24 of 24" in task.note
    batch = knower.prepare([prompt.example for prompt in task.readouts[1].prompts[:1]])
    at = task.readouts[1].at[0]
    assert torch.allclose(held_out.x[0], knower.capture(batch, [case.site])[case.site][at], atol=1e-5)
    assert knower.token_text(int(batch.token_id[at])) == task.readouts[1].prompts[0].entity
    assert knower.token_text(int(task.readouts[1].first[0])) == task.readouts[1].names[0][held_out.values[0, 0]]


def test_an_exchanged_entity_is_what_the_subject_writes_about(knower: CausalLM) -> None:
    """All channels exchanged: it says the source's value. None: it goes on saying the base's. The loss is small where it is right."""
    task, _ = lm.language_task(fact_case(knower), "facts", LM_CONFIG)
    assert task is not None
    pairs = draw_pairs(task.units[1], 0, 20, np.random.default_rng(0))
    assert pairs is not None
    basis, readout = channels([units.x for units in task.units]), task.readouts[1]
    for mask, cause in ((np.zeros(32, dtype=bool), 0), (np.ones(32, dtype=bool), 1)):
        x = exchanged(basis, 1, pairs, mask)
        right = readout.right(pairs, x)
        assert (right[pairs.is_cause].mean(), right[~pairs.is_cause].mean()) == (cause, 1 - cause)
        own = np.flatnonzero(right)
        assert float(readout.loss(pairs.take(own), x[own])) < 0.5 < float(readout.loss(pairs.take(np.flatnonzero(~right)), x[~right]))


def test_the_loss_reaches_the_mask_through_the_subject(knower: CausalLM) -> None:
    task, _ = lm.language_task(fact_case(knower), "facts", LM_CONFIG)
    assert task is not None
    pairs = draw_pairs(task.units[0], 0, 4, np.random.default_rng(0))
    assert pairs is not None
    x = task.units[0].x[pairs.base].clone().requires_grad_(True)
    loss = task.readouts[0].loss(pairs, x)
    gradient = torch.autograd.grad(loss, x)[0]
    assert torch.is_grad_enabled()
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    size = 1e-3
    slope = (task.readouts[0].loss(pairs, x + size * direction) - task.readouts[0].loss(pairs, x - size * direction)).detach() / (2 * size)
    assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=0.05, abs=1e-3)


def test_language_readout_end_to_end(knower: CausalLM) -> None:
    case, findings = fact_case(knower), Findings()
    x = case.tokens("facts", "fit").read(slice(None))
    measure_ravel(case, {"PCA": Contender(pca(x, 24), is_control=True)}, LM_CONFIG, findings)
    values = {(cell.coder, cell.metric): float(found[0]) for cell, found in findings.resampled.items() if cell.setting == lm.SETTING}
    assert set(values) == {(name, metric) for name in ("PCA", CHANNELS) for metric in METRICS}
    assert all(0 <= value <= 1 for value in values.values())
    assert values["PCA", "ravel_disentanglement"] > 0.6
    assert case.passed_tokens > 0


def test_trained_mask_lowers_the_loss(knower: CausalLM) -> None:
    task, _ = lm.language_task(fact_case(knower), "facts", LM_CONFIG)
    assert task is not None
    basis, pairs = channels([units.x for units in task.units]), draw_pairs(task.units[0], 0, 60, np.random.default_rng(0))
    assert pairs is not None
    mask = train_mask(basis, 0, pairs, task.readouts[0], LM_CONFIG)
    losses = {name: float(task.readouts[0].loss(pairs, exchanged(basis, 0, pairs, chosen))) for name, chosen in (
        ("trained", mask), ("nothing", np.zeros(32, dtype=bool)), ("all", np.ones(32, dtype=bool)))}
    assert losses["trained"] < min(losses["nothing"], losses["all"])


def test_what_the_language_readout_needs_is_said(knower: CausalLM) -> None:
    assert lm.language_task(fact_case(None), "facts", LM_CONFIG)[1].startswith("it runs the subject, and none is given")
    missing = RavelConfig(templates=TEMPLATES, entity="person")
    assert "no example of the fit side has a span 'person' (ravel.entity)" in lm.language_task(fact_case(knower), "facts", missing)[1]
    long = RavelConfig(templates={**TEMPLATES, "shape": ("the " * 20 + "{entity} has shape",)})
    assert "more than a row holds (subject.context_tokens)" in lm.language_task(fact_case(knower), "facts", long)[1]
    ignorant = lm.language_task(fact_case(tiny_subject()), "facts", LM_CONFIG)
    assert ignorant == (None, "the subject completes none of 48 prompts correctly")


@pytest.mark.parametrize(("text", "value", "right"), [
    (" Paris, in", "paris", True), ("\"Paris\"", "Paris", True), ("Par", "Paris", True), ("London", "Paris", False), ("  ", "Paris", False),
    ("in Paris", "Paris", False),
])
def test_what_counts_as_said(text: str, value: str, right: bool) -> None:
    assert lm.says(text, value) == right


@pytest.mark.parametrize(("templates", "words"), [
    ({"color": ["{entity} has color"]}, "names one attribute"), ({"color": ["it has"], "shape": ["{entity} is"]}, "does not contain {entity} once"),
    ({"color": ["the {entity}"], "shape": ["{entity} is"]}, "with words after it"), ({"color": [], "shape": ["{entity} is"]}, "templates.color is empty"),
])
def test_faulty_templates_are_refused(templates: dict[str, list[str]], words: str) -> None:
    with pytest.raises(ConfigError, match="templates") as refused:
        RavelConfig.parse({"templates": templates}, "evaluate.ravel")
    assert words in str(refused.value)
