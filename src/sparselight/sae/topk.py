"""TopK: each token keeps its k largest positive pre-activations, at training and at inference.

Gao et al. 2024, arXiv 2406.04093, section 2.3: z = TopK(W_enc (x - b_dec) + b_enc); positive entries only, as in their code.
A threshold that lets k a token through on average is found too, for what cannot select by rank (stitching); inference does not use it.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from sparselight.kernels import kernels
from sparselight.sae.base import Sae
from sparselight.sae.batch_topk import mean_cutoff
from sparselight.sae.config import SaeConfig
from sparselight.sae.training_pass import TrainingForward, TrainingPass, decoded, encoder_operands


class TopK(TrainingForward):
    """The training-time forward pass."""

    def __init__(self, sae: Sae, config: SaeConfig, ends: tuple[int, ...] | None = None):
        self.k, self.ends = round(config.k), ends or (sae.n_latents,)

    def __call__(self, sae: Sae, x: Float[Tensor, "token d_in"]) -> TrainingPass:
        rows, operands = encoder_operands(sae, x)
        selected = kernels(operands[0]).encode_topk(*operands, self.k, sae.cache)
        pre = selected.values.requires_grad_()
        return decoded(sae, rows, selected.selection, pre, pre, self.ends)

    @torch.no_grad()
    def calibrate(self, sae: Sae, batches: Iterable[Float[Tensor, "token d_in"]]) -> None:
        sae.threshold.fill_(mean_cutoff(sae, self.k, batches))
        sae.k = self.k
