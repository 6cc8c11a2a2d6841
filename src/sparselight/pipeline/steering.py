"""Steering on a run folder: which feature, on which text, for which goal; before and after, the full study, the search for candidates.

Owns: strengths as people write them (`2x`), where a study's page and record go (`steering/NAME` in the run folder), and the edit that it leaves on the
card. Refuses: amounts that are no number, texts without a prompt, empty searches.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparselight.corpus.protein.residues import AMINO_ACIDS
from sparselight.errors import ConfigError
from sparselight.files import make_folder
from sparselight.intervene import edit_result
from sparselight.intervene.attribution import attribute, goal_metric
from sparselight.intervene.baselines import TextSample
from sparselight.intervene.generate import can_generate
from sparselight.intervene.goal_forms import FORMS, needs_examples, parse_goal
from sparselight.intervene.goals import Goal, TokenGoal
from sparselight.intervene.search import Candidate, by_association, by_attribution, by_difference, by_explanation, by_output
from sparselight.intervene.study import steer_study
from sparselight.intervene.study_setting import Setting, SteerConfig
from sparselight.pipeline.explaining import run_catalogue
from sparselight.pipeline.sequence_steering import written_pairs
from sparselight.pipeline.steer_place import Place, take_tokens
from sparselight.protocols import Example, Progress, no_progress
from sparselight.records import Card, Edit, Part, SteeredText, SteeringRecord
from sparselight.report.steering import write_study
from sparselight.subjects import MaskedLM

FOLDER = "steering"
DOSE = re.compile(r"([+-]?\d+(?:\.\d+)?)\s*(x?)")
UNIT = "q99"
SEARCH_TOKENS = 20_000
ATTRIBUTION_TOKENS = 1_000
N_IMAGES = 3  # held-out examples whose images a prompt is continued for


class SteerResult(Part):
    """Prompts continued without and with an edit: what `--json` prints."""

    run: str
    feature: str
    title: str
    edit: dict[str, Any]
    reference: float | None
    """Activation that 1x stands for; None for amounts that are given as they are."""
    texts: list[SteeredText]
    next_command: str


class FoundFeature(Part):
    """A candidate of a search."""

    source: str
    latent: int
    score: float
    by: str
    why: str
    title: str


class FindResult(Part):
    """Candidates for a goal, by every way of searching that fits it."""

    run: str
    goal: str
    found: dict[str, list[FoundFeature]]
    """By way of searching, the best first."""
    not_searched: dict[str, str]
    """Ways that were not taken, and why."""
    next_command: str


class StudyResult(Part):
    """Where a study lies."""

    folder: str
    page: str
    record: str
    study: SteeringRecord
    next_command: str


class SteerPlan(Part):
    """What would be done."""

    what: str
    feature: str
    prompts: int
    generated_tokens: int
    passed_tokens: int
    out: str | None
    """Where files would go; nothing is written for texts."""


def dose(text: str) -> tuple[float, str]:
    """`2x` is twice the latent's own 99 % quantile, `2` is an activation.

    Raises:
        ConfigError: for anything else.
    """
    match = DOSE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(asked=f"use the strength {text!r}", why="it is no number", instead="write 12.5 for an activation, or 2x for twice the latent's own "
                          "99 % quantile")
    return float(match[1]), UNIT if match[2] else "absolute"


def steer_texts(place: Place, source: str, latent: int, operation: str, amount: str, prompts: Sequence[str], on: str = "all", n_tokens: int = 60,
                n_seeds: int = 1, temperature: float = 0.0, seed: int = 0) -> SteerResult:
    """Continue prompts without and with the edit; a masked language model fills in the masks of each, or as many masks as a prompt says.

    Raises:
        ConfigError: without a prompt, for a feature that does not exist, for several seeds at temperature 0.
        SubjectError: when the subject does not write text.
    """
    card = place.card(source, latent)
    if not [prompt for prompt in prompts if prompt]:
        raise ConfigError(asked=f"show what feature {card.key} does to text", why="there is no prompt",
                          instead="give one with --prompt 'import ', or a full study with --study")
    if n_seeds > 1 and temperature == 0:
        raise ConfigError(asked=f"draw {n_seeds} texts a prompt", why="temperature 0 makes them all alike", instead="give --temperature 0.7, or one seed")
    if isinstance(place.subject, MaskedLM) and on in ("prompt", "last"):
        raise ConfigError(asked=f"edit the {on} tokens of a sequence", why="a masked language model fills in masks anywhere in it, not after a prompt",
                          instead="use --on all, or --on generated for what is written")
    number, unit = dose(amount) if operation != "ablate" else (0.0, "absolute")
    if unit != "absolute" and operation == "scale":
        raise ConfigError(asked=f"scale by {amount}", why="a factor has no unit", instead=f"write --scale {number:g}")
    edit = place.run.edit(f"{source}/{latent}", operation, number, unit=unit, where="counted" if on == "all" else on)
    made = edit.edits.edits[0]
    if isinstance(place.subject, MaskedLM):
        allowed = AMINO_ACIDS if place.run.stages.recipe.corpus.kind == "protein" else None
        texts = written_pairs(place.subject, prompts, edit.functions, number, n_seeds, temperature, seed, allowed)
    else:
        given = place.with_images(prompts, N_IMAGES * len(prompts), seed) if place.has_images else list(prompts)
        pairs = edit.generate(given, n_tokens, temperature, range(seed, seed + n_seeds))
        shown = [(one.text, one.id) if isinstance(one, Example) else (one, "") for one in given]
        texts = [SteeredText(prompt=shown[first.prompt][0], example=shown[first.prompt][1], seed=first.seed, strength=number, before=first.text,
                             after=second.text) for first, second in pairs]
    return SteerResult(run=str(place.folder), feature=card.key, title=title_of(card), edit=made.model_dump(mode="json"), texts=texts,
                       reference=made.scales[0] if made.scales else None,
                       next_command=f"sparselight steer {place.folder} --feature {latent} --source {source} --study")


def study_run(place: Place, source: str, latent: int, config: SteerConfig, goal: str = "", prompts: Sequence[str] = (), out: Path | None = None,
              progress: Progress = no_progress) -> StudyResult:
    """The full study of one feature of a run; writes its record and page."""
    card, subject = place.card(source, latent), place.subject
    chosen = parse_goal(goal, subject, place.site, annotate=place.annotate) if goal and not needs_examples(goal) else None
    fit = place.fit_sample(config.sample_tokens, config.seed)
    if goal and chosen is None:
        chosen = parse_goal(goal, subject, place.site, fit, place.annotate)
    setting = Setting(
        subject=subject, coder=place.run.sae(source), site=place.site, source=source, latent=latent, goal=chosen, fit=fit,
        general=place.general_sample(config.general_tokens, config.seed),
        prompts=tuple(given_prompts(place, prompts, config)) if prompts or can_generate(subject) else (), title=title_of(card),
        titles={other.latent: title_of(other) for other in place.cards if other.source == source}, annotate=place.annotate,
    )
    study = steer_study(setting, config, progress)
    folder = out or place.folder / FOLDER / study.name
    make_folder(folder)
    study.save(folder / "steering.json")
    write_study(study, folder / "steering.html")
    keep_on_card(place, card, study, setting)
    return StudyResult(folder=str(folder), page=str(folder / "steering.html"), record=str(folder / "steering.json"), study=study,
                       next_command=f"sparselight steer {place.folder} --find '{card.explanation.text if card.explanation else 'key'}'")


def given_prompts(place: Place, prompts: Sequence[str], config: SteerConfig) -> Sequence[str | Example]:
    """Prompts that were given, of a run with images with those of held-out examples; where none was given, beginnings of held-out examples."""
    if not prompts:
        return place.prompts(config.n_prompts, config.seed)
    return place.with_images(prompts, config.n_prompts, config.seed) if place.has_images else list(prompts)


def keep_on_card(place: Place, card: Card, study: SteeringRecord, setting: Setting) -> bool:
    """Put the edit at strength 1 into the run's catalogue: shown where the latent fires most, with the side effects that the study measured.

    Returns:
        False where the card has no context to show it in, or the study no random latent to compare with.
    """
    controls = [response for response in study.responses if response.kind == "random latent"]
    if not card.contexts or not controls or study.responses[0].edit is None:
        return False
    context = card.contexts[0]
    examples = {example.id: example for side in ("train", "held_out") for part in (place.run.stages.corpus_side(side), place.run.stages.domain_side(side))
                for example in part}
    example = examples[context.example]
    at = min(context.start + context.peak, place.subject.n_tokens([example])[0] - 1)
    edit, control = Edit.model_validate(study.responses[0].edit), int(controls[0].method.partition("/")[2])
    shown = edit_result(place.subject, setting.coder, edit, card, example, at, setting.general[:2], control, seed=int(study.settings["seed"]))
    kl = [min(one.doses[1:], key=lambda dose: abs(dose.strength - 1)).kl_nats for one in (study.responses[0], controls[0])]
    measured = {name: value for name, value in zip(("side_effect_kl_nats", "control_kl_nats"), kl, strict=True) if value is not None}
    run_catalogue(place.run.folder).add_edits([shown.model_copy(update=measured)])
    return True


def find_features(place: Place, text: str, limit: int = 10, seed: int = 0) -> FindResult:
    """Candidates by explanation for words; for a goal by association, difference of means, output and attribution.

    Raises:
        ConfigError: for an empty search.
        CorpusError: when the goal never occurs in the run's text.
    """
    if not text.strip():
        raise ConfigError(asked="search for nothing", why="the search is empty", instead="give words, or a goal such as 'tokens: key'")
    found: dict[str, list[Candidate]] = {}
    missing: dict[str, str] = {}
    if text.partition(":")[0].strip() in FORMS:
        found, missing = _by_goal(place, text, limit, seed)
    else:
        found["explanation"] = by_explanation(place.cards, text, limit)
    titles = {card.key: title_of(card) for card in place.cards}
    rows = {way: [FoundFeature(source=one.source, latent=one.latent, score=one.score, by=one.by, why=one.why,
                               title=titles.get(f"{one.source}/{one.latent}", "")) for one in candidates] for way, candidates in found.items()}
    first = next((row for candidates in rows.values() for row in candidates), None)
    follow = f"--feature {first.latent} --source {first.source} --study" if first else "--find 'tokens: WORD'"
    return FindResult(run=str(place.folder), goal=text, found=rows, not_searched=missing, next_command=f"sparselight steer {place.folder} {follow}")


def _by_goal(place: Place, text: str, limit: int, seed: int) -> tuple[dict[str, list[Candidate]], dict[str, str]]:
    """Every way of searching that a goal allows, over both SAEs."""
    subject, site = place.subject, place.site
    fit = place.fit_sample(SEARCH_TOKENS, seed)
    goal: Goal = parse_goal(text, subject, site, fit, place.annotate)
    present = goal.present(subject, fit)
    found: dict[str, list[Candidate]] = {"association": [], "difference of means": []}
    missing: dict[str, str] = {}
    for source in place.sources:
        sae = place.run.sae(source)
        sample = TextSample.take(subject, sae, site, fit)
        found["association"] += by_association(sample, source, present, goal.title, limit)
        found["difference of means"] += by_difference(sample, source, present, limit)
        if isinstance(goal, TokenGoal):
            found.setdefault("output", []).extend(by_output(subject, sae, site, source, goal.token_ids, limit))
            some = take_tokens(subject, fit, ATTRIBUTION_TOKENS, seed)
            found.setdefault("attribution", []).extend(by_attribution(attribute(subject, sae, site, some, goal_metric(goal)), source, limit))
    if not isinstance(goal, TokenGoal):
        missing = dict.fromkeys(("output", "attribution"), "the goal is on text; give tokens for these: 'tokens: key'")
    ordered = {way: sorted(candidates, key=lambda one: -one.score)[:limit] for way, candidates in found.items()}
    return ordered, missing


def make_plan(place: Place, what: str, source: str, latent: int, config: SteerConfig, n_prompts: int, out: Path | None) -> SteerPlan:
    """Size of a study or of a few texts, by counting; nothing is run."""
    card = place.card(source, latent)
    n_doses = len(config.doses)
    n_methods = 1 + sum(1 if kind == "difference of means" else config.n_random for kind in config.baselines)
    if what == "texts":
        return SteerPlan(what=what, feature=card.key, prompts=n_prompts, passed_tokens=0, out=None,
                         generated_tokens=2 * n_prompts * config.n_seeds * config.n_tokens)
    n_prompts = n_prompts or config.n_prompts
    generated = (1 + n_doses) * n_prompts * config.n_seeds * config.n_tokens
    folder = out or place.folder / FOLDER / f"{source}-{latent}-{config.operation}"
    return SteerPlan(what=what, feature=card.key, prompts=n_prompts, generated_tokens=generated, out=str(folder),
                     passed_tokens=config.sample_tokens + (1 + n_doses) * n_methods * config.general_tokens)


def title_of(card: Card) -> str:
    return card.explanation.text if card.explanation else ""
