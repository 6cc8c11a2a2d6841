"""BatchTopK: training keeps the k * batch largest positive pre-activations of the whole batch, so that k holds on average only.

Bussmann, Leask and Nanda 2024, arXiv 2412.06410: z = BatchTopK(relu(pre)), inference with z * 1[z > theta],
theta = E over batches of min { z_ij : z_ij > 0 after BatchTopK } (section 3). One theta for all latents.
Convention here: theta is the mean over calibration batches at the final weights, because a running mean mixes in the cutoffs of weights
that are gone. The running mean, as their code has it, is kept too and can be asked for (threshold = "ema").
"""

from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from sparselight.kernels import Selected, kernels
from sparselight.sae.base import Sae
from sparselight.sae.config import SaeConfig
from sparselight.sae.training_pass import TrainingForward, TrainingPass, decoded, encoder_operands

EMA_RATE = 0.01  # of their matryoshka_sae code


class BatchTopK(TrainingForward):
    """The training-time forward pass."""

    def __init__(self, sae: Sae, config: SaeConfig, ends: tuple[int, ...] | None = None):
        self.k, self.threshold, self.ends = config.k, config.threshold, ends or (sae.n_latents,)
        self.mean_cutoff = torch.zeros(())  # float64 would not survive a checkpoint of float32 weights; rounding is harmless here

    def __call__(self, sae: Sae, x: Float[Tensor, "token d_in"]) -> TrainingPass:
        rows, selected = select(sae, self.k, x)
        pre, cutoff = selected.values.requires_grad_(), selected.cutoff
        self.mean_cutoff += (1 if self.mean_cutoff == 0 else EMA_RATE) * (cutoff - self.mean_cutoff)
        return decoded(sae, rows, selected.selection, pre, pre, self.ends, cutoff)

    def state(self) -> Mapping[str, Tensor]:
        return {"mean_cutoff": self.mean_cutoff}

    @torch.no_grad()
    def calibrate(self, sae: Sae, batches: Iterable[Float[Tensor, "token d_in"]]) -> None:
        """Set the inference threshold."""
        sae.threshold.fill_(float(self.mean_cutoff) if self.threshold == "ema" else mean_cutoff(sae, self.k, batches))


def select(sae: Sae, k: float, x: Float[Tensor, "token d_in"]) -> tuple[Float[Tensor, "token d_in"], Selected]:
    """What the encoder reads, and the k * batch largest positive pre-activations."""
    rows, operands = encoder_operands(sae, x)
    return rows, kernels(operands[0]).encode_batch_topk(*operands, round(k * len(x)), sae.cache)


def mean_cutoff(sae: Sae, k: float, batches: Iterable[Float[Tensor, "token d_in"]]) -> float:
    """theta: the smallest value selected in a batch, averaged over batches."""
    cutoffs = [select(sae, k, x)[1].cutoff for x in batches]
    return sum(cutoffs) / len(cutoffs)
