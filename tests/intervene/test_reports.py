"""A finding as a goal of steering: who says that a report has it, and what is counted."""

import pytest

from sparselight.errors import ConfigError
from sparselight.intervene.baselines import Method
from sparselight.intervene.generated import Generated
from sparselight.intervene.goal_forms import parse_goal
from sparselight.intervene.reports import FindingGoal, annotate_reports, finding_rates
from sparselight.intervene.study_curves import Measured
from sparselight.protocols import Example

PROMPT = "INDICATION: Cough.\nFINDINGS:"
SICK = " There is a small pleural effusion. No pneumothorax."
WELL = " No pleural effusion. The lungs are clear."


def test_a_finding_is_a_goal_by_what_the_labeller_reads():
    texts = [Generated(PROMPT, SICK), Generated(PROMPT, WELL), Generated(PROMPT, " Heart size is normal.")]
    values = {state: FindingGoal("pleural effusion", state).values(None, texts).tolist() for state in ("present", "absent", "mentioned")}
    assert values == {"present": [1, 0, 0], "absent": [0, 1, 0], "mentioned": [1, 1, 0]}
    assert FindingGoal("pleural effusion").title == "reports in which pleural effusion is present"


def test_it_is_written_like_other_goals_and_wrong_ones_are_refused():
    goal = parse_goal("finding: pleural effusion=absent", None, "site")
    assert goal == FindingGoal("pleural effusion", "absent") and goal.on == "text"
    assert parse_goal("finding: pacemaker", None, "site") == FindingGoal("pacemaker", "present")
    with pytest.raises(ConfigError, match="pleural effusion"):
        parse_goal("finding: pleural efusion", None, "site")
    with pytest.raises(ConfigError, match="no state"):
        parse_goal("finding: pacemaker=maybe", None, "site")


def test_annotated_reports_carry_the_spans_of_findings():
    example = annotate_reports([Example("a", "FINDINGS: No pneumothorax. Small effusion.", "a")])[0]
    assert {(span.name, span.value) for span in example.spans} == {("finding negated", "pneumothorax"), ("finding", "pleural effusion")}


def test_rates_stand_for_every_method_and_strength_with_wilson_intervals():
    def measured(name, texts):
        return Measured(Method(name, "latent", name, "site", lambda _s: lambda x: x, lambda s: s), [0.0, 1.0], None, texts)

    before, after = [Generated(PROMPT, WELL)] * 4, [Generated(PROMPT, SICK)] * 3 + [Generated(PROMPT, WELL)]
    rates = finding_rates([measured("base/1", [before, after]), measured("base/2", [before, before])])
    effusion = {(rate.method, rate.strength): rate.rate for rate in rates if rate.finding == "pleural effusion"}
    assert {key: value.value for key, value in effusion.items()} == {("base/1", 0.0): 0.0, ("base/1", 1.0): 0.75, ("base/2", 1.0): 0.0}
    assert effusion["base/1", 1.0].n == 4 and effusion["base/1", 1.0].low == pytest.approx(0.3006, abs=1e-3)
    assert {rate.family for rate in rates} == {"pathology", "device"}
