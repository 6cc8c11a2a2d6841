"""Gated SAE: one half of the encoder decides which latents are active, the other how much; both share their directions.

Rajamanoharan et al. 2024, arXiv 2404.16014, section 3.2. With g = W_enc (x - b_dec) + b_gate and m = exp(r_mag) * (g - b_gate) + b_mag:
    z = 1[g > 0] * relu(m)
    loss ||x - x_hat||^2 + l1 * ||relu(g)||_1 + ||x - x_hat_gate||^2,   x_hat_gate decoded from relu(g) by a frozen copy of the decoder
The step has no gradient: the gate learns by the last two terms only (objective.l1 and the term `gate`). While training b_enc is b_gate.
Inference form: g > 0 exactly where m > b_mag - exp(r_mag) * b_gate, so W_enc <- W_enc * exp(r_mag), b_enc <- b_mag, and that is the threshold.
"""

from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparselight.kernels import kernels
from sparselight.sae.base import Sae
from sparselight.sae.config import SaeConfig
from sparselight.sae.training_pass import SideDecoding, TrainingForward, TrainingPass, decoded, encoder_operands, reconstructions


class Gated(TrainingForward):
    """The training-time forward pass."""

    def __init__(self, sae: Sae, config: SaeConfig):  # noqa: ARG002
        self.ends = (sae.n_latents,)
        self.r_mag, self.b_mag = nn.Parameter(torch.zeros_like(sae.threshold)), nn.Parameter(torch.zeros_like(sae.threshold))

    def __call__(self, sae: Sae, x: Float[Tensor, "token d_in"]) -> TrainingPass:
        rows, operands = encoder_operands(sae, x)
        selection, pre = kernels(operands[0]).encode_above(*operands, torch.zeros_like(sae.threshold), sae.cache, allow_dense=True)
        pre.requires_grad_()
        scale, b_gate, b_mag = (selection.per_entry(parameter) for parameter in (self.r_mag.exp(), sae.b_enc, self.b_mag))
        values = torch.where(pre > 0, (scale * (pre - b_gate) + b_mag).relu(), 0)
        forward = decoded(sae, rows, selection, pre, values, self.ends)
        gate = pre.relu()
        forward.side = SideDecoding(gate, reconstructions(sae, rows, selection, gate.detach(), self.ends)[0].detach().requires_grad_())
        return forward

    def l1_values(self, forward: TrainingPass) -> Float[Tensor, " entry"]:
        return forward.pre.relu()

    @torch.no_grad()
    def take_over(self, sae: Sae) -> None:
        """1[pre > threshold] * relu(pre): b_mag is b_enc, and the gate's bias that less the threshold."""
        self.b_mag.copy_(sae.b_enc)
        sae.b_enc.sub_(sae.threshold)

    def parameters(self) -> Mapping[str, nn.Parameter]:
        return {"r_mag": self.r_mag, "b_mag": self.b_mag}

    @torch.no_grad()
    def calibrate(self, sae: Sae, batches: Iterable[Float[Tensor, "token d_in"]]) -> None:  # noqa: ARG002
        fold_gate(sae, sae.b_enc.clone(), self.r_mag, self.b_mag)


@torch.no_grad()
def fold_gate(sae: Sae, b_gate: Float[Tensor, " latent"], r_mag: Float[Tensor, " latent"], b_mag: Float[Tensor, " latent"]) -> None:
    """The inference form of a gated SAE whose W_enc stands in `sae`."""
    sae.W_enc.mul_(r_mag.exp())
    sae.b_enc.copy_(b_mag)
    sae.threshold.copy_(b_mag - r_mag.exp() * b_gate)
