"""What a linear probe reads of an example, and what ablating latents does to it.

A probe reads the mean over an example's counted tokens of the activations at one site. Where that is the site of the coders, the mean of an
ablated example follows from mean codes alone, because an ablation that keeps the reconstruction error subtracts z_f W_dec[f] from each token:
no pass of the subject is needed. Where the probe reads a later site, the subject runs with the edit. Owns: both ways, the contributions of
latents to a probe's score, and random latents of like firing rates as a control. Refuses: a probe site that the edit does not reach.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import sparse
from torch import Tensor

from sparselight.errors import ConfigError, SubjectError
from sparselight.evaluate.case import Case, SideName, Tokens
from sparselight.evaluate.contender import Contender
from sparselight.protocols import Batch, Codes, EditFunction, Subject
from sparselight.subjects.batching import batches_by_length

ENTRY_VALUES = 1 << 24  # values held at once where every entry of the codes meets its decoder row
N_NEAREST = 10  # latents of the nearest firing rates among which a control latent is drawn

Vectors = Float[np.ndarray, "example d_in"]


@dataclass(frozen=True)
class Readout:
    """Mean activations of the examples of one dataset at the site that a probe reads."""

    case: Case
    dataset: str
    site: str
    pooled_tokens: int | None = None
    """The first tokens of each example that are averaged; None for all."""

    @property
    def is_here(self) -> bool:
        """Whether the probe reads the site of the coders."""
        return self.site == self.case.site

    def vectors(self, side: SideName) -> Vectors:
        """Mean activations of all examples of a side."""
        key = ("readout vectors", self.dataset, side, self.site, self.pooled_tokens)
        return self.case.once(key, lambda: self._here(side) if self.is_here else self._later(side))

    def codes(self, side: SideName, name: str, contender: Contender) -> sparse.csr_matrix:
        """Mean codes [example, latent] of all examples of a side."""
        key = ("readout codes", self.dataset, side, name, self.pooled_tokens)
        return self.case.once(key, lambda: (pooling(self.case.tokens(self.dataset, side), self.pooled_tokens)
                                            @ code_matrix(self.case.codes(self.dataset, side, name, contender))).tocsr())

    def fire_counts(self, name: str, contender: Contender) -> Int[np.ndarray, " latent"]:
        """Tokens of the fit side on which each latent fires."""
        codes = self.case.codes(self.dataset, "fit", name, contender)
        return np.bincount(codes.latents[codes.values != 0].numpy(), minlength=codes.n_latents)

    def ablated(self, name: str, contender: Contender, side: SideName, latents: Int[np.ndarray, " chosen"], examples: Int[np.ndarray, " example"]) -> Vectors:
        """Mean activations of some examples with latents set to 0 at every token and the reconstruction error kept."""
        if self.is_here:
            removed = self.codes(side, name, contender)[examples][:, latents] @ directions(contender)[torch.from_numpy(latents)].double().cpu().numpy()
            return self.vectors(side)[examples] - removed
        return self._later(side, examples, ablation(contender, latents))

    def contributions(self, name: str, contender: Contender, side: SideName, weights: Float[np.ndarray, " d_in"], examples: Int[np.ndarray, " example"],
                      steps: int) -> sparse.csr_matrix:
        """How much each latent adds to the score <weights, mean activation> of each example, as [example, latent].

        At the site itself mean_t z_tf <weights, W_dec[f]>, which is exact. Before it, integrated gradients (Sundararajan et al. 2017) in the
        form of Marks et al. 2024 (Sparse Feature Circuits): sum_t z_tf <g_t, W_dec[f]>, g_t the mean gradient of the score by the
        activation x_t over `steps` points from x_t to what the decoder makes of no latents.
        """
        if self.is_here:
            effect = (directions(contender).double() @ torch.from_numpy(weights).to(directions(contender).device)).cpu().numpy()
            return self.codes(side, name, contender)[examples].multiply(effect[None, :]).tocsr()
        assert contender.sparse is not None
        base, parts = decoder_bias(contender), []
        for indices, batch in self._batches(side, examples):
            x, gradient = self._integrated(batch, torch.from_numpy(weights), base, steps)
            parts.append((indices, _entries(contender.sparse.encode(contender.there(x)), gradient, directions(contender), batch.example, len(indices))))
        order = np.argsort(np.concatenate([indices for indices, _ in parts]), kind="stable")
        return sparse.vstack([part for _, part in parts]).tocsr()[order]

    def channel_contributions(self, side: SideName, weights: Float[np.ndarray, " d_in"], examples: Int[np.ndarray, " example"], steps: int) -> Vectors:
        """The same of every channel of the activations at the coders' site, against 0."""
        if self.is_here:
            return self.vectors(side)[examples] * weights
        result = np.zeros((len(examples), self.case.need_subject("attribute a probe to channels").d_site(self.case.site)))
        for indices, batch in self._batches(side, examples):
            x, gradient = self._integrated(batch, torch.from_numpy(weights), torch.zeros(result.shape[1]), steps)
            np.add.at(result, indices[batch.example.numpy()], (x * gradient).double().cpu().numpy())
        return result

    def mean_channels(self) -> Float[np.ndarray, " d_in"]:
        """Mean activation over the tokens of the fit side, at the coders' site."""
        tokens = self.case.tokens(self.dataset, "fit")
        return np.asarray(sum(x.double().sum(0).cpu().numpy() for _, x in tokens.chunks()) / tokens.n_tokens)

    def channels_replaced(self, side: SideName, channels: Int[np.ndarray, " chosen"], values: Float[np.ndarray, " chosen"],
                          examples: Int[np.ndarray, " example"]) -> Vectors:
        """Mean activations of some examples with channels of the coders' site set to fixed values at every token."""
        if self.is_here:
            result = self.vectors(side)[examples].copy()
            result[:, channels] = values
            return result
        where, fixed = torch.from_numpy(channels), torch.from_numpy(values).float()
        return self._later(side, examples, lambda x: x.index_copy(1, where.to(x.device), fixed.to(x).expand(len(x), -1)))

    def _here(self, side: SideName) -> Vectors:
        tokens = self.case.tokens(self.dataset, side)
        weights = pooling(tokens, self.pooled_tokens).tocsc()
        return np.asarray(sum(weights[:, part] @ x.double().cpu().numpy() for part, x in tokens.chunks()))

    def _later(self, side: SideName, examples: Int[np.ndarray, " example"] | None = None, edit: EditFunction | None = None) -> Vectors:
        subject = self.case.need_subject(f"read a probe at {self.site}")
        n = len(self.case.tokens(self.dataset, side).examples) if examples is None else len(examples)
        result = np.zeros((n, subject.d_site(self.site)))
        for indices, batch in self._batches(side, examples):
            x = subject.capture(batch, [self.site])[self.site] if edit is None else read_after(subject, batch, self.case.site, edit, self.site)
            np.add.at(result, indices[batch.example.numpy()], (x.float().cpu() * self._share(batch)[:, None]).double().numpy())
        return result

    def _batches(self, side: SideName, examples: Int[np.ndarray, " example"] | None) -> Iterator[tuple[np.ndarray, Batch]]:
        """Batches of examples, with the place of each in what is asked for."""
        tokens, subject = self.case.tokens(self.dataset, side), self.case.need_subject(f"read a probe at {self.site}")
        examples = np.arange(len(tokens.examples)) if examples is None else examples
        sizes = np.diff(tokens.bounds())[examples]
        for group in batches_by_length(sizes.tolist(), self.case.config.batch_tokens):
            batch = subject.prepare([tokens.examples[examples[index]] for index in group])
            self.case.count_pass(batch.n_tokens)
            yield np.array(group), batch

    def _share(self, batch: Batch) -> Float[Tensor, " token"]:
        """What each token counts in its example's mean."""
        pooled = torch.ones(batch.n_tokens, dtype=torch.bool) if self.pooled_tokens is None else batch.position < self.pooled_tokens
        return pooled / torch.bincount(batch.example[pooled], minlength=int(batch.example.max()) + 1).clamp(min=1)[batch.example]

    def _integrated(self, batch: Batch, weights: Tensor, base: Tensor, steps: int) -> tuple[Float[Tensor, "token d_in"], Float[Tensor, "token d_in"]]:
        """Activations at the coders' site, and the gradient of the probe's score by them, averaged over the points of the path."""
        subject = self.case.need_subject(f"attribute a probe at {self.site}")
        x = subject.capture(batch, [self.case.site])[self.case.site].float()
        total, base = torch.zeros_like(x), base.to(x)
        for step in range(steps):
            point = (base + (1 - step / steps) * (x - base)).requires_grad_(True)
            read = read_after(subject, batch, self.case.site, lambda _x, point=point: point, self.site, gradients=True)  # type: ignore[misc]
            with torch.enable_grad():
                score = ((read.float() @ weights.to(read.device).float()) * self._share(batch).to(read.device)).sum()
            total += torch.autograd.grad(score, point)[0]
            self.case.count_pass(batch.n_tokens)
        return x, total / steps


class _ReadError(Exception):
    """Ends a forward pass once the probe's site has been read; never leaves `read_after`."""


def read_after(subject: Subject, batch: Batch, site: str, edit: EditFunction, read_site: str, gradients: bool = False) -> Float[Tensor, "token d_read"]:
    """Activations at `read_site` with an edit at `site`; the forward pass ends there.

    Args:
        gradients: keep the graph from what the edit returned to what is read.

    Raises:
        ConfigError: when the forward pass comes to `read_site` first.
        SubjectError: when the subject leaves tokens out of edits, or never comes to `read_site`.
    """
    asked, changed, found = f"read a probe at {read_site} with latents of {site} ablated", [], []

    def change(x: Tensor) -> Tensor:
        changed.append(True)
        torch.set_grad_enabled(gradients)  # the pass runs without; leaving `predict` brings the old mode back
        return edit(x)

    def read(x: Tensor) -> Tensor:
        if not changed:
            raise ConfigError(asked=asked, why="the subject comes to that site before the edit", instead="give a probe_site behind the site of the coders")
        found.append(x)
        raise _ReadError

    with contextlib.suppress(_ReadError):
        subject.predict(batch, {site: change, read_site: read})
    if not found or len(found[0]) != batch.n_tokens:
        why = "the forward pass never comes there" if not found else "the token policy leaves some tokens out of edits (subject.max_norms)"
        raise SubjectError(asked=asked, why=why, instead="leave probe_site out, so that the probe reads the site of the coders")
    return found[0]


def ablation(contender: Contender, latents: Int[np.ndarray, " chosen"]) -> EditFunction:
    """x - sum_f z_f W_dec[f] over the chosen latents: they are 0, the reconstruction error stays (Marks et al. 2024)."""
    assert contender.sparse is not None
    coder, chosen = contender.sparse, torch.from_numpy(np.sort(latents))
    rows = directions(contender)[chosen]

    def apply(x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        if not len(chosen):
            return x
        with torch.no_grad():
            codes, own = coder.encode(contender.there(x)), chosen
            own = own.to(codes.latents.device)
            column = torch.searchsorted(own, codes.latents.long()).clamp(max=len(own) - 1)
            wanted = own[column] == codes.latents
            z = codes.values.new_zeros(codes.n_tokens, len(own)).index_put((codes.tokens()[wanted], column[wanted]), codes.values[wanted])
            return x - (z @ rows.to(z)).to(x)

    return apply


def directions(contender: Contender) -> Float[Tensor, "latent d_in"]:
    """Decoder rows; see `lacks_directions` for coders without."""
    return contender.coder.W_dec.detach()  # type: ignore[attr-defined]


def lacks_directions(contender: Contender) -> str:
    """Why latents of a coder cannot be ablated, in words; empty where they can."""
    if contender.sparse is None:
        return "the coder has no codes"
    if not isinstance(getattr(contender.coder, "W_dec", None), Tensor):
        return "the coder has no decoder directions"
    return "it is a transcoder: its directions belong to other activations than those it reads" if getattr(contender.coder, "is_transcoder", False) else ""


def decoder_bias(contender: Contender) -> Float[Tensor, " d_in"]:
    """What the decoder makes of no latents."""
    assert contender.sparse is not None
    device = directions(contender).device
    none = Codes(torch.zeros(0, device=device), torch.zeros(0, dtype=torch.long, device=device), torch.zeros(2, dtype=torch.long, device=device),
                 contender.sparse.n_latents)
    return contender.sparse.decode(none)[0]


def pooling(tokens: Tokens, first: int | None = None) -> sparse.csr_matrix:
    """[example, token]: 1 / n at each of the n tokens of an example that are averaged."""
    pooled = np.ones(tokens.n_tokens, dtype=bool) if first is None else tokens.position < first
    n = np.maximum(np.bincount(tokens.example[pooled], minlength=len(tokens.examples)), 1)
    where = np.flatnonzero(pooled)
    return sparse.csr_matrix((1 / n[tokens.example[where]], (tokens.example[where], where)), shape=(len(tokens.examples), tokens.n_tokens))


def code_matrix(codes: Codes) -> sparse.csr_matrix:
    """Codes as a SciPy matrix [token, latent] that shares their memory."""
    parts = (codes.values.numpy(), codes.latents.numpy(), codes.indptr.numpy())
    return sparse.csr_matrix(parts, shape=(codes.n_tokens, codes.n_latents))


def matched_latents(ranked: Int[np.ndarray, " chosen"], counts: Int[np.ndarray, " latent"], seed: int) -> Int[np.ndarray, " control"]:
    """For each ranked latent in turn a random other one that fires about as often: drawn from the N_NEAREST nearest that are left.

    Args:
        counts: tokens on which each latent fires; those that never fire are no control.

    Returns:
        Latents outside `ranked`, each once; fewer where there are not that many living ones.
    """
    free = np.setdiff1d(np.flatnonzero(counts), ranked)
    free = free[np.argsort(counts[free], kind="stable")]
    rates, rng, left, chosen = np.log(counts[free]), np.random.default_rng(seed), np.ones(len(free), dtype=bool), []
    for latent in ranked[: len(free)]:
        distance = np.where(left, np.abs(rates - np.log(max(counts[latent], 1))), np.inf)
        near = np.argpartition(distance, min(N_NEAREST, len(free)) - 1)[:N_NEAREST]
        pick = int(rng.choice(np.sort(near[left[near]])))
        left[pick] = False
        chosen.append(free[pick])
    return np.array(chosen, dtype=np.int64)


def difference(matrix: sparse.csr_matrix | np.ndarray, y: Bool[np.ndarray, " unit"]) -> Float[np.ndarray, " column"]:
    """Mean of the positives' rows minus mean of the negatives'."""
    return np.asarray((y / y.sum() - ~y / (~y).sum()) @ matrix).ravel()


def _entries(codes: Codes, gradient: Tensor, rows: Tensor, example: Tensor, n_examples: int) -> sparse.csr_matrix:
    """sum_t z_tf <g_t, W_dec[f]> as [example, latent]."""
    token, values = codes.tokens(), torch.empty_like(codes.values)
    gradient, size = gradient.to(codes.values), max(1, ENTRY_VALUES // gradient.shape[1])
    for start in range(0, len(values), size):
        part = slice(start, start + size)
        values[part] = codes.values[part] * (gradient[token[part]] * rows[codes.latents[part]].to(gradient)).sum(1)
    place = example.cpu()[token.cpu()].numpy()
    return sparse.coo_matrix((values.double().cpu().numpy(), (place, codes.latents.cpu().numpy())), shape=(n_examples, codes.n_latents)).tocsr()
