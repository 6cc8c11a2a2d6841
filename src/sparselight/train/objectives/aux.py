"""The dead latents' loss."""

from jaxtyping import Float
from torch import Tensor

from sparselight.kernels import WeightGradients, kernels
from sparselight.train.config import aux_k_for
from sparselight.train.objectives.known_gradient import with_gradient
from sparselight.train.objectives.objective import TermInputs


def aux(inputs: TermInputs) -> Float[Tensor, ""]:
    """AuxK: ||e - e_hat||^2 / ||e||^2, e = t - x_hat held constant, e_hat decoded from each token's aux_k largest dead latents.

    Gao et al. 2024 (arXiv 2406.04093, appendix A.2), normalized by the error's own size so that it stays near 1 while the dead
    latents explain nothing. Its gradient goes to encoder and decoder of dead latents only.
    """
    sae, forward, dead = inputs.sae, inputs.forward, inputs.dead
    if not len(dead):
        return forward.x_hats.new_zeros(())
    loss, found = kernels(forward.x).dead_latent_loss(
        forward.x, sae.W_enc.detach(), sae.b_enc.detach(), sae.W_dec.detach(), inputs.errors[-1], dead,
        aux_k_for(inputs.config, sae.d_in, sae.n_latents))

    def add_gradient(buffers: WeightGradients, weight: float) -> None:
        buffers.W_enc.index_add_(0, dead, found.W_enc, alpha=weight)
        buffers.b_enc.index_add_(0, dead, found.b_enc, alpha=weight)
        buffers.W_dec.index_add_(0, dead, found.W_dec, alpha=weight)

    return with_gradient(inputs, loss, add_gradient)
