"""BatchTopK: training keeps the k * batch largest positive pre-activations of the whole batch, so that k holds on average only.

Bussmann, Leask and Nanda 2024, arXiv 2412.06410: z = BatchTopK(relu(pre)), inference with z * 1[z > theta],
theta = E over batches of min { z_ij : z_ij > 0 after BatchTopK } (section 3).
Convention here: theta is taken once, at the end, as the mean over calibration batches at the final weights. A running mean through
training would mix in the cutoffs of weights that are gone. One theta for all latents.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sparselight.kernels import Selection, kernels
from sparselight.sae.base import Sae


@dataclass(frozen=True)
class TrainingPass:
    """What one forward pass leaves for the objective's terms."""

    x: Float[Tensor, "token d_in"]
    """As the encoder reads it: b_dec subtracted where the SAE does that."""
    pre: Float[Tensor, "token latent"]
    """Without autograd; overwritten by the next pass."""
    selection: Selection
    values: Float[Tensor, " entry"]
    x_hat: Float[Tensor, "token d_in"]


class BatchTopK:
    """The training-time forward pass; remembers the last cutoff, which makes the next selection fast and changes no result."""

    def __init__(self, k: float):
        self.k = k
        self.cutoff: float | None = None
        self._pre = torch.empty(0)

    def __call__(self, sae: Sae, x: Float[Tensor, "token d_in"]) -> TrainingPass:
        ops, rows = kernels(), sae.encoder_input(x)
        if self._pre.shape != (len(x), sae.n_latents):  # kept between steps: fresh memory of this size costs as much as filling it
            self._pre = torch.empty(len(x), sae.n_latents, dtype=x.dtype, device=x.device)
        with torch.no_grad():
            torch.addmm(sae.b_enc, rows, sae.W_enc, out=self._pre)
            selected = ops.select_batch_topk(self._pre, round(self.k * len(x)), self.cutoff)
        self.cutoff = selected.cutoff
        values = ops.sparse_encode(rows, sae.W_enc, sae.b_enc, selected)
        x_hat = ops.sparse_decode(values, selected.selection, sae.W_dec) + sae.b_dec
        return TrainingPass(rows, self._pre, selected.selection, values, x_hat)

    @torch.no_grad()
    def calibrate(self, sae: Sae, batches: Iterable[Float[Tensor, "token d_in"]]) -> None:
        """Set the inference threshold: the mean of the batches' smallest kept values."""
        cutoffs = []
        for x in batches:
            self(sae, x)
            cutoffs.append(self.cutoff or 0.0)
        sae.threshold.fill_(sum(cutoffs) / len(cutoffs))
