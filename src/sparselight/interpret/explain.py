"""The statistical explainer: a card for every latent, without a language model.

For each latent the label that best predicts its firing is searched on the explain tokens (`search`), scored on held-out
tokens of other groups (`scoring`), and set beside the same search with shuffled labels. Contexts come from `examples`; the
next tokens that a latent promotes or suppresses are the largest and smallest entries of its decoder direction's effect on the
logits (`subject.output_effects`). Refuses token sets that share an example or group between explaining and scoring.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from scipy import sparse

from sparselight.config import Config
from sparselight.errors import CorpusError, SubjectError
from sparselight.interpret.examples import encode_frame, make_contexts, n_blocks
from sparselight.interpret.hypotheses import Hypotheses, find_families, make_hypotheses
from sparselight.interpret.scoring import Scores, held_out_f1, score
from sparselight.interpret.search import Choice, firing_matrix, maxima, rolled, search
from sparselight.interpret.tokens import TokenFrame, TokenSet, make_frame
from sparselight.protocols import Progress, SparseCoder, Subject, no_progress
from sparselight.records import Card, Evidence, Explanation, MetricValue

EXPLAINER = "statistical"
N_NEXT_TOKENS = 6
EFFECT_ENTRIES = 16_000_000  # of a latent x vocabulary block held at once: 64 MB


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
    n_contexts: int = Field(default=8, ge=1)
    """Contexts a card; 3 in 8 of them from lower quantiles."""
    context_tokens: int = Field(default=24, ge=1)
    """Tokens a context."""
    seed: int = 0
    """Of the sample, the shuffles and the bootstrap."""


def explain(
    coders: Mapping[str, SparseCoder],
    explain_on: Sequence[TokenSet],
    score_on: Sequence[TokenSet],
    site: str,
    subject: Subject,
    config: ExplainConfig,
    progress: Progress = no_progress,
) -> list[Card]:
    """Make the card of every latent of every coder.

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
    frame = make_frame(explain_on, score_on, config.explain_tokens, config.score_tokens, config.seed)
    if frame.select("score", "general") is None:
        raise CorpusError(asked="measure how often latents fire", why="no held-out token set is named `general`",
                          instead="name one of the sets to score on `general`")
    step = _Steps(progress, n_blocks(frame) + len(coders) * (config.n_shuffles + 3))
    token_text = cache(subject.token_text)
    hypotheses = make_hypotheses(find_families(frame, token_text), frame.group, frame.n_explain, config.min_support, config.min_groups)
    matrices = encode_frame(coders, frame, site, step)
    cards = []
    for source, coder in coders.items():
        activations = matrices.pop(source)
        explanations = _explain_coder(source, activations, frame, hypotheses, config, step)
        effects = _next_tokens(coder, subject, site, token_text)
        step(f"{source}: output effects")
        cards += _make_cards(source, activations.tocsc(), explanations, effects, frame, token_text, config)
        step(f"{source}: cards")
    return cards


class _Steps:
    """Counts steps for a Progress."""

    def __init__(self, progress: Progress, total: int):
        self.progress, self.total, self.done = progress, total, 0

    def __call__(self, note: str) -> None:
        self.done += 1
        self.progress(self.done, self.total, note)


def _explain_coder(source: str, activations: sparse.csr_matrix, frame: TokenFrame, hypotheses: Hypotheses, config: ExplainConfig,
                   step: Callable[[str], None]) -> list[Explanation | None]:
    """Search, score and control for all latents of one coder."""
    n_explain, columns, rank = frame.n_explain, hypotheses.columns, hypotheses.rank
    explain, held_out = activations[:n_explain].tocsc(), activations[n_explain:].tocsc()
    if not hypotheses.n_hypotheses:
        return [None] * activations.shape[1]
    largest = maxima(explain)
    thresholds = [frac * largest for frac in sorted(config.thresholds)]
    firings = [firing_matrix(explain, threshold) for threshold in thresholds]
    choice = search(firings, thresholds, columns[:, :n_explain], rank)
    _, group = np.unique(frame.group[n_explain:], return_inverse=True)
    scores = score(firing_matrix(held_out, choice.threshold), choice, columns[:, n_explain:], rank, group, config.n_bootstrap, config.seed)
    step(f"{source}: search")
    parts = [slice(part.start, part.stop) for part in frame.sets]
    control = []
    for shuffle in range(config.n_shuffles):
        shuffled = rolled(columns, parts, np.random.default_rng([config.seed, shuffle]))
        chance = search(firings, thresholds, shuffled[:, :n_explain], rank)
        control.append(held_out_f1(firing_matrix(held_out, chance.threshold), chance, shuffled[:, n_explain:], rank))
        step(f"{source}: control {shuffle + 1} of {config.n_shuffles}")
    enough = np.diff(explain.indptr) >= config.min_fires
    return [
        _explanation(latent, hypotheses, choice, scores, np.stack(control)[:, latent], int(group.max()) + 1, config.seed)
        if enough[latent] and choice.hypothesis[latent] >= 0 else None
        for latent in range(activations.shape[1])
    ]


def _explanation(latent: int, hypotheses: Hypotheses, choice: Choice, scores: Scores, control: Float[np.ndarray, " shuffle"],
                 n_groups: int, seed: int) -> Explanation:
    hypothesis = int(choice.hypothesis[latent])
    points = (scores.precision, scores.recall, scores.f1)
    precision, recall, f1 = (
        MetricValue(
            value=float(point[latent]), n=n_groups, seeds=[seed],
            low=float(scores.low[row, latent]) if n_groups > 1 else None, high=float(scores.high[row, latent]) if n_groups > 1 else None,
        )
        for row, point in enumerate(points)
    )
    evidence = Evidence(
        precision=precision, recall=recall, f1=f1,
        control_f1=MetricValue(value=float(control.mean()), low=float(control.min()), high=float(control.max()), n=len(control), unit="shuffles", seeds=[seed]),
        threshold=float(choice.threshold[latent]), n_fires=int(scores.n_fires[latent]), n_labelled=int(scores.n_labelled[latent]),
    )
    return Explanation(text=hypotheses.texts[hypothesis], label=hypotheses.labels[hypothesis], explainer=EXPLAINER, evidence=evidence)


def _next_tokens(coder: SparseCoder, subject: Subject, site: str, token_text: Callable[[int], str]) -> list[tuple[list[str], list[str]]]:
    """The next tokens that each latent's decoder direction promotes and suppresses most; empty where the subject cannot tell."""
    directions = getattr(coder, "W_dec", None)
    output_effects = getattr(subject, "output_effects", None)
    nothing: list[tuple[list[str], list[str]]] = [([], [])] * coder.n_latents
    if directions is None or output_effects is None:
        return nothing
    result: list[tuple[list[str], list[str]]] = []
    block, start = 64, 0  # the first block is small: only its answer tells how wide the vocabulary is
    with torch.inference_mode():
        while start < coder.n_latents:
            try:
                effects = output_effects(directions[start : start + block].detach(), site)
            except SubjectError:
                return nothing
            result += [([token_text(token) for token in top], [token_text(token) for token in bottom]) for top, bottom in _extremes(effects)]
            start += block
            block = max(1, EFFECT_ENTRIES // effects.shape[1])
    return result


def _extremes(effects: Float[torch.Tensor, "latent vocabulary"]) -> list[tuple[list[int], list[int]]]:
    n_tokens = min(N_NEXT_TOKENS, effects.shape[1])
    top, bottom = (effects.topk(n_tokens, dim=1, largest=largest).indices.tolist() for largest in (True, False))
    return list(zip(top, bottom, strict=True))


def _make_cards(
    source: str, activations: sparse.csc_matrix, explanations: Sequence[Explanation | None], effects: Sequence[tuple[list[str], list[str]]],
    frame: TokenFrame, token_text: Callable[[int], str], config: ExplainConfig,
) -> list[Card]:
    general = _fire_rate(activations, frame.select("score", "general"))
    domain_part = frame.select("score", "domain")
    domain = general if domain_part is None else _fire_rate(activations, domain_part)
    largest = maxima(activations)
    return [
        Card(
            latent=latent, source=source, fire_rate=float(general[latent]), domain_fire_rate=float(domain[latent]), max_activation=float(largest[latent]),
            explanation=explanation,
            contexts=make_contexts(activations, latent, frame, token_text, config.n_contexts, config.context_tokens),
            promotes=effects[latent][0] if largest[latent] else [], suppresses=effects[latent][1] if largest[latent] else [],
        )
        for latent, explanation in enumerate(explanations)
    ]


def _fire_rate(activations: sparse.csc_matrix, part: slice | None) -> Float[np.ndarray, " latent"]:
    """Fraction of the tokens of a set on which each latent is positive."""
    assert part is not None
    inside: Int[np.ndarray, " entry"] = (activations.indices >= part.start) & (activations.indices < part.stop)
    return np.diff(np.concatenate([[0], np.cumsum(inside)])[activations.indptr]) / (part.stop - part.start)
