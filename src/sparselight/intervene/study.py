"""A steering study: one latent and its baselines over many strengths, each with what it does to the goal and what else it does.

Owns which doses are taken: baselines are dosed until they change general text as much as the latent does, so that all can be compared at equal side
effect. What the study is of is checked in `study_setting.py`; numbers become a record in `study_record.py`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sparselight.errors import ConfigError
from sparselight.intervene.baselines import (
    Method,
    TextSample,
    difference_of_means,
    direction_method,
    doubled,
    latent_method,
    prompt_method,
    random_directions,
    random_latents,
)
from sparselight.intervene.generate import can_generate
from sparselight.intervene.generated import Request, continuations
from sparselight.intervene.goal_forms import following_tokens, named
from sparselight.intervene.goals import Goal, TokenGoal, predicts_next
from sparselight.intervene.side_effects import General, measure_general, text_measures
from sparselight.intervene.study_curves import Measured
from sparselight.intervene.study_record import make_record
from sparselight.intervene.study_setting import Setting, SteerConfig, check_setting
from sparselight.protocols import Example, Progress, no_progress
from sparselight.records import SteeringRecord

REACH = 1.2  # baselines are dosed up to this multiple of the latent's largest divergence, so that resamples reach it as well


def steer_study(setting: Setting, config: SteerConfig, progress: Progress = no_progress, sample: TextSample | None = None) -> SteeringRecord:
    """Measure a latent beside its baselines.

    Args:
        sample: of `setting.fit`, where it is at hand from another latent of the same SAE.

    Raises:
        SaeError: when the latent never fires on the sample.
        CorpusError: when the goal never occurs there (which the difference of means needs), or a text is empty.
        ConfigError: when the goal is on text and there is no prompt.
        SubjectError: when the goal is on text and the subject does not write.
    """
    check_setting(setting)
    sample = sample or TextSample.take(setting.subject, setting.coder, setting.site, setting.fit)
    goal = setting.goal or following_goal(setting, sample)
    setting = replace(setting, goal=goal)
    methods = make_methods(setting, goal, sample, config)
    measured: list[Measured] = []
    for number, method in enumerate(methods):
        progress(number, len(methods), method.name)
        reach = measured[0].general if measured else None
        one = _measure_general(setting, goal, method, config, reach)
        if setting.prompts and can_generate(setting.subject) and (goal.on == "text" or method.kind == "latent"):
            _generate(setting, goal, one, config, measured[0] if measured else None)
        measured.append(one)
    progress(len(methods), len(methods), "")
    return make_record(setting, goal, config, sample, measured)


def make_methods(setting: Setting, goal: Goal, sample: TextSample, config: SteerConfig) -> list[Method]:
    """The latent and its baselines."""
    coder, site, operation = setting.coder, setting.site, config.operation
    latent = latent_method(sample, coder, site, setting.source, setting.latent, operation, config.quantile)
    length = sample.reference(setting.latent, config.quantile) * float(coder.W_dec[setting.latent].norm())
    methods = [latent]
    if "difference of means" in config.baselines:
        direction = difference_of_means(sample, goal.present(setting.subject, sample.examples), goal.title)
        mean = float((sample.x @ (direction / direction.norm())).mean())
        methods.append(direction_method("difference of means", "difference of means", site, direction, operation, length, mean))
    if "random latent" in config.baselines:
        methods += random_latents(sample, coder, site, setting.source, setting.latent, operation, config.quantile, config.n_random, config.seed)
    if "random direction" in config.baselines:
        methods += random_directions(sample, site, operation, length, config.n_random, config.seed)
    if config.prompt_baseline and not predicts_next(setting.subject):
        raise ConfigError(asked=f"compare with the prompt {config.prompt_baseline!r} (steer.prompt_baseline)",
                          why=f"{setting.subject.name} predicts hidden tokens, and text before them hides others", instead="leave prompt_baseline empty")
    if config.prompt_baseline:
        methods.append(prompt_method(site, config.prompt_baseline))
    return methods


def following_goal(setting: Setting, sample: TextSample) -> TokenGoal:
    """Make likely what follows the latent's firings in text."""
    batch = setting.subject.prepare(sample.examples)
    ids = following_tokens(batch.token_id.numpy(), batch.example.numpy(), sample.activations(setting.latent) > 0)
    return TokenGoal(ids, f"next token {named(setting.subject, ids)} (what follows where the latent fires)")


def _measure_general(setting: Setting, goal: Goal, method: Method, config: SteerConfig, latent: General | None) -> Measured:
    """The method on general text; a baseline at further strengths until it moves predictions as far as the latent does."""
    on_predictions = goal if isinstance(goal, TokenGoal) else None

    def measure(strengths: Sequence[float]) -> General:
        return measure_general(setting.subject, setting.general, [{method.site: method.at(strength)} for strength in strengths], on_predictions,
                               method.prefix)

    if method.kind == "prompt":
        return Measured(method, [0.0, 1.0], measure([1.0]))
    strengths = list(config.doses)
    general = measure(strengths)
    if latent is not None and config.operation != "ablate":
        wanted = REACH * latent.kl.sum(1).max()
        for strength in doubled(config.doses, config.max_doublings):
            if general.kl.sum(1).max() >= wanted:
                break
            strengths.append(strength)
            general = general.joined(measure([strength]))
    return Measured(method, [0.0, *strengths], general)


def _generate(setting: Setting, goal: Any, measured: Measured, config: SteerConfig, latent: Measured | None) -> None:
    """Continuations at every dose, in one batch; those without an edit are the latent's for all methods."""
    subject, method, seeds = setting.subject, measured.method, range(config.seed, config.seed + config.n_seeds)
    requests = []
    for strength in measured.strengths[1 if latent else 0:]:
        edits = {method.site: method.at(strength)} if strength > 0 and not method.prefix else None
        prefix = method.prefix if strength > 0 else ""
        given = [(prompt.text, prompt.images) if isinstance(prompt, Example) else (prompt, ()) for prompt in setting.prompts]
        requests += [Request(text, edits, seed, prefix, images) for text, images in given for seed in seeds]
    texts = continuations(subject, requests, config.n_tokens, config.temperature)
    size = len(setting.prompts) * len(seeds)
    new = [texts[start:start + size] for start in range(0, len(texts), size)]
    measured.texts = [*latent.texts[:1], *new] if latent else new
    measured.quality = [*(latent.quality[:1] if latent else []), *(text_measures(subject, own) for own in new)]
    if goal.on == "text":
        measured.values = np.stack([goal.values(subject, own) for own in measured.texts])
