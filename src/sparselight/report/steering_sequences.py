"""Renders a `SequenceSteeringRecord` as one HTML file: sequences before and after with what the judge found marked, and the share of hits of every arm.

No script, nothing loaded from outside. Sequences are escaped here where they become markup. The verdict says what the numbers say: that a latent hits more
often than no edit means little where a random latent does too.
"""

from pathlib import Path
from typing import Any

from markupsafe import Markup

from sparselight.files import write_bytes
from sparselight.intervene.sequence_study import compared, fisher
from sparselight.records import ArmKind, MetricValue, SequenceArm, SequenceSteeringRecord, WrittenSequence
from sparselight.report.compare_marks import Look, key, shape, whisker
from sparselight.report.html import environment
from sparselight.report.numbers import DASH, interval, number, percent, with_interval
from sparselight.report.steering_figures import LOOKS
from sparselight.report.svg import Scale, frame, line, shorten, text

WIDTH, LEFT, RIGHT, TOP, ROW = 480.0, 176.0, 462.0, 44.0, 24.0
ARM_LOOKS: dict[ArmKind, Look] = {
    "no edit": Look("control", "circle", "x"), "latent": LOOKS["latent"], "random latent": LOOKS["random latent"],
    "random direction": LOOKS["random direction"], "other concept": LOOKS["other concept"],
}
BLOCK = 10  # residues between blanks, as sequence databases write them


def write_sequence_study(study: SequenceSteeringRecord, path: Path) -> None:
    """Render the page and write it atomically.

    Raises:
        StoreError: when the disk is full or the folder cannot be written.
    """
    write_bytes(path, render_sequence_study(study).encode("utf-8", errors="replace"))


def render_sequence_study(study: SequenceSteeringRecord) -> str:
    """The page as text."""
    kinds = list(dict.fromkeys(arm.kind for arm in study.arms))
    return environment().get_template("steering_sequences.html.j2").render({
        "study": study, "title": shorten(f"{study.card}: {study.title}" if study.title else study.card, 120), "lead": headline(study),
        "verdicts": verdicts(study), "judge": judge_sentences(study), "figure": figure(study), "keys": [(kind, key(ARM_LOOKS[kind])) for kind in kinds],
        "arms": [arm_row(arm) for arm in study.arms], "pairs": pairs(study), "seeds": len(study.seeds),
        "settings": [(name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)) for name, value in sorted(study.settings.items())],
        "methods": [(arm.kind, arm.what) for arm in {arm.kind: arm for arm in study.arms}.values()],
    })


def best(study: SequenceSteeringRecord) -> SequenceArm:
    """The latent's arm with the most hits, at the lowest strength among equals."""
    return max(study.of_kind("latent"), key=lambda arm: (arm.success.value, -arm.strength))


def headline(study: SequenceSteeringRecord) -> str:
    """What the latent does to the share of hits where it does most."""
    plain, own = study.of_kind("no edit")[0], best(study)
    did = {"clamp": "Clamping", "add": "Adding"}[study.operation]
    return (f"{did} {study.card} at strength {own.strength:g}, {share(own.success)} of the sequences have {study.goal}; without an edit "
            f"{share(plain.success)}. Of {own.success.n} sequences each.")


def verdicts(study: SequenceSteeringRecord) -> list[tuple[str, str]]:
    """(arm, sentence): whether the latent hits more often, with the strength that says so most clearly, or, where it does not, that of the most hits."""
    found = []
    for kind, wins in study.beats.items():
        pairs = [(own, other, strength, fisher(own.success, other)) for own, other, strength in compared(study.arms, kind)]
        if wins is None or not pairs:
            found.append((kind, "not written, so nothing can be said."))
            continue
        own, other, strength, p = min(pairs, key=lambda pair: pair[3]) if wins else max(pairs, key=lambda pair: (pair[1].value, pair[0].success.value))
        at = f" at strength {own.strength:g}"
        found.append((kind, f"{'beaten' if wins else 'not beaten'}. {share(other)}{at if strength else ''}; the latent "
                      f"{'there' if strength else at.strip()} {share(own.success)}, p = {p:.2g}."))
    return found


def judge_sentences(study: SequenceSteeringRecord) -> list[str]:
    """Who judges, and how well on natural sequences."""
    judge = study.judge
    if judge.natural_without is None:
        return [f"Judged by {judge.what}.", f"Of natural held-out sequences of that length, {share(judge.natural)} match."]
    precision, recall = judge.precision or 0.0, judge.recall or 0.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return [f"Judged by {judge.what}.", f"On natural held-out sequences of that length it finds {share(judge.natural)} of those that carry the label, and "
            f"raises a false alarm on {share(judge.natural_without)} of those that do not. Residue by residue: AUROC {number(judge.auroc)}, F1 {number(f1)} "
            f"(precision {number(judge.precision)}, recall {number(judge.recall)})."]


def share(value: MetricValue) -> str:
    """A share of sequences with its interval."""
    return with_interval(value, percent)


def arm_row(arm: SequenceArm) -> dict[str, Any]:
    """A line of the table."""
    return {
        "kind": arm.kind, "mark": key(ARM_LOOKS[arm.kind]), "strength": f"{arm.strength:g}" if arm.strength else DASH, "is_latent": arm.kind == "latent",
        "success": percent(arm.success.value), "success_interval": interval(arm.success, percent), "chance": percent(arm.chance.value),
        "p": DASH if arm.p is None else f"{arm.p:.2g}", "low_complexity": percent(arm.low_complexity), "entropy": number(arm.entropy_bits),
        "composition": number(arm.composition_distance), "hydropathy": number(arm.hydropathy), "identity": number(arm.identity, 2),
        "distinct": percent(arm.distinct_frac), "perplexity": number(arm.pseudo_perplexity),
    }


def pairs(study: SequenceSteeringRecord) -> list[tuple[str, list[dict[str, Any]]]]:
    """By strength: sequences of one seed without and with the latent."""
    plain = {one.seed: one for one in study.of_kind("no edit")[0].sequences}
    return [(f"{arm.strength:g}", [{"seed": one.seed, "before": _view(plain[one.seed]), "after": _view(one)} for one in arm.sequences if one.seed in plain])
            for arm in study.of_kind("latent")]


def _view(sequence: WrittenSequence) -> dict[str, Any]:
    places = ", ".join(f"{start + 1}-{end}" for start, end in sequence.marked)
    said = "hit" if sequence.is_hit else "no hit"
    return {"text": marked_residues(sequence.text, sequence.marked), "said": f"{said}, residues {places}" if places else said}


def marked_residues(sequence: str, places: list[tuple[int, int]]) -> Markup:
    """The sequence in blocks of ten, what was found marked; overlapping places become one."""
    covered = [any(start <= index < end for start, end in places) for index in range(len(sequence))]
    found, inside = Markup(""), False
    for index, letter in enumerate(sequence):
        if covered[index] != inside:
            found += Markup("<mark>") if covered[index] else Markup("</mark>")
            inside = covered[index]
        found += Markup("{}").format(letter)
        if index % BLOCK == BLOCK - 1:
            found += " "
    return found + Markup("</mark>") if inside else found


def figure(study: SequenceSteeringRecord) -> Markup:
    """Share of hits of every arm with its interval, strength by strength, and what shuffled letters yield as a small stroke."""
    most = max(arm.success.high or arm.success.value for arm in study.arms)
    x = Scale(0.0, max(0.05, min(1.0, most * 1.05)), LEFT, RIGHT)
    bottom = TOP + ROW * len(study.arms)
    body = [text(8, 18, f"share of sequences with {shorten(study.goal, 42)}", "small strong")]
    for tick in x.ticks(5):
        body += [line(x(tick), TOP - 8, x(tick), bottom, "grid"), text(x(tick), bottom + 18, f"{100 * tick:g} %", "tiny muted", "middle")]
    for row, arm in enumerate(study.arms):
        y, look = TOP + ROW * (row + 0.5), ARM_LOOKS[arm.kind]
        if row and arm.strength != study.arms[row - 1].strength:
            body.append(line(8, y - ROW / 2, RIGHT, y - ROW / 2, "grid"))
        if arm.kind in ("no edit", "latent"):
            body.append(text(8, y + 4, f"strength {arm.strength:g}" if arm.strength else "", "tiny muted"))
        chance = x(arm.chance.value)
        body += [text(LEFT - 10, y + 4, arm.kind, f"tiny {'strong' if arm.kind == 'latent' else ''}", "end"), line(chance, y - 7, chance, y + 7, "axis")]
        low, high = arm.success.low or 0.0, arm.success.high if arm.success.high is not None else arm.success.value
        body += [*whisker(y, (x(low), x(high)), f"{look.stroke} thin", upright=False),
                 shape(x(arm.success.value), y, look, 5, f"{arm.kind}, strength {arm.strength:g}: {percent(arm.success.value)}")]
    words = "; ".join(f"{arm.kind}{f' at {arm.strength:g}' if arm.strength else ''}: {percent(arm.success.value)}" for arm in study.arms)
    return frame("hits-by-arm", "Hits by arm", words, (WIDTH, bottom + 30), body)
