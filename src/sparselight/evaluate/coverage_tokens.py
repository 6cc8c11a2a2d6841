"""How dictionaries treat rare tokens: reconstruction error, entropy of activations, activation counts.

The remaining plots of the paper on specialized SAEs (arXiv 2411.00743), as values and tables: activation count against rank (M5), log-ratio of
activation counts of two dictionaries (M6), reconstruction error against token rank (M8), entropy of a token's activations and its largest
activation (M9). The paper gives no formula for M9; ours is stated at `TokenCodes`. Refuses: log-ratios of dictionaries whose latents do not belong
together one by one, which are left out with a note.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int
from torch import nn

from sparselight.errors import ConfigError, nearest
from sparselight.evaluate.case import Case, Tokens
from sparselight.evaluate.contender import Contender
from sparselight.evaluate.findings import Cell, Findings
from sparselight.evaluate.reconstruction import VARIANCE_FLOOR
from sparselight.evaluate.statistics import Resamples, ratio
from sparselight.protocols import Codes
from sparselight.records import MetricValue

TOKEN_METRICS = ("tail_error", "tail_error_variance", "tail_error_max", "token_entropy_nats", "token_max_activation")
SMOOTHING = 0.5  # added to every activation count, so that a latent which never fires has a ratio (Jeffreys' prior)
MATCHED_COSINE = 0.5  # median cosine of decoder rows of the same number; unrelated rows in d_in dimensions lie near 0


def measure_tokens(case: Case, dataset: str, contenders: Mapping[str, Contender], tail_frac: float, reference: str,
                   findings: Findings) -> dict[str, pa.Table]:
    """Report TOKEN_METRICS of every contender on one dataset, and give the tables of tokens and of latents.

    Raises:
        ConfigError: for a reference that is not among the coders, or has no latents.
    """
    reference = checked_reference(contenders, reference)
    tokens, resamples = case.tokens(dataset, "held_out"), case.resamples(dataset)
    ids = TokenIds.of(tokens, tail_frac)
    variance = total_variance(tokens) / tokens.n_tokens
    by_token: list[pa.Table] = []
    counts: dict[str, Int[np.ndarray, " latent"]] = {}
    for name, contender in contenders.items():
        columns: dict[str, Float[np.ndarray, " id"]] = {}
        if variance > 0:
            error = token_errors(tokens, contender, f"measure the error of {name!r} on {tokens.name}") / variance
            _report_errors(case, Cell(name, "", dataset), error, ids, tokens, resamples, findings)
            columns |= {"mean_error": ids.mean(error), "max_error": ids.largest(error)}
        else:
            for metric in TOKEN_METRICS[:3]:
                findings.lacks(Cell(name, metric, dataset), "the activations do not vary")
        if contender.sparse is None:
            for metric in TOKEN_METRICS[3:]:
                findings.lacks(Cell(name, metric, dataset), "it has no latents")
        else:
            codes = case.codes(dataset, "held_out", name, contender)
            counts[name] = np.bincount(codes.latents[codes.values != 0].numpy(), minlength=codes.n_latents)
            own = TokenCodes.of(codes)
            _report_codes(Cell(name, "", dataset), own, tokens, resamples, findings)
            columns |= {"mean_entropy_nats": ids.mean(own.entropy, own.fires), "mean_max_activation": ids.mean(own.largest, own.fires)}
        by_token.append(ids.table(name, dataset, columns))
    tables = {"coverage_tokens": pa.concat_tables(by_token)}
    if counts:
        tables["coverage_counts"] = pa.concat_tables([_count_table(name, dataset, found, counts, contenders, reference, findings)
                                                      for name, found in counts.items()])
    return tables


def checked_reference(contenders: Mapping[str, Contender], reference: str) -> str:
    """The coder to which activation counts are compared; empty where no coder that is not a control has latents."""
    with_latents = [name for name, contender in contenders.items() if contender.sparse is not None]
    if not reference:
        return next((name for name in with_latents if not contenders[name].is_control), "")
    if reference not in with_latents:
        why = "it has no latents" if reference in contenders else "it is not among the coders"
        raise ConfigError(asked=f"compare activation counts to those of {reference!r} (evaluate.coverage.reference)", why=why,
                          instead=nearest(reference, with_latents) if with_latents else "give an SAE")
    return reference


@dataclass(frozen=True, slots=True)
class TokenIds:
    """The distinct token ids of some tokens, the most frequent first."""

    number: Int[np.ndarray, " id"]
    count: Int[np.ndarray, " id"]
    of_token: Int[np.ndarray, " token"]
    tail: Bool[np.ndarray, " id"]

    @classmethod
    def of(cls, tokens: Tokens, tail_frac: float) -> "TokenIds":
        """Count the ids; the tail is the rarest `tail_frac` of them and all that are as frequent as the most frequent of these."""
        number, of_token, count = np.unique(tokens.token_id, return_inverse=True, return_counts=True)
        order = np.lexsort((number, -count))
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        count = count[order]
        return cls(number[order], count, place[of_token], count <= count[len(count) - max(1, int(np.ceil(tail_frac * len(count))))])

    def mean(self, values: Float[np.ndarray, " token"], some: Bool[np.ndarray, " token"] | None = None) -> Float[np.ndarray, " id"]:
        """Mean over the tokens of each id (those of `some`), nan where there is none."""
        kept = np.ones(len(values), dtype=bool) if some is None else some
        sums, n = (np.bincount(self.of_token[kept], weights=column, minlength=len(self.number)) for column in (values[kept], None))
        return ratio(sums, n)

    def largest(self, values: Float[np.ndarray, " token"]) -> Float[np.ndarray, " id"]:
        result = np.full(len(self.number), -np.inf)
        np.maximum.at(result, self.of_token, values)
        return result

    def table(self, coder: str, dataset: str, columns: Mapping[str, Float[np.ndarray, " id"]]) -> pa.Table:
        """One line an id; what a coder does not have is empty."""
        n = len(self.number)
        names = ("mean_error", "max_error", "mean_entropy_nats", "mean_max_activation")
        values = {name: pa.array(columns[name], pa.float64(), from_pandas=True) if name in columns else pa.nulls(n, pa.float64()) for name in names}
        return pa.table({"coder": pa.array([coder] * n).dictionary_encode(), "dataset": pa.array([dataset] * n).dictionary_encode(),
                         "token_id": self.number, "token_rank": np.arange(1, n + 1), "n_tokens": self.count, "in_tail": self.tail, **values})


def total_variance(tokens: Tokens) -> float:
    """sum ||x - mean(x)||^2 over all tokens, in two passes; 0 where it is below the rounding of the values."""
    mean = sum((x.double().sum(0) for _, x in tokens.chunks()), torch.zeros(1, dtype=torch.float64)) / tokens.n_tokens
    total = sum(float((x.double() - mean).square().sum()) for _, x in tokens.chunks())
    second = total + tokens.n_tokens * float(mean.square().sum())
    return total if total > VARIANCE_FLOOR * second else 0.0


def token_errors(tokens: Tokens, contender: Contender, asked: str) -> Float[np.ndarray, " token"]:
    """||x - x_hat||^2 of every token."""
    errors = np.zeros(tokens.n_tokens)
    for part, x in tokens.chunks():
        x_hat, _ = contender.apply(x, asked)
        errors[part] = (x.cpu().double() - x_hat.cpu().double()).square().sum(1).numpy()
    return errors


@dataclass(frozen=True, slots=True)
class TokenCodes:
    """Of each token: the entropy of its activations and the largest.

    entropy = -sum_i p_i ln p_i in nats, p_i = |z_i| / sum_j |z_j|: 0 for one active latent, ln k for k equal ones. Tokens without an active
    latent have neither.
    """

    entropy: Float[np.ndarray, " token"]
    largest: Float[np.ndarray, " token"]
    fires: Bool[np.ndarray, " token"]

    @classmethod
    def of(cls, codes: Codes) -> "TokenCodes":
        value, token, n = codes.values.double().abs().numpy(), codes.tokens().numpy(), codes.n_tokens
        total = np.bincount(token, weights=value, minlength=n)
        fires = total > 0
        p = value / np.where(fires, total, 1.0)[token]
        surprise = -p * np.log(np.where(p > 0, p, 1.0))
        largest = np.zeros(n)
        some = np.diff(codes.indptr.numpy()) > 0
        if some.any():
            largest[some] = np.maximum.reduceat(value, codes.indptr.numpy()[:-1][some])
        return cls(np.bincount(token, weights=surprise, minlength=n), largest, fires)


def _report_errors(case: Case, cell: Cell, error: Float[np.ndarray, " token"], ids: TokenIds, tokens: Tokens, resamples: Resamples,
                   findings: Findings) -> None:
    """Mean, variance and maximum of the error over tail tokens, in units of the mean error of the mean (so that the mean over all tokens is fvu)."""
    tail, n_groups = ids.tail[ids.of_token], len(tokens.groups)
    group, found = tokens.group[tail], error[tail]
    n, first, second = (resamples.totals(np.bincount(group, weights=column, minlength=n_groups).astype(np.float64))
                        for column in (None, found, np.square(found)))
    mean = ratio(first, n)
    findings.add(Cell(cell.coder, "tail_error", cell.dataset), mean)
    findings.add(Cell(cell.coder, "tail_error_variance", cell.dataset), np.maximum(ratio(second, n) - mean**2, 0))
    # No interval: no resample can hold a larger error than the sample, so all would lie below it.
    findings.add(Cell(cell.coder, "tail_error_max", cell.dataset), MetricValue(value=float(found.max()), n=len(found), unit="tokens", seeds=[case.config.seed]))


def _report_codes(cell: Cell, own: TokenCodes, tokens: Tokens, resamples: Resamples, findings: Findings) -> None:
    group, n_groups = tokens.group[own.fires], len(tokens.groups)
    n = resamples.totals(np.bincount(group, minlength=n_groups).astype(np.float64))
    for metric, values in (("token_entropy_nats", own.entropy), ("token_max_activation", own.largest)):
        name = Cell(cell.coder, metric, cell.dataset)
        if not own.fires.any():
            findings.lacks(name, "no latent fires on the held-out side")
        else:
            findings.add(name, ratio(resamples.totals(np.bincount(group, weights=values[own.fires], minlength=n_groups)), n))


def _count_table(name: str, dataset: str, found: Int[np.ndarray, " latent"], counts: Mapping[str, np.ndarray], contenders: Mapping[str, Contender],
                 reference: str, findings: Findings) -> pa.Table:
    """One line a latent, the most active first: its activation count, and ln of its share of all firings over that of the same latent of the reference."""
    order = np.argsort(-found, kind="stable")
    n, ratios = len(found), None
    if reference and name != reference:
        why = unmatched(contenders[name], contenders[reference])
        if why:
            findings.notes.append(f"{dataset}: activation counts of {name} and {reference} are not compared latent by latent, because {why}")
        else:
            share, other = ((column + SMOOTHING) / (column.sum() + SMOOTHING * n) for column in (found, counts[reference]))
            ratios = np.log(share / other)
    compared = pa.array([reference if ratios is not None else None] * n, pa.string())
    return pa.table({
        "coder": pa.array([name] * n).dictionary_encode(), "dataset": pa.array([dataset] * n).dictionary_encode(), "rank": np.arange(1, n + 1),
        "latent": order, "n_fired_tokens": found[order], "reference": compared.dictionary_encode(),
        "log_ratio": pa.nulls(n, pa.float64()) if ratios is None else ratios[order],
    })


def unmatched(first: Contender, second: Contender) -> str:
    """Why latents of the same number do not belong together; empty where they do (one dictionary was trained on from the other)."""
    if first.n_latents != second.n_latents:
        return f"they have {first.n_latents} and {second.n_latents} latents"
    rows = [contender.coder.W_dec.detach().cpu().double() for contender in (first, second) if hasattr(contender.coder, "W_dec")]
    if len(rows) < 2 or rows[0].shape != rows[1].shape:
        return "their decoder rows cannot be compared"
    cosine = nn.functional.cosine_similarity(rows[0], rows[1], dim=1)
    median = float(cosine.median())
    return "" if median >= MATCHED_COSINE else f"their decoder rows of the same number differ (median cosine {median:.2f})"
