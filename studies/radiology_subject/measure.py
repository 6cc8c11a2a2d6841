"""What the small radiology subject knows: the label of a picture, and reports with the right picture, with one of the other class, with none."""

from collections import Counter
from collections.abc import Callable, Sequence
from math import log
from typing import TYPE_CHECKING

import numpy as np
import torch
from pairs import Pictures, Report
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

if TYPE_CHECKING:
    from train import Data

ROWS, N_DRAWS, SEED = 48, 2000, 0


@torch.no_grad()
def vision_auc(model: LlavaForConditionalGeneration, head: nn.Linear, pixels: Tensor, is_opacity: np.ndarray) -> float:
    """Area under the curve of the label read from the mean patch."""
    scores = [head(model.model.vision_tower(pixel_values=part).last_hidden_state[:, 1:].mean(1))[:, 0] for part in pixels.split(256)]
    return float(roc_auc_score(is_opacity, torch.cat(scores).numpy()))


@torch.no_grad()
def report_ce(model: LlavaForConditionalGeneration, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Summed cross entropy (nats) of each row's labels, and how many there are."""
    labels = batch["labels"][:, 1:]
    logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits[:, :-1]
    nats = nn.functional.cross_entropy(logits.transpose(1, 2).float(), labels, ignore_index=-100, reduction="none")
    return nats.sum(1), (labels != -100).sum(1)


def conditions(model: LlavaForConditionalGeneration, reports: list[Report], pictures: Pictures, data: "Data",
               batch_of: Callable[..., dict[str, Tensor]], names: Sequence[str] = ("right", "wrong", "none")) -> dict[str, object]:
    """Cross entropy per token of the held-out reports that have a picture class, with a held-out picture of the right and of the other class and without one;
    paired differences per report with bootstrap intervals over reports.
    """
    paired = [report for report in reports if report.kind != "other"]
    rng = np.random.default_rng(SEED)
    other = {"normal": "opacity", "opacity": "normal"}
    numbers: dict[str, list[int | None]] = {
        "right": [int(rng.choice(pictures.of(report.kind))) for report in paired],
        "wrong": [int(rng.choice(pictures.of(other[report.kind]))) for report in paired], "none": [None] * len(paired),
    }
    nats, n_tokens = {}, np.zeros(0)
    for name, chosen in ((name, numbers[name]) for name in names):
        parts = [report_ce(model, batch_of(paired[start : start + ROWS], chosen[start : start + ROWS], pictures, data.tokenizer))
                 for start in range(0, len(paired), ROWS)]
        nats[name], n_tokens = torch.cat([part[0] for part in parts]).numpy(), torch.cat([part[1] for part in parts]).numpy()
    draws = rng.integers(0, len(paired), (N_DRAWS, len(paired)))
    result: dict[str, object] = {"n_reports": len(paired), "n_tokens": int(n_tokens.sum())}
    result |= {name: _ratio(own, n_tokens, draws) for name, own in nats.items()}
    if "wrong" not in nats:
        return result
    result |= {f"{name}_minus_right": _ratio(nats[name] - nats["right"], n_tokens, draws) for name in ("wrong", "none")}
    result["right_beats_wrong_frac"] = float((nats["right"] < nats["wrong"]).mean())
    for kind in other:
        own = np.array([report.kind == kind for report in paired])
        result[f"wrong_minus_right_{kind}"] = float((nats["wrong"] - nats["right"])[own].sum() / n_tokens[own].sum())
    return result


def _ratio(nats: np.ndarray, n_tokens: np.ndarray, draws: np.ndarray) -> dict[str, float]:
    """Nats per token with a 95 % bootstrap interval over reports."""
    low, high = np.quantile(nats[draws].sum(1) / n_tokens[draws].sum(1), [0.025, 0.975])
    return {"mean": float(nats.sum() / n_tokens.sum()), "low": float(low), "high": float(high)}


def unigram_ce(tokenizer: PreTrainedTokenizerFast, train: list[str], held_out: list[str]) -> float:
    """Nats per token of add-one token frequencies."""
    counts = Counter(token for text in train for token in tokenizer(text, add_special_tokens=False)["input_ids"])
    total = counts.total() + len(tokenizer)
    tokens = [token for text in held_out for token in tokenizer(text, add_special_tokens=False)["input_ids"]]
    return -sum(log((counts[token] + 1) / total) for token in tokens) / len(tokens)
