"""Grades of evidence: when an explanation counts as supported, and when a latent counts as one of the domain.

The rule of grades, stated once; catalogue, report and the choice of latents to edit all use it. A score has a main value (F1 of the label rule,
balanced accuracy of detection, ...), a floor that it should reach, and controls, each with the upper end of what it reached. The first grade
that holds counts:
    A  the lower end of the 95 % interval reaches the floor and lies above every control, latents of an untrained SAE and raw neurons included
    B  the value reaches the floor, and its lower end lies above chance: labels shifted against the tokens, explanations of other latents
    C  the lower end lies above chance, but the value is below the floor
    D  anything else: no explanation, no score, too few held-out tokens or examples, or no better than chance
"""

from collections.abc import Iterable
from typing import NamedTuple

from sparselight.records import Card, Explanation, MetricValue, Score
from sparselight.records.cards import Grade

MIN_F1 = 0.5  # InterPLM (arXiv 2412.12101) counts a feature as identified above this F1
MIN_HELD_OUT_TOKENS = 20  # below it an F1 of 1 says little and its bootstrap interval, which cannot see what did not occur, says less
MIN_HELD_OUT_EXAMPLES = 5  # of a scorer that judges whole contexts
SMOOTHING_FRAC = 1e-5  # a firing rate of one token in 100,000: rates below it carry no information about the ratio
CHANCE = ("rolled_labels", "shuffled")  # controls that say what chance gives; the others say what no training gives
GRADES: tuple[Grade, ...] = ("A", "B", "C", "D")


class Main(NamedTuple):
    """The value of a scorer that is graded."""

    metric: str
    floor: float
    chance: float
    """What guessing gives, whatever the controls."""
    min_positive: int


MAIN: dict[str, Main] = {
    "label_rule": Main("f1", MIN_F1, 0.0, MIN_HELD_OUT_TOKENS),
    "detection": Main("balanced_accuracy", 0.7, 0.5, MIN_HELD_OUT_EXAMPLES),
    "fuzzing": Main("balanced_accuracy", 0.7, 0.5, MIN_HELD_OUT_EXAMPLES),
    "level_prediction": Main("confidence", 0.8, 0.5, MIN_HELD_OUT_EXAMPLES),  # RecSAE (arXiv 2411.06112) counts a latent as interpretable from 0.8
    "embedding": Main("auroc", 0.7, 0.5, MIN_HELD_OUT_EXAMPLES),
}
"""Intruder detection is not here: it tests the latent, not what is said of it."""


class Verdict(NamedTuple):
    """A grade with the numbers that decided it."""

    grade: Grade
    why: str


def grade_score(score: Score) -> Verdict:
    """Grade one score by the rule above."""
    main = MAIN.get(score.scorer)
    if score.why_not or main is None or main.metric not in score.values:
        return Verdict("D", score.why_not or f"{score.scorer} does not grade explanations")
    value = score.values[main.metric]
    said = f"{score.scorer} {main.metric} {value}"
    if score.n_positive < main.min_positive:
        return Verdict("D", f"{said}, but only {score.n_positive} held-out positives of at least {main.min_positive}")
    if value.low is None:
        return Verdict("D", f"{said} without an interval: all held-out tokens come from one group")
    chance = max([main.chance, *(upper(score, name, main.metric) for name in score.controls if name in CHANCE)])
    highest = max([chance, *(upper(score, name, main.metric) for name in score.controls)])
    beside = f"{said}, chance up to {chance:.3g}, all controls up to {highest:.3g}"
    if value.low <= chance:
        return Verdict("D", f"{beside}: no better than chance")
    if value.value < main.floor:
        return Verdict("C", f"{beside}: better than chance, below {main.floor:g}")
    if value.low >= main.floor and value.low > highest:
        return Verdict("A", f"{beside}: at least {main.floor:g} and above every control with its whole interval")
    return Verdict("B", f"{beside}: at least {main.floor:g}, interval above chance")


def upper(score: Score, control: str, metric: str) -> float:
    """Upper end of a control: of its interval where it has one, else its value; 0 where it lacks the metric."""
    value: MetricValue | None = score.controls[control].get(metric)
    if value is None:
        return 0.0
    return value.value if value.high is None else value.high


def grade_explanation(explanation: Explanation) -> Verdict:
    """The best grade among its scores; a statistical explanation of an earlier version is graded by its evidence."""
    scores = explanation.scores
    if not scores and explanation.evidence is not None:
        scores = [score_of_evidence(explanation)]
    if not scores:
        return Verdict("D", "it has no score")
    evidence = explanation.evidence
    if evidence is not None and evidence.n_labelled < MIN_HELD_OUT_TOKENS:
        few = f"only {evidence.n_labelled} held-out tokens carry the label, of at least {MIN_HELD_OUT_TOKENS}"
        scores = [score if score.scorer != "label_rule" else score.model_copy(update={"why_not": few}) for score in scores]
    return min((grade_score(score) for score in scores), key=lambda verdict: verdict.grade)


def score_of_evidence(explanation: Explanation) -> Score:
    """The label-rule score that an explanation's evidence amounts to."""
    evidence = explanation.evidence
    assert evidence is not None
    return Score(
        scorer="label_rule", values={"f1": evidence.f1, "precision": evidence.precision, "recall": evidence.recall},
        controls={"rolled_labels": {"f1": evidence.control_f1}}, n_positive=evidence.n_fires,
    )


def graded(card: Card, explanations: Iterable[Explanation] | None = None) -> Card:
    """The card with these explanations (its own, if None), the best of them first in line, and the grade that follows."""
    own = card.explanations or ([card.explanation] if card.explanation else [])
    listed = list(own if explanations is None else explanations)
    if not listed:
        return card.model_copy(update={"explanations": [], "explanation": None, "grade": "D"})
    verdicts = [grade_explanation(explanation) for explanation in listed]
    best = min(range(len(listed)), key=lambda number: verdicts[number].grade)  # the first of the best
    return card.model_copy(update={
        "explanations": listed, "explanation": listed[best], "grade": verdicts[best].grade, "grade_why": verdicts[best].why})


def is_supported(card: Card) -> bool:
    """Whether a card's explanation is proven on held-out data: grade A or B.

    For a statistical explanation: held-out F1 >= 0.5, the lower end of its 95 % interval lies above the largest F1 that chance reached (the same
    search with shifted labels, explanations of other latents), and at least 20 held-out tokens carry the label and 20 make the latent fire.
    """
    return card.explanation is not None and grade_explanation(card.explanation).grade in ("A", "B")


def domain_ratio(card: Card) -> float:
    """How many times more often a latent fires on domain tokens than on general ones.

    Formula: (domain_fire_rate + s) / (fire_rate + s) with s = 1e-5, so that a latent with next to no firings stays near 1.
    """
    return (card.domain_fire_rate + SMOOTHING_FRAC) / (card.fire_rate + SMOOTHING_FRAC)


def domain_cards(cards: Iterable[Card], ratio: float = 3.0) -> list[Card]:
    """Cards of latents that fire at least `ratio` times as often in the domain, the highest ratio first."""
    return sorted((card for card in cards if domain_ratio(card) >= ratio), key=lambda card: (-domain_ratio(card), card.source, card.latent))
