"""Steering on a run of proteins: which goal a feature has, the study of written sequences with its page, sequences before and after for the command line.

Owns: where the study's page and record go (`steering/NAME` in the run folder), the goal that a card's label gives, the latent of another concept. Refuses:
features without a label where no goal is given.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from sparselight.corpus.protein.residues import AMINO_ACIDS
from sparselight.errors import ConfigError, SparselightError
from sparselight.files import make_folder
from sparselight.intervene.sequence_goals import LabelSequenceGoal, PatternSequenceGoal, SequenceGoal, sequence_goal
from sparselight.intervene.sequence_study import SequenceSetting, SequenceSteerConfig, study_sequences
from sparselight.intervene.sequence_writing import check_writes
from sparselight.intervene.unmask import unmask
from sparselight.pipeline.steer_place import Place
from sparselight.protocols import EditFunction, Progress, no_progress
from sparselight.records import Card, Part, RunRecord, SequenceSteeringRecord, SteeredText
from sparselight.report.steering_sequences import write_sequence_study
from sparselight.subjects import MaskedLM

FOLDER = "steering"
PATTERN_KIND = "pattern"  # spans that corpus.protein.patterns marks


class SequenceStudyResult(Part):
    """Where a study lies."""

    folder: str
    page: str
    record: str
    study: SequenceSteeringRecord
    next_command: str


class SequencePlan(Part):
    """What would be done."""

    what: str = "sequences"
    feature: str
    n_arms: int
    n_sequences: int
    written_residues: int
    passes: int
    """Of the subject over sequences of that length, at most 64 at once."""
    out: str


def is_sequence_run(folder: Path) -> bool:
    """Whether it is a run on proteins; False for what is no run."""
    try:
        recipe = RunRecord.load(folder / "run.json").recipe
    except SparselightError:
        return False
    return recipe.get("corpus", {}).get("kind") == "protein"


def study_run_sequences(place: Place, source: str, latent: int, config: SequenceSteerConfig, goal: str = "", out: Path | None = None,
                        progress: Progress = no_progress) -> SequenceStudyResult:
    """The study of one feature of a run; writes its record and page.

    Raises:
        ConfigError: when the subject cannot write this way, or no goal is given and the feature's card has no label.
        CorpusError: when too few proteins carry the goal's label.
    """
    card, subject = place.card(source, latent), place.subject
    check_writes(subject, config)
    goal = goal or goal_of(card, place.run.stages.recipe.corpus.protein.patterns)
    chosen = sequence_goal(goal, subject, place.site, place.fit_sample(config.probe_tokens, config.seed))
    other = other_concept(place.cards, card, chosen)
    setting = SequenceSetting(
        subject=subject, coder=place.run.sae(source), site=place.site, source=source, latent=latent, goal=chosen, natural=place.held_out,
        fit=place.fit_sample(config.sample_tokens, config.seed), other=other.latent if other else None, other_title=title_of(other) if other else "",
        title=title_of(card))
    study = study_sequences(setting, config, progress)
    folder, begin = out or place.folder / FOLDER / study.name, config.length if isinstance(subject, MaskedLM) else config.prompt
    make_folder(folder)
    study.save(folder / "steering.json")
    write_sequence_study(study, folder / "steering.html")
    return SequenceStudyResult(folder=str(folder), page=str(folder / "steering.html"), record=str(folder / "steering.json"), study=study,
                               next_command=f"sparselight steer {place.folder} --feature {latent} --source {source} --clamp 2x --prompt {begin}")


def goal_of(card: Card, patterns: dict[str, str]) -> str:
    """What a card's label, or the annotation that goes with it best, gives as a goal.

    Raises:
        ConfigError: when it has neither.
    """
    labels = [card.explanation.label] if card.explanation else []
    labels += [f"{one.kind}={one.label}" for one in card.associations if one.supported and one.level == "spans"]
    for label in labels:
        kind, equals, value = label.partition("=")
        if kind == PATTERN_KIND and value in patterns:
            return f"pattern: {patterns[value]}"
        if equals and kind in ANNOTATED | {one.kind for one in card.associations}:
            return f"label: {label}"
    raise ConfigError(asked=f"study sequences with feature {card.key}", why="its card has no label that a sequence can have",
                      instead="give --goal 'pattern: zinc_finger_C2H2' or --goal 'label: transmembrane region=helix'")


ANNOTATED = frozenset({"transmembrane region", "signal peptide", "topological domain", "zinc finger", "domain", "motif", "helix", "strand", "coiled coil",
                       "region of interest", "transit peptide", "repeat", "DNA binding", "binding site"})
"""Kinds of spans that are long enough to be an aim."""


def other_concept(cards: Sequence[Card], card: Card, goal: SequenceGoal) -> Card | None:
    """The best-evidenced card of the same SAE whose label is another one than the goal's and the card's own."""
    own = {card.explanation.label if card.explanation else "", goal.title if isinstance(goal, LabelSequenceGoal) else ""}
    if isinstance(goal, PatternSequenceGoal):
        own |= {one.explanation.label for one in cards if one.explanation and one.explanation.label.startswith(f"{PATTERN_KIND}=")}
    named = [one for one in cards if one.source == card.source and one.latent != card.latent and one.explanation and one.evidence
             and one.explanation.label.partition("=")[0] in ANNOTATED and one.explanation.label not in own]
    return max(named, key=lambda one: one.evidence.f1.value if one.evidence else 0.0, default=None)


def make_sequence_plan(place: Place, source: str, latent: int, config: SequenceSteerConfig, out: Path | None) -> SequencePlan:
    """Size of a study, by counting; nothing is run."""
    card = place.card(source, latent)
    check_writes(place.subject, config)
    n_arms = 1 + len(config.strengths) * (1 + len(config.baselines))
    if isinstance(place.subject, MaskedLM):
        steps = -(-config.length // config.tokens_a_step) if config.start != "random" else 0
        times, passes = bool(steps) + config.sweeps, steps + 7 * config.sweeps
    else:
        times, passes = 1, config.length
    written = n_arms * config.n_sequences * config.length * times
    folder = out or place.folder / FOLDER / f"{source}-{latent}-{config.operation}-sequences"
    return SequencePlan(feature=card.key, n_arms=n_arms, n_sequences=config.n_sequences, written_residues=written, out=str(folder),
                        passes=n_arms * -(-config.n_sequences // 64) * passes)


def written_pairs(subject: MaskedLM, starts: Sequence[str], edits: Mapping[str, EditFunction], strength: float, n_seeds: int, temperature: float,
                  seed: int, allowed: str | None = AMINO_ACIDS) -> list[SteeredText]:
    """Each start (a number of masks, or a text with masks in it) with each seed, without and with the edit."""
    given: list[str | int] = [int(start) if start.strip().isdigit() else start for start in starts]
    seeds = range(seed, seed + n_seeds)
    plain, edited = (unmask(subject, given, edit, seeds=seeds, temperature=temperature, allowed=allowed) for edit in (None, edits))
    return [SteeredText(prompt=starts[first.start], seed=first.seed, strength=strength, before=first.text, after=second.text)
            for first, second in zip(plain, edited, strict=True)]


def title_of(card: Card) -> str:
    return card.explanation.text if card.explanation else ""
