"""What else an edit does: how far predictions on general text move, how generated text reads, and what else the subject then writes.

Owns: one pass over general text for the divergence, the cross entropy and a goal on predictions, for many edits at once; diversity, repetition and
perplexity of generated text; latents and annotations that change in it. Refuses: text without tokens, prompts that change how the text is cut.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.special import stdtr
from torch import Tensor

from sparselight.errors import CorpusError
from sparselight.evaluate.statistics import Resampled, benjamini_hochberg
from sparselight.intervene.edit import Dictionary
from sparselight.intervene.effects import kl_nats, prediction_chunks
from sparselight.intervene.generated import Generated, generated_tokens, whole_texts
from sparselight.intervene.goals import TokenGoal, predicts_next
from sparselight.protocols import Batch, EditFunction, Example, Subject
from sparselight.records import OffTarget, OffTargets

Edits = Mapping[str, EditFunction]
ALPHA = 0.05
N_LARGEST = 12


@dataclass(frozen=True)
class General:
    """Sums over the tokens of each group of general text, one row a variant; row 0 is without an edit."""

    kl: Float[np.ndarray, "variant group"]
    ce: Float[np.ndarray, "variant group"]
    goal: Float[np.ndarray, "variant group"]
    n_tokens: Float[np.ndarray, " group"]
    n_targets: Float[np.ndarray, " group"]
    """Tokens with a right answer, over which `ce` is summed."""

    def joined(self, other: "General") -> "General":
        """Further variants on the same text."""
        kl, ce, goal = (np.concatenate([own, more[1:]]) for own, more in ((self.kl, other.kl), (self.ce, other.ce), (self.goal, other.goal)))
        return General(kl, ce, goal, self.n_tokens, self.n_targets)


def measure_general(subject: Subject, examples: Sequence[Example], variants: Sequence[Edits], goal: TokenGoal | None = None, prefix: str = "") -> General:
    """Divergence, cross entropy and goal of every variant, the unedited subject first.

    Of a masked language model, tokens of one round of masking are predicted; of others, every token's next one.

    Args:
        goal: where there is one on predictions; else its sums are 0.
        prefix: stands before every text for the variants, and not for the unedited subject.

    Raises:
        CorpusError: when the text has no tokens, or the prefix changes how all of it is cut into tokens.
    """
    names = list(dict.fromkeys(example.group for example in examples))
    number = {name: index for index, name in enumerate(names)}
    sums, counts = np.zeros((3, 1 + len(variants), len(names))), np.zeros((2, len(names)))
    for chunk in prediction_chunks(subject, examples):
        batch, scored, target = _asked(subject, chunk)
        longer, kept = (batch, torch.ones(int(scored.sum()), dtype=torch.bool)) if not prefix else _prefixed(subject, chunk, batch, scored, prefix)
        groups = np.array([number[example.group] for example in chunk], dtype=np.int64)[batch.example.numpy()][scored.numpy()][kept.numpy()]
        target, before = target[scored][kept], subject.predict(batch)[scored.to(subject.device)].log_softmax(-1)[kept.to(subject.device)]
        answered = target >= 0
        counts += [np.bincount(groups, minlength=len(names)), np.bincount(groups[answered.numpy()], minlength=len(names))]
        for row, edits in enumerate([None, *variants]):
            after = before if edits is None else _predicted(subject, batch, longer, edits, scored, kept)
            columns = (kl_nats(before, after), _nats(after, target), torch.zeros(len(after)) if goal is None else goal.probability(after))
            for place, column in enumerate(columns):
                sums[place, row] += np.bincount(groups, weights=column.double().cpu().numpy(), minlength=len(names))
    if not counts[0].sum():
        raise CorpusError(asked="measure what an edit does to general text", why="no token of it can be measured",
                          instead="give examples with text, or leave out the baseline 'prompt'" if prefix else "give examples with text")
    return General(*sums, *counts)


def _asked(subject: Any, chunk: Sequence[Example]) -> tuple[Batch, Bool[Tensor, " token"], Int[Tensor, " token"]]:
    """The batch, at which tokens predictions are looked at, and the right answer there, -1 where there is none."""
    batch = subject.prepare(chunk)
    if not predicts_next(subject):
        masked, hidden = subject.masked_round(batch, 0)
        return masked, hidden, torch.where(hidden, batch.token_id, -1)
    target = torch.full((batch.n_tokens,), -1)
    if batch.n_tokens > 1:
        same = batch.example[1:] == batch.example[:-1]
        target[:-1] = torch.where(same, batch.token_id[1:], -1)
    patches = batch.char_start < 0 if getattr(subject, "kind", "") == "image_text" else torch.zeros(batch.n_tokens, dtype=torch.bool)
    return batch, ~patches, target  # what a model predicts at the patches of an image nothing uses


def _prefixed(subject: Subject, chunk: Sequence[Example], batch: Batch, scored: Tensor, prefix: str) -> tuple[Batch, Bool[Tensor, " scored"]]:
    """The batch with the prefix before each text, and which of the scored tokens are in it one for one: those of texts that are cut alike."""
    longer, _, _ = _asked(subject, [replace(example, text=prefix + example.text) for example in chunk])
    behind = longer.char_start >= len(prefix)
    alike = torch.tensor([torch.equal(longer.token_id[behind & (longer.example == index)], batch.token_id[batch.example == index])
                          for index in range(len(chunk))], dtype=torch.bool)
    return longer, alike[batch.example][scored]


def _predicted(subject: Subject, batch: Batch, longer: Batch, edits: Edits, scored: Tensor, kept: Tensor) -> Float[Tensor, "token vocabulary"]:
    logits = subject.predict(longer, edits)
    if longer is not batch:  # the tokens behind the prefix, of the texts that are kept
        alike = torch.zeros(int(batch.example.max()) + 1 if batch.n_tokens else 0, dtype=torch.bool)
        alike[batch.example[scored][kept]] = True
        prefix = longer.char_start.new_tensor([int((longer.example == index).sum() - (batch.example == index).sum()) for index in range(len(alike))])
        behind = alike[longer.example] & (longer.position >= prefix[longer.example])
        return logits[behind.to(logits.device)].log_softmax(-1)
    return logits[scored.to(logits.device)].log_softmax(-1)


def _nats(log_probs: Float[Tensor, "token vocabulary"], target: Int[Tensor, " token"]) -> Float[Tensor, " token"]:
    """-log p of the right answer, 0 where there is none."""
    target = target.to(log_probs.device)
    found = -log_probs.gather(1, target.clamp(min=0)[:, None])[:, 0]
    return torch.where(target >= 0, found, torch.zeros_like(found))


# Generated text.


def text_measures(subject: Subject, texts: Sequence[Generated]) -> dict[str, Float[np.ndarray, " text"]]:
    """The fields of `TextQuality`, one value a text; a text without tokens repeats nothing.

    distinct_n = different n-grams / n-grams (Li et al. 2016); repeated_4 = 1 - distinct_4 (Welleck et al. 2020); entropy_bits = -sum p log2 p over
    the tokens of a text; ce_nats = mean of -log p(token | prompt and text before it) under the unedited subject.
    """
    names = ("distinct_1", "distinct_2", "repeated_4", "entropy_bits", "ce_nats")
    found = {name: np.zeros(len(texts)) for name in names}
    batch = subject.prepare(whole_texts(texts))
    new, number = generated_tokens(batch, texts), batch.example.numpy()
    losses = subject.loss(batch).double().cpu().numpy()
    for index in range(len(texts)):
        own = new & (number == index)
        ids = batch.token_id.numpy()[own].tolist()
        found["distinct_1"][index], found["distinct_2"][index] = distinct(ids, 1), distinct(ids, 2)
        found["repeated_4"][index] = 1 - distinct(ids, 4)
        found["entropy_bits"][index] = entropy_bits(ids)
        known = losses[own & np.isfinite(losses)]
        found["ce_nats"][index] = known.mean() if len(known) else 0.0
    return found


def distinct(ids: Sequence[int], n: int) -> float:
    """Different n-grams / n-grams; 1 for a text of fewer than n tokens, which repeats nothing."""
    grams = [tuple(ids[start:start + n]) for start in range(len(ids) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def entropy_bits(ids: Sequence[int]) -> float:
    """Entropy of the tokens of a text."""
    p = np.array(list(Counter(ids).values()), dtype=np.float64) / max(1, len(ids))
    return float(abs((p * np.log2(p)).sum()))


def latent_shares(subject: Subject, coder: Dictionary, site: str, texts: Sequence[Generated]) -> Float[np.ndarray, "text latent"]:
    """Share of the generated tokens on which each latent fires when the unedited subject reads the text."""
    batch = subject.prepare(whole_texts(texts))
    new = generated_tokens(batch, texts)
    with torch.no_grad():
        codes = coder.encode(subject.capture(batch, [site])[site].to(coder.W_dec.device))
    fires = (codes.values > 0).cpu().numpy() & new[codes.tokens().cpu().numpy()]
    place = batch.example.numpy()[codes.tokens().cpu().numpy()] * coder.n_latents + codes.latents.cpu().numpy()
    counts = np.bincount(place[fires], minlength=len(texts) * coder.n_latents).reshape(len(texts), coder.n_latents)
    return counts / np.maximum(np.bincount(batch.example.numpy()[new], minlength=len(texts)), 1)[:, None]


def off_targets(before: Float[np.ndarray, "text item"], after: Float[np.ndarray, "text item"], unit: Int[np.ndarray, " text"], names: Sequence[str],
                titles: Sequence[str], skip: Sequence[int], strength: float,
                kind: Literal["latents", "annotations"]) -> OffTargets:
    """Items whose share of the generated tokens changes: paired t-test over prompts, adjusted over all items that occur.

    Args:
        unit: the prompt of each text; texts of one prompt (several seeds) are averaged first.
        skip: items that are the target.
    """
    n_units = int(unit.max()) + 1
    weights = np.eye(n_units)[:, unit] / np.bincount(unit, minlength=n_units)[:, None]
    first, second = weights @ before, weights @ after
    tested = np.flatnonzero((first.any(0) | second.any(0)) & ~np.isin(np.arange(len(names)), skip))
    change = (second - first)[:, tested]
    mean, spread = change.mean(0), change.std(0, ddof=1) if n_units > 1 else np.zeros(len(tested))
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(spread > 0, mean / (spread / np.sqrt(n_units)), np.where(mean == 0, 0.0, np.inf))
    p = 2 * stdtr(n_units - 1, -np.abs(t)) if n_units > 1 else np.ones(len(tested))
    adjusted = benjamini_hochberg(p) if len(p) else p
    order = np.lexsort((-np.abs(mean), adjusted > ALPHA))[:N_LARGEST]
    largest = [OffTarget(name=names[tested[i]], title=titles[tested[i]], before=float(first[:, tested[i]].mean()), after=float(second[:, tested[i]].mean()),
                         p_adjusted=float(adjusted[i])) for i in order.tolist()]
    return OffTargets(strength=strength, kind=kind, n_tested=len(tested), n_changed=int((adjusted <= ALPHA).sum()), largest=largest)


def per_token(sums: Resampled, counts: Resampled) -> Resampled:
    """Sums over resampled groups as means a token; nan where a resample has none."""
    return np.divide(sums, counts, out=np.full(np.shape(sums), np.nan), where=counts > 0)
