"""A whole study where the truth is known: planted features with a linear head, and a tiny language model for what text adds."""

import numpy as np
import pytest
import torch
from planted_readout import SITE, PlantedReadout, TrueCoder, analytic
from scipy.optimize import brentq

from sparselight.errors import ConfigError, CorpusError, SaeError
from sparselight.intervene.goals import PatternGoal, TokenGoal
from sparselight.intervene.study import steer_study
from sparselight.intervene.study_record import beats
from sparselight.intervene.study_setting import Setting, SteerConfig
from sparselight.records import MatchedEffect, MetricValue, SteeringRecord
from sparselight.testing import tiny_corpus, tiny_family, tiny_subject

FEATURE = 3
QUICK = {"n_bootstrap": 500, "n_random": 2, "general_tokens": 100, "sample_tokens": 100}


@pytest.fixture(scope="module")
def subject() -> PlantedReadout:
    return PlantedReadout()


def setting(subject, **changes) -> Setting:
    given = {"goal": TokenGoal((FEATURE + 1,), "its token"), "fit": subject.examples("fit", n_tokens=1600),
             "general": subject.examples("held_out", n_tokens=640)} | changes
    return Setting(subject, TrueCoder(subject), SITE, "base", FEATURE, **given)


@pytest.fixture(scope="module")
def study(subject) -> SteeringRecord:
    return steer_study(setting(subject), SteerConfig(**QUICK))


def test_the_measured_curve_is_the_analytic_one(subject, study):
    doses, given = study.responses[0].doses, setting(subject)
    strengths = [dose.strength for dose in doses]
    effect, kl = analytic(subject, given.general, FEATURE, [strength * study.reference for strength in strengths])
    assert strengths == [0, 0.1, 0.25, 0.5, 1, 2]
    assert [dose.effect.value for dose in doses] == pytest.approx(effect, rel=1e-5)
    assert [dose.change.value for dose in doses] == pytest.approx(effect - effect[0], rel=1e-4, abs=1e-7)
    assert [dose.kl_nats.value for dose in doses] == pytest.approx(kl, rel=1e-3, abs=1e-6)
    assert doses[3].amount == pytest.approx(0.5 * study.reference)


def test_the_curve_is_monotone_and_its_half_dose_is_where_it_should_be(subject):
    given, strengths = setting(subject), np.linspace(0.25, 3, 12).tolist()
    study = steer_study(given, SteerConfig(**QUICK, strengths=strengths, baselines=[]))
    own = study.responses[0]
    assert own.spearman.value == pytest.approx(1)
    assert own.isotonic_r2.value == pytest.approx(1)
    ends = analytic(subject, given.general, FEATURE, [0, strengths[-1] * study.reference])[0]
    exact = brentq(lambda s: analytic(subject, given.general, FEATURE, [s * study.reference])[0][0] - ends.mean(), 0, strengths[-1])
    assert own.half_dose.value == pytest.approx(exact, rel=0.01)
    assert own.half_dose.low <= own.half_dose.value <= own.half_dose.high


def test_the_true_direction_beats_random_ones_at_equal_side_effect(study):
    assert study.beats["random direction"] is True
    assert study.beats["random latent"] is True
    reached = [item for item in study.matched if item.baseline == "random latent" and item.strength == 1]
    assert len(reached) == 1
    assert reached[0].n_baselines == 2
    assert reached[0].difference.value == pytest.approx(reached[0].latent_change.value - reached[0].baseline_change.value)
    assert all(response.doses[-1].kl_nats.value >= 1.2 * study.responses[0].doses[-1].kl_nats.value or len(response.doses) == 12
               for response in study.responses[1:])


def test_ablation_lowers_the_goal_as_it_must(subject):
    study = steer_study(setting(subject), SteerConfig(**QUICK, operation="ablate", baselines=[]))
    given = setting(subject)
    x = subject.capture(subject.prepare(given.general), [SITE])[SITE].double()
    z = (x @ torch.linalg.pinv(subject.world.directions.double()))[:, FEATURE].clamp(min=0)
    ablated = x - z[:, None] * subject.world.directions[FEATURE].double()
    expected = (ablated @ subject.head.double()).softmax(1)[:, FEATURE + 1].mean()
    assert study.wants == "less"
    assert study.responses[0].doses[-1].effect.value == pytest.approx(float(expected), rel=1e-3)


def test_a_baseline_is_beaten_by_a_clear_lead_in_the_wanted_direction_only():
    def item(strength, change, difference, p):
        value = MetricValue(value=change, low=change - 0.01, high=change + 0.01, n=20)
        return MatchedEffect(strength=strength, kl_nats=value, baseline="random latent", n_baselines=1, latent_change=value, baseline_change=value,
                             difference=value.model_copy(update={"value": difference}), p=p)

    assert beats([item(1, 0.2, 0.1, 0.01), item(2, 0.2, 0.1, 0.6)], "more") == {"random latent": True}
    assert beats([item(1, 0.2, 0.1, 0.01), item(2, 0.2, -0.1, 0.01)], "more") == {"random latent": False}
    assert beats([item(1, 0.2, 0.1, 0.04), item(2, 0.2, 0.1, 0.04)], "more") == {"random latent": False}
    assert beats([item(1, -0.2, 0.1, 0.001)], "more") == {"random latent": False}
    assert beats([item(1, -0.2, 0.1, 0.001)], "less") == {"random latent": True}
    assert beats([item(1, 0.2, 0.1, None)], "more") == {"random latent": None}


def test_a_record_survives_the_disk(study, tmp_path):
    study.save(tmp_path / "steering.json")
    assert SteeringRecord.load(tmp_path / "steering.json") == study


def test_the_goal_of_a_latent_is_what_follows_it(subject):
    study = steer_study(setting(subject, goal=None), SteerConfig(**QUICK, baselines=[]))
    assert study.goal.endswith("(what follows where the latent fires)")


def test_text_brings_quality_off_targets_and_pairs():
    subject, coder = tiny_subject(), Readout(32)
    corpus = tiny_corpus(24).examples
    config = SteerConfig(strengths=[0.5, 2.0], n_bootstrap=500, n_random=1, n_tokens=8, n_seeds=2, prompt_baseline="# key\n")
    goal = PatternGoal(r"\w")
    given = Setting(subject, coder, "resid_post.1", "base", 4, goal, corpus[:16], corpus[16:], ("def ", "class ", "for "), annotate=list)
    study = steer_study(given, config)
    assert [response.kind for response in study.responses] == ["latent", "difference of means", "random latent", "random direction", "prompt"]
    own = study.responses[0]
    assert all(dose.text is not None for dose in own.doses)
    assert own.doses[0].effect.unit == "prompts"
    assert {text.strength for text in study.texts} == {0.5, 2.0}
    assert len(study.texts) == 6
    assert [part.kind for part in study.off_targets] == ["latents", "latents"]
    again = steer_study(given, config)
    assert again.model_copy(update={"created": ""}) == study.model_copy(update={"created": ""})


class Readout:
    """Latent i is relu(x[i]) and writes to x[i]."""

    def __init__(self, d_in):
        self.d_in = self.n_latents = d_in
        self.W_dec = torch.eye(d_in)

    encode = TrueCoder.encode
    decode = TrueCoder.decode
    inverse = torch.eye(32)


@pytest.mark.parametrize(("changes", "error", "match"), [
    ({"goal": TokenGoal((0,), "the silent token")}, CorpusError, "is present at 0 of"),
    ({"goal": PatternGoal("a")}, ConfigError, "there is no prompt"),
    ({"goal": PatternGoal("a"), "prompts": ("x",)}, ConfigError, "does not write text"),
])
def test_what_cannot_be_studied_says_so(subject, changes, error, match):
    given = setting(subject, **changes)
    if error is CorpusError:
        given = setting(subject, goal=TokenGoal((subject.n_vocabulary + 5,), "a token that never comes"))
    with pytest.raises(error, match=match):
        steer_study(given, SteerConfig(**QUICK))


def test_text_on_both_sides_is_refused(subject):
    with pytest.raises(ConfigError, match="stand on both sides"):
        steer_study(setting(subject, general=subject.examples("fit", n_tokens=64)), SteerConfig(**QUICK))


def test_a_silent_latent_has_no_reference(subject):
    coder = TrueCoder(subject)
    coder.inverse = coder.inverse.clone()
    coder.inverse[:, FEATURE] = 0
    given = setting(subject)
    silent = Setting(subject, coder, SITE, "base", FEATURE, given.goal, given.fit, given.general)
    with pytest.raises(SaeError, match="fires nowhere"):
        steer_study(silent, SteerConfig(**QUICK))
    with pytest.raises(ConfigError, match="no latent 99"):
        steer_study(Setting(subject, coder, SITE, "base", 99, given.goal, given.fit, given.general), SteerConfig(**QUICK))


@pytest.mark.parametrize(("settings", "match"), [
    ({"strengths": [1.0, 0.5]}, "rise from above 0"), ({"strengths": [0.0, 1.0]}, "rise from above 0"),
    ({"operation": "ablate", "strengths": [0.5, 2.0]}, "more than all of a latent"), ({"temperature": 0.0}, "n_seeds has to be 1"),
])
def test_settings_that_do_not_fit_together(settings, match):
    with pytest.raises(ConfigError, match=match):
        SteerConfig.parse(settings, "steer")


def test_a_masked_language_model_is_studied_on_its_predictions():
    masked, corpus = tiny_family("bert"), tiny_corpus(24).examples
    coder = Readout(masked.d_site("resid_post.1"))
    coder.inverse = torch.eye(coder.d_in)
    batch = masked.prepare(corpus[:16])
    goal = TokenGoal((int(batch.token_id.mode().values),), "a frequent token")
    study = steer_study(Setting(masked, coder, "resid_post.1", "base", 2, goal, corpus[:16], corpus[16:], ("def ",)), SteerConfig(**QUICK))
    assert study.texts == []
    assert "no text was generated" in study.notes[-1]
    assert study.responses[0].doses[-1].kl_nats.value > 0
    with pytest.raises(ConfigError, match="predicts hidden tokens"):
        steer_study(Setting(masked, coder, "resid_post.1", "base", 2, goal, corpus[:16], corpus[16:]), SteerConfig(**QUICK, prompt_baseline="key"))
    with pytest.raises(ConfigError, match="does not write text"):
        steer_study(Setting(masked, coder, "resid_post.1", "base", 2, PatternGoal("a"), corpus[:16], corpus[16:], ("def ",)), SteerConfig(**QUICK))


def test_the_public_function(make_sae):
    import sparselight as sl

    corpus, text = tiny_corpus(24).examples, tiny_subject()
    word = next(text.token_text(i) for i in text.prepare(corpus[:16]).token_id.tolist() if text.token_text(i).strip().isalpha())
    dense = make_sae().encode(text.capture(text.prepare(corpus[:16]), ["resid_post.1"])["resid_post.1"]).to_dense()
    study = sl.steer_study(text, make_sae(), int((dense > 0).sum(0).argmax()), corpus[:16], corpus[16:], f'tokens: "{word}"', site="resid_post.1",
                           **QUICK)
    assert study.source == "sae"
    assert study.goal.startswith("next token")
    with pytest.raises(ConfigError, match="at which site"):
        sl.steer_study(text, make_sae(), 0, corpus[:16], corpus[16:])
