"""Predictions of the subject with each coder spliced in, summed over the tokens of each group: one pass a coder gives all that is compared.

A batch goes through the layers before the site once; from there on once unedited and once for each coder (`subjects/resume.py`). Logits are taken
a block of positions at a time, so that large vocabularies fit. A coder sees the activations of the very pass that it is spliced into: those of a
masked language model with tokens hidden are others than those of the open text. Refuses: a cross entropy that is not finite.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from sparselight.config import Config
from sparselight.errors import SaeError, SubjectError
from sparselight.evaluate.family import SUBJECT
from sparselight.evaluate.held_out import HeldOut
from sparselight.evaluate.ranking import Ties, gains, hits, ranks
from sparselight.protocols import Batch, EditFunction, Subject
from sparselight.subjects.hugging_face import HuggingFaceSubject
from sparselight.subjects.resume import Scoring, SplicedPasses, can_resume

LEAST_LOG_P = -1e30  # in place of -inf, so that 0 * log(0 / 0) is 0
CHECK_TOKENS = 512  # on which it is tried whether passes can be resumed
NO_LOGITS = "the subject gives losses and no predictions"
CACHED_VALUES = 1 << 19  # of logits worked on at once on a CPU: they stay in its cache from one operation to the next


class BehaviourConfig(Config):
    """Which predictions are compared, and with how much memory."""

    ranking_k: tuple[int, ...] = ()
    """Cut-offs k of hit_rate and ndcg, for subjects that rank candidates (items, or the vocabulary); none: both are left out."""
    ties: Ties = "middle"
    """Rank of a target whose score other candidates share: the middle of their places, or the last."""
    logits_mb: int = Field(256, ge=1)
    """Memory of one block of logits, in MiB; a few blocks are held at a time."""
    resume: bool = True
    """Run the layers before the site once for all coders, where that changes no bit of the predictions."""


@dataclass(slots=True)
class PredictionSums:
    """Sums over the scored tokens of each group: of the unedited subject (SUBJECT), and with each coder spliced in."""

    scored: Float[Tensor, " group"]
    """Tokens that have a prediction."""
    sums: dict[str, dict[str, Float[Tensor, " group"]]] = field(default_factory=dict)
    """Coder to quantity (`ce`, `right`, `kl`, `agree`, `hit@k`, `ndcg@k`) to its sums."""
    n_unscored: int = 0
    lacks: dict[str, str] = field(default_factory=dict)
    """Quantity to the reason why this subject does not have it."""

    def add(self, coder: str, values: Mapping[str, Float[Tensor, " scored"]], group: Int[Tensor, " scored"], asked: str = "") -> None:
        """Add what some tokens come to.

        Raises:
            SubjectError: when the subject's own cross entropy is not finite.
            SaeError: when that with a coder spliced in is not.
        """
        bad = int((~torch.isfinite(values["ce"])).sum())
        if bad and coder == SUBJECT:
            raise SubjectError(asked="measure the subject's cross entropy", why=f"it is not finite for {bad} tokens",
                               instead="run the subject with subject.dtype = 'float32'")
        if bad:
            raise SaeError(asked=asked, why="the cross entropy with it spliced in is not finite",
                           instead="check the size of its reconstructions, or run the subject with subject.dtype = 'float32'")
        for quantity, value in values.items():
            total = self.sums.setdefault(coder, {}).setdefault(quantity, torch.zeros_like(self.scored))
            total.index_add_(0, group, value.cpu().double())


@dataclass(frozen=True, slots=True)
class Splice:
    """A coder as an edit, and how messages name what is asked of it."""

    edit: EditFunction
    asked: str


def sum_predictions(
    subject: Subject, site: str, part: HeldOut, splices: Mapping[str, Splice], config: BehaviourConfig, batch_tokens: int,
    step: Callable[[int], None],
) -> PredictionSums:
    """All examples of a dataset, unedited and with each coder spliced in.

    Args:
        step: called with the tokens of each finished batch.
    """
    sums = PredictionSums(torch.zeros(len(part.groups), dtype=torch.float64))
    passes = _ScoredPasses(subject, site, part, config, batch_tokens) if isinstance(subject, HuggingFaceSubject) else _WholePasses(subject, site)
    for indices in part.batches(passes.batch_tokens or batch_tokens):
        batch = subject.prepare([part.examples[index] for index in indices])
        passes.add(batch, torch.tensor([part.group[index] for index in indices])[batch.example.cpu()], splices, sums, config)
        step(batch.n_tokens)
    return sums


class _ScoredPasses:
    """Passes of a subject that says which predictions its loss scores."""

    def __init__(self, subject: Any, site: str, part: HeldOut, config: BehaviourConfig, batch_tokens: int):
        self._subject, self._site = subject, site
        first = subject.prepare([part.examples[index] for index in next(part.batches(min(batch_tokens, CHECK_TOKENS)))])
        scoring = next(subject.scorings(first), None)
        self._resume = config.resume and scoring is not None and can_resume(subject, scoring, site)
        self._block = max(1, (config.logits_mb << 20) // (4 * subject.n_vocabulary))
        self.batch_tokens = batch_tokens if self._resume else min(batch_tokens, self._block)

    def add(self, batch: Batch, group: Int[Tensor, " token"], splices: Mapping[str, Splice], sums: PredictionSums, config: BehaviourConfig) -> None:
        n_scored = 0
        for scoring in self._subject.scorings(batch):
            n_scored += len(scoring.tokens)
            self._add(scoring, batch.token_id[scoring.tokens], group[scoring.tokens], splices, sums, config)
        sums.n_unscored += batch.n_tokens - n_scored

    def _add(self, scoring: Scoring, targets: Int[Tensor, " scored"], group: Int[Tensor, " scored"], splices: Mapping[str, Splice], sums: PredictionSums,
             config: BehaviourConfig) -> None:
        sums.scored.index_add_(0, group, torch.ones(len(group), dtype=torch.float64))
        passes = SplicedPasses(self._subject, scoring, self._site, self._resume)
        own_end, ends = passes.run(None), {name: passes.run(splice.edit) for name, splice in splices.items()}
        block = self._block if self._resume else max(1, len(targets))
        for start in range(0, len(targets), block):
            piece = slice(start, start + block)
            logits = passes.logits(own_end, piece)
            sums.add(SUBJECT, compare(logits, targets[piece], None, config), group[piece])
            own = own_predictions(logits)
            for name, end in ends.items():
                sums.add(name, compare(passes.logits(end, piece), targets[piece], own, config), group[piece], splices[name].asked)


class _WholePasses:
    """Passes of a subject that gives losses and predictions apart; it does not say which prediction has which answer, so nothing is ranked."""

    batch_tokens = 0

    def __init__(self, subject: Subject, site: str):
        self._subject, self._site, self._no_logits = subject, site, ""

    def add(self, batch: Batch, group: Int[Tensor, " token"], splices: Mapping[str, Splice], sums: PredictionSums, config: BehaviourConfig) -> None:
        loss, logits = self._read(batch, None)
        scored = ~loss.isnan()
        sums.n_unscored += int((~scored).sum())
        sums.scored.index_add_(0, group, scored.double())
        sums.add(SUBJECT, {"ce": loss[scored]}, group[scored])
        own = None if logits is None else own_predictions(logits[scored.to(logits.device)].float())
        for name, splice in splices.items():
            loss, logits = self._read(batch, {self._site: splice.edit})
            values = {"ce": loss[scored]}
            if own is not None:
                assert logits is not None
                values |= divergences(logits[scored.to(logits.device)].float().log_softmax(-1).clamp_(min=LEAST_LOG_P), own)
            sums.add(name, values, group[scored], splice.asked)
        if self._no_logits:
            sums.lacks["kl"] = self._no_logits
        sums.lacks["right"] = "this kind of subject does not say which prediction belongs to which token"
        if config.ranking_k:
            sums.lacks["rank"] = sums.lacks["right"]

    def _read(self, batch: Batch, edits: Mapping[str, EditFunction] | None) -> tuple[Float[Tensor, " token"], Float[Tensor, "token vocabulary"] | None]:
        """Losses and, where the subject has them, logits: of one pass, if it gives both together."""
        both = getattr(self._subject, "loss_and_logits", None)
        if both is not None:
            loss, logits = both(batch, edits)
            self._no_logits = NO_LOGITS if logits is None else ""
            return loss.cpu(), logits
        return self._subject.loss(batch, edits).cpu(), self._logits(batch, edits)

    def _logits(self, batch: Batch, edits: Mapping[str, EditFunction] | None) -> Float[Tensor, "token vocabulary"] | None:
        if self._no_logits:
            return None
        try:
            return self._subject.predict(batch, edits)
        except SubjectError as err:
            if edits:
                raise
            self._no_logits = err.why
            return None


@dataclass(frozen=True, slots=True)
class OwnPredictions:
    """What the predictions of the unedited subject are compared by."""

    p: Float[Tensor, "scored vocabulary"]
    cross: Float[Tensor, " scored"]
    """sum_v p log p, by the same arithmetic as with a coder spliced in, so that equal predictions have a divergence of exactly 0."""
    top: Int[Tensor, " scored"]


def own_predictions(logits: Float[Tensor, "scored vocabulary"]) -> OwnPredictions:
    log_p = logits.log_softmax(-1).clamp_(min=LEAST_LOG_P)
    p = log_p.exp()
    return OwnPredictions(p, _dots(p, log_p), log_p.argmax(-1))


def compare(
    logits: Float[Tensor, "scored vocabulary"], targets: Int[Tensor, " scored"], own: OwnPredictions | None, config: BehaviourConfig,
) -> dict[str, Float[Tensor, " scored"]]:
    """What is summed of some predictions.

    ce = -log p(target), right = 1[the target is the likeliest candidate, or as likely as that], `hit@k` and `ndcg@k` by the rank of the target among all
    candidates; and where `own` is given what `divergences` gives.
    """
    targets = targets.to(logits.device)
    values: dict[str, list[Tensor]] = {}
    size = len(logits) if logits.is_cuda else max(1, CACHED_VALUES // logits.shape[1])
    for start in range(0, len(logits), max(size, 1)):
        part = slice(start, start + size)
        log_p = logits[part].log_softmax(-1)
        of_target = log_p.gather(1, targets[part, None])[:, 0]
        found = {"ce": -of_target, "right": (of_target == log_p.amax(-1)).float()}
        if own is not None:
            found |= divergences(log_p.clamp_(min=LEAST_LOG_P), OwnPredictions(own.p[part], own.cross[part], own.top[part]))
        if config.ranking_k:
            rank = ranks(logits[part], targets[part], config.ties)
            found |= {f"{name}@{k}": score(rank, k) for k in config.ranking_k for name, score in (("hit", hits), ("ndcg", gains))}
        for quantity, value in found.items():
            values.setdefault(quantity, []).append(value)
    return {quantity: torch.cat(found) for quantity, found in values.items()}


def divergences(log_p: Float[Tensor, "scored vocabulary"], own: OwnPredictions) -> dict[str, Float[Tensor, " scored"]]:
    """kl = sum_v p_own (log p_own - log p) in nats, and agree = 1[the subject's likeliest candidate is the likeliest, or as likely as that]."""
    agree = log_p.gather(1, own.top[:, None])[:, 0] == log_p.amax(-1)
    return {"kl": (own.cross - _dots(own.p, log_p)).clamp_(min=0), "agree": agree.float()}


def _dots(a: Float[Tensor, "scored vocabulary"], b: Float[Tensor, "scored vocabulary"]) -> Float[Tensor, " scored"]:
    return torch.linalg.vecdot(a, b)
