"""Steering on a run of proteins: the goal that a card gives, the latent of another concept, pairs for the command line."""

from pathlib import Path

import pytest

from sparselight.errors import ConfigError
from sparselight.intervene import edit_functions
from sparselight.intervene.sequence_goals import PatternSequenceGoal
from sparselight.pipeline.sequence_steering import goal_of, is_sequence_run, other_concept, written_pairs
from sparselight.records import Association, Card, Edit, Evidence, Explanation, MetricValue, RunRecord
from sparselight.subjects import MaskedLM
from sparselight.testing.families import tiny_family


def value(x: float) -> MetricValue:
    return MetricValue(value=x, n=10)


def card(latent: int, label: str = "", f1: float = 0.5, associations: tuple[Association, ...] = (), source: str = "base") -> Card:
    evidence = Evidence(precision=value(f1), recall=value(f1), f1=value(f1), control_f1=value(0), threshold=0, n_fires=1, n_labelled=1)
    explanation = Explanation(text=f"residues of {label}", label=label, explainer="statistical", evidence=evidence) if label else None
    return Card(latent=latent, source=source, fire_rate=0.1, domain_fire_rate=0.1, max_activation=1, explanation=explanation, contexts=[], promotes=[],
                suppresses=[], associations=list(associations))


def association(kind: str, label: str, supported: bool = True, level: str = "spans") -> Association:
    return Association(kind=kind, label=label, dataset="general", level=level, f1=value(0.6), null_f1=0.1, supported=supported)


def test_the_goal_is_the_label_of_the_card_or_of_what_goes_with_it() -> None:
    assert goal_of(card(1, "transmembrane region=helix"), {}) == "label: transmembrane region=helix"
    assert goal_of(card(1, "pattern=zinc"), {"zinc": "zinc_finger_C2H2"}) == "pattern: zinc_finger_C2H2"
    odd = association("my sites", "loop")
    assert goal_of(card(1, "token=L", associations=(association("topological domain", "inside", supported=False), odd)), {}) == "label: my sites=loop"
    for nothing in (card(1), card(1, "token=L"), card(1, associations=(association("organism", "human", level="examples, max"),))):
        with pytest.raises(ConfigError, match="no label that a sequence can have"):
            goal_of(nothing, {})


def test_the_other_concept_is_the_best_evidenced_one_of_the_same_sae() -> None:
    own = card(1, "transmembrane region=helix")
    cards = [own, card(2, "transmembrane region=helix", 0.9), card(3, "signal peptide=signal peptide", 0.6), card(4, "topological domain=inside", 0.7),
             card(5, "token=L", 0.99), card(6, "zinc finger=C2H2-type", 0.95, source="residual"), card(7)]
    goal = PatternSequenceGoal("R-G-D")
    found = other_concept(cards, own, goal)
    assert found is not None
    assert found.latent == 4
    assert other_concept(cards[:2], own, goal) is None


def test_which_runs_are_of_proteins(tmp_path: Path) -> None:
    assert not is_sequence_run(tmp_path / "nothing")
    for kind in ("protein", "python_source"):
        RunRecord(name="r", recipe={"corpus": {"kind": kind}}, stages={}, wall_s={}).save(tmp_path / kind / "run.json")
        assert is_sequence_run(tmp_path / kind) == (kind == "protein")


def test_pairs_share_starts_and_seeds(make_tiny_sae) -> None:
    subject = tiny_family("esm")
    assert isinstance(subject, MaskedLM)
    edits = edit_functions(Edit(site="resid_post.1", latents=[3], operation="clamp", amount=60.0), make_tiny_sae)
    pairs = written_pairs(subject, ["10", "MK<mask>AY"], dict(edits), 2.0, 2, 1.0, 5)
    assert [(pair.prompt, pair.seed) for pair in pairs] == [("10", 5), ("10", 6), ("MK<mask>AY", 5), ("MK<mask>AY", 6)]
    assert all(len(pair.before) == len(pair.after) == (10 if pair.prompt == "10" else 5) for pair in pairs)
    assert any(pair.before != pair.after for pair in pairs)
    assert written_pairs(subject, ["10"], {}, 0.0, 1, 1.0, 5)[0].before == pairs[0].before


@pytest.fixture
def make_tiny_sae():
    import torch

    from sparselight.sae import Sae, initialize

    return initialize(Sae(16, 24), torch.zeros(16), torch.Generator().manual_seed(0)).requires_grad_(False)
