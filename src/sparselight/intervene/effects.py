"""What an edit does: the prediction at one position before and after, and how far predictions on other text move.

Owns: the KL divergence between the two predictions, its mean over general held-out text with an interval, and the same for a
control latent. Everything is deterministic for one seed. Refuses: positions that the example does not have.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sparselight.errors import ConfigError, CorpusError
from sparselight.intervene.edit import Dictionary, edit_function, gather_latents
from sparselight.protocols import Batch, EditFunction, Example, Subject
from sparselight.records import Card, Context, Edit, EditResult, MetricValue, NextToken

N_RESAMPLES = 1000
CHUNK_VALUES = 2**25  # values of logits held at once for one of the compared predictions


def edit_result(
    subject: Subject, coder: Dictionary, edit: Edit, card: Card, example: Example, token_index: int, held_out: Sequence[Example], control_latent: int,
    n_candidates: int = 6, window_tokens: tuple[int, int] = (12, 4), seed: int = 0,
) -> EditResult:
    """Measure an edit at one position of one example and on general held-out text.

    Args:
        card: of the feature under study; its latent's activations are shown in the context.
        token_index: running number of the token in the example whose next token is predicted.
        held_out: general text that the feature is not about, for the side effect.
        control_latent: gets the same operation and amount, for comparison (`pick_control`).
        n_candidates: next tokens shown; the likeliest before and the likeliest after take turns.
        window_tokens: tokens shown before and after the position.
        seed: of the bootstrap.

    Raises:
        ConfigError: when the edit does not fit the dictionary, or the example has no such token.
    """
    batch = subject.prepare([example])
    if not 0 <= token_index < batch.n_tokens:
        raise ConfigError(asked=f"show an edit at token {token_index} of {example.id}", why=f"the example has {batch.n_tokens} tokens",
                          instead=f"give a token from 0 to {batch.n_tokens - 1}")
    edits = {edit.site: edit_function(edit, coder)}
    control = {edit.site: edit_function(edit.model_copy(update={"latents": [control_latent]}), coder)}
    before, after = (subject.predict(batch, chosen)[token_index].log_softmax(-1) for chosen in (None, edits))
    next_id = int(batch.token_id[token_index + 1]) if token_index + 1 < batch.n_tokens else None
    side_effect, control_effect = mean_kl(subject, [edits, control], held_out, seed)
    return EditResult(
        card=card.key, edit=edit.model_dump(mode="json"), context=_context(subject, coder, edit.site, card, batch, example, token_index, window_tokens),
        next_tokens=_candidates(subject, before, after, n_candidates), next_actual="" if next_id is None else subject.token_text(next_id),
        kl_nats=float(kl_nats(before[None], after[None])), side_effect_kl_nats=side_effect, control_kl_nats=control_effect,
    )


def kl_nats(log_before: Float[Tensor, "token vocabulary"], log_after: Float[Tensor, "token vocabulary"]) -> Float[Tensor, " token"]:
    """KL(before || after) = sum_v p_before(v) (log p_before(v) - log p_after(v)), in nats, of each token's prediction.

    Kullback and Leibler 1951. Rounding can take a divergence of 0 slightly below it; that is cut off.
    """
    return (log_before.exp() * (log_before - log_after)).sum(-1).clamp(min=0.0)


def mean_kl(subject: Subject, variants: Sequence[Mapping[str, EditFunction]], examples: Sequence[Example], seed: int = 0) -> list[MetricValue]:
    """Mean KL(before || after) a token of each set of edits, over the same examples, with a 95 % interval over groups.

    Raises:
        CorpusError: when the examples hold no token.
    """
    names = list(dict.fromkeys(example.group for example in examples))
    number = {name: index for index, name in enumerate(names)}
    sums, counts = np.zeros((len(variants), len(names))), np.zeros(len(names))
    for chunk in prediction_chunks(subject, examples):
        batch = subject.prepare(chunk)
        groups = np.array([number[example.group] for example in chunk], dtype=np.int64)[batch.example.numpy()]
        counts += np.bincount(groups, minlength=len(names))
        before = subject.predict(batch).log_softmax(-1)
        for row, edits in zip(sums, variants, strict=True):
            divergence = kl_nats(before, subject.predict(batch, edits).log_softmax(-1))
            row += np.bincount(groups, weights=divergence.double().cpu().numpy(), minlength=len(names))
    if not counts.sum():
        raise CorpusError(asked="measure the side effect of an edit", why="the held-out text has no tokens", instead="give examples with text")
    return [ratio_interval(row, counts, seed) for row in sums]


def ratio_interval(sums: Float[np.ndarray, " group"], counts: Float[np.ndarray, " group"], seed: int, n_resamples: int = N_RESAMPLES) -> MetricValue:
    """Mean a token, sum(sums) / sum(counts), with a percentile bootstrap interval over groups.

    Efron 1979, percentile method: groups (files) are drawn with replacement `n_resamples` times, each draw gives its own ratio, and
    the 2.5 % and 97.5 % quantiles of the ratios are the interval. Tokens of one file depend on each other, files do not. With one
    group there is no interval.
    """
    sums, counts = sums[counts > 0], counts[counts > 0]
    value, n_groups = float(sums.sum() / counts.sum()), len(counts)
    if n_groups < 2:
        return MetricValue(value=value, n=n_groups, seeds=[seed])
    drawn = np.random.default_rng(seed).integers(0, n_groups, (n_resamples, n_groups))
    ratios = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return MetricValue(value=value, low=float(low), high=float(high), n=n_groups, seeds=[seed])


def prediction_chunks(subject: Subject, examples: Sequence[Example]) -> list[list[Example]]:
    """Examples in order, as many at once as keeps the logits small; at least one."""
    if not examples:
        return []
    probe = subject.prepare(examples[:1])
    width = subject.predict(probe).shape[-1]
    chunks: list[list[Example]] = []
    held = 0
    for example, size in zip(examples, subject.n_tokens(examples), strict=True):
        if not chunks or (held + size) * width > CHUNK_VALUES:
            chunks.append([])
            held = 0
        chunks[-1].append(example)
        held += size
    return chunks


def _candidates(subject: Subject, before: Float[Tensor, " vocabulary"], after: Float[Tensor, " vocabulary"], n_candidates: int) -> list[NextToken]:
    """Next tokens by probability before the edit, half of them likely before it and half likely after it."""
    orders = [row.argsort(descending=True, stable=True)[:n_candidates].tolist() for row in (before, after)]
    turns = [token_id for pair in zip(*orders, strict=True) for token_id in pair]
    chosen = list(dict.fromkeys(turns))[:n_candidates]
    p_before, p_after = before.exp(), after.exp()
    tokens = [NextToken(text=subject.token_text(token_id), before=float(p_before[token_id]), after=float(p_after[token_id])) for token_id in chosen]
    return sorted(tokens, key=lambda token: -token.before)


def _context(
    subject: Subject, coder: Dictionary, site: str, card: Card, batch: Batch, example: Example, token_index: int, window_tokens: tuple[int, int],
) -> Context:
    start, stop = max(0, token_index - window_tokens[0]), min(batch.n_tokens, token_index + window_tokens[1] + 1)
    with torch.no_grad():
        x = subject.capture(batch, [site])[site].to(coder.W_dec.device)
        activations = gather_latents(coder.encode(x), torch.tensor([card.latent]))[start:stop, 0]
    return Context(example=example.id, group=example.group, tokens=[subject.token_text(token_id) for token_id in batch.token_id[start:stop].tolist()],
                   activations=activations.tolist(), peak=token_index - start)
