"""From the measurements of a study to its record: values with intervals, curves in numbers, all methods at equal side effect, what else changed.

Owns the rule by which a latent beats a baseline: at one of its strengths it clearly changes the goal in the direction that is wanted, and clearly more than the
baseline at equal divergence on general text (p at or below 0.05 after Bonferroni over the strengths); at none does it clearly less.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
from jaxtyping import Float

from sparselight import __version__
from sparselight.evaluate.statistics import FEW_GROUPS, Resampled, Resamples, paired
from sparselight.intervene.baselines import TextSample
from sparselight.intervene.dose_response import Curve, Wants, change_at_kl, half_dose, isotonic_r2, mean_of, spearman
from sparselight.intervene.generated import Generated, generated_tokens, label_columns, whole_texts
from sparselight.intervene.goals import Goal
from sparselight.intervene.reports import FindingGoal, finding_rates
from sparselight.intervene.side_effects import ALPHA, latent_shares, off_targets
from sparselight.intervene.study_curves import Draws, Measured, make_curves, make_draws, per_general_token
from sparselight.intervene.study_setting import Setting, SteerConfig
from sparselight.protocols import Example
from sparselight.records import Dose, MatchedEffect, MetricValue, OffTargets, Response, SteeredText, SteeringRecord, TextQuality

MAX_TEXTS = 60
MIN_R2 = 0.5  # of a monotone curve, below which a half dose means nothing
WORDS = {"spearman": "the rank correlation", "isotonic_r2": "the fit of a monotone curve", "half_dose": "the half-effect dose"}


def make_record(setting: Setting, goal: Goal, config: SteerConfig, sample: TextSample, measured: Sequence[Measured]) -> SteeringRecord:
    """All that the study found."""
    latent, draws = measured[0], make_draws(setting, measured[0], config)
    curves = make_curves(measured, draws)
    of_effect = draws.groups if latent.values is None else _prompts(draws)
    matched = match(measured, curves, of_effect, draws.groups, config)
    n_generated = sum(int(generated_tokens(setting.subject.prepare(whole_texts(texts)), texts).sum()) for texts in latent.texts[:1])
    return SteeringRecord(
        name=f"{setting.source}-{setting.latent}-{config.operation}", subject=setting.subject.name, site=setting.site, source=setting.source,
        latent=setting.latent, title=setting.title, operation=config.operation, reference=sample.reference(setting.latent, config.quantile),
        reference_what=f"{config.quantile:g} quantile of its activations where it fires, over {sample.n_tokens:,} tokens of text",
        goal=goal.title, goal_on=goal.on, goal_unit=goal.unit, wants=config.direction,
        responses=[make_response(one, curve, draws, of_effect, latent, config) for one, curve in zip(measured, curves, strict=True)],
        matched=matched, beats=beats(matched, config.direction), texts=steered_texts(setting, latent, config), off_targets=all_off_targets(setting, latent),
        findings=finding_rates(measured) if isinstance(goal, FindingGoal) else [],
        notes=notes(setting, draws, latent), settings={**config.model_dump(mode="json"), "strengths": config.doses},
        n_tokens={"general": int(latent.general.n_tokens.sum()), "generated a dose": n_generated}, seeds=list(range(config.seed, config.seed + config.n_seeds)),
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), sparselight_version=__version__,
    )


def value_of(resamples: Resamples, values: Resampled, unit: str = "groups") -> MetricValue:
    """A value that is always defined."""
    value, why = resamples.summarize(values)
    assert value is not None, why
    return value.model_copy(update={"unit": unit})


def make_response(one: Measured, curve: Curve, draws: Draws, of_effect: Resamples, latent: Measured, config: SteerConfig) -> Response:
    """The curve of one method in numbers."""
    unit = "groups" if one.values is None else "prompts"
    ce = per_general_token(draws, latent.general, one.general.ce, one.general.n_targets)
    doses = [
        Dose(
            strength=strength, amount=one.method.amount(strength) if strength else None, effect=value_of(of_effect, curve.effect[:, at], unit),
            change=value_of(of_effect, curve.change()[:, at], unit), kl_nats=draws.groups.summarize(_kl(curve)[:, at])[0],
            ce_change_nats=draws.groups.summarize(ce[:, at] - ce[:, 0])[0], text=_quality(one, at, draws),
        )
        for at, strength in enumerate(one.strengths)
    ]
    response = Response(method=one.method.name, kind=one.method.kind, what=one.method.what, doses=doses,
                        edit=one.method.edit.model_dump(mode="json") if one.method.edit else None)
    own = [at for at, strength in enumerate(one.strengths) if strength <= config.doses[-1]]
    if one.method.kind == "prompt":
        return response
    strengths, effect = curve.strengths[own], curve.effect[:, own]
    found = {"spearman": spearman(strengths, effect), "isotonic_r2": isotonic_r2(effect, config.direction),
             "half_dose": half_dose(strengths, effect, config.direction)}
    if not found["isotonic_r2"][0] >= MIN_R2:
        found["half_dose"] = np.full_like(found["half_dose"], np.nan)
    summaries = {name: of_effect.summarize(values) for name, values in found.items()}
    lacks = [f"{WORDS[name]}: {'the effect does not move steadily the way that is wanted' if value is None else why}"
             for name, (value, why) in summaries.items() if why]
    return response.model_copy(update={**{name: value for name, (value, _) in summaries.items()}, "lacks": lacks})


def match(measured: Sequence[Measured], curves: Sequence[Curve], of_effect: Resamples, groups: Resamples, config: SteerConfig) -> list[MatchedEffect]:
    """The latent's change at each of its strengths beside that of every kind of baseline where its own curve reaches the same divergence."""
    latent, sign, found = curves[0], 1.0 if config.direction == "more" else -1.0, []
    kinds = [kind for kind in dict.fromkeys(one.method.kind for one in measured[1:]) if kind != "prompt"]
    for at, strength in enumerate(measured[0].strengths):
        kl = _kl(latent)[:, at]
        for kind in kinds if strength else []:
            own = [curve for one, curve in zip(measured, curves, strict=True) if one.method.kind == kind]
            found.append(_matched(latent.change()[:, at], mean_of([change_at_kl(curve, kl) for curve in own]), kl, (strength, kind, len(own), sign),
                                  of_effect, groups, f"its divergence does not come to that of the latent up to strength {max(own[0].strengths):g}"))
    for one, curve in zip(measured, curves, strict=True):
        if one.method.kind == "prompt":
            kl = _kl(curve)[:, 1]
            reached = np.maximum.accumulate(_kl(latent)[0])
            strength = float(np.interp(kl[0], reached, latent.strengths))
            found.append(_matched(change_at_kl(latent, kl), curve.change()[:, 1], kl, (strength, "prompt", 1, sign), of_effect, groups,
                                  "the latent's divergence does not come to that of the prompt"))
    return found


def _matched(latent: Resampled, baseline: Resampled, kl: Resampled, what: tuple[float, str, int, float], of_effect: Resamples, groups: Resamples,
             missing: str) -> MatchedEffect:
    strength, kind, n, sign = what
    difference = paired(sign * latent, sign * baseline, of_effect)
    own, other = of_effect.summarize(latent)[0], of_effect.summarize(baseline)[0]
    zero = MetricValue(value=0.0, n=of_effect.n_groups)
    lacks = missing if own is None or other is None else difference.lacks
    return MatchedEffect(strength=strength, kl_nats=groups.summarize(kl)[0] or zero, baseline=kind, n_baselines=n, latent_change=own or zero,
                         baseline_change=other, difference=difference.value if own else None, p=difference.p, lacks=lacks)


def beats(matched: Sequence[MatchedEffect], wants: Wants) -> dict[str, bool | None]:
    """The rule of this module, for each kind of baseline; None where nothing could be compared."""
    found: dict[str, bool | None] = {}
    for kind in dict.fromkeys(item.baseline for item in matched):
        own = [item for item in matched if item.baseline == kind]
        level = ALPHA / max(1, len(own))
        tested = [(item, item.difference.value) for item in own if item.p is not None and item.difference is not None]
        ahead = any(item.p is not None and item.p <= level and value > 0 and _moves(item.latent_change, wants) for item, value in tested)
        behind = any(item.p is not None and item.p <= level and value < 0 for item, value in tested)
        found[kind] = ahead and not behind if tested else None
    return found


def _moves(change: MetricValue, wants: Wants) -> bool:
    """Whether a change goes the way that is wanted, its interval as well."""
    ends = (change.value, change.value if change.low is None else change.low, change.value if change.high is None else change.high)
    return min(ends) > 0 if wants == "more" else max(ends) < 0


def steered_texts(setting: Setting, latent: Measured, config: SteerConfig) -> list[SteeredText]:
    """Every prompt with its first seed at every strength, as it was and as it became."""
    found: list[SteeredText] = []
    for at, strength in enumerate(latent.strengths):
        for number, prompt in enumerate(setting.prompts if strength and latent.texts else ()):
            place = number * config.n_seeds
            values = {} if latent.values is None else {"before_value": float(latent.values[0, place]), "after_value": float(latent.values[at, place])}
            text, example = (prompt.text, prompt.id) if isinstance(prompt, Example) else (prompt, "")
            found.append(SteeredText(prompt=text, example=example, seed=config.seed, strength=strength, before=latent.texts[0][place].text,
                                     after=latent.texts[at][place].text, **values))
    return found[:MAX_TEXTS]


def all_off_targets(setting: Setting, latent: Measured) -> list[OffTargets]:
    """Latents and annotations that change in generated text, at every strength."""
    if not latent.texts:
        return []
    unit = np.repeat(np.arange(len(setting.prompts)), len(latent.texts[0]) // len(setting.prompts))
    shares = [latent_shares(setting.subject, setting.coder, setting.site, texts) for texts in latent.texts]
    labels = [label_shares(setting, texts) for texts in latent.texts]
    names = [f"{setting.source}/{number}" for number in range(setting.coder.n_latents)]
    titles = [setting.titles.get(number, "") for number in range(setting.coder.n_latents)]
    found = []
    for at, strength in enumerate(latent.strengths[1:], 1):
        found.append(off_targets(shares[0], shares[at], unit, names, titles, [setting.latent], strength, "latents"))
        known = sorted({*labels[0], *labels[at]})
        if known and setting.annotate is not None:
            before, after = (np.stack([one.get(name, np.zeros(len(unit))) for name in known], axis=1) for one in (labels[0], labels[at]))
            found.append(off_targets(before, after, unit, known, [""] * len(known), [], strength, "annotations"))
    return found


def label_shares(setting: Setting, texts: Sequence[Generated]) -> dict[str, Float[np.ndarray, " text"]]:
    """Share of the generated tokens that carry each annotated span."""
    if setting.annotate is None:
        return {}
    examples = setting.annotate(whole_texts(texts))
    kinds = sorted({span.name for example in examples for span in example.spans})
    batch = setting.subject.prepare(examples)
    new, number = generated_tokens(batch, texts), batch.example.numpy()
    n = np.maximum(np.bincount(number[new], minlength=len(texts)), 1)
    return {f"{kind}={value}": np.bincount(number[new & carries], minlength=len(texts)) / n
            for kind in kinds for value, carries in label_columns(setting.subject, examples, kind).items()}


def notes(setting: Setting, draws: Draws, latent: Measured) -> list[str]:
    """What a reader must know."""
    found = [f"general text: {note}" for note in [draws.groups.note()] if note]
    if draws.prompts is not None and draws.prompts.n_groups < FEW_GROUPS:
        found.append(f"generated text: {draws.prompts.n_groups} prompts, so its intervals are rough and rather too narrow")
    if not latent.texts:
        found.append("no text was generated" + ("" if setting.prompts else ", because no prompt was given") + ": diversity, perplexity and off-target "
                     "latents are not measured")
    elif setting.annotate is None:
        found.append("off-target annotations are not measured: nothing annotates generated text")
    return found


def _kl(curve: Curve) -> Float[np.ndarray, "resample dose"]:
    assert curve.kl is not None
    return curve.kl


def _prompts(draws: Draws) -> Resamples:
    assert draws.prompts is not None
    return draws.prompts


def _quality(one: Measured, at: int, draws: Draws) -> TextQuality | None:
    if not one.quality:
        return None
    values = {name: draws.per_prompt(column[None])[:, 0] for name, column in one.quality[at].items()}
    return TextQuality(**{name: value_of(_prompts(draws), column, "prompts") for name, column in values.items()})
