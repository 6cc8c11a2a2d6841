"""Steering of reports with features of a finding: which ones, one study each, and what it came to in a few numbers.

A feature is chosen in two ways: by its explanation (it fires on the words of a finding) and by its output (its decoder direction promotes them), because
features that read a word are known to be often not those that make a model write it (Arad et al. 2025, arXiv 2505.20063).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from families import finding_of

from sparselight.interpret.evidence import is_supported
from sparselight.intervene.study_setting import SteerConfig
from sparselight.pipeline.steer_place import Place
from sparselight.pipeline.steering import study_run
from sparselight.records import Card, FindingRate, SteeringRecord

SETTINGS: dict[str, Any] = {"strengths": [1.0, 2.0, 4.0], "n_prompts": 24, "n_seeds": 1, "n_tokens": 60, "n_random": 2, "sample_tokens": 30_000,
                            "general_tokens": 1_500, "max_doublings": 3, "n_bootstrap": 500}


OUTPUTS = {
    "opacity": ("opac", "opacity", "infiltrate"), "cardiomegaly": ("cardiomegaly", "enlarged", "enlargement"), "pleural effusion": ("effusion", "blunting"),
    "line or tube": ("catheter", "line", "tube", "tip"), "surgical material": ("sternotomy", "clips", "surgical"),
    "atelectasis": ("atelectasis", "atelectatic"),
}
"""Finding to words, or beginnings of words, of reports that name it."""


def choose(cards: Sequence[Card], n: int) -> Iterator[tuple[int, str, str]]:
    """Features by explanation, then by output; (latent, goal, way)."""
    taken = set()
    for latent, goal in by_explanation(cards, n):
        taken.add((latent, goal))
        yield latent, goal, "explanation"
    yield from ((latent, goal, "output") for latent, goal in by_output(cards) if (latent, goal) not in taken)


def by_output(cards: Sequence[Card]) -> Iterator[tuple[int, str]]:
    """For each finding the living feature whose promoted tokens name it earliest; of several, the one that fires most."""
    own = [card for card in cards if card.source == "base" and card.n_fires]
    for finding, words in OUTPUTS.items():
        ranked = [(next((rank for rank, token in enumerate(card.promotes) if token.strip().lower() in words), None), card) for card in own]
        found = [(rank, -card.fire_rate, card.latent) for rank, card in ranked if rank is not None]
        if found:
            yield min(found)[2], f"finding: {finding}=present"


def by_explanation(cards: Sequence[Card], n: int) -> Iterator[tuple[int, str]]:
    """The best-proven feature of each finding and state, findings that are present first."""
    proven = sorted((card for card in cards if card.source == "base" and is_supported(card) and finding_of(card)),
                    key=lambda card: (not finding_of(card).endswith("=present"), -(card.evidence.f1.value if card.evidence else 0.0)))
    seen: set[str] = set()
    for card in proven:
        finding = finding_of(card)
        if finding not in seen and len(seen) < n:
            seen.add(finding)
            yield card.latent, f"finding: {finding}"


def steer_one(place: Place, latent: int, goal: str, folder: Path) -> SteeringRecord:
    """One study; a finished one is read."""
    out = folder / f"{latent}-{goal.partition(':')[2].strip().replace(' ', '-').replace('=', '-')}"
    record = out / "steering.json"
    if record.is_file():
        return SteeringRecord.load(record)
    return study_run(place, "base", latent, SteerConfig.parse(SETTINGS, "steer"), goal, out=out).study


def summary_of(study: SteeringRecord, way: str) -> dict[str, Any]:
    """On target, off target, fluency, and the verdict, at each strength."""
    card = study.responses[0]
    rates = {(rate.method, rate.strength, rate.finding): rate for rate in study.findings}
    own = card.method
    goal = study.goal.removeprefix("reports in which ").partition(" is ")[0]
    doses = []
    for dose in card.doses:
        others = [rate for rate in study.findings if rate.method == own and rate.strength == dose.strength and rate.finding != goal]
        moved = [rate.finding for rate in others if dose.strength and apart(rate, rates[own, 0.0, rate.finding])]
        doses.append({"strength": dose.strength, "on_target": dose.effect.value, "low": dose.effect.low, "high": dose.effect.high,
                      "findings_moved_besides": moved, "kl_nats": dose.kl_nats.value if dose.kl_nats else None,
                      "text_ce_nats": dose.text.ce_nats.value if dose.text else None, "distinct_2": dose.text.distinct_2.value if dose.text else None})
    baselines = {response.method: {"kind": response.kind, "on_target": {f"{dose.strength:g}": dose.effect.value for dose in response.doses}}
                 for response in study.responses[1:]}
    return {"latent": study.card, "title": study.title, "goal": study.goal, "chosen_by": way, "beats": study.beats, "verdict": verdict(study), "doses": doses,
            "baselines": baselines, "n_reports": next((rate.rate.n for rate in study.findings), 0)}


def apart(one: FindingRate, other: FindingRate) -> bool:
    """Whether two shares differ clearly: their Wilson intervals do not meet."""
    first, second = one.rate, other.rate
    return None not in (first.low, first.high, second.low, second.high) and (first.low > second.high or second.low > first.high)  # type: ignore[operator]


def verdict(study: SteeringRecord) -> str:
    """In a word: whether the latent does more than random directions and random latents at equal side effect."""
    random = [study.beats.get(kind) for kind in ("random direction", "random latent")]
    if all(random):
        return "steers" + (", and better than the difference of means" if study.beats.get("difference of means") else "")
    if any(value is None for value in random):
        return "cannot be told"
    return "moves the goal no more than random edits"


