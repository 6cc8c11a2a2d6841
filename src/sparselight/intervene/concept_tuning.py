"""Turning a recommender's latents up and down: what happens to a concept's items, to the lists, and to quality.

RecSAE (arXiv 2411.06112) shows that edits act but publishes no protocol; this one is ours. x' = x + (strength - 1) z W_dec for the chosen latents: what the
SAE does not explain stays. All items are ranked in blocks of users, so memory does not grow with their number. Every curve stands beside the same edit of
random latents that fire as often. Refuses: concepts without items, users without a held-out interaction.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from sparselight.config import Config
from sparselight.errors import ConfigError, CorpusError
from sparselight.evaluate.ranking import gains, hits, list_tau, overlap, share_of
from sparselight.evaluate.ranking_fidelity import Part, Ranked
from sparselight.interpret.item_concepts import draw_instances
from sparselight.intervene.control import pick_control
from sparselight.intervene.edit import Dictionary, check_edit, edit_function
from sparselight.intervene.effects import ratio_interval
from sparselight.protocols import EditFunction, Example, Progress, no_progress
from sparselight.records import Edit, MetricValue
from sparselight.records.tuning import TuningDose, TuningRecord
from sparselight.subjects.recommender.module import Recommender
from sparselight.subjects.recommender.scoring import BLOCK_VALUES, SeenItems, score_blocks
from sparselight.subjects.recommender.subject import USER_VECTOR, RecommenderSubject

BLOCK_ROWS = 4096

Columns = dict[str, Float[Tensor, " row"]]


class TuningConfig(Config):
    """Strengths, lists and controls."""

    operation: Literal["scale", "add"] = "scale"
    """`scale` multiplies the latents where they are active; `add` gives them to everybody, in units of their own mean where they are active."""
    strengths: tuple[float, ...] = Field(default=(0.0, 0.5, 1.0, 2.0, 4.0), min_length=1)
    """What the latents are multiplied by (1 leaves them), or how many of their means are added (0 leaves them)."""
    k: int = Field(10, ge=2)
    """Length of the lists, and cut-off of HR and NDCG."""
    targets: Part = "test"
    """Which held-out interactions quality is measured on."""
    n_controls: int = Field(3, ge=0)
    """Draws of random latents with like firing rates."""
    seed: int = Field(0, ge=0)
    """Of controls and bootstrap."""


def tune_concept(
    subject: RecommenderSubject, coder: Dictionary, latents: Sequence[int], members: Bool[np.ndarray, " vocabulary"], users: Sequence[Example],
    concept: str = "", config: TuningConfig | None = None, site: str = USER_VECTOR, progress: Progress = no_progress,
) -> TuningRecord:
    """Ablate and amplify latents for some users and measure what their recommendations do.

    Args:
        members: the concept's items, by token id (`interpret.item_concepts.members_of`).
        users: one user, a segment, or everybody; those with a held-out interaction are measured.

    Raises:
        CorpusError: when no user has one.
        ConfigError: when the concept names no item, or the latents do not fit the dictionary.
    """
    config = config or TuningConfig()
    if not members[1:].any():
        raise ConfigError(asked=f"tune the concept {concept!r}", why="it names no item", instead="give items by their token ids")
    check_edit(Edit(site=site, latents=list(latents), operation="scale"), coder)
    ranked = ranked_users(subject, users, config.targets)
    active = (latent_activations(subject, coder, ranked, site)[:, list(latents)] > 0).any(1)
    rates, means = usual_activity(subject, coder, users, site)
    silent = [latent for latent in latents if not rates[latent]]
    if silent and config.operation == "add":
        raise ConfigError(asked=f"add multiples of the mean of latent {silent[0]}", why=f"it is active at no interaction of these {len(users)} users",
                          instead="give more users, or edit with an amount of your own (records.Edit, intervene.edit_function)")
    inside = torch.from_numpy(members.copy())
    draws = [pick_controls(rates, latents, config.seed + number) for number in range(config.n_controls)]
    runs: list[list[TuningDose]] = []
    for number, chosen in enumerate([list(latents), *draws]):
        edits = {strength: tuning_edit(coder, chosen, means, strength, config.operation, site) for strength in config.strengths}
        runs.append(_doses(ranked, edits, inside, active, site, config))
        progress(number + 1, 1 + len(draws), f"tuning {concept or 'latents'}")
    return TuningRecord(
        concept=concept, site=site, operation=config.operation, latents=list(latents), k=config.k, n_items=int(members[1:].sum()),
        n_users=len(set(ranked.user)), active_frac=float(active.float().mean()), doses=runs[0], controls=runs[1:], control_latents=draws,
        monotonicity=_monotonicity(runs[0]), control_monotonicity=[_monotonicity(run) for run in runs[1:]])


def usual_activity(
    subject: RecommenderSubject, coder: Dictionary, users: Sequence[Example], site: str, per_user: int = 40,
) -> tuple[dict[int, float], Float[Tensor, " latent"]]:
    """How often each latent is active over the histories of some users, and its mean where it is (0 for one that never is)."""
    x = draw_instances(subject, users, site, per_user, "last").x
    total, count = torch.zeros(coder.n_latents), torch.zeros(coder.n_latents)
    with torch.no_grad():
        for part in x.split(BLOCK_ROWS):
            codes = coder.encode(part)
            total.index_add_(0, codes.latents.cpu(), codes.values.float().cpu())
            count.index_add_(0, codes.latents.cpu(), (codes.values > 0).float().cpu())
    return dict(enumerate((count / len(x)).tolist())), total / count.clamp(min=1)


def tuning_edit(coder: Dictionary, latents: Sequence[int], means: Float[Tensor, " latent"], strength: float, operation: str, site: str) -> EditFunction:
    """One strength as an edit."""
    if operation == "scale":
        return edit_function(Edit(site=site, latents=list(latents), operation="scale", amount=strength), coder)
    parts = [edit_function(Edit(site=site, latents=[latent], operation="add", amount=strength * float(means[latent])), coder) for latent in latents]

    def apply(x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        for part in parts:  # what is added does not depend on what is there, so the order does not count
            x = part(x)
        return x

    return apply


def ranked_users(subject: RecommenderSubject, users: Sequence[Example], targets: Part) -> Ranked:
    ranked = Ranked(subject, list(users), targets)
    if not len(ranked):
        raise CorpusError(asked=f"measure recommendations for {len(users)} users", why=f"none of them has an interaction of the part {targets!r}",
                          instead="give users with one, or set targets to 'last'")
    return ranked


@torch.no_grad()
def latent_activations(subject: RecommenderSubject, coder: Dictionary, ranked: Ranked, site: str) -> Float[Tensor, "row latent"]:
    parts = [coder.encode(subject.capture(ranked.batch(slice(at, at + BLOCK_ROWS)), [site])[site]).to_dense() for at in range(0, len(ranked), BLOCK_ROWS)]
    return torch.cat(parts)


def pick_controls(rates: Mapping[int, float], latents: Sequence[int], seed: int) -> list[int]:
    """For each latent another one that fires about as often; none twice, none of the latents themselves."""
    left = {latent: rate for latent, rate in rates.items() if latent not in latents}
    chosen = []
    for latent in latents:
        chosen.append(pick_control({**left, latent: rates[latent]}, latent, seed))
        left.pop(chosen[-1])
    return chosen


def _doses(
    ranked: Ranked, edits: Mapping[float, EditFunction], members: Bool[Tensor, " vocabulary"], active: Bool[Tensor, " row"], site: str, config: TuningConfig,
) -> list[TuningDose]:
    """Every strength over all users, a block at a time."""
    found: dict[float, list[Columns]] = {strength: [] for strength in edits}
    module = ranked.subject.module
    size = max(1, BLOCK_VALUES // (module.n_items + 1) // 4)  # scores and ranks before and after are held together
    for at in range(0, len(ranked), size):
        rows = slice(at, min(at + size, len(ranked)))
        batch, seen, targets = ranked.batch(rows), ranked.seen(rows), ranked.targets[rows]
        before = masked_scores(module, ranked.subject.user_vectors(batch), seen, targets)
        for strength, edit in edits.items():
            after = masked_scores(module, ranked.subject.user_vectors(batch, {site: edit}), seen, targets)
            found[strength].append(_compare(before, after, targets, seen, members, config.k))
    user = np.array(ranked.user)
    return [_dose(strength, {name: torch.cat([part[name] for part in parts]) for name in parts[0]}, user, active.numpy(), config.seed)
            for strength, parts in found.items()]


def masked_scores(module: Recommender, vectors: Float[Tensor, "row d"], seen: SeenItems, targets: Int[Tensor, " row"]) -> Float[Tensor, "row vocabulary"]:
    """Masked scores of one block; the target, which the user is to be found to want, is never masked."""
    raw = torch.cat([scores for _, scores in score_blocks(module, vectors, None)])
    own = raw.gather(1, targets[:, None])
    masked = torch.cat([scores for _, scores in score_blocks(module, vectors, seen)])
    return masked.scatter(1, targets[:, None], own)


def _compare(before: Tensor, after: Tensor, targets: Tensor, seen: SeenItems, members: Bool[Tensor, " vocabulary"], k: int) -> Columns:
    first, second = (scores.topk(min(k, scores.shape[1] - 1), dim=1).indices for scores in (before, after))
    open_items = ~seen.mask(before.shape[1]).scatter(1, targets[:, None], False)
    counted = open_items & members
    gain = (_places(before) - _places(after)) * counted
    rank, rank_before = (((scores >= scores.gather(1, targets[:, None])) & open_items).sum(1).float() for scores in (after, before))
    return {
        "share": share_of(second, members), "rank_gain": gain.sum(1) / counted.sum(1).clamp(min=1) / (before.shape[1] - 1), "overlap": overlap(first, second),
        "tau": list_tau(before.gather(1, first), after.gather(1, first)), "hr": hits(rank, k), "ndcg": gains(rank, k),
        "hr_change": hits(rank, k) - hits(rank_before, k), "ndcg_change": gains(rank, k) - gains(rank_before, k),
    }


def _places(scores: Float[Tensor, "row vocabulary"]) -> Float[Tensor, "row vocabulary"]:
    """Place of every item by score, from 0; equal scores by token id."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    return torch.empty_like(scores).scatter_(1, order, torch.arange(scores.shape[1], dtype=scores.dtype).expand_as(order))


def _dose(strength: float, values: Columns, user: np.ndarray, active: np.ndarray, seed: int) -> TuningDose:
    fields: dict[str, MetricValue | None] = {name: mean_by_user(value, user, seed) for name, value in values.items()}
    idle = ~active
    fields["ndcg_change_others"] = mean_by_user(values["ndcg_change"][torch.from_numpy(idle)], user[idle], seed) if idle.any() else None
    return TuningDose.model_validate({"strength": strength, **fields})


def mean_by_user(values: Float[Tensor, " row"], user: Int[np.ndarray, " row"], seed: int) -> MetricValue:
    """Mean over rows with a 95 % bootstrap interval over users."""
    _, group = np.unique(user, return_inverse=True)
    sums, counts = np.bincount(group, weights=values.double().numpy()), np.bincount(group).astype(np.float64)
    return ratio_interval(sums, counts, seed).model_copy(update={"unit": "users"})


def _monotonicity(doses: Sequence[TuningDose]) -> float | None:
    """Spearman's rank correlation of strength and share (Spearman 1904)."""
    from scipy import stats

    shares = [dose.share.value for dose in doses]
    return None if len(set(shares)) < 2 else float(stats.spearmanr([dose.strength for dose in doses], shares).statistic)
