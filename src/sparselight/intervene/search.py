"""Search: which latents to turn for a goal.

By what explanations say, by where a goal is present in text, by the difference of activations between two sets of texts, by what directions promote, by
attribution; and latents to switch off because a classifier uses them for the wrong reason. Every candidate says what it was found by and by how much.
Refuses: goals that never occur, empty searches, subjects whose site does not lead to predictions.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse

from sparselight.errors import ConfigError, CorpusError
from sparselight.evaluate.case import Case
from sparselight.evaluate.contender import Contender
from sparselight.evaluate.findings import Findings
from sparselight.evaluate.shift import Judge, ShiftConfig, measure_shift
from sparselight.intervene.attribution import Attribution
from sparselight.intervene.baselines import TextSample
from sparselight.intervene.edit import Dictionary
from sparselight.records import Card, Edit
from sparselight.subjects import HuggingFaceSubject

LIMIT = 20
MIN_BEGINNING = 4  # letters
WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Candidate:
    """A latent that might be turned for a goal."""

    source: str
    latent: int
    score: float
    by: str
    """explanation, association, difference of means, output or attribution."""
    why: str
    """The score in words."""


def by_explanation(cards: Sequence[Card], text: str, limit: int = LIMIT) -> list[Candidate]:
    """Cards whose explanation or promoted tokens hold the words: 3 for the whole phrase, 1 a word in the explanation, 0.5 one in a promoted token or of which
    the explanation has the beginning (`cert` for certificate, and the reverse), over the number of words.

    Raises:
        ConfigError: for a search without words.
    """
    words = [word.lower() for word in WORD.findall(text)]
    if not words:
        raise ConfigError(asked=f"search explanations for {text!r}", why="there is no word in it", instead="give words, such as --find 'certificate'")
    found = []
    for card in cards:
        said = f"{card.explanation.text} {card.explanation.label}".lower() if card.explanation else ""
        own, promoted = set(WORD.findall(said)), {word for token in card.promotes for word in WORD.findall(token.lower())}
        hits = [word for word in words if word in own]
        more = [word for word in words if word not in own and (word in promoted or any(_begins(word, other) for other in own))]
        score = (3.0 if text.strip().lower() in said else 0.0) + (len(hits) + 0.5 * len(more)) / len(words)
        if hits or more or score >= 3:
            where = "in the explanation" if hits or score >= 3 else "in promoted tokens" if any(word in promoted for word in more) else "by its beginning"
            found.append(Candidate(card.source, card.latent, score, "explanation", f"found {where}"))
    return best(found, limit)


def _begins(one: str, other: str) -> bool:
    """Whether one word begins with the other, which is long enough to mean something."""
    short, long = sorted((one, other), key=len)
    return len(short) >= MIN_BEGINNING and long.startswith(short)


def by_association(sample: TextSample, source: str, present: Bool[np.ndarray, " token"], goal: str, limit: int = LIMIT) -> list[Candidate]:
    """Latents that fire where the goal is present: F1 = 2 TP / (fires + present), a token each.

    Raises:
        CorpusError: when the goal is present nowhere in the sample.
    """
    n_present = int(present.sum())
    if not n_present:
        raise CorpusError(asked=f"find latents that go with {goal}", why=f"it occurs at none of {len(present):,} tokens of text",
                          instead="give a goal that occurs, or more text (steer.sample_tokens)")
    fires = sparse.csc_matrix((np.ones(len(sample.codes.data)), sample.codes.indices, sample.codes.indptr), shape=sample.codes.shape)
    hits, n_fires = fires.T @ present.astype(np.float64), np.diff(sample.codes.indptr)
    f1 = 2 * hits / np.maximum(n_fires + n_present, 1)
    return [Candidate(source, latent, float(f1[latent]), "association",
                      f"F1 {f1[latent]:.3f}: fires at {int(hits[latent])} of {n_present} such tokens, {int(n_fires[latent])} times in all")
            for latent in top(f1, limit)]


def by_difference(sample: TextSample, source: str, present: Bool[np.ndarray, " token"], limit: int = LIMIT) -> list[Candidate]:
    """Latents whose mean activation differs most between tokens with and without the goal: (mean with - mean without) / standard deviation (Cohen's d).

    Raises:
        CorpusError: when one of both sets is empty.
    """
    with_it, without = int(present.sum()), int((~present).sum())
    if not with_it or not without:
        raise CorpusError(asked="compare latents between two sets of tokens", why=f"they have {with_it:,} and {without:,} tokens",
                          instead="give two sets that both have tokens")
    difference = np.asarray((present / with_it - ~present / without) @ sample.codes).ravel()
    mean = np.asarray(sample.codes.mean(0)).ravel()
    spread = np.sqrt(np.maximum(np.asarray(sample.codes.multiply(sample.codes).mean(0)).ravel() - mean**2, 0))
    d = np.divide(difference, spread, out=np.zeros_like(difference), where=spread > 0)
    return [Candidate(source, latent, float(d[latent]), "difference of means", f"{d[latent]:.2f} standard deviations higher there") for latent in top(d, limit)]


def by_output(subject: HuggingFaceSubject, coder: Dictionary, site: str, source: str, token_ids: Sequence[int], limit: int = LIMIT) -> list[Candidate]:
    """Latents whose direction raises the logits of some tokens most: the largest of their effects, in standard deviations over the vocabulary.

    Raises:
        SubjectError: for a site that does not lead straight to predictions.
    """
    score = np.zeros(coder.n_latents)
    size = max(1, (1 << 24) // max(1, subject.n_vocabulary))
    for start in range(0, coder.n_latents, size):
        effects = subject.output_effects(coder.W_dec.detach()[start:start + size], site)
        scaled = (effects - effects.mean(1, keepdim=True)) / effects.std(1, keepdim=True).clamp(min=1e-12)
        score[start:start + size] = scaled[:, list(token_ids)].max(1).values.double().cpu().numpy()
    return [Candidate(source, latent, float(score[latent]), "output", f"raises one of these logits by {score[latent]:.1f} standard deviations")
            for latent in top(score, limit)]


def by_attribution(found: Attribution, source: str, limit: int = LIMIT) -> list[Candidate]:
    """Latents that add most to a metric (`attribution.attribute`)."""
    return [Candidate(source, latent, float(found.latents[latent]), "attribution", f"adds {found.latents[latent]:.2e} a token to the goal's log probability")
            for latent in top(found.latents, limit)]


def top(score: Float[np.ndarray, " latent"], limit: int) -> list[int]:
    """Latents with the largest scores above 0."""
    order = np.argsort(-score, kind="stable")[:limit]
    return [int(latent) for latent in order if score[latent] > 0]


def best(found: Sequence[Candidate], limit: int) -> list[Candidate]:
    return sorted(found, key=lambda item: (-item.score, item.source, item.latent))[:limit]


@dataclass(frozen=True)
class Pruned:
    """Latents that a classifier uses for the wrong reason, switched off."""

    edit: Edit
    findings: Findings
    """The accuracies before and after, beside all controls of `evaluate.shift`."""


def prune_spurious(case: Case, contenders: Mapping[str, Contender], name: str, config: ShiftConfig, judge: Judge | None = None) -> Pruned:
    """SHIFT (Marks et al. 2024) on one coder: the edit that ablates the latents which a classifier uses and which the judge finds irrelevant.

    Args:
        name: of the coder among the contenders.
        judge: takes the place of the one that the settings name.

    Raises:
        CorpusError: when the labels do not allow it, in the words of `evaluate.shift`.
    """
    findings = Findings()
    measure_shift(case, {name: contenders[name]}, config, findings, judge=judge)
    table = findings.tables.get("shift_latents")
    if table is None:
        lacking = next(iter(findings.undefined.values()), "")
        raise CorpusError(asked=f"prune latents of {name}", why=lacking or "; ".join(findings.notes) or "the classifier uses none of them",
                          instead="give labels with enough examples (evaluate.shift)")
    rows = [row for row in table.to_pylist() if row["irrelevant"]]
    chosen: Int[np.ndarray, " chosen"] = np.unique([row["latent"] for row in rows]).astype(np.int64)
    return Pruned(Edit(site=case.site, latents=chosen.tolist(), operation="ablate"), findings)
