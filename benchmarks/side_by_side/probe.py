"""Whether a candidate computes what it is measured for: a few rows against the definition in float64, before anything is timed.

    pre = (x - mean) @ W_dec^T (- threshold for sparse relu)     codes = the k largest of relu(pre) a token or of the batch; relu; or pre above a threshold
    x_hat = codes @ W_dec + b_dec
Weights are those of data.py, made again block by block. A row agrees when the error of its reconstruction is below TOLERANCE of its length:
two pre-activations nearer to each other than float32 resolves may come out in either order, so not every row must.
"""

from typing import Any

import torch
from torch import Tensor

from .candidates.base import Candidate
from .data import Given, weight_blocks
from .task import FRESH_THRESHOLD, Task

ROWS = 64
TOLERANCE = 1e-4
ENOUGH_FRAC = 0.95
LOW_PRECISION_ERROR = 0.2  # median allowed where matrix products are not in float32


@torch.no_grad()
def probe(candidate: Candidate, task: Task, given: Given) -> dict[str, Any]:
    """The candidate's codes and reconstruction beside the definition's."""
    x = given.batches[0][:ROWS]
    weights = candidate.weights()
    codes, x_hat = candidate.forward(x)
    wanted_codes, wanted = reference(task, x.double().cpu(), given.mean.double().cpu(), given.threshold, weights.b_dec is not None)
    error = (x_hat.double().cpu() - wanted).norm(dim=1) / wanted.norm(dim=1).clamp(min=1e-9)  # a token with no code has no length where there is no b_dec
    agreeing = float((error < TOLERANCE).double().mean())
    exact = task.precision == "highest" and not task.autocast
    passed = agreeing >= ENOUGH_FRAC if exact else float(error.median()) < LOW_PRECISION_ERROR
    return {
        "passed": passed, "rows": len(x), "agreeing_frac": agreeing, "median_error": float(f"{float(error.median()):.3g}"),
        "l0": round(float((codes != 0).sum(1).double().mean()), 3), "l0_by_definition": round(float((wanted_codes != 0).sum(1).double().mean()), 3),
    }


def reference(task: Task, x: Tensor, mean: Tensor, threshold: float, has_b_dec: bool) -> tuple[Tensor, Tensor]:
    """Codes and reconstruction by definition, in float64."""
    shape = (task.d_in, task.n_latents, task.seed)
    codes = select(task, torch.cat([(x - mean) @ rows.double().T for _, rows in weight_blocks(*shape)], 1), threshold)
    x_hat = sum((codes[:, block] @ rows.double() for block, rows in weight_blocks(*shape)), start=torch.zeros_like(x))
    return codes, x_hat + mean if has_b_dec else x_hat


def select(task: Task, pre: Tensor, threshold: float) -> Tensor:
    if task.kind == "relu":
        return (pre - (threshold if task.state == "sparse" else 0.0)).relu()
    if task.kind == "jump_relu":
        return pre.where(pre > (threshold if task.state == "sparse" else FRESH_THRESHOLD), torch.zeros_like(pre))
    positive = pre.relu()
    if task.kind == "topk":
        top = positive.topk(task.k, dim=1)
        return torch.zeros_like(pre).scatter_(1, top.indices, top.values)
    best = positive.flatten().topk(task.k * len(pre))
    return pre.new_zeros(pre.numel()).scatter_(0, best.indices, best.values).view_as(pre)
