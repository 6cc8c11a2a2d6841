"""Steered sequences: judges on known sequences, arms that share starts and seeds, and the rule by which a latent beats an arm."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from sparselight.errors import ConfigError, CorpusError
from sparselight.evaluate.statistics import wilson
from sparselight.intervene.sequence_goals import LabelSequenceGoal, PatternSequenceGoal, best_threshold, runs, sequence_goal
from sparselight.intervene.sequence_study import SHUFFLED, SequenceSetting, SequenceSteerConfig, beats, fisher, study_sequences, with_p
from sparselight.protocols import Example, Span
from sparselight.records import SequenceArm, SequenceSteeringRecord
from sparselight.sae import Sae, initialize
from sparselight.subjects import MaskedLM
from sparselight.testing.families import tiny_family

FINGER = "MYKCPECGKSFSQKSNLQKHQRTHTG"
SITE, KIND, VALUE = "resid_post.1", "transmembrane region", "helix"
CONFIG = SequenceSteerConfig(n_sequences=8, length=24, strengths=[1.0, 3.0], n_random=2, sample_tokens=500, n_shown=2, tokens_a_step=8)


@pytest.fixture(scope="module")
def esm() -> MaskedLM:
    subject = tiny_family("esm")
    assert isinstance(subject, MaskedLM)
    return subject


def proteins(name: str, n: int = 30) -> list[Example]:
    """Every other one with a stretch of W, which carries the label: so plain that a probe of any subject sees it."""
    rng, made = np.random.default_rng(len(name)), []
    for number in range(n):
        text = "".join(rng.choice(list("AGVSERTIDPKQNFY"), 40))
        spans: tuple[Span, ...] = ()
        if number % 2:
            text, spans = f"{text[:10]}{'W' * 12}{text[22:]}", (Span(10, 22, KIND, VALUE),)
        made.append(Example(f"{name}{number}", text, f"{name}{number}", {}, spans))
    return made


def made_sae(subject: MaskedLM) -> Sae:
    x = subject.capture(subject.prepare(proteins("fit")), [SITE])[SITE]
    sae = initialize(Sae(x.shape[1], 24), x.mean(0), torch.Generator().manual_seed(0))
    sae.threshold.fill_(0.05)
    return sae


def setting(subject: MaskedLM, goal: object, **more: object) -> SequenceSetting:
    return SequenceSetting(subject, made_sae(subject), SITE, "base", 3, goal, proteins("fit"), proteins("natural"), **more)  # type: ignore[arg-type]


def test_a_pattern_judges_letters_but_not_low_complexity(esm: MaskedLM) -> None:
    goal = sequence_goal("pattern: zinc_finger_C2H2", esm, SITE, [])
    judged = goal.judge(esm, [FINGER, "MKAYVLAGG", "CCCCCCCCCCCCCCCCHHHHHHHHHH"], 2.5)
    assert judged.hits.tolist() == [True, False, False]
    assert judged.marked[0] == [(3, 24)]
    assert FINGER[3:24] == "CPECGKSFSQKSNLQKHQRTH"
    assert goal.title == "a match of zinc_finger_C2H2"


def test_a_probe_judges_runs_of_residues(esm: MaskedLM) -> None:
    goal = sequence_goal(f"label: {KIND}={VALUE}", esm, SITE, proteins("fit"))
    assert isinstance(goal, LabelSequenceGoal)
    assert goal.min_run == 12
    judge = goal.on_natural(esm, proteins("natural"), 40, 0.0)
    assert judge.auroc is not None
    assert judge.auroc > 0.95
    assert judge.natural_without is not None
    assert judge.natural.value > 0.8 > 0.2 > judge.natural_without.value
    text = proteins("natural")[1].text
    judged = goal.judge(esm, [text, proteins("natural")[0].text], 0.0)
    assert judged.hits.tolist() == [True, False]
    assert judged.marked[0][0][0] in range(7, 13)


def test_residues_whose_label_nobody_knows_teach_the_probe_nothing(esm: MaskedLM) -> None:
    hidden = [Example(one.id, one.text, one.group, {}, (Span(0, 40, "unlabelled", "unlabelled"),)) if one.spans and number % 4 == 1 else one
              for number, one in enumerate(proteins("fit", 60))]
    goal = LabelSequenceGoal.fit(KIND, VALUE, SITE, esm, hidden)
    assert goal.on_natural(esm, proteins("natural"), 40, 0.0).natural.value > 0.8


def test_runs_and_thresholds_by_hand() -> None:
    assert runs(np.array([True, True, False, True])) == [(0, 2), (3, 4)]
    assert runs(np.zeros(3, dtype=bool)) == []
    assert best_threshold(np.array([3.0, 1.0, 2.0, 0.0]), np.array([True, False, True, False])) == 1.5
    assert best_threshold(np.array([1.0, 0.0]), np.array([True, True])) == -0.5


def test_every_arm_is_written_judged_and_counted(esm: MaskedLM) -> None:
    record = study_sequences(setting(esm, PatternSequenceGoal("W-x(1,3)-W"), other=5, other_title="another"), CONFIG)
    assert [(arm.kind, arm.strength) for arm in record.arms] == [("no edit", 0.0)] + [
        (kind, strength) for strength in (1.0, 3.0) for kind in ("latent", "random latent", "random direction", "other concept")]
    for arm in record.arms:
        assert (arm.success.n, arm.success.unit, len(arm.sequences)) == (8, "sequences", 2)
        assert [one.seed for one in arm.sequences] == [0, 1]
        assert all(len(one.text) == 24 for one in arm.sequences)
        assert 0 <= arm.composition_distance <= 1
        assert arm.pseudo_perplexity > 1
        assert (arm.p is None) == (arm.kind == "latent")
    assert "base/5" in record.of_kind("other concept")[0].what
    assert set(record.beats) == {"no edit", "random latent", "random direction", "other concept", SHUFFLED}
    again = study_sequences(setting(esm, PatternSequenceGoal("W-x(1,3)-W"), other=5, other_title="another"), CONFIG)
    assert again.arms == record.arms, "the same seeds write the same sequences"
    assert SequenceSteeringRecord.model_validate_json(record.model_dump_json()) == record


def test_without_another_concept_that_is_said(esm: MaskedLM) -> None:
    record = study_sequences(setting(esm, PatternSequenceGoal("W-W")), CONFIG.model_copy(update={"baselines": ["other concept"], "strengths": [1.0]}))
    assert [arm.kind for arm in record.arms] == ["no edit", "latent"]
    assert record.beats["other concept"] is None
    assert "no other concept" in record.notes[0].lower()


def test_sequences_from_masks_only(esm: MaskedLM) -> None:
    config = CONFIG.model_copy(update={"start": "masks", "sweeps": 0, "strengths": [1.0], "baselines": []})
    record = study_sequences(setting(esm, PatternSequenceGoal("W-W")), config)
    assert all(len(one.text) == 24 for arm in record.arms for one in arm.sequences)


def test_natural_starts_are_drawn_anew(esm: MaskedLM) -> None:
    config = CONFIG.model_copy(update={"start": "natural", "sweeps": 1, "strengths": [1.0], "baselines": []})
    record = study_sequences(setting(esm, PatternSequenceGoal("W-W")), config)
    assert all(len(one.text) == 24 for arm in record.arms for one in arm.sequences)


def arm(kind: str, strength: float, hits: int, n: int = 50, chance: int = 0) -> SequenceArm:
    return SequenceArm(kind=kind, strength=strength, what=kind, success=wilson(hits, n, "sequences"), chance=wilson(chance, n, "sequences"), low_complexity=0,
                       entropy_bits=4, composition_distance=0, hydropathy=0, identity=0.1, distinct_frac=1, pseudo_perplexity=10)


def test_a_latent_beats_an_arm_when_it_hits_clearly_more_and_nowhere_clearly_less() -> None:
    arms = with_p([arm("no edit", 0, 2), arm("latent", 1, 20), arm("random latent", 1, 3), arm("random direction", 1, 15),
                   arm("latent", 5, 0), arm("random latent", 5, 2), arm("random direction", 5, 12)])
    assert beats(arms, "no edit") is True
    assert beats(arms, "random latent") is True
    assert beats(arms, "random direction") is False, "at strength 5 it hits clearly less"
    assert beats(arms, "other concept") is None
    assert fisher(arms[1].success, arms[2].success) < 0.001
    assert arms[0].p == fisher(arms[1].success, arms[0].success)
    assert beats(arms, SHUFFLED) is True
    assert beats([arm("no edit", 0, 2), arm("latent", 1, 20, chance=18)], SHUFFLED) is False, "composition alone"


@pytest.mark.parametrize("text", ["zinc", "pattern:", "tokens: a", "label: helix"])
def test_other_goals_are_refused(esm: MaskedLM, text: str) -> None:
    with pytest.raises(ConfigError):
        sequence_goal(text, esm, SITE, [])


def test_what_cannot_be_studied_is_refused(esm: MaskedLM) -> None:
    with pytest.raises(CorpusError, match="0 of 30 proteins .* carry it"):
        sequence_goal("label: domain=SH2", esm, SITE, proteins("fit"))
    with pytest.raises(ConfigError, match="stand on both sides"):
        study_sequences(SequenceSetting(esm, made_sae(esm), SITE, "base", 3, PatternSequenceGoal("R-G-D"), proteins("a"), proteins("a")), CONFIG)
    with pytest.raises(ConfigError, match="no natural protein has 60 residues"):
        study_sequences(setting(esm, PatternSequenceGoal("R-G-D")), CONFIG.model_copy(update={"start": "natural", "sweeps": 1, "length": 60}))
    with pytest.raises(ValidationError, match="leaves nothing to write"):
        SequenceSteerConfig(start="random", sweeps=0)
    with pytest.raises(ValidationError, match="do not rise"):
        SequenceSteerConfig(strengths=[2.0, 1.0])
