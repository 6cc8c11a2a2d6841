"""Tables of an association search: the best latents of each label, and the best label of each latent, with held-out scores and chances.

Owns: their columns. A p-value of the screen is stored as log10_p, because it may be smaller than any float; q_screen and q_permutation
are empty where the pair is not below the level that was asked for, or was not tested at this threshold.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from sparselight.evaluate.concepts.chance import FisherBound
from sparselight.evaluate.concepts.marks import Concepts
from sparselight.evaluate.concepts.pair_scores import SCORES, Pairs
from sparselight.evaluate.concepts.search import Found
from sparselight.evaluate.statistics import benjamini_hochberg

Scored = Callable[[Pairs], dict[str, np.ndarray]]
Thresholds = Float[np.ndarray, "threshold latent"]


def concept_table(
    who: Mapping[str, str], concepts: Concepts, found: Found, null: Mapping[str, tuple[np.ndarray, np.ndarray]], p: Float[np.ndarray, " concept"],
    fracs: Sequence[float], score: Scored, thresholds: Thresholds,
) -> pa.Table:
    """One line for each label, criterion and rank: what was chosen on the fit side, held-out scores, base rates, null and p-values.

    Args:
        null: mean and largest F1 over shuffles, by criterion.
        p: permutation p-values of the labels' best pairs by F1.
    """
    parts = []
    for criterion, choice in found.by_concept.items():
        rank, concept = np.nonzero(choice.latent >= 0)
        latent, number = choice.latent[rank, concept], choice.threshold[rank, concept]
        pairs = Pairs(latent, concept, thresholds[number, latent])
        scores, first = score(pairs), (rank == 0) & (criterion == "f1")
        q = benjamini_hochberg(p) if not np.isnan(p).any() else p
        mean, most = null.get(criterion, (np.full(concepts.n_concepts, np.nan),) * 2)
        parts.append(pa.table({
            **_constant(who, len(rank)), **_names(concepts, concept), "criterion": pa.array([criterion] * len(rank)).dictionary_encode(), "rank": rank + 1,
            "latent": latent, "threshold_frac": np.array(fracs)[number], "threshold": pairs.threshold, "fit_score": choice.score[rank, concept],
            **_scores(scores), **_base_rates(scores, concepts.held_out.n_units), "null_f1_mean": _floats(mean[concept]), "null_f1_max": _floats(most[concept]),
            **_screened(scores, found, concepts.held_out.n_units, criterion != "f1_domain"),
            "p_permutation": _floats(np.where(first, p[concept], np.nan)), "q_permutation": _floats(np.where(first, q[concept], np.nan)),
        }))
    return pa.concat_tables(parts)


def latent_table(
    who: Mapping[str, str], concepts: Concepts, found: Found, null: Float[np.ndarray, " latent"], level: float, fracs: Sequence[float], score: Scored,
    thresholds: Thresholds,
) -> pa.Table:
    """One line for each latent that fires with any label on the fit side: its best label by F1 there, with held-out scores.

    A latent is `associated` where q_screen is at most `level` and F1 lies above the null.

    Args:
        null: the largest held-out F1 that the latent reached with shuffled labels.
        level: of the false discovery rate.
    """
    own = found.by_latent
    latent = np.flatnonzero(own.concept >= 0)
    concept, number = own.concept[latent], own.threshold[latent]
    pairs = Pairs(latent, concept, thresholds[number, latent])
    scores = score(pairs)
    screened = _screened(scores, found, concepts.held_out.n_units, True)
    q = screened["q_screen"].to_numpy(zero_copy_only=False)
    associated = (np.nan_to_num(q, nan=1.0) <= level) & (np.nan_to_num(scores["f1"]) > null[latent])
    return pa.table({
        **_constant(who, len(latent)), "latent": latent, **_names(concepts, concept), "threshold_frac": np.array(fracs)[number], "threshold": pairs.threshold,
        "fit_score": own.score[latent], **_scores(scores), **_base_rates(scores, concepts.held_out.n_units), "null_f1_max": null[latent], **screened,
        "associated": associated,
    })


def _constant(who: Mapping[str, str], n: int) -> dict[str, pa.Array]:
    return {name: pa.array([value] * n, pa.string()).dictionary_encode() for name, value in who.items()}


def _names(concepts: Concepts, concept: Int[np.ndarray, " pair"]) -> dict[str, pa.Array]:
    return {"kind": pa.array([concepts.kinds[index] for index in concept], pa.string()).dictionary_encode(),
            "label": pa.array([concepts.names[index] for index in concept], pa.string()).dictionary_encode()}


def _scores(scores: Mapping[str, np.ndarray]) -> dict[str, pa.Array]:
    counts = {name: scores[name].astype(np.int64) for name in ("n_fires", "n_labelled", "n_hits", "n_spans")}
    return {**{name: _floats(scores[name]) for value in SCORES for name in (value, f"{value}_low", f"{value}_high")}, **counts}


def _base_rates(scores: Mapping[str, np.ndarray], n_units: int) -> dict[str, np.ndarray]:
    """The share b of units with the label, and the F1 of firing everywhere: precision b, recall 1, so 2 b / (1 + b). Firing at random at the
    label's own rate has F1 = b."""
    rate = scores["n_labelled"] / n_units
    return {"base_rate": rate, "f1_everywhere": 2 * rate / (1 + rate)}


def _screened(scores: Mapping[str, np.ndarray], found: Found, n_units: int, tested: bool) -> dict[str, pa.Array]:
    hits, fires, labelled = (scores[name].astype(np.int64) for name in ("n_hits", "n_fires", "n_labelled"))
    log_p = FisherBound.of(n_units).log_p(hits, fires, labelled)
    q = found.screen.q(log_p) if found.screen is not None and tested else np.full(len(log_p), np.nan)
    return {"log10_p": _floats(log_p / np.log(10)), "q_screen": _floats(q)}


def _floats(values: np.ndarray) -> pa.Array:
    return pa.array(values, pa.float64(), from_pandas=True)
