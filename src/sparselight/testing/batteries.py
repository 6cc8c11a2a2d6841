"""Contract batteries: what every subject and every sparse coder must hold to. Each check raises AssertionError with words.

They see a component only through `protocols`, so that they work for components of other packages too.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparselight.errors import SparselightError
from sparselight.protocols import Batch, Codes, Example, SparseCoder, Subject
from sparselight.subjects import kept_tokens

TOLERANCE = 1e-4  # relative; float32 sums in another order


@runtime_checkable
class MaskedSubject(Protocol):
    """What a masked language model has beyond `protocols.Subject`."""

    def masked_round(self, batch: Batch, number: int) -> tuple[Batch, Bool[Tensor, " token"]]: ...
    def scored(self, batch: Batch) -> Bool[Tensor, " token"]: ...


def check_subject(subject: Subject, examples: Sequence[Example]) -> None:
    """Check a subject on a few examples, better of different lengths and one longer than a row.

    A subject that predicts nothing (an encoder, a module without loss) has to refuse in words, and is checked in all else.

    Raises:
        AssertionError: naming the first promise that is broken.
    """
    _require(len(examples) >= 2, "give two or more examples, so that rows are padded")
    batch = subject.prepare(examples)
    _check_batch(subject, batch, examples)
    _check_sites(subject, batch)
    predicts = _predicts(subject, batch)
    if predicts:
        _check_empty_edits(subject, batch)
        _check_capture_is_what_edits_see(subject, batch)
    _check_padding(subject, batch, examples)
    if predicts and subject.ref().kind in ("causal_lm", "image_text"):
        _check_loss(subject, batch)
    elif predicts and isinstance(subject, MaskedSubject):
        _check_masked_loss(subject, batch)


def check_sparse_coder(coder: SparseCoder, x: Float[Tensor, "token d_in"]) -> None:
    """Check a sparse coder on some activations.

    Raises:
        AssertionError: naming the first promise that is broken.
    """
    _require(x.shape[1] == coder.d_in, f"x has width {x.shape[1]}, the coder's d_in is {coder.d_in}")
    codes = coder.encode(x)
    _check_csr(codes, len(x), coder.n_latents)
    dense = codes.to_dense()
    _require(dense.shape == (len(x), coder.n_latents), f"to_dense gives shape {list(dense.shape)}")
    _require(int((dense != 0).sum()) == int((codes.values != 0).sum()), "to_dense holds another number of non-zero values than the codes")
    _require(torch.equal(dense[codes.tokens(), codes.latents], codes.values), "to_dense holds other values than the codes")
    decoded = coder.decode(codes)
    _require(decoded.shape == x.shape, f"decode gives shape {list(decoded.shape)} for x of shape {list(x.shape)}")
    _require(bool(torch.isfinite(decoded).all()), "decode gives values that are not finite")
    again = coder.encode(x)
    _require(torch.equal(codes.values, again.values) and torch.equal(codes.latents, again.latents), "encode gives other codes when it is called again")
    nothing = coder.encode(x[:0])
    _require(nothing.n_tokens == 0 and coder.decode(nothing).shape == (0, coder.d_in), "encode or decode fails for no tokens at all")


def _check_csr(codes: Codes, n_tokens: int, n_latents: int) -> None:
    _require(codes.n_latents == n_latents, f"the codes name {codes.n_latents} latents, the coder {n_latents}")
    _require(codes.n_tokens == n_tokens, f"the codes hold {codes.n_tokens} tokens for {n_tokens}")
    _require(int(codes.indptr[0]) == 0 and int(codes.indptr[-1]) == len(codes.values), "indptr does not run from 0 to the number of entries")
    _require(bool((codes.indptr.diff() >= 0).all()), "indptr falls")
    _require(codes.values.shape == codes.latents.shape, "values and latents differ in length")
    _require(bool(torch.isfinite(codes.values).all()), "there are values that are not finite")
    _require(bool(((codes.latents >= 0) & (codes.latents < n_latents)).all()), "there are latents out of range")
    same_token = codes.tokens()[1:] == codes.tokens()[:-1]
    _require(bool((codes.latents.diff()[same_token] > 0).all()), "latents do not ascend within a token")


def _check_batch(subject: Subject, batch: Batch, examples: Sequence[Example]) -> None:
    _require(batch.input_ids.shape == batch.attention_mask.shape == batch.counts.shape, "input_ids, attention_mask and counts differ in shape")
    _require(not bool((batch.counts & ~batch.attention_mask).any()), "padding counts")
    _require(int(batch.counts.sum()) == batch.n_tokens, f"counts marks {int(batch.counts.sum())} positions for {batch.n_tokens} tokens")
    _require(torch.equal(batch.input_ids[batch.counts], batch.token_id), "token_id is not input_ids at the counted positions")
    sizes = torch.bincount(batch.example, minlength=len(examples)).tolist()
    _require(sizes == subject.n_tokens(examples), f"n_tokens says {subject.n_tokens(examples)}, prepare gives {sizes}")
    _require(bool((batch.example.diff() >= 0).all()), "tokens are not in the order of the examples")
    for number, example in enumerate(examples):
        own = batch.example == number
        _require(torch.equal(batch.position[own], torch.arange(int(own.sum()))), f"positions of {example.id} do not run from 0 by 1")
        _check_offsets(subject, batch, own, example)


def _check_offsets(subject: Subject, batch: Batch, own: Bool[Tensor, " token"], example: Example) -> None:
    for token_id, start, end in zip(batch.token_id[own].tolist(), batch.char_start[own].tolist(), batch.char_end[own].tolist(), strict=True):
        if (start, end) == (-1, -1) and example.images:
            continue  # a token of an image
        _require(0 <= start <= end <= len(example.text), f"characters {start}..{end} lie outside the text of {example.id}")
        covered, text = example.text[start:end], subject.token_text(token_id)
        if start == end or subject.ref().kind == "module" or subject.ref().token_policy.pooling != "none":
            continue  # a special token, something that is no text, or the whole example
        # Some tokenizers leave the space before a word out of the offsets, some write all in lower case.
        same = text.strip() in (covered.strip(), covered.strip().lower()) or text.strip("<>[]").lower() == "unk"
        _require(not (covered + text).isascii() or "\\x" in text or same, f"token {text!r} covers {covered!r} in {example.id}")


def _check_sites(subject: Subject, batch: Batch) -> None:
    _require(len(subject.sites()) > 0, "the subject names no site")
    captured = subject.capture(batch, subject.sites())
    for site in subject.sites():
        x = captured[site]
        expected = [batch.n_tokens, subject.d_site(site)]
        _require(list(x.shape) == expected, f"{site} has shape {list(x.shape)}, not [n_tokens, d_site] = {expected}")
        _require(x.dtype == torch.float32 and not x.requires_grad, f"{site} is not handed out in float32 without gradient")
        _require(torch.equal(x, subject.capture(batch, [site])[site]), f"{site} differs when it is captured alone")


def _check_empty_edits(subject: Subject, batch: Batch) -> None:
    loss, logits = subject.loss(batch), subject.predict(batch)
    for site in subject.sites():
        _require(torch.equal(logits, subject.predict(batch, {site: lambda x: x})), f"an edit at {site} that changes nothing changes the predictions")
    _require(torch.equal(logits, subject.predict(batch, {})), "an empty set of edits changes the predictions")
    _require(torch.equal(loss.nan_to_num(-1), subject.loss(batch, {}).nan_to_num(-1)), "an empty set of edits changes the loss")


def _check_capture_is_what_edits_see(subject: Subject, batch: Batch) -> None:
    """An edit runs in a complete forward pass, a capture in one that stops early: both must see the same activations."""
    seen: dict[str, Tensor] = {}

    def note(site: str, x: Tensor) -> Tensor:
        seen[site] = x.clone()
        return x

    subject.predict(batch, {site: lambda x, site=site: note(site, x) for site in subject.sites()})  # type: ignore[misc]
    for site, x in subject.capture(batch, subject.sites()).items():
        kept = kept_tokens({site: x}, subject.ref().token_policy)
        _require(torch.equal(x[kept], seen[site]), f"capture and a complete forward pass differ at {site}")


def _check_padding(subject: Subject, batch: Batch, examples: Sequence[Example]) -> None:
    together = subject.capture(batch, subject.sites())
    for number, example in enumerate(examples):
        alone = subject.capture(subject.prepare([example]), subject.sites())
        for site in subject.sites():
            own = batch.example.to(together[site].device) == number
            _require(_close(alone[site], together[site][own]), f"{site} of {example.id} depends on the other rows of the batch")


def _predicts(subject: Subject, batch: Batch) -> bool:
    try:
        subject.predict(batch)
        subject.loss(batch)
    except SparselightError:
        return False
    return True


def _check_masked_loss(subject: Subject, batch: Batch) -> None:
    """The loss of a hidden token is what predict gives there once its group is hidden; the hidden groups do not overlap."""
    assert isinstance(subject, MaskedSubject)
    loss, scored, masking = subject.loss(batch).cpu(), subject.scored(batch), subject.ref().masking
    _require(masking is not None, "ref() does not say how the loss hides tokens")
    assert masking is not None
    _require(torch.equal(scored, ~loss.isnan()), "scored() is not where the loss is a number")
    _require(torch.equal(loss.nan_to_num(-1), subject.loss(batch).cpu().nan_to_num(-1)), "the loss differs when it is asked for again")
    times = torch.zeros(batch.n_tokens, dtype=torch.int64)
    for number in range(masking.rounds):
        masked, hidden = subject.masked_round(batch, number)
        times += hidden
        expected = -subject.predict(masked).log_softmax(-1).cpu()[hidden, batch.token_id[hidden]]
        _require(_close(loss[hidden], expected), "loss is not -log softmax(predict) of the hidden tokens")
    _require(torch.equal(times, scored.long()), "tokens are not hidden exactly once")


def _check_loss(subject: Subject, batch: Batch) -> None:
    loss, log_p = subject.loss(batch).cpu(), subject.predict(batch).log_softmax(-1).cpu()
    _require(tuple(loss.shape) == (batch.n_tokens,), f"loss has shape {list(loss.shape)} for {batch.n_tokens} tokens")
    where = batch.counts.nonzero()
    next_one = (where.diff(dim=0) == torch.tensor([0, 1])).all(1) & (batch.example.diff() == 0)
    follows = (next_one & (batch.char_start[1:] >= 0)).nonzero()[:, 0]  # image tokens are not predicted
    _require(bool(loss[batch.char_start < 0].isnan().all()), "image tokens have a loss")
    expected = -log_p[follows, batch.token_id[follows + 1]]
    _require(_close(loss[follows + 1], expected), "loss is not -log softmax(predict) of the next token in the row")
    _require(bool((loss[~loss.isnan()] >= 0).all()), "there are negative losses")


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a - b).abs() <= TOLERANCE * (1 + b.abs().max() if len(b) else 1)).all())


def _require(holds: bool, words: str) -> None:
    if not holds:
        raise AssertionError(words)
