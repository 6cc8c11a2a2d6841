"""ReLU SAE: every latent with a positive pre-activation is active, and an L1 penalty keeps them few.

Bricken et al. 2023, "Towards Monosemanticity", appendix on the autoencoder; arXiv 2404.16014, section 2.2:
    z = relu(W_enc (x - b_dec) + b_enc)        loss ||x - x_hat||^2 + l1 * ||z||_1
The penalty is objective.l1. While more than a few percent of the entries are positive, products are dense. At inference thresholds are 0.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from sparselight.kernels import DenseSelection, kernels
from sparselight.sae.base import Sae
from sparselight.sae.config import SaeConfig
from sparselight.sae.training_pass import TrainingForward, TrainingPass, decoded, encoder_operands


class Relu(TrainingForward):
    """The training-time forward pass."""

    def __init__(self, sae: Sae, config: SaeConfig):  # noqa: ARG002
        self.ends = (sae.n_latents,)

    def __call__(self, sae: Sae, x: Float[Tensor, "token d_in"]) -> TrainingPass:
        rows, operands = encoder_operands(sae, x)
        selection, pre = kernels(operands[0]).encode_above(*operands, torch.zeros_like(sae.threshold), sae.cache, allow_dense=True)
        pre.requires_grad_()
        return decoded(sae, rows, selection, pre, pre.relu() if isinstance(selection, DenseSelection) else pre, self.ends)

    @torch.no_grad()
    def calibrate(self, sae: Sae, batches: Iterable[Float[Tensor, "token d_in"]]) -> None:  # noqa: ARG002
        sae.threshold.zero_()
