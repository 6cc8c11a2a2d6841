"""Sequences written with a latent held up, beside sequences written without, with random latents, random directions and the latent of another concept.

The subject writes while the edit is in force (`sequence_writing`); every arm writes from the same starts with the same seeds.
A judge that knows nothing of the dictionary says which sequences have what the goal asks for. Protocol: docs/methods/protein.md. Owns the arms, their
numbers, and the rule by which the latent beats an arm. Refuses: latents that never fire, starts that leave nothing to write, two sides that share a protein.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, Self, get_args

import numpy as np
from pydantic import Field, model_validator

from sparselight import __version__
from sparselight.config import Config
from sparselight.corpus.protein.residues import AMINO_ACIDS
from sparselight.errors import ConfigError
from sparselight.evaluate.sequences import composition, entropy_bits, hydropathy, mean_identity, pseudo_perplexity, shuffled
from sparselight.evaluate.statistics import wilson
from sparselight.intervene.baselines import Method, TextSample, latent_method, random_directions, random_latents
from sparselight.intervene.edit import Dictionary
from sparselight.intervene.sequence_goals import Judged, SequenceGoal
from sparselight.intervene.sequence_writing import check_writes, settings_of, starts_of, write
from sparselight.intervene.unmask import Order
from sparselight.protocols import EditFunction, Example, Progress, Subject, no_progress
from sparselight.records import ArmKind, MetricValue, SequenceArm, SequenceSteeringRecord, WrittenSequence

HELIX_WINDOW = 19  # residues of a transmembrane helix
ALPHA = 0.05
CONTROLS: tuple[ArmKind, ...] = ("no edit", "random latent", "random direction", "other concept")
SHUFFLED = "its letters shuffled"
"""What the latent is compared with beside the arms: the sequences that it wrote, their letters in random order. Where those hit as often, composition has
moved and nothing else."""
SequenceBaseline = Literal["random latent", "random direction", "other concept"]
BASELINES: tuple[SequenceBaseline, ...] = get_args(SequenceBaseline)
ArmEdits = list[Mapping[str, EditFunction]]


class SequenceSteerConfig(Config):
    """A study of steered sequences."""

    operation: Literal["clamp", "add"] = "clamp"
    """What is done to the latent, in units of its own activations."""
    strengths: list[float] = Field(default_factory=lambda: [1.0, 2.0, 5.0], min_length=1, max_length=8)
    """Rising, above 0."""
    quantile: float = Field(0.99, gt=0, le=1)
    """Of the latent's activations where it fires: strength 1."""
    n_sequences: int = Field(60, ge=8)
    """Sequences an arm and strength."""
    length: int = Field(80, ge=20)
    """Of a sequence, residues."""
    start: Literal["masks", "random", "natural"] = "random"
    """What is written over: masks only; residues drawn evenly; stretches of natural held-out proteins. The last two are drawn anew by sweeps. From masks only,
    models that were trained with token dropout, as ESM-2 is, see what none of their training texts was like, and tend to repeat a few letters."""
    order: Order = "random"
    """Which mask is filled in next: one drawn from the seed, or the one with the likeliest residue."""
    prompt: str = Field("M", pattern=f"^[{AMINO_ACIDS}]+$")
    """What a subject that writes from left to right begins every sequence with, in place of the settings of masks: start, order, tokens_a_step, sweeps."""
    temperature: float = Field(1.0, gt=0)
    """Of the draws."""
    tokens_a_step: int = Field(2, ge=1)
    """Residues written from one pass."""
    sweeps: int = Field(2, ge=0)
    """How often every residue is hidden and drawn again afterwards."""
    baselines: list[SequenceBaseline] = Field(default_factory=lambda: list(BASELINES))
    """What the latent is compared with, beside no edit."""
    n_random: int = Field(3, ge=1, le=20)
    """Random latents, and random directions, among which an arm's sequences are divided."""
    sample_tokens: int = Field(40_000, ge=100)
    """Residues on which references and firing rates are taken."""
    probe_tokens: int = Field(80_000, ge=1000)
    """Residues on which the probe of a label is fitted; half of them of proteins that carry it."""
    min_entropy_bits: float = Field(2.5, ge=0, le=4.32)
    """Entropy of the composition below which a sequence counts as low complexity, never as a hit."""
    n_shown: int = Field(8, ge=1)
    """Sequences of an arm that are kept in the record."""
    seed: int = Field(0, ge=0)
    """Of everything random."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.strengths[0] <= 0 or any(low >= high for low, high in zip(self.strengths, self.strengths[1:], strict=False)):
            raise ValueError(f"strengths = {self.strengths} do not rise from above 0")
        if self.start != "masks" and not self.sweeps:
            raise ValueError(f"start = {self.start!r} leaves nothing to write with sweeps = 0; set sweeps to 1 or more")
        if len(self.prompt) >= self.length:
            raise ValueError(f"prompt has {len(self.prompt)} residues, which leaves nothing to write of length = {self.length}")
        return self


@dataclass(frozen=True)
class SequenceSetting:
    """What is studied, and on which proteins."""

    subject: Subject
    coder: Dictionary
    site: str
    source: str
    latent: int
    goal: SequenceGoal
    fit: Sequence[Example]
    """Proteins on which references and firing rates are taken."""
    natural: Sequence[Example]
    """Held-out proteins: what the judge is tried on, and the composition to compare with."""
    other: int | None = None
    """The latent of another concept."""
    other_title: str = ""
    title: str = ""


def study_sequences(setting: SequenceSetting, config: SequenceSteerConfig, progress: Progress = no_progress) -> SequenceSteeringRecord:
    """Write, judge and count.

    Raises:
        SaeError: when a latent never fires on the sample.
        ConfigError: when the subject cannot write this way, or no natural protein is long enough to start from.
        CorpusError: when too few natural proteins carry the goal's label.
    """
    check_writes(setting.subject, config)
    shared = {example.group for example in setting.fit} & {example.group for example in setting.natural}
    if shared:
        raise ConfigError(asked=f"study sequences with {setting.source}/{setting.latent}",
                          why=f"{len(shared)} groups stand on both sides, for example {min(shared)!r}",
                          instead="measure on other proteins than references and probes are taken on")
    sample = TextSample.take(setting.subject, setting.coder, setting.site, setting.fit)
    judge = setting.goal.on_natural(setting.subject, setting.natural, config.length, config.min_entropy_bits)
    starts, profile = starts_of(setting.subject, setting.natural, config), natural_composition(setting.natural)
    own = latent_method(sample, setting.coder, setting.site, setting.source, setting.latent, config.operation, config.quantile)
    grid: list[tuple[float, ArmKind, str, ArmEdits]] = [(0.0, "no edit", "no edit", [{}])]
    grid += [(strength, *arm) for strength in config.strengths for arm in arms_at(setting, config, sample, own, strength)]
    arms: list[SequenceArm] = []
    for number, (strength, kind, what, edits) in enumerate(grid):
        progress(number, len(grid), f"{kind}, strength {strength:g}" if strength else kind)
        texts = write(setting.subject, starts, edits, config)
        arms.append(make_arm(setting, config, kind, strength, what, texts, profile))
    progress(len(grid), len(grid), "")
    arms = with_p(arms)
    return SequenceSteeringRecord(
        name=f"{setting.source}-{setting.latent}-{config.operation}-sequences", subject=setting.subject.name, site=setting.site, source=setting.source,
        latent=setting.latent, title=setting.title, operation=config.operation, reference=sample.reference(setting.latent, config.quantile),
        reference_what=f"{config.quantile:g} quantile of its activations where it fires, over {sample.n_tokens:,} residues of natural proteins",
        goal=setting.goal.title, judge=judge, arms=arms, beats={kind: beats(arms, kind) for kind in (*CONTROLS, SHUFFLED)}, notes=list(notes(setting, config)),
        settings=settings_of(setting.subject, config), seeds=list(range(config.seed, config.seed + config.n_sequences)),
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), sparselight_version=__version__)


def arms_at(
    setting: SequenceSetting, config: SequenceSteerConfig, sample: TextSample, own: Method, strength: float,
) -> Iterator[tuple[ArmKind, str, ArmEdits]]:
    """Kind, words and edits of each arm at a strength; an arm with several edits divides its sequences among them."""
    def edits(methods: Sequence[Method]) -> ArmEdits:
        return [{method.site: method.at(strength)} for method in methods]

    common = (sample, setting.coder, setting.site, setting.source, setting.latent, config.operation, config.quantile)
    yield "latent", own.what, edits([own])
    if "random latent" in config.baselines and (found := random_latents(*common, config.n_random, config.seed)):
        names = ", ".join(method.name for method in found)
        yield "random latent", f"latents that fire about as often: {names}; each in units of its own activations", edits(found)
    if "random direction" in config.baselines:
        length = sample.reference(setting.latent, config.quantile) * float(setting.coder.W_dec[setting.latent].detach().norm())
        directions = random_directions(sample, setting.site, config.operation, length, config.n_random, config.seed)
        yield "random direction", f"{len(directions)} directions, added at the length of the latent's edit, {length:.3g} at strength 1", edits(directions)
    if "other concept" in config.baselines and setting.other is not None:
        other = latent_method(sample, setting.coder, setting.site, setting.source, setting.other, config.operation, config.quantile, "other concept")
        yield "other concept", f"{other.what}{f' ({setting.other_title})' if setting.other_title else ''}", edits([other])


def make_arm(setting: SequenceSetting, config: SequenceSteerConfig, kind: ArmKind, strength: float, what: str, texts: Sequence[str],
             profile: np.ndarray) -> SequenceArm:
    """An arm in numbers."""
    rng = np.random.default_rng(config.seed)
    judged = setting.goal.judge(setting.subject, texts, config.min_entropy_bits)
    by_chance = setting.goal.judge(setting.subject, [shuffled(text, rng) for text in texts], config.min_entropy_bits).hits
    same = mean_identity(texts, config.seed)
    shown = [WrittenSequence(text=text, seed=config.seed + number, is_hit=bool(judged.hits[number]), marked=judged.marked[number])
             for number, text in enumerate(texts[:config.n_shown])]
    return SequenceArm(
        kind=kind, strength=strength, what=what, success=count(judged), chance=wilson(int(by_chance.sum()), len(texts), "sequences"),
        low_complexity=float(np.mean([entropy_bits(text) < config.min_entropy_bits for text in texts])),
        entropy_bits=float(np.mean([entropy_bits(text) for text in texts])),
        composition_distance=float(np.abs(np.mean([composition(text) for text in texts], axis=0) - profile).sum() / 2),
        hydropathy=float(np.mean([hydropathy(text, HELIX_WINDOW) for text in texts])), identity=None if np.isnan(same) else same,
        distinct_frac=len(set(texts)) / len(texts), pseudo_perplexity=float(pseudo_perplexity(setting.subject, texts).mean()), sequences=shown)


def count(judged: Judged) -> MetricValue:
    """Share of hits."""
    return wilson(int(judged.hits.sum()), len(judged.hits), "sequences")


def natural_composition(examples: Sequence[Example]) -> np.ndarray:
    """Mean composition of natural proteins."""
    return np.mean([composition(example.text) for example in examples], axis=0)


def with_p(arms: Sequence[SequenceArm]) -> list[SequenceArm]:
    """Each arm's p of no difference from the latent's at its strength; that without an edit is compared with the latent's nearest to it."""
    latents = {arm.strength: arm for arm in arms if arm.kind == "latent"}
    result = []
    for arm in arms:
        own = latents.get(arm.strength, latents[min(latents)])
        result.append(arm if arm.kind == "latent" else arm.model_copy(update={"p": fisher(own.success, arm.success)}))
    return result


def fisher(first: MetricValue, second: MetricValue) -> float:
    """Two-sided p of Fisher's exact test on hits and misses."""
    from scipy.stats import fisher_exact

    table = [[hits := round(share.value * share.n), share.n - hits] for share in (first, second)]
    return float(fisher_exact(table).pvalue)


def compared(arms: Sequence[SequenceArm], kind: str) -> list[tuple[SequenceArm, MetricValue, float]]:
    """The latent's arm of each strength with the share of hits that it is compared with, and at what strength that was written (0: without an edit)."""
    found = []
    for own in arms:
        if own.kind == "latent" and kind == SHUFFLED:
            found.append((own, own.chance, own.strength))
        elif own.kind == "latent":
            found += [(own, other.success, other.strength) for other in arms if other.kind == kind and other.strength in (own.strength, 0.0)][:1]
    return found


def beats(arms: Sequence[SequenceArm], kind: str) -> bool | None:
    """Whether the latent's hits are clearly more frequent than the arm's at some strength and clearly rarer at none (p <= 0.05 / strengths)."""
    pairs = compared(arms, kind)
    if not pairs or len(pairs) < sum(arm.kind == "latent" for arm in arms):
        return None
    clear = [own.success.value - other.value for own, other, _ in pairs if fisher(own.success, other) <= ALPHA / len(pairs)]
    return any(difference > 0 for difference in clear) and all(difference >= 0 for difference in clear)


def notes(setting: SequenceSetting, config: SequenceSteerConfig) -> Iterator[str]:
    """What a reader must know."""
    if "other concept" in config.baselines and setting.other is None:
        yield "No other concept has a latent with an explanation, so that arm was not written."
    if config.start == "natural":  # of a subject that fills in masks
        yield "Sequences begin as natural ones: those that already have what the goal asks for count in every arm."
