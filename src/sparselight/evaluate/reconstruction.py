"""How well a coder rebuilds activations: explained variance, cosine, norms, l0, and how often its latents fire.

Formulas are those of vocab.METRICS, in the corrected form of SAEBench core (arXiv 2503.09532, section "Core"; docs/decisions/
0005-explained-variance.md): the variance is taken about one global mean of the evaluated tokens (not about the mean of each batch, and not
from squared means), and error and variance are each summed over tokens before they are divided. Tokens are summed into their groups in
float64, so that every metric can be resampled over groups. Needs no subject: the tokens come from a store, or were captured once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from sparselight.config import Config
from sparselight.evaluate.case import Case, Tokens
from sparselight.evaluate.contender import Contender
from sparselight.evaluate.family import Family
from sparselight.evaluate.findings import Cell, Findings
from sparselight.evaluate.latents import LatentSums, stacked
from sparselight.evaluate.statistics import Resampled, Resamples, ratio
from sparselight.protocols import Codes, Progress, no_progress
from sparselight.records import MetricValue

VARIANCE_FLOOR = 1e-12  # of the second moment; below it a variance in float64 is rounding


class ReconstructionConfig(Config):
    """What is reported beside the values."""

    dense_above: tuple[float, ...] = (0.01, 0.1)
    """Fire rates (share of tokens) above which a latent counts as dense; one value of dense_frac for each."""
    bins_per_decade: int = Field(4, ge=1)
    """Bins of the fire-rate histogram for each factor of 10."""


@dataclass(slots=True)
class InputSums:
    """Sums over the tokens of each group that the variance needs of the activations alone, about a fixed point `about` near their mean.

    The fixed point changes no result; it keeps the variance from being a small difference of large numbers.
    """

    about: Float[Tensor, " d_in"]
    n: Float[Tensor, " group"]
    first: Float[Tensor, "group d_in"]
    second: Float[Tensor, "group d_in"]

    @classmethod
    def empty(cls, n_groups: int, about: Float[Tensor, " d_in"]) -> "InputSums":
        return cls(about.cpu().double(), _zeros(n_groups), _zeros(n_groups, len(about)), _zeros(n_groups, len(about)))

    def add(self, x: Float[Tensor, "token d_in"], group: Int[Tensor, " token"]) -> None:
        centered = x.cpu().double() - self.about
        self.n.index_add_(0, group, torch.ones(len(x), dtype=torch.float64))
        self.first.index_add_(0, group, centered)
        self.second.index_add_(0, group, centered.square_())

    def variances(self, resamples: Resamples) -> Float[np.ndarray, "resample d_in"]:
        """sum (x_d - mean(x_d))^2 over the tokens of each resample, about the mean of that resample; nan where it is 0."""
        second, n = resamples.totals(self.second.numpy()), resamples.totals(self.n.numpy())
        variance = second - ratio(np.square(resamples.totals(self.first.numpy())), np.broadcast_to(n[:, None], second.shape))
        return np.where(variance > VARIANCE_FLOOR * second, variance, np.nan)

    def variance(self, resamples: Resamples) -> Resampled:
        """sum ||x - mean(x)||^2 over the tokens of each resample; nan where it is 0."""
        variances = self.variances(resamples)
        return np.where(np.isnan(variances).all(1), np.nan, np.nansum(variances, axis=1))


@dataclass(slots=True)
class CoderSums:
    """Sums over the tokens of each group for one coder, and what its latents did; None for a coder without codes."""

    n_groups: int
    latents: LatentSums | None
    cosine: Float[Tensor, " group"]
    norm_ratio: Float[Tensor, " group"]
    has_norm: Float[Tensor, " group"]
    """Tokens whose activation is not 0."""
    squared: Float[Tensor, " group"]
    inner: Float[Tensor, " group"]
    active: Float[Tensor, " group"]
    error: Float[Tensor, "group d_in"] | None = field(default=None)
    """Made with the first tokens, which say how wide they are."""

    @classmethod
    def empty(cls, n_groups: int, n_latents: int | None) -> "CoderSums":
        return cls(n_groups, None if n_latents is None else LatentSums.empty(n_latents), *(_zeros(n_groups) for _ in range(6)))

    def add(self, x: Float[Tensor, "token d_in"], x_hat: Float[Tensor, "token d_in"], codes: Codes | None, group: Int[Tensor, " token"]) -> None:
        x, x_hat = x.cpu().double(), x_hat.cpu().double()
        own, other, inner = (torch.einsum("td,td->t", a, b) for a, b in ((x, x), (x_hat, x_hat), (x, x_hat)))
        there = own > 0
        # A zero vector points nowhere: its cosine counts as 0.
        self.cosine.index_add_(0, group, torch.where(there & (other > 0), inner / (own * other).sqrt().clamp(min=1e-300), 0.0))
        self.norm_ratio.index_add_(0, group, torch.where(there, (other / own.clamp(min=1e-300)).sqrt(), 0.0))
        self.has_norm.index_add_(0, group, there.double())
        self.squared.index_add_(0, group, other)
        self.inner.index_add_(0, group, inner)
        if self.error is None:
            self.error = _zeros(self.n_groups, x.shape[1])
        self.error.index_add_(0, group, (x - x_hat).square_())
        if codes is not None:
            assert self.latents is not None
            self.latents.add(codes)
            n_active = (codes.values != 0).cumsum(0).cpu()  # entries that count, up to each
            ends = torch.cat([n_active.new_zeros(1), n_active])[codes.indptr.cpu()]
            self.active.index_add_(0, group, ends.diff().double())

    def metrics(self, inputs: InputSums, resamples: Resamples) -> dict[str, Resampled]:
        """Every value that has an interval, by name, over all resamples."""
        assert self.error is not None
        n, errors, variances = resamples.totals(inputs.n.numpy()), resamples.totals(self.error.numpy()), inputs.variances(resamples)
        varies = ~np.isnan(variances)
        variance = np.where(varies, variances, 0.0)
        fvu = ratio(errors.sum(1), variance.sum(1))
        each = np.divide(errors, variances, out=np.zeros_like(errors), where=varies)
        result = {"fvu": fvu, "explained_variance": 1 - fvu, "explained_variance_per_dim": 1 - ratio(each.sum(1), varies.sum(1).astype(np.float64)),
                  "cosine": ratio(resamples.totals(self.cosine.numpy()), n),
                  "norm_ratio": ratio(resamples.totals(self.norm_ratio.numpy()), resamples.totals(self.has_norm.numpy())),
                  "reconstruction_bias": ratio(resamples.totals(self.squared.numpy()), resamples.totals(self.inner.numpy()))}
        if self.latents is not None:
            result["l0"] = ratio(resamples.totals(self.active.numpy()), n)
        return result

    def dead_frac(self) -> float | None:
        """Latents that fired on no token / n_latents. It gets no interval: a resample holds fewer different tokens, so all would lie above it."""
        return None if self.latents is None else self.latents.n_dead / len(self.latents.n_fired)


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.float64)


def measure_reconstruction(
    case: Case, contenders: Mapping[str, Contender], config: ReconstructionConfig, findings: Findings, progress: Progress = no_progress,
) -> None:
    """Every contender on the held-out tokens of every dataset; tables `latents` (one line a latent) and `fire_rates` (histogram) beside the values."""
    parts = {dataset: case.tokens(dataset, "held_out") for dataset in case.datasets}
    total, done, tables = sum(tokens.n_tokens for tokens in parts.values()) * len(contenders), 0, _Tables([], [])
    for dataset, tokens in parts.items():
        resamples, inputs = case.resamples(dataset), sum_inputs(tokens)
        n_constant = int(np.isnan(inputs.variances(resamples)[0]).sum())
        if n_constant:
            findings.notes.append(f"{dataset}: {n_constant} of {len(inputs.about)} dimensions do not vary; explained_variance_per_dim leaves them out")
        for name, contender in contenders.items():
            sums = _sum_coder(case, dataset, tokens, name, contender)
            _report(Cell(name, "", dataset), sums, inputs, resamples, config, findings)
            if sums.latents is not None:
                tables.latents.append(sums.latents.table(name, dataset))
                tables.fire_rates.append(sums.latents.histogram(name, dataset, config.bins_per_decade))
            done += tokens.n_tokens
            progress(done, total, f"{dataset}: {name}")
    findings.tables |= {name: stacked(found) for name, found in tables._asdict().items() if found}


class _Tables(NamedTuple):
    latents: list[pa.Table]
    fire_rates: list[pa.Table]


def sum_inputs(tokens: Tokens) -> InputSums:
    """What the variance needs, of all tokens."""
    inputs = None
    for part, x in tokens.chunks():
        inputs = InputSums.empty(len(tokens.groups), x.mean(0, dtype=torch.float64)) if inputs is None else inputs
        inputs.add(x, torch.from_numpy(tokens.group[part]))
    assert inputs is not None, "a case has no side without tokens"
    return inputs


def _sum_coder(case: Case, dataset: str, tokens: Tokens, name: str, contender: Contender) -> CoderSums:
    """The codes are the case's, so that other families find them made."""
    sums, asked = CoderSums.empty(len(tokens.groups), contender.n_latents), f"evaluate the coder {name!r} on the dataset {dataset!r}"
    codes = None if contender.sparse is None else case.codes(dataset, "held_out", name, contender)
    for part, x in tokens.chunks():
        some = None if codes is None else _tokens_of(codes, part)
        sums.add(x, contender.rebuild(x, some, asked), some, torch.from_numpy(tokens.group[part]))
    return sums


def _tokens_of(codes: Codes, part: slice) -> Codes:
    begin, end = int(codes.indptr[part.start]), int(codes.indptr[part.stop])
    return Codes(codes.values[begin:end], codes.latents[begin:end], codes.indptr[part.start : part.stop + 1] - begin, codes.n_latents)


UNDEFINED = {
    "fvu": "the activations do not vary", "explained_variance": "the activations do not vary", "explained_variance_per_dim": "no dimension varies",
    "norm_ratio": "all activations are 0", "reconstruction_bias": "the reconstructions do not point along the activations (sum <x, x_hat> is not above 0)",
}


def _report(cell: Cell, sums: CoderSums, inputs: InputSums, resamples: Resamples, config: ReconstructionConfig, findings: Findings) -> None:
    for metric, values in sums.metrics(inputs, resamples).items():
        if np.isfinite(values[0]):
            findings.add(replace(cell, metric=metric), values)
        else:
            findings.lacks(replace(cell, metric=metric), UNDEFINED[metric])
    latents = sums.latents
    if latents is None:
        return
    counted = MetricValue(value=latents.n_dead, n=latents.n_tokens, unit="tokens", seeds=[resamples.seed])
    findings.add(replace(cell, metric="n_dead"), counted)
    findings.add(replace(cell, metric="dead_frac"), counted.model_copy(update={"value": sums.dead_frac()}))
    for above in config.dense_above:
        findings.add(replace(cell, metric="dense_frac", setting=f"> {above:g}"), counted.model_copy(update={"value": latents.dense_frac(above)}))


FAMILY = Family("reconstruction", "Reconstruction", measure_reconstruction, ReconstructionConfig, needs=("examples",), suites=("core", "full"), ablations=True,
                plain=True)
