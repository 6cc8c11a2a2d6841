"""SHIFT where the latents of both labels are known; on a real model and real text with a constructed spurious correlation."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from labelled_toy import LATER, Basis, NoCodes, PlantedSubject, case_of, contenders, measured, values
from test_scr_tpp import two_labels

from sparselight.corpus import CorpusConfig, load_corpus
from sparselight.errors import ConfigError
from sparselight.evaluate.case import Case, Dataset
from sparselight.evaluate.config import CaseConfig
from sparselight.evaluate.contender import Contender
from sparselight.evaluate.family import SUBJECT
from sparselight.evaluate.findings import Cell, Findings
from sparselight.evaluate.readout import Readout, read_after
from sparselight.evaluate.shift import ShiftConfig, measure_shift
from sparselight.evaluate.trained_probes import subgroups, two_valued
from sparselight.protocols import Example
from sparselight.sae import Sae, initialize
from sparselight.testing import tiny_subject

CLINC = Path(__file__).parents[2].parent / "shared/data/clinc150"
FIT, HELD = two_labels(160, "fit"), two_labels(80, "held")
CONFIG = ShiftConfig(concept="job", attribute="sex", keep_effect=0.02)


@pytest.mark.parametrize("site", ["", LATER])
def test_ablating_the_spurious_latents_mends_the_classifier(site):
    case = case_of(FIT, HELD, PlantedSubject())
    findings = measured(measure_shift, case, contenders(basis=Basis()), CONFIG.model_copy(update={"probe_site": site}))
    subject, basis = values(findings, SUBJECT), values(findings, "basis")
    assert subject["shift_attribute_accuracy", "original"] == 1
    assert subject["shift_concept_accuracy", "original"] == pytest.approx(0.5, abs=0.1)
    assert subject["shift_worst_accuracy", "original"] < 0.2
    assert subject["shift_worst_accuracy", "oracle"] == 1
    for setting in ("ablated", "retrained", "feature skyline"):
        assert basis["shift_concept_accuracy", setting] == 1
        assert basis["shift_attribute_accuracy", setting] == 0.5
        assert basis["shift_worst_accuracy", setting] == 1
    assert basis["shift_concept_accuracy", "random latents"] < 0.7
    judged = {row["latent"]: row["irrelevant"] for row in findings.tables["shift_latents"].to_pylist()}
    assert judged == {0: False, 1: False, 2: True, 3: True}
    assert findings.values[Cell("basis", "shift_n_latents", "toy")].value == 2


def test_channels_of_the_activations_do_it_here_too():
    """In the planted subject every channel is a concept, so the neuron skyline is as good as latents."""
    found = values(measured(measure_shift, case_of(FIT, HELD), contenders(), CONFIG), SUBJECT)
    assert found["shift_concept_accuracy", "neuron skyline"] == 1


def test_a_list_and_a_callable_may_judge():
    listed = CONFIG.model_copy(update={"judge": "list", "irrelevant": {"basis": [2, 7]}})
    findings = measured(measure_shift, case_of(FIT, HELD), contenders(basis=Basis(), other=Basis()), listed)
    assert findings.values[Cell("basis", "shift_n_latents", "toy")].value == 1
    assert "lists no latents of it" in findings.undefined[Cell("other", "shift_concept_accuracy", "toy", "ablated")]
    findings, seen = Findings(), []

    def judge(used):
        seen.append(used)
        return np.zeros(len(used.latents), dtype=bool)

    measure_shift(case_of(FIT, HELD), contenders(basis=Basis()), CONFIG, findings, judge=judge)
    assert sorted(seen[0].latents) == [0, 1, 2, 3]
    assert any("nothing is ablated" in note for note in findings.notes)
    found = values(findings, "basis")
    assert found["shift_concept_accuracy", "ablated"] == values(findings, SUBJECT)["shift_concept_accuracy", "original"]


def test_the_most_used_latents_may_be_asked_for():
    findings = measured(measure_shift, case_of(FIT, HELD), contenders(basis=Basis()), CONFIG.model_copy(update={"keep_n": 2}))
    assert {row["latent"] for row in findings.tables["shift_latents"].to_pylist()} == {2, 3}


def test_what_cannot_be_measured_says_why():
    cell = Cell("plain", "shift_concept_accuracy", "toy", "ablated")
    case = case_of(FIT, HELD)
    assert measured(measure_shift, case, contenders(plain=NoCodes()), CONFIG).undefined[cell] == "the coder has no codes"
    rare = measured(measure_shift, case, contenders(plain=NoCodes()), CONFIG.model_copy(update={"least": 21})).undefined[cell]
    assert "the smallest of the four subgroups has 20 examples on the held-out side, and 21 are needed" in rare
    assert "'age'" in measured(measure_shift, case, contenders(plain=NoCodes()), CONFIG.model_copy(update={"attribute": "age"})).undefined[cell]
    assert any("name no labels" in note for note in measured(measure_shift, case, contenders(basis=Basis()), ShiftConfig()).notes)


@pytest.mark.parametrize(("data", "words"), [
    ({"concept": "job"}, "only one of"),
    ({"concept": "job", "attribute": "sex", "judge": "list", "irrelevant": {"basis": [8]}}, "latent 8 is out of range, it has 8 latents"),
    ({"concept": "job", "attribute": "sex", "judge": "list", "irrelevant": {"bases": [1]}}, "there is no such coder"),
    ({"irrelevant": {"basis": [1]}}, "need each other"),
])
def test_refusals(data, words):
    with pytest.raises(ConfigError, match=words):
        measured(measure_shift, case_of(FIT, HELD), contenders(basis=Basis()), ShiftConfig.parse(data))


def random_sae(x, n_latents=128, l0=16):
    """An SAE with random directions whose latents fire on about l0 / n_latents of the tokens."""
    sae = initialize(Sae(x.shape[1], n_latents), x.mean(0), torch.Generator().manual_seed(0))
    with torch.no_grad():
        sae.threshold.fill_(float(sae.pre_activations(x).flatten().quantile(1 - l0 / n_latents)))
    return sae


def test_gradients_reach_through_a_transformer():
    """Against a finite difference: lowering one latent a little changes the score by its gradient."""
    subject = tiny_subject()
    words = ["make", "circle", "path", "key"]
    examples = [Example(f"e{n}", f"def {words[n % 4]}_{n}(items): return items[{n}]", f"g{n}") for n in range(6)]
    case = Case("resid_post.0", {"code": Dataset("code", examples, [])}, CaseConfig(batch_tokens=64), subject)
    readout, weights = Readout(case, "code", "resid_post.2"), np.random.default_rng(0).normal(size=32)
    batch = subject.prepare(examples)
    x, gradient = readout._integrated(batch, torch.from_numpy(weights), torch.zeros(32), steps=1)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) * 1e-3

    def score(change):
        read = read_after(subject, batch, "resid_post.0", lambda x: x + change, "resid_post.2")
        return float((read.double() @ torch.from_numpy(weights) * readout._share(batch)).sum())

    assert (score(direction) - score(-direction)) / 2 == pytest.approx(float((gradient * direction).sum()), rel=1e-2)
    assert torch.is_grad_enabled()
    with torch.no_grad():
        assert not read_after(subject, batch, "resid_post.0", lambda x: x, "resid_post.2").requires_grad
        assert not torch.is_grad_enabled()


@pytest.mark.skipif(not CLINC.exists(), reason="needs the CLINC150 sample beside the repository")
def test_requests_with_a_spurious_greeting():
    """Real text, a real transformer, the classifier two layers behind the SAE: tied to a greeting, it goes by the greeting."""
    intents = json.loads((CLINC / "domains.json").read_text())
    rows = json.loads((CLINC / "data_full.json").read_text())["train"]
    domain_of = {intent: domain for domain in ("banking", "travel") for intent in intents[domain]}
    chosen = [(text, domain_of[intent]) for text, intent in rows if intent in domain_of]
    order = np.random.default_rng(0).permutation(len(chosen))[:480]
    greetings = ["good evening dear sir . ", "hey hey you there ! "]
    examples = [Example(f"r{number}", greetings[number % 2] + chosen[place][0], f"g{number}", {"domain": chosen[place][1], "greeting": "ab"[number % 2]})
                for number, place in enumerate(order)]
    subject = tiny_subject()
    case = Case("resid_post.0", {"clinc": Dataset("clinc", examples[:320], examples[320:])}, CaseConfig(n_bootstrap=40), subject)
    sae = random_sae(case.tokens("clinc", "fit").read(slice(0, 2000)))
    findings, config = Findings(), ShiftConfig(concept="domain", attribute="greeting", probe_site="resid_post.2", effect_examples=40, steps=3)
    measure_shift(case, {"random": Contender(sae, is_control=True)}, config, findings)
    own, found = values(findings, SUBJECT), values(findings, "random")
    assert own["shift_attribute_accuracy", "original"] > 0.9
    assert own["shift_attribute_accuracy", "oracle"] < 0.65
    assert own["shift_concept_accuracy", "oracle"] > own["shift_concept_accuracy", "original"]
    assert {setting for _, setting in found} >= {"ablated", "retrained", "feature skyline"}
    assert case.passed_tokens > 0


def test_the_settings_for_bias_in_bios_read_a_dataset_of_that_shape(tmp_path):
    """The recipe of the docs, on a saved dataset with the columns of LabHC/bias_in_bios: numbers as labels, three splits."""
    datasets = pytest.importorskip("datasets")
    page = (Path(__file__).parents[2] / "docs/evaluation/shift.md").read_text(encoding="utf-8")
    recipe = tomllib.loads(page.split("```toml\n")[1].split("```")[0])
    splits = {name: datasets.Dataset.from_dict({"hard_text": [f"{name} bio {n}" for n in range(8)], "profession": [21, 13] * 4, "gender": [0, 0, 1, 1] * 2})
              for name in ("train", "test", "dev")}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "bios")
    assert recipe["corpus"]["root"] == "hf://LabHC/bias_in_bios"
    corpus = load_corpus(CorpusConfig.parse(recipe["corpus"] | {"root": str(tmp_path / "bios"), "kind": "hf_dataset"}, "corpus"))
    fit, held_out = corpus.split()
    assert (len(fit), len(held_out)) == (8, 16)
    config = ShiftConfig.parse(recipe["evaluate"]["shift"], "evaluate.shift")
    concept = two_valued(list(held_out), config.concept, config.concept_values)
    assert concept.tolist() == [0, 1] * 8
    assert min(map(len, subgroups(concept, two_valued(list(held_out), config.attribute, config.attribute_values)))) == 4
