"""What it costs to recommend less of what is popular: curves of popularity, spread, quality and one fairness gap, as latents are turned down.

RecSAE (arXiv 2411.06112) names de-biasing as a use and publishes no numbers; measures and protocol are ours. Beside the chosen latents stand random ones that
fire as often, and the plain way to the same end, a penalty on popular items. Refuses: gaps between other than two segments.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sparselight.errors import ConfigError
from sparselight.evaluate.ranking import gains, gini, hits
from sparselight.evaluate.ranking_fidelity import Ranked
from sparselight.interpret.item_concepts.instances import points
from sparselight.intervene.concept_tuning import (
    Columns,
    TuningConfig,
    masked_scores,
    mean_by_user,
    pick_controls,
    ranked_users,
    usual_activity,
)
from sparselight.intervene.edit import Dictionary, edit_function
from sparselight.protocols import EditFunction, Example
from sparselight.records import Edit, MetricValue
from sparselight.records.tuning import BalanceDose, BalanceRecord
from sparselight.subjects.recommender.scoring import BLOCK_VALUES, SeenItems, top_items
from sparselight.subjects.recommender.subject import USER_VECTOR, RecommenderSubject, seen_of

POINTS_PER_USER = 10  # at which latents are chosen
BLOCK_ROWS = 1024


def popularity_latents(
    subject: RecommenderSubject, coder: Dictionary, users: Sequence[Example], popularity: Float[Tensor, " vocabulary"], n: int = 20,
    by: Literal["effect", "slope"] = "effect", k: int = 10,
) -> list[int]:
    """The latents to turn down for less popular recommendations.

    effect: what turning one latent off does to the first k, measured: sum over asked points with z_l > 0 of (mean p of the first k of x - z_l W_dec[l]) -
    (mean p of the first k of x), p = log(1 + popularity); the most negative first. slope: mean over points of z_l cov_i(<W_dec[l], v_i>, p_i), the latent's
    part of the covariance over all items of score and p, an exact split of a linear quantity; the largest first. Both ours.

    Args:
        users: choose on others than the curve is measured on.
        popularity: training interactions of each item, by token id.

    Returns:
        `n` latents or fewer: those whose sum does not point the other way.

    Raises:
        SubjectError: by slope, for scores that are no products.
    """
    level = popularity.double().log1p()
    totals = _effects(subject, coder, users, level, k) if by == "effect" else -_slopes(subject, coder, users, level)
    return [int(latent) for latent in totals.argsort(stable=True)[:n] if totals[latent] < 0]


@torch.no_grad()
def _slopes(subject: RecommenderSubject, coder: Dictionary, users: Sequence[Example], level: Float[Tensor, " vocabulary"]) -> Float[Tensor, " latent"]:
    total, count = torch.zeros(coder.n_latents, dtype=torch.float64), 0
    for vectors, _ in _asked(subject, users):
        total += coder.encode(vectors).to_dense().double().cpu().sum(0)
        count += len(vectors)
    effects = subject.output_effects(coder.W_dec.detach(), USER_VECTOR).double().cpu()[:, 1:]
    return total / max(count, 1) * (effects @ (level[1:] - level[1:].mean())) / len(level[1:])


@torch.no_grad()
def _effects(subject: RecommenderSubject, coder: Dictionary, users: Sequence[Example], level: Float[Tensor, " vocabulary"], k: int) -> Float[Tensor, " latent"]:
    """One latent of one point at a time: as many lists as there are activations."""
    module, total = subject.module, torch.zeros(coder.n_latents, dtype=torch.float64)
    k = min(k, module.n_items)
    for vectors, seen in _asked(subject, users):
        before = level[top_items(module, vectors, k, seen).items].mean(1)
        z = coder.encode(vectors).to_dense().clamp(min=0)
        for entries in z.nonzero().split(BLOCK_ROWS):
            row, latent = entries.unbind(1)
            without = vectors[row] - z[row, latent, None] * coder.W_dec.detach()[latent]
            after = level[top_items(module, without, k, seen[row.cpu()]).items].mean(1)
            total.index_add_(0, latent.cpu(), after - before[row.cpu()])
    return total


def _asked(subject: RecommenderSubject, users: Sequence[Example]) -> Iterator[tuple[Float[Tensor, "row d"], SeenItems]]:
    """User vectors at up to POINTS_PER_USER points of each history, and what the user has by then."""
    histories = [subject.history(example) for example in users]
    at = [(user, t) for user, history in enumerate(histories) for t in points(len(history), POINTS_PER_USER, subject.module.reads == "history")]
    for start in range(0, len(at), BLOCK_ROWS):
        some = at[start:start + BLOCK_ROWS]
        batch = subject.prepare_at([histories[user] for user, _ in some], [t for _, t in some])
        yield subject.user_vectors(batch), seen_of(batch)


def taste_segments(subject: RecommenderSubject, users: Sequence[Example], popularity: Float[Tensor, " vocabulary"]) -> dict[str, list[str]]:
    """Users whose items are more popular in the mean than the median user's, and the others: a fairness gap that every table of interactions has."""
    taste = {example.group: float(popularity[history.tokens].mean()) for example in users if len(history := subject.history(example))}
    middle = float(np.median(list(taste.values()))) if taste else 0.0
    return {name: [user for user, level in taste.items() if (level >= middle) == popular]
            for name, popular in (("popular taste", True), ("rare taste", False))}


def balance_curve(
    subject: RecommenderSubject, coder: Dictionary, latents: Sequence[int], users: Sequence[Example], popularity: Float[Tensor, " vocabulary"],
    strengths: Sequence[float] = (1.0, 0.75, 0.5, 0.25, 0.0), penalties: Sequence[float] = (0.0, 0.1, 0.25, 0.5, 1.0),
    segments: Mapping[str, Sequence[str]] | None = None, config: TuningConfig | None = None, site: str = USER_VECTOR,
) -> BalanceRecord:
    """Popularity, spread, quality and one fairness gap of the recommendations as latents are turned down, beside random latents and a score penalty.

    Args:
        segments: two groups of users by name, each a list of ids; the gap is NDCG of the first minus that of the second.

    Raises:
        ConfigError: when segments are not two.
    """
    config = config or TuningConfig()
    if segments is not None and len(segments) != 2:
        raise ConfigError(asked=f"measure a gap between {len(segments)} segments", why="a gap is between two", instead="give two lists of user ids")
    ranked = ranked_users(subject, users, config.targets)
    rates, _ = usual_activity(subject, coder, users, site)
    groups = {name: np.isin([users[number].group for number in ranked.user], list(ids)) for name, ids in (segments or {}).items()}
    control = pick_controls(rates, latents, config.seed)

    def curve(chosen: Sequence[int]) -> list[BalanceDose]:
        edits = [edit_function(Edit(site=site, latents=list(chosen), operation="scale", amount=strength), coder) for strength in strengths]
        return [_balance(ranked, strength, edit, 0.0, popularity, groups, site, config) for strength, edit in zip(strengths, edits, strict=True)]

    return BalanceRecord(
        site=site, latents=list(latents), k=config.k, n_users=len(set(ranked.user)), segments=list(groups), doses=curve(latents), control=curve(control),
        penalty=[_balance(ranked, weight, None, weight, popularity, groups, site, config) for weight in penalties])


def _balance(
    ranked: Ranked, strength: float, edit: EditFunction | None, penalty: float, popularity: Float[Tensor, " vocabulary"], groups: Mapping[str, np.ndarray],
    site: str, config: TuningConfig,
) -> BalanceDose:
    module, user = ranked.subject.module, np.array(ranked.user)
    level = popularity.log1p()
    level = (level - level[1:].mean()) / level[1:].std().clamp(min=1e-30)
    counts = torch.zeros(module.n_items + 1)
    parts: list[Columns] = []
    size = max(1, BLOCK_VALUES // (module.n_items + 1) // 2)
    for at in range(0, len(ranked), size):
        rows = slice(at, min(at + size, len(ranked)))
        targets = ranked.targets[rows]
        vectors = ranked.subject.user_vectors(ranked.batch(rows), None if edit is None else {site: edit})
        seen = ranked.seen(rows)
        scores = masked_scores(module, vectors, seen, targets)
        if penalty:
            scores = scores - penalty * module.score(vectors)[:, 1:].std(1, keepdim=True) * level
        top = scores.topk(min(config.k, module.n_items), dim=1).indices
        rank = (scores >= scores.gather(1, targets[:, None])).sum(1).float()
        counts += torch.bincount(top.flatten(), minlength=module.n_items + 1)
        parts.append({"popularity": popularity[top].mean(1), "hr": hits(rank, config.k), "ndcg": gains(rank, config.k)})
    values = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return BalanceDose(
        strength=strength, coverage=float((counts[1:] > 0).float().mean()), gini=gini(counts[1:]), gap=_gap(values["ndcg"], groups, user, config.seed),
        **{name: mean_by_user(values[name], user, config.seed) for name in ("popularity", "hr", "ndcg")})


def _gap(values: Float[Tensor, " row"], groups: Mapping[str, np.ndarray], user: np.ndarray, seed: int, n_bootstrap: int = 1000) -> MetricValue | None:
    """Mean of the first group minus mean of the second, with a bootstrap interval over users; None without groups or with an empty one."""
    if not groups or not all(inside.any() for inside in groups.values()):
        return None
    rng, means = np.random.default_rng(seed), []
    for inside in groups.values():
        _, group = np.unique(user[inside], return_inverse=True)
        sums, counts = np.bincount(group, weights=values.double().numpy()[inside]), np.bincount(group)
        drawn = np.concatenate([np.arange(len(sums))[None], rng.integers(0, len(sums), (n_bootstrap, len(sums)))])
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    gap = means[0] - means[1]
    low, high = np.quantile(gap[1:], [0.025, 0.975])
    return MetricValue(value=float(gap[0]), low=float(low), high=float(high), n=len(np.unique(user)), unit="users", seeds=[seed])
