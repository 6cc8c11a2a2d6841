"""A steering study in words: what the edit does, whether it beats its baselines, what else it changes. Also the marks of changed words.

Owns the sentences, made from the record's numbers alone. Text of a model is escaped here where it becomes markup, and only marked, never interpreted.
"""

import difflib
import re
from collections.abc import Iterator

from markupsafe import Markup, escape

from sparselight.records import Dose, MatchedEffect, SteeringRecord
from sparselight.report.numbers import number, with_interval
from sparselight.report.svg import shorten

WORD = re.compile(r"\s+|\w+|[^\w\s]")
Change = tuple[str, bool]
"""A piece of text, and whether it is in this version only."""

DID = {"add": "adding", "clamp": "clamping", "scale": "scaling up", "ablate": "ablating"}


def headline(study: SteeringRecord) -> str:
    """What the edit does to the goal at about its own largest activation, and what that costs, in one sentence."""
    own = study.responses[0]
    dose = min(own.doses[1:], key=lambda one: abs(one.strength - 1))
    price = "" if dose.kl_nats is None else f", at a KL of {number(dose.kl_nats.value)} nats a token on general text"
    edit, before = f"{DID[study.operation].capitalize()} {study.card} at strength {dose.strength:g}", number(own.doses[0].effect.value)
    return f"{edit} takes the goal's value from {before} to {with_interval(dose.effect)} ({study.goal_unit}){price}."


def strongest(study: SteeringRecord) -> Dose:
    """The dose of the latent with the largest change in the direction that is wanted."""
    sign = 1.0 if study.wants == "more" else -1.0
    return max(study.responses[0].doses[1:], key=lambda dose: sign * dose.change.value)


def curve_sentences(study: SteeringRecord) -> list[str]:
    """How far it goes, whether steadily, and where half of the effect is reached."""
    own, far = study.responses[0], strongest(study)
    found = [f"The largest change, at strength {far.strength:g}: {with_interval(far.change)}."]
    if own.spearman is not None:
        found.append(f"Rank correlation of strength and effect: {with_interval(own.spearman)}.")
    if own.isotonic_r2 is not None:
        found.append(f"A monotone curve explains {with_interval(own.isotonic_r2)} of the variance of the effect over the strengths.")
    if own.half_dose is not None:
        found.append(f"Half of the effect is reached at strength {with_interval(own.half_dose)}, which is an activation of "
                     f"{number(own.half_dose.value * study.reference)}." if study.operation in ("add", "clamp") else
                     f"Half of the effect is reached at strength {with_interval(own.half_dose)}.")
    return [*found, *(f"Not known: {sentence}." for sentence in own.lacks)]


def verdicts(study: SteeringRecord) -> list[tuple[str, str]]:
    """(kind of baseline, sentence): whether the latent does more at equal side effect."""
    found = []
    for kind, wins in study.beats.items():
        own = [item for item in study.matched if item.baseline == kind]
        if wins is None:
            found.append((kind, f"cannot be told: {own[0].lacks or 'nothing was measured at equal side effect'}."))
            continue
        ahead, behind = clear(own, 1.0), clear(own, -1.0)
        words = "beaten" if wins else "not beaten" if ahead else "not beaten, it does more" if behind else "not beaten, no clear difference"
        shown = [*(ahead if wins else behind)[:1], *([] if wins else ahead[:1])] or [item for item in own if item.difference is not None][:1]
        found.append((kind, f"{words}. {' '.join(map(_comparison, shown))}"))
    return found


def clear(own: list[MatchedEffect], sign: float) -> list[MatchedEffect]:
    """Comparisons whose interval leaves out 0 on one side, those near strength 1 first."""
    found = [item for item in own if item.difference is not None and item.difference.low is not None and item.difference.high is not None
             and min(sign * item.difference.low, sign * item.difference.high) > 0]
    return sorted(found, key=lambda item: abs(item.strength - 1))


def _comparison(item: MatchedEffect) -> str:
    other = "undefined" if item.baseline_change is None else number(item.baseline_change.value)
    difference = "" if item.difference is None else f", a difference of {with_interval(item.difference)}"
    name = f"the {item.baseline}" if item.n_baselines == 1 else f"{item.baseline}s, the mean of {item.n_baselines},"
    return (f"At a KL of {number(item.kl_nats.value)} nats a token (strength {item.strength:.3g} of the latent) the goal changes by "
            f"{number(item.latent_change.value)} with the latent and by {other} with {name}{difference}.").replace(",,", ",")


def marked(before: str, after: str) -> tuple[Markup, Markup]:
    """Both texts as markup, what is in one of them only marked there."""
    first, second = changes(before, after)
    return _markup(first, "del"), _markup(second, "ins")


def changes(before: str, after: str) -> tuple[list[Change], list[Change]]:
    """Both texts in pieces, word by word."""
    old, new = WORD.findall(before), WORD.findall(after)
    first: list[Change] = []
    second: list[Change] = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        first += _piece(old[a:b], kind != "equal")
        second += _piece(new[c:d], kind != "equal")
    return first, second


def _piece(words: list[str], changed: bool) -> Iterator[Change]:
    if words:
        yield "".join(words), changed


def _markup(pieces: list[Change], tag: str) -> Markup:
    """Blanks at the ends of a change are not marked: underlined indentation reads as text."""
    found = Markup("")
    for text, changed in pieces:
        core = text.strip()
        if not changed or not core:
            found += escape(text)
            continue
        before, _, after = text.partition(core)
        found += before + Markup(f"<{tag}>{{}}</{tag}>").format(core) + after
    return found


def page_title(study: SteeringRecord) -> str:
    return shorten(f"{study.card}: {study.title}" if study.title else study.card, 120)
