"""The page of a steering study: whole, self-contained, nothing of a model's text becomes markup."""

import re

import pytest

from sparselight.records import (
    Dose,
    MatchedEffect,
    MetricValue,
    OffTarget,
    OffTargets,
    Response,
    SteeredText,
    SteeringRecord,
    TextQuality,
)
from sparselight.report.steering import render_study, write_study
from sparselight.report.steering_words import changes, curve_sentences, headline, marked, strongest, verdicts

EVIL = "<script>alert(1)</script>"


def value(x: float, width: float = 0.1) -> MetricValue:
    return MetricValue(value=x, low=x - width, high=x + width, n=12)


def response(kind: str, name: str, slope: float, text: bool = False) -> Response:
    quality = TextQuality(distinct_1=value(0.8), distinct_2=value(0.9), repeated_4=value(0.1), entropy_bits=value(4.0), ce_nats=value(2.0))
    doses = [Dose(strength=strength, amount=10 * strength or None, effect=value(0.1 + slope * strength), change=value(slope * strength),
                  kl_nats=value(0.2 * strength**2, 0.01), ce_change_nats=value(0.1 * strength), text=quality if text else None)
             for strength in (0.0, 0.5, 1.0, 2.0)]
    return Response(method=name, kind=kind, what=f"{name}, added", doses=doses, spearman=value(1.0, 0), isotonic_r2=value(1.0, 0), half_dose=value(1.0))


def study(text: bool = True) -> SteeringRecord:
    matched = [MatchedEffect(strength=strength, kl_nats=value(0.2 * strength**2), baseline="random direction", n_baselines=2,
                             latent_change=value(0.3 * strength), baseline_change=value(0.05), difference=value(0.3 * strength - 0.05), p=0.002)
               for strength in (0.5, 1.0, 2.0)]
    texts = [SteeredText(prompt=f"p {EVIL}", seed=0, strength=1.0, before=f"a b {EVIL}", after=f"a c {EVIL}", before_value=0.0, after_value=1.0)]
    off = [OffTargets(strength=1.0, kind="latents", n_tested=9, n_changed=1,
                      largest=[OffTarget(name="base/3", title=EVIL, before=0.1, after=0.4, p_adjusted=0.01)])]
    return SteeringRecord(
        name="base-7-add", subject="tiny", site="resid_post.1", source="base", latent=7, title=f"the word `{EVIL}`", operation="add", reference=10.0,
        reference_what="0.99 quantile", goal=f"next token `{EVIL}`", goal_on="predictions", goal_unit="probability", wants="more",
        responses=[response("latent", "base/7", 0.3, text), response("random direction", "random direction 1", 0.02)], matched=matched,
        beats={"random direction": True}, texts=texts if text else [], off_targets=off if text else [], notes=["a note"],
        settings={"operation": "add", "prompt_baseline": EVIL}, n_tokens={"general": 640, "generated a dose": 80}, seeds=[0, 1], created="now",
        sparselight_version="0")


def test_the_page_is_whole_and_loads_nothing(tmp_path):
    page = render_study(study())
    assert EVIL not in page
    assert "<script" not in page
    assert not re.search(r'(?:src|href)="(?!#)', page)
    assert "default-src 'none'" in page
    assert page.count("<svg class=\"figure") == 3
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)
    write_study(study(), tmp_path / "steering.html")
    assert (tmp_path / "steering.html").read_text(encoding="utf-8") == page


def test_a_study_without_text_says_so():
    page = render_study(study(text=False))
    assert "No text was generated" in page
    assert "perplexity</th>" not in page


def test_sentences_carry_the_numbers():
    found = study()
    assert strongest(found).strength == 2.0
    assert headline(found).startswith("Adding base/7 at strength 1 takes the goal's value from 0.100 to 0.400")
    assert "at a KL of 0.200 nats" in headline(found)
    assert any("strength 1" in sentence and "activation of 10" in sentence for sentence in curve_sentences(found))
    (kind, words), = verdicts(found)
    assert kind == "random direction"
    assert words.startswith("beaten. At a KL of 0.200")
    assert "with random directions, the mean of 2, a difference of 0.250" in words
    lost = found.model_copy(update={"beats": {"random direction": False}})
    assert verdicts(lost)[0][1].startswith("not beaten. At a KL")
    unknown = found.model_copy(update={"beats": {"random direction": None}, "matched": [item.model_copy(update={"lacks": "it is not reached"})
                                                                                        for item in found.matched]})
    assert verdicts(unknown)[0][1] == "cannot be told: it is not reached."


@pytest.mark.parametrize(("before", "after", "only_before", "only_after"), [
    ("a b c", "a x c", ["b"], ["x"]), ("same", "same", [], []), ("", "new", [], ["new"]), ("gone", "", ["gone"], []),
])
def test_changed_words_are_marked(before, after, only_before, only_after):
    first, second = changes(before, after)
    assert "".join(text for text, _ in first) == before
    assert "".join(text for text, _ in second) == after
    assert [text for text, changed in first if changed] == only_before
    assert [text for text, changed in second if changed] == only_after


def test_marks_are_the_only_markup():
    before, after = marked("a <b>", "a <i>")
    assert str(before) == "a &lt;<del>b</del>&gt;"
    assert str(after) == "a &lt;<ins>i</ins>&gt;"
    assert str(marked("a", "a\n    b")[1]) == "a\n    <ins>b</ins>"
