"""The statistical explainer: a card for every latent, without a language model.

One pass reads the stores (`activations`); then, a thousand latents at a time, the label that best predicts firing is searched on the explain tokens,
scored on held-out tokens of other groups and set beside its controls (`label_rule`), and the card is made: contexts (`examples`), promoted tokens
and nearest directions (`directions`), grade (`evidence`). Memory does not grow with the size of the stores, and with the number of latents only
by what the strongest examples take. Refuses token sets that share an example or group between explaining and scoring.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field

from sparselight.config import Config
from sparselight.errors import CorpusError
from sparselight.evaluate.controls import CONTROL_ROWS
from sparselight.interpret.activations import n_blocks, read_activations
from sparselight.interpret.cache import n_bins
from sparselight.interpret.card_maker import CardMaker, Weights
from sparselight.interpret.contexts import Windows
from sparselight.interpret.controls import ControlName, Reference, make_controls
from sparselight.interpret.directions import directions_of, nearest_directions, output_effects
from sparselight.interpret.examples import ExamplesConfig
from sparselight.interpret.hypotheses import find_families, make_hypotheses
from sparselight.interpret.label_rule import LabelRule
from sparselight.interpret.llm.config import LlmConfig, ScorersConfig
from sparselight.interpret.patches import Pictures, WholeExamples
from sparselight.interpret.strongest import save_strongest
from sparselight.interpret.tokens import SetTokens, TokenFrame, TokenSet, make_frame
from sparselight.protocols import Progress, SparseCoder, Subject, no_progress
from sparselight.records import Card, Neighbour

STRONGEST = "strongest.parquet"
OnControl = Callable[[str, ControlName, Reference], None]


class ExplainConfig(Config):
    """How latents are explained."""

    explain_tokens: int = Field(default=150_000, gt=0)
    """Tokens a set on which explanations are searched; an upper bound, whole examples are taken evenly over groups."""
    score_tokens: int = Field(default=80_000, gt=0)
    """Held-out tokens a set on which they are scored; an upper bound in the same sense."""
    min_support: int = Field(default=20, ge=1)
    """Explain tokens that a label needs to become a hypothesis."""
    min_groups: int = Field(default=3, ge=1)
    """Groups (files) in which those tokens must lie: a label of one file alone could not be met again on held-out files."""
    min_fires: int = Field(default=10, ge=1)
    """Explain tokens on which a latent must fire to be explained at all."""
    thresholds: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = Field(default=(0.0, 0.25, 0.5), min_length=1)
    """Firing thresholds to try, as fractions of the latent's largest activation on the explain tokens."""
    n_shuffles: int = Field(default=5, ge=1)
    """Repetitions of the search with shuffled labels."""
    n_bootstrap: int = Field(default=500, ge=10)
    """Resamples of the groups for the 95 % intervals."""
    controls: tuple[ControlName, ...] = ("random_latent", "raw_neuron")
    """What explanations stand beside, besides shuffles: latents of an untrained SAE, channels of the activations."""
    n_contexts: int = Field(default=8, ge=1)
    """Contexts a card; 3 in 8 of them from lower quantiles."""
    context_tokens: int = Field(default=24, ge=1)
    """Tokens a context."""
    n_neighbours: int = Field(default=5, ge=0)
    """Nearest decoder directions that a card names."""
    examples: ExamplesConfig = ExamplesConfig()
    """What other explainers and scorers get to see."""
    llm: LlmConfig = LlmConfig()
    """The language model that `sparselight explain` asks; the stage itself asks none."""
    scorers: ScorersConfig = ScorersConfig()
    """How its explanations are scored."""
    seed: int = 0
    """Of the sample, the shuffles and the bootstrap."""


class Extras(NamedTuple):
    """What the corpus adds to contexts."""

    with_marks: bool = False
    """Whether contexts carry the annotations of their tokens."""
    pictures: Pictures | None = None
    """The images of examples, where there are some."""


def explain(
    coders: Mapping[str, SparseCoder],
    explain_on: Sequence[TokenSet],
    score_on: Sequence[TokenSet],
    site: str,
    subject: Subject,
    config: ExplainConfig,
    progress: Progress = no_progress,
) -> list[Card]:
    """Make the card of every latent of every coder; `iter_cards` does it in bounded memory and keeps the activations.

    Args:
        coders: by the name that becomes a card's source (`base`, `residual`).
        explain_on: where explanations are searched.
        score_on: where they are scored: held-out groups. Needs a set `general`; without a set `domain`, the domain firing
            rate repeats the general one.
        site: of the activations in the stores.

    Raises:
        CorpusError: when the sets are empty, share groups between the two roles, or `general` is missing from score_on.
        SaeError: when a coder does not fit the site.
    """
    with tempfile.TemporaryDirectory(prefix="sparselight-") as folder:
        cards = iter_cards(coders, explain_on, score_on, site, subject, config, Path(folder), progress)
        return [card for block in cards for card in block]


def iter_cards(
    coders: Mapping[str, SparseCoder], explain_on: Sequence[TokenSet], score_on: Sequence[TokenSet], site: str, subject: Subject, config: ExplainConfig,
    folder: Path, progress: Progress = no_progress, extras: Extras | None = None, on_control: OnControl | None = None,
) -> Iterator[list[Card]]:
    """As `explain`, some cards at a time.

    Args:
        folder: gets what later draws of examples need: `SOURCE/latents-NNNNN.parquet` and `SOURCE/strongest.parquet`.
        on_control: called with what was found for each control, before the first cards.

    Raises:
        CorpusError, SaeError: as `explain`.
        StoreError: when the disk is full.
    """
    explain_sets, score_sets = ([SetTokens.of(token_set) for token_set in sets] for sets in (explain_on, score_on))
    frame = make_frame(explain_sets, score_sets, config.explain_tokens, config.score_tokens, config.seed)
    if frame.select("score", "general") is None:
        raise CorpusError(asked="measure how often latents fire", why="no held-out token set is named `general`",
                          instead="name one of the sets to score on `general`")
    sets, token_text, extras = [*explain_sets, *score_sets], cache(subject.token_text), extras or Extras()
    controls = _controls(coders, explain_sets[0], frame, site, config)
    step = _Steps(progress, n_blocks(sets) + len(controls) + sum(n_bins(coder.n_latents) + 1 for coder in coders.values()))
    with tempfile.TemporaryDirectory(prefix="sparselight-") as scratch:
        flat = {f"{source}.{name}": coder for (source, name), coder in controls.items()}
        folders = {**{source: folder / source for source in coders}, **{name: Path(scratch) / name for name in flat}}
        readings = read_activations(coders, flat, sets, frame, site, folders, max(config.n_contexts, config.examples.n_top), config.context_tokens, step)
        families = find_families(frame, token_text, config.min_support, extras.pictures)
        hypotheses = make_hypotheses(families, frame.group, frame.n_explain, config.min_support, config.min_groups)
        del families
        rule = LabelRule(frame, hypotheses, config.thresholds, config.n_shuffles, config.n_bootstrap, config.seed)
        references: dict[str, dict[str, Reference]] = {source: {} for source in coders}
        for source, name in controls:
            references[source][name] = rule.reference(readings[f"{source}.{name}"].cache.bins())
            if on_control is not None:
                on_control(source, name, references[source][name])
            step(f"{source}: {name}")
    windows = Windows(sets, frame, token_text, config.context_tokens, extras.with_marks, extras.pictures)
    for source, coder in coders.items():
        reading = readings.pop(source)
        save_strongest(reading.strongest, folder / source / STRONGEST)
        weights = Weights(output_effects(coder, subject, site, token_text), *_nearest(source, coders, config.n_neighbours))
        maker = CardMaker(source, reading, rule, references[source], weights, windows, _sizes(frame, sets), config.min_fires, config.n_contexts,
                          WholeExamples(source, coder, sets, site) if extras.pictures is not None else None)
        step(f"{source}: directions")
        for start, activations in reading.cache.bins():
            yield maker.cards(start, activations)
            step(f"{source}: explained {start + activations.shape[1]:,} latents")


class _Steps:
    """Counts steps for a Progress."""

    def __init__(self, progress: Progress, total: int):
        self.progress, self.total, self.done = progress, total, 0

    def __call__(self, note: str) -> None:
        self.done += 1
        self.progress(self.done, self.total, note)


def _controls(coders: Mapping[str, SparseCoder], tokens: SetTokens, frame: TokenFrame, site: str,
              config: ExplainConfig) -> dict[tuple[str, ControlName], SparseCoder]:
    if not config.controls:
        return {}
    rows = frame.rows[frame.sets[0].start : frame.sets[0].stop]
    x = tokens.store.read(rows[np.linspace(0, len(rows) - 1, min(len(rows), CONTROL_ROWS)).astype(np.int64)], site)
    return {(source, name): control for source, coder in coders.items() if coder.d_in == x.shape[1]
            for name, control in make_controls(coder, x, config.controls, config.seed).items()}


def _nearest(source: str, coders: Mapping[str, SparseCoder], n: int) -> tuple[list[list[Neighbour]], list[list[Neighbour]]]:
    """Of each latent the nearest of its own dictionary, and those of the first dictionary where that is another."""
    base = next(iter(coders))
    own, first = directions_of(coders[source]), directions_of(coders[base])
    nothing: list[list[Neighbour]] = [[] for _ in range(coders[source].n_latents)]
    if own is None or not n:
        return nothing, nothing
    has_parents = source != base and first is not None and first.shape[1] == own.shape[1]
    return nearest_directions(own, own, source, n, same=True), nearest_directions(own, first, base, n) if has_parents and first is not None else nothing


def _sizes(frame: TokenFrame, sets: Sequence[SetTokens]) -> dict[tuple[str, str], int]:
    """Tokens that were read of each set, by (role, name)."""
    return {(part.role, part.name): len(tokens.rows) for part, tokens in zip(frame.sets, sets, strict=True)}
