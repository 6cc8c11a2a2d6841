"""Absorption: the score in closed form and beside a slow twin, rankings beside scipy, planted hierarchies, spelling prompts, refusals."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float
from scipy import sparse
from scipy.optimize import minimize
from torch import Tensor

from sparselight.evaluate.absorption import AbsorptionConfig, measure_absorption
from sparselight.evaluate.absorption.first_letter import KIND, too_few_words, vocabulary_words, word_tokens
from sparselight.evaluate.absorption.measure import METRICS, mean_over_classes
from sparselight.evaluate.absorption.ranking import f1_scores, l1_probe, main_latents, ranked_latents
from sparselight.evaluate.absorption.score import score_units
from sparselight.evaluate.case import Case, Dataset, Tokens
from sparselight.evaluate.config import CaseConfig
from sparselight.evaluate.contender import Contender
from sparselight.evaluate.controls import MeanCoder
from sparselight.evaluate.findings import Cell, Findings
from sparselight.evaluate.runner import run_suite
from sparselight.evaluate.suite import EvaluateConfig
from sparselight.protocols import Codes, Example, Span
from sparselight.sae import Sae
from sparselight.subjects import CausalLM
from sparselight.testing import tiny_subject

CONFIG = AbsorptionConfig()
N_BOOTSTRAP = 40
S = 2**-0.5


@dataclass
class PlantedCoder:
    """Codes are thresholded products with `encoder`; with `absorbs`, a latent takes over from another where it fires."""

    encoder: Float[Tensor, "d_in latent"]
    W_dec: Float[Tensor, "latent d_in"]
    absorbs: tuple[tuple[int, int], ...] = ()  # (child, parent)

    def __post_init__(self) -> None:
        self.n_latents, self.d_in = self.W_dec.shape

    def encode(self, x: Float[Tensor, "token d_in"]) -> Codes:
        dense = x @ self.encoder
        dense = torch.where(dense > 0.5, dense, 0.0)
        for child, parent in self.absorbs:
            dense[dense[:, child] > 0, parent] = 0
        return Codes(*_csr(dense), self.n_latents)

    def decode(self, codes: Codes) -> Float[Tensor, "token d_in"]:
        return codes.to_dense() @ self.W_dec

    def reconstruct(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        return self.decode(self.encode(x))


def _csr(dense: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    token, latent = dense.nonzero(as_tuple=True)
    return dense[token, latent], latent, torch.cat([torch.zeros(1, dtype=torch.long), torch.bincount(token, minlength=len(dense)).cumsum(0)])


# The score.

DIRECTIONS = np.array([[1, 0, 0], [S, S, 0], [0, 1, 0], [0.2, 0, np.sqrt(0.96)]])  # main, child, not aligned, weakly aligned; the probe is the first axis


@pytest.mark.parametrize(("z", "projection", "full", "fraction", "missed"), [
    pytest.param([1, 0, 0, 0], 1, False, 0, False, id="the main latent brings all"),
    pytest.param([0, S * 2, 0, 0], 1, True, 1, True, id="the child's latent brings all"),
    pytest.param([0.5, S, 0, 0], 1, False, 0.5, False, id="half and half"),
    pytest.param([0, 0, 3, 0], 1, False, 0, True, id="the main latent is silent, the other is not aligned"),
    pytest.param([0, 0.39 / S, 0, 0], 1, False, 0, True, id="the child's latent brings too little"),
    pytest.param([0, 0.41 / S, 0, 0], 1, True, 1, True, id="the child's latent just brings enough"),
    pytest.param([0, 0, 0, 3], 1, True, 1, True, id="a weakly aligned latent brings enough"),
    pytest.param([0, 0, 0, 0], 1, False, 0, True, id="nothing fires"),
    pytest.param([0, S * 2, 0, 0], -1, False, 0, True, id="the activation points away from the probe"),
    pytest.param([0.8, S, 0, 0], 1, False, 0.2, False, id="no more than what the main latent leaves"),
    pytest.param([1.2, S, 0, 0], 1, False, 0, False, id="the main latent brings more than there is"),
])
def test_score_in_closed_form(z: list[float], projection: float, full: bool, fraction: float, missed: bool) -> None:
    along = DIRECTIONS[:, 0]
    found = score_units(sparse.csr_matrix([z]), along, along, np.array([projection]), [0], CONFIG)
    assert (bool(found.full[0]), bool(found.missed[0])) == (full, missed)
    assert found.fraction[0] == pytest.approx(fraction)


def test_no_more_latents_absorb_than_the_setting_says() -> None:
    along = np.array([1, 1, 1, 1, 1.0])
    z = sparse.csr_matrix([[0, 0.13, 0.13, 0.13, 0.13]])
    assert score_units(z, along, along, np.ones(1), [0], CONFIG).fraction[0] == 0
    assert score_units(z, along, along, np.ones(1), [0], AbsorptionConfig(max_absorbing=4)).fraction[0] == 1


def test_a_class_without_main_latents_has_nothing_to_absorb() -> None:
    along = DIRECTIONS[:, 0]
    found = score_units(sparse.csr_matrix([[0, S * 2, 0, 0]]), along, along, np.ones(1), [], CONFIG)
    assert (found.full[0], found.fraction[0], found.missed[0]) == (False, 0, True)


def slow_score(z: np.ndarray, along: np.ndarray, cos: np.ndarray, projection: float, main: list[int], config: AbsorptionConfig) -> tuple[bool, float]:
    """The steps one after another, for one unit, as SAEBench's text has them."""
    projections = [float(z[f] * along[f]) for f in range(len(z))]
    top = max(range(len(z)), key=lambda f: projections[f])
    silent = all(z[f] < 1e-8 for f in main)
    full = silent and cos[top] >= config.full_cos and projection > 0 and projections[top] / projection >= config.projection_frac
    others = sorted((projections[f] for f in range(len(z)) if f not in main and cos[f] >= config.fraction_cos and projections[f] > 0), reverse=True)
    absorbing, of_main = sum(others[: config.max_absorbing]), sum(projections[f] for f in main)
    if of_main >= projection or absorbing / projection < config.projection_frac:
        return full, 0.0
    if of_main <= 0:
        return full, 1.0
    shared = min(absorbing, projection - of_main)
    return full, min(max(shared / (shared + of_main), 0.0), 1.0)


@pytest.mark.parametrize("seed", range(5))
def test_score_is_that_of_the_slow_twin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, m = 300, 12
    w = rng.normal(size=(m, 6)) * rng.uniform(0.5, 2, (m, 1))
    p = rng.normal(size=6)
    p /= np.linalg.norm(p)
    z = np.where(rng.random((n, m)) < 0.3, rng.exponential(size=(n, m)), 0)
    along = w @ p
    cos = along / np.linalg.norm(w, axis=1)
    projection, main = rng.normal(1, 1, n), [int(along.argmax()), *np.argsort(along)[: seed % 3].tolist()]
    found = score_units(sparse.csr_matrix(z), along, cos, projection, main, CONFIG)
    slow = [slow_score(z[unit], along, cos, float(projection[unit]), main, CONFIG) for unit in range(n)]
    assert found.full.tolist() == [full for full, _ in slow]
    assert found.fraction == pytest.approx([fraction for _, fraction in slow], abs=1e-12)
    assert 0 < found.full.mean() < 1
    assert len(np.unique(found.fraction)) > 5


def test_mean_over_classes_leaves_out_classes_that_a_resample_lacks() -> None:
    found = mean_over_classes(np.array([[1.0, 0, 0], [1, 1, 0]]), np.array([[2.0, 0, 0], [4, 4, 0]]))
    assert found[:2].tolist() == [0.375, 0.25]
    assert np.isnan(found[2])


# The ranking.


def test_l1_probe_is_the_minimum() -> None:
    rng = np.random.default_rng(0)
    z = np.where(rng.random((400, 30)) < 0.2, rng.exponential(2, (400, 30)), 0)
    y = z[:, 3] + 0.5 * z[:, 7] - 0.5 * z[:, 9] + 0.3 * rng.normal(size=400) > 1.2
    l1, s = 0.02, np.where(y, (~y).sum() / y.sum(), 1.0) / len(y)

    def objective(parts: np.ndarray) -> tuple[float, np.ndarray]:
        w, b = parts[:30] - parts[30:60], parts[60]
        margin = z @ w + b
        residual = s * (1 / (1 + np.exp(-margin)) - y)
        g = z.T @ residual
        return float(s @ np.logaddexp(0, np.where(y, -margin, margin)) + l1 * parts[:60].sum()), np.concatenate([g + l1, l1 - g, [residual.sum()]])

    reference = minimize(objective, np.zeros(61), jac=True, method="L-BFGS-B", bounds=[(0, None)] * 60 + [(None, None)],
                         options={"maxiter": 10_000, "maxfun": 100_000, "ftol": 1e-15, "gtol": 1e-9})
    w, pull = l1_probe(sparse.csc_matrix(z), y, l1)
    assert w == pytest.approx(reference.x[:30] - reference.x[30:60], abs=2e-3)
    assert (np.abs(pull) <= l1 * 1.01).all()
    assert ranked_latents(w, pull, 2).tolist() == [3, 7]
    assert 9 not in ranked_latents(w, pull, 30)


def test_l1_probe_grows_its_working_set() -> None:
    """More latents are needed than join at once."""
    rng = np.random.default_rng(1)
    z = np.eye(300).repeat(6, axis=0) * rng.uniform(1, 2, (1800, 1))
    y = np.arange(1800) < 600
    w, pull = l1_probe(sparse.csc_matrix(z), y, 1e-4)
    assert (w[:100] > 0).all()
    assert (np.abs(pull) <= 1e-4 * 1.01).all()
    assert set(ranked_latents(w, pull, 10)) <= set(range(100))


def test_main_latents_are_as_many_as_the_f1_gains_by() -> None:
    rng = np.random.default_rng(0)
    kind = rng.integers(4, size=800)  # class 0 is one latent, class 1 is two
    z = np.zeros((800, 6))
    z[kind == 0, 0] = 1
    z[kind == 1, 1 + rng.integers(2, size=(kind == 1).sum())] = 1
    z[:, 3:] = rng.random((800, 3)) < 0.5
    y, codes = np.stack([kind == 0, kind == 1], axis=1), sparse.csr_matrix(z)
    ranked = [np.array([0, 3, 4]), np.array([2, 1, 5])]
    assert main_latents(ranked, codes[:400], y[:400], codes[400:], y[400:], CONFIG) == [[0], [2, 1]]
    assert main_latents(ranked, codes[:400], y[:400], codes[400:], y[400:], AbsorptionConfig(max_k=1)) == [[0], [2]]


def test_f1_scores() -> None:
    predicted, y = np.array([[1, 0], [1, 0], [0, 0], [1, 0]], dtype=bool), np.array([[1, 1], [1, 0], [1, 0], [0, 0]], dtype=bool)
    assert f1_scores(predicted, y).tolist() == [2 * 2 / 6, 0]


# Planted hierarchies.

N_CLASSES, N_CHILDREN = 3, 4


def planted_tokens(side: str, n: int, seed: int) -> Tokens:
    """Tokens of three classes with four children each: x is the class's axis and the child's; some tokens have no class.

    The first child of each is so rare that to add its latent to a probe gains less than 0.03 of F1.
    """
    rng = np.random.default_rng(seed)
    children = rng.choice((N_CLASSES + 1) * N_CHILDREN, size=n, p=np.tile([0.03, 0.32, 0.32, 0.33], N_CLASSES + 1) / (N_CLASSES + 1))
    size = rng.uniform(2, 3, n)
    x = np.zeros((n, N_CLASSES + (N_CLASSES + 1) * N_CHILDREN))
    parents = children // N_CHILDREN
    has = parents < N_CLASSES
    x[np.flatnonzero(has), parents[has]] = size[has]
    x[np.arange(n), N_CLASSES + children] = size
    x += 0.01 * rng.normal(size=x.shape)
    n_examples = n // 20
    example = np.arange(n) // 20
    labels = {"kind": "all"}
    examples = [Example(f"{side}{number}", "a" * 20, f"{side}{number // 2}", labels,
                        tuple(Span(at, at + 1, "parent", f"class {parents[number * 20 + at]}") for at in range(20) if has[number * 20 + at]))
                for number in range(n_examples)]
    groups = sorted({one.group for one in examples})
    group = np.array([groups.index(one.group) for one in examples])[example]
    position = np.arange(n) % 20
    return Tokens(f"planted, {side}", examples, example, group, groups, position, children, position, position + 1, torch.from_numpy(x).float(),
                  np.arange(n), "s")


@pytest.fixture(scope="module")
def case() -> Case:
    fit, held_out = planted_tokens("fit", 4000, 0), planted_tokens("held_out", 3000, 1)
    result = Case("s", {"planted": Dataset("planted", fit.examples, held_out.examples)}, CaseConfig(n_bootstrap=N_BOOTSTRAP))
    result.put_tokens("planted", fit, held_out)
    return result


def clean_coder() -> PlantedCoder:
    d_in = N_CLASSES + (N_CLASSES + 1) * N_CHILDREN
    return PlantedCoder(torch.eye(d_in), torch.eye(d_in))


def absorbing_coder() -> PlantedCoder:
    """The latent of the first child of class 0 stands for class and child, and the class's latent is silent there."""
    coder = clean_coder()
    coder.W_dec[N_CLASSES, 0] = 1.0
    coder.absorbs = ((N_CLASSES, 0),)
    return coder


def measured(case: Case, config: AbsorptionConfig = AbsorptionConfig(forms=("hierarchy",)), **coders: object) -> Findings:  # noqa: B008
    findings = Findings()
    measure_absorption(case, {name: Contender(coder, is_control=False) for name, coder in coders.items()}, config, findings)  # type: ignore[arg-type]
    return findings


def value(findings: Findings, coder: str, metric: str, dataset: str = "planted", setting: str = "parent=parent") -> float:
    cell = Cell(coder, metric, dataset, setting)
    return float(findings.resampled[cell][0]) if cell in findings.resampled else findings.values[cell].value


def test_planted_absorption_is_found_and_told_by_child(case: Case) -> None:
    findings = measured(case, clean=clean_coder(), absorbing=absorbing_coder())
    assert not [cell for cell in findings.undefined if cell.coder == "absorbing"]
    tokens = case.tokens("planted", "held_out")
    of_class, of_child = (tokens.token_id // N_CHILDREN == 0).sum(), (tokens.token_id == 0).sum()
    expected = of_child / of_class / N_CLASSES
    for metric in ("absorption_full", "absorption_fraction", "absorption_missed_frac"):
        assert value(findings, "clean", metric) == 0
        assert value(findings, "absorbing", metric) == pytest.approx(expected)
    assert value(findings, "absorbing", "absorption_child_frac") == 1
    assert "miss no unit" in findings.undefined[Cell("clean", "absorption_child_frac", "planted", "parent=parent")]
    assert value(findings, "absorbing", "absorption_main_latents") == 1
    for values in findings.resampled.values():
        assert values.shape == (N_BOOTSTRAP + 1,)
    low, high = np.quantile(findings.resampled[Cell("absorbing", "absorption_full", "planted", "parent=parent")][1:], [0.025, 0.975])
    assert low < expected < high
    classes = findings.tables["absorption_classes"].to_pylist()
    row = next(row for row in classes if row["coder"] == "absorbing" and row["class"] == "class 0")
    assert row["main_latents"] == [0]
    assert (row["n_missed"], row["n_found"], row["n_units"]) == (of_child, of_class, of_class)
    assert row["full"] == pytest.approx(of_child / of_class)
    assert row["full_low"] <= row["full"] <= row["full_high"]
    children = [row for row in findings.tables["absorption_children"].to_pylist() if row["coder"] == "absorbing" and row["class"] == "class 0"]
    assert [row["n_missed"] > 0 for row in children] == [row["child"] == "0" for row in children]
    taken = next(row for row in children if row["child"] == "0")
    assert taken["child_latent"] == N_CLASSES
    assert taken["n_by_child_latent"] == taken["n_absorbed"] == taken["n_missed"] == of_child
    assert any("3 of 3 classes of parent qualify" in note for note in findings.notes)


def test_absorption_by_a_broad_latent_is_no_childs(case: Case) -> None:
    """A latent that fires on all children of the class, and on another class, and projects well absorbs, but belongs to no child."""
    coder = clean_coder()
    coder.W_dec = torch.cat([coder.W_dec, torch.eye(coder.d_in)[:1]])
    coder.encoder = torch.cat([coder.encoder, 0.9 * coder.encoder[:, :2].sum(1, keepdim=True)], 1)
    coder.absorbs = ((N_CLASSES, 0),)
    coder.__post_init__()
    findings = measured(case, broad=coder)
    assert value(findings, "broad", "absorption_full") > 0
    assert value(findings, "broad", "absorption_child_frac") == 0


def test_choosing_on_the_held_out_side_and_other_settings(case: Case) -> None:
    absorbing = absorbing_coder()
    found = measured(case, AbsorptionConfig(forms=("hierarchy",), choose_on="held_out", child="", parents=("parent",)), absorbing=absorbing)
    assert value(found, "absorbing", "absorption_full") > 0
    assert "not divided" in found.undefined[Cell("absorbing", "absorption_child_frac", "planted", "parent=parent")]
    assert set(found.tables) == {"absorption_classes"}


def test_results_do_not_change_when_measured_again(case: Case) -> None:
    first, second = (measured(case, absorbing=absorbing_coder()) for _ in range(2))
    assert first.resampled.keys() == second.resampled.keys()
    assert all(np.array_equal(first.resampled[cell], second.resampled[cell], equal_nan=True) for cell in first.resampled)
    assert first.tables["absorption_classes"].equals(second.tables["absorption_classes"])


def test_kinds_that_nobody_asked_for_fail_in_a_note(case: Case) -> None:
    """`kind` is one label of all examples: as a second kind it has too few classes."""
    findings = measured(case, AbsorptionConfig(forms=("hierarchy",), least_classes=1), clean=clean_coder())
    assert {cell.setting for cell in findings.resampled} == {"parent=parent"}
    assert {cell.metric for cell in findings.undefined} == {"absorption_child_frac"}
    assert any(note.startswith("absorption on planted is not defined for the classes of kind: 0 of 1 classes") for note in findings.notes)
    asked = measured(case, AbsorptionConfig(forms=("hierarchy",), least_classes=1, parents=("kind", "parent")), clean=clean_coder())
    assert {cell.setting for cell in asked.undefined if cell.metric == "absorption_full"} == {"parent=kind"}


def test_what_cannot_be_measured_is_said(case: Case) -> None:
    dead = clean_coder()
    dead.encoder = -dead.encoder.abs()
    findings = measured(case, mean=MeanCoder(torch.zeros(3)), dead=dead)
    assert {(cell.coder, why) for cell, why in findings.undefined.items()} == {
        ("mean", "the coder has no codes"), ("dead", "no latent fires on the units on which latents are ranked")}
    assert not findings.resampled
    assert not findings.values


@pytest.mark.parametrize(("settings", "words"), [
    ({"parents": ("color",)}, "no fit example carries the annotation 'color'"),
    ({"parents": ("parent",), "least_classes": 4}, "3 of 3 classes of parent have 10 or more units in every part of the data (absorption.least_units), and 4"),
    ({"parents": ("parent",), "least_units": 1400}, "0 of 3 classes of parent have 1400 or more units"),
    ({"parents": ("parent",), "least_f1": 1.0}, "reach an F1 above 1.0 (absorption.least_f1), and 2 are needed"),
    ({"max_classes": 2}, "no annotation of the fit side has as many classes as the settings allow"),
    ({"forms": ("first_letter",)}, "it runs the subject, and none is given"),
])
def test_too_few_classes_are_said(case: Case, settings: dict[str, object], words: str) -> None:
    findings = measured(case, AbsorptionConfig.parse({"forms": ["hierarchy"], **settings}), clean=clean_coder())
    assert not findings.resampled
    assert {cell.metric for cell in findings.undefined} == set(METRICS)
    assert all(words in why for why in findings.undefined.values()), findings.undefined


# Spelling prompts.

D = 40


@pytest.fixture(scope="module")
def speller() -> CausalLM:
    """A tiny model whose word embeddings hold the first letter; about 100 words a letter, each one token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    rng = np.random.default_rng(0)
    words = sorted({letter + "".join(rng.choice(list("xyzuvw"), 5)) for letter in "abcdefghijklmnopqrstuvwxyz" for _ in range(100)})
    names = ["<s>", "<unk>", "1st", *words]
    tokenizer = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(names), hidden_size=D, intermediate_size=D, num_hidden_layers=1, num_attention_heads=2,
                                         max_position_embeddings=128, bos_token_id=0, eos_token_id=0))
    with torch.no_grad():
        model.model.embed_tokens.weight.normal_(0, 0.05, generator=torch.Generator().manual_seed(0))
        for number, name in enumerate(names[3:], start=3):
            model.model.embed_tokens.weight[number, ord(name[0]) - ord("a")] += 2.0
    return CausalLM(model, PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>"), "speller", 64)


def test_spelling_prompts_are_read_at_the_word(speller: CausalLM) -> None:
    case = Case("embed", {}, CaseConfig(n_bootstrap=N_BOOTSTRAP, batch_tokens=512), speller)
    config = AbsorptionConfig(forms=("first_letter",), n_shots=2, n_words=1500)
    sides, why = word_tokens(case, config)
    assert not why
    assert sides is not None
    embedding = speller.model.model.embed_tokens.weight
    for tokens in sides.values():
        assert torch.equal(tokens.read(slice(None)), embedding[torch.from_numpy(tokens.token_id)])
        for number, example in enumerate(tokens.examples):
            word = example.text[tokens.char_start[number]:tokens.char_end[number]]
            assert example.text.endswith(f"{word} has the first letter:")
            assert example.text.count("\n") == 3
            assert word not in example.text.split("\n")[1]
            assert (example.spans[0].value, example.group) == (word[0], word)
    n_fit, n_held_out = sides["fit"].n_tokens, sides["held_out"].n_tokens
    assert n_held_out == pytest.approx(0.2 * (n_fit + n_held_out), abs=1)
    assert not {example.group for example in sides["fit"].examples} & {example.group for example in sides["held_out"].examples}


def test_first_letter_absorption_of_a_subject_with_words(speller: CausalLM) -> None:
    case = Case("embed", {}, CaseConfig(n_bootstrap=N_BOOTSTRAP, batch_tokens=512), speller)
    letters = PlantedCoder(torch.eye(D)[:, :26], torch.eye(D)[:26])
    config = AbsorptionConfig(forms=("first_letter",), n_shots=1)
    findings = measured(case, config, letters=letters)
    assert not {why for cell, why in findings.undefined.items() if cell.metric == "absorption_full"}
    assert value(findings, "letters", "absorption_full", KIND, "") == 0
    assert value(findings, "letters", "absorption_main_latents", KIND, "") == 1
    assert case.passed_tokens > 1000
    assert any("of 26 classes of first_letter qualify" in note for note in findings.notes)
    assert any("not comparable with published values" in note for note in findings.notes)
    lacking = measured(case, AbsorptionConfig(forms=("first_letter",), n_shots=10), letters=letters)
    assert all("a row holds 63 (subject.context_tokens" in why for why in lacking.undefined.values())


def letter_sae(n_letters: int) -> Sae:
    """One latent a letter; of the letters that it lacks, the first latent knows nothing."""
    sae = Sae(D, 26, subtract_b_dec=False)
    with torch.no_grad():
        sae.W_enc[:n_letters, :n_letters].copy_(torch.eye(n_letters))
        sae.W_dec.copy_(torch.eye(D)[:26])
        sae.threshold.fill_(0.5)
    return sae


def test_first_letter_stands_in_the_record_and_is_found_again(speller: CausalLM, tmp_path: Path) -> None:
    examples = [Example(str(number), "1st 1st", str(number)) for number in range(6)]
    settings = EvaluateConfig.parse({"suite": "absorption", "controls": False, "n_bootstrap": N_BOOTSTRAP,
                                     "absorption": {"forms": ["first_letter"], "n_shots": 1}})
    passed = []
    for _ in range(2):
        case = Case("embed", {"general": Dataset("general", examples[:3], examples[3:])}, settings, speller)
        coders = {"base": Contender(letter_sae(26), is_control=False), "half": Contender(letter_sae(13), is_control=False)}
        record = run_suite(case, coders, settings, folder=tmp_path)
        passed.append(case.passed_tokens)
    assert passed[0] > 10_000
    assert passed[1] == 0
    assert record.n_tokens[KIND] > 300
    difference = next(row for row in record.differences if row.metric == "absorption_missed_frac")
    assert (difference.coder, difference.dataset, difference.reference) == ("half", KIND, "base")
    assert difference.value.value > 0.3
    assert difference.value.low is not None
    assert difference.value.low > 0.2


def test_datasets_without_a_fit_side_are_said(case: Case) -> None:
    held_out = Case("s", {"planted": Dataset("planted", (), case.datasets["planted"].held_out)}, CaseConfig(n_bootstrap=N_BOOTSTRAP))
    findings = measured(held_out, clean=clean_coder())
    assert set(findings.undefined.values()) == {"the dataset has no fit side, on which probes are fitted"}


def test_small_vocabularies_and_other_subjects_are_refused() -> None:
    subject = tiny_subject()
    assert {text.strip().isalpha() for _, text in vocabulary_words(subject)} == {True}
    case = Case("resid_post.1", {}, CaseConfig(n_bootstrap=N_BOOTSTRAP), subject)
    findings = measured(case, AbsorptionConfig(forms=("first_letter",)), clean=clean_coder())
    assert all("20 letters are needed (absorption.least_letters)" in why for why in findings.undefined.values())
    assert set(findings.undefined) == {Cell("clean", metric, KIND) for metric in METRICS}
    assert "with 63 or more for 1 first letters" in too_few_words([f" a{number:c}" for number in range(97, 97 + 26)] * 3 + [
        f"b{one:c}{two:c}" for one in range(97, 105) for two in range(97, 107)], CONFIG)
