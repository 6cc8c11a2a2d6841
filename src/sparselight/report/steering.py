"""Renders a `SteeringRecord` as one HTML file: no script, nothing loaded from outside, readable in light, dark, small and in print.

The template escapes everything; the only ready markup are the figures of this package and texts with their changes marked, which escape what they are given.
"""

from pathlib import Path
from typing import Any

from sparselight.files import write_bytes
from sparselight.records import Dose, MetricValue, SteeringRecord
from sparselight.report.compare_marks import key
from sparselight.report.html import environment
from sparselight.report.numbers import DASH, interval, number, percent
from sparselight.report.steering_figures import LOOKS, effect_by_kl, effect_by_strength, kl_by_strength
from sparselight.report.steering_words import curve_sentences, headline, marked, page_title, verdicts

MOST_TEXTS = 6  # shown open, at one strength


def write_study(study: SteeringRecord, path: Path) -> None:
    """Render the page and write it atomically.

    Raises:
        StoreError: when the disk is full or the folder cannot be written.
    """
    write_bytes(path, render_study(study).encode("utf-8", errors="replace"))


def render_study(study: SteeringRecord) -> str:
    """The page as text."""
    return environment().get_template("steering.html.j2").render(study_values(study))


def study_values(study: SteeringRecord) -> dict[str, Any]:
    """All that the template refers to."""
    kinds = list(dict.fromkeys(response.kind for response in study.responses))
    return {
        "study": study, "title": page_title(study), "lead": headline(study), "curve": curve_sentences(study), "verdicts": verdicts(study),
        "figures": [figure for figure in (effect_by_strength(study), effect_by_kl(study), kl_by_strength(study)) if figure],
        "keys": [(kind, key(LOOKS[kind]), sum(response.kind == kind for response in study.responses)) for kind in kinds],
        "matched": _all_matched(study), "doses": [_dose(dose) for dose in study.responses[0].doses],
        "has_text": any(dose.text for dose in study.responses[0].doses), "texts": _texts(study), "most_texts": MOST_TEXTS,
        "off_targets": [(part, [_off_target(item) for item in part.largest if item.p_adjusted <= 0.05]) for part in study.off_targets if part.n_changed],
        "unchanged": [f"{part.kind} at strength {part.strength:g} ({part.n_tested} tested)" for part in study.off_targets if not part.n_changed],
        "findings": _findings(study),
        "settings": [(name, _setting(value)) for name, value in sorted(study.settings.items())],
    }


def _all_matched(study: SteeringRecord) -> list[dict[str, Any]]:
    """Rows by strength; the first of each strength shows it."""
    rows = [_matched(item) for item in study.matched]
    return [{**row, "is_first": not number or row["strength"] != rows[number - 1]["strength"]} for number, row in enumerate(rows)]


def _setting(value: Any) -> str:
    return ", ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in value) if isinstance(value, list) else "none" if value == "" else str(value)


def _matched(item: Any) -> dict[str, str]:
    return {
        "strength": f"{item.strength:.3g}", "kl": number(item.kl_nats.value),
        "baseline": item.baseline + (f", mean of {item.n_baselines}" if item.n_baselines > 1 else ""),
        "latent": number(item.latent_change.value), "latent_interval": interval(item.latent_change),
        "other": _number(item.baseline_change), "other_interval": _interval(item.baseline_change), "difference": _number(item.difference),
        "difference_interval": _interval(item.difference), "p": DASH if item.p is None else f"{item.p:.3f}", "lacks": item.lacks,
    }


def _dose(dose: Dose) -> dict[str, Any]:
    text = dose.text
    return {
        "strength": f"{dose.strength:g}" if dose.strength else "no edit", "amount": number(dose.amount), "effect": number(dose.effect.value),
        "effect_interval": interval(dose.effect), "change": number(dose.change.value) if dose.strength else DASH, "kl": _number(dose.kl_nats),
        "kl_interval": _interval(dose.kl_nats), "ce": _number(dose.ce_change_nats),
        "text": None if text is None else [number(text.distinct_1.value, 2), number(text.distinct_2.value, 2), number(text.repeated_4.value, 2),
                                           number(text.entropy_bits.value), number(min(2.718281828**text.ce_nats.value, 1e6))],
    }


def _texts(study: SteeringRecord) -> list[tuple[str, list[dict[str, Any]]]]:
    """By strength: each prompt as it was and as it became."""
    found: dict[str, list[dict[str, Any]]] = {}
    for text in study.texts:
        before, after = marked(text.before, text.after)
        found.setdefault(f"{text.strength:g}", []).append({
            "prompt": text.prompt, "before": before, "after": after, "same": text.before == text.after,
            "before_value": _value(text.before_value), "after_value": _value(text.after_value)})
    return list(found.items())


def _off_target(item: Any) -> dict[str, str]:
    return {"name": item.name, "title": item.title, "before": percent(item.before), "after": percent(item.after), "p": f"{item.p_adjusted:.3g}"}


def _findings(study: SteeringRecord) -> dict[str, Any] | None:
    """Share of the latent's reports in which each finding is present, by strength; findings that are in none are left out."""
    own = [rate for rate in study.findings if rate.method == study.responses[0].method]
    strengths = sorted({rate.strength for rate in own})
    by_finding: dict[str, dict[float, MetricValue]] = {}
    for rate in own:
        by_finding.setdefault(rate.finding, {})[rate.strength] = rate.rate
    rows = [(name, [(percent(found[at].value), interval(found[at])) for at in strengths]) for name, found in by_finding.items()
            if any(value.value for value in found.values())]
    n_reports = max((rate.rate.n for rate in own), default=0)
    return {"strengths": [f"{at:g}" if at else "no edit" for at in strengths], "rows": rows, "n_reports": n_reports} if own else None


def _number(value: MetricValue | None) -> str:
    return DASH if value is None else number(value.value)


def _interval(value: MetricValue | None) -> str:
    return "" if value is None else interval(value)


def _value(value: float | None) -> str:
    return "" if value is None else number(value)
