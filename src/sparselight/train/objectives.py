"""The objective: a weighted sum of named terms over one forward pass. The target may differ from the input.

Convention: targets come scaled so that E||t - mean||^2 = d_in, so `mse`, the mean over all elements, begins near 1 and is the fraction
of variance unexplained up to sampling. A new term is one function and one row of TERMS.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from sparselight.kernels import kernels
from sparselight.sae import Sae, TrainingPass
from sparselight.train.config import TrainConfig, aux_k_for


@dataclass(frozen=True)
class TermInputs:
    """What a term may look at."""

    sae: Sae
    forward: TrainingPass
    target: Float[Tensor, "token d_in"]
    dead: Int[Tensor, " dead"]
    aux_k: int


def mse(inputs: TermInputs) -> Float[Tensor, ""]:
    """mean over tokens and dimensions of (t - x_hat)^2 (arXiv 2412.06410, section 2, up to the constant factor)."""
    return (inputs.forward.x_hat - inputs.target).square().mean()


def aux(inputs: TermInputs) -> Float[Tensor, ""]:
    """AuxK: ||e - e_hat||^2 / ||e||^2, e = t - x_hat held constant, e_hat decoded from each token's aux_k largest dead latents.

    Gao et al. 2024 (arXiv 2406.04093, appendix A.2), normalized by the error's own size so that it stays near 1 while the dead
    latents explain nothing. Its gradient goes to encoder and decoder of dead latents only.
    """
    sae, forward = inputs.sae, inputs.forward
    if not len(inputs.dead):
        return forward.x_hat.new_zeros(())
    error = inputs.target - forward.x_hat.detach()
    return kernels().dead_latent_loss(forward.x, sae.W_enc, sae.b_enc, sae.W_dec, forward.pre, error, inputs.dead, inputs.aux_k)


TERMS: dict[str, Callable[[TermInputs], Float[Tensor, ""]]] = {"mse": mse, "aux": aux}


@dataclass(frozen=True)
class Objective:
    """Terms and their weights."""

    weights: Mapping[str, float]
    aux_k: int

    def __call__(
        self, sae: Sae, forward: TrainingPass, target: Float[Tensor, "token d_in"], dead: Int[Tensor, " dead"],
    ) -> tuple[Float[Tensor, ""], dict[str, float]]:
        """The weighted sum, and every term's own value before weighting."""
        inputs = TermInputs(sae, forward, target, dead, self.aux_k)
        terms = {name: TERMS[name](inputs) for name in self.weights}
        total = sum((self.weights[name] * value for name, value in terms.items()), start=target.new_zeros(()))
        return total, {name: value.item() for name, value in terms.items()}


def make_objective(config: TrainConfig, sae: Sae) -> Objective:
    weights = {"mse": 1.0} | ({"aux": config.aux_weight} if config.aux_weight else {})
    return Objective(weights, aux_k_for(config, sae.d_in, sae.n_latents))
