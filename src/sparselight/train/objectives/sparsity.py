"""How many latents are active, or by how much. Needed where an architecture does not select latents by rank."""

import torch
from jaxtyping import Float
from torch import Tensor

from sparselight.train.config import TrainConfig
from sparselight.train.objectives.objective import TermInputs


def l1(inputs: TermInputs) -> Float[Tensor, ""]:
    """mean over tokens of sum over latents j of z_j |w_j|, w_j the decoder row; |w_j| is 1 while rows are kept at unit norm.

    Without norms arXiv 2309.08600; with them Conerly et al. 2024, "Update on how we train SAEs" (Circuits Updates, April 2024), where free
    norms would else let the loss fall by shrinking z. A gated SAE has relu of its gate in place of z (arXiv 2404.16014).
    """
    return inputs.forward.selection.sum_per_token(_in_norms(inputs, inputs.architecture.l1_values(inputs.forward))).mean()


def l0_penalty(inputs: TermInputs) -> Float[Tensor, ""]:
    """mean over tokens of l0, the number of active latents; or ((mean l0) / l0_target - 1)^2; or of sum over latents j of tanh(l0_scale z_j |w_j|).

    In turn: the step form, with a straight-through gradient to thresholds (arXiv 2407.14435); the same pulled to objective.l0_target
    (Gemma Scope 2, dictionary_learning); the tanh form (Circuits Updates, January 2025). Which one: objective.l0_form, objective.l0_target.
    """
    settings = inputs.config.objective
    if settings.l0_form == "tanh":
        return inputs.forward.selection.sum_per_token(torch.tanh(settings.l0_scale * _in_norms(inputs, inputs.forward.z))).mean()
    count = inputs.architecture.n_active(inputs.forward).mean()
    return count if settings.l0_target is None else (count / settings.l0_target - 1).square()


def warmup(config: TrainConfig, step: int) -> float:
    """Share of l1's and l0's weight at a step, counted from 0."""
    n_steps = config.objective.sparsity_warmup_frac * config.n_steps
    return min(1.0, (step + 1) / n_steps) if n_steps else 1.0


def _in_norms(inputs: TermInputs, values: Float[Tensor, " entry"]) -> Float[Tensor, " entry"]:
    """Activations as they would be on decoder rows of unit norm."""
    if not inputs.config.objective.l1_decoder_norm:
        return values
    return values * inputs.forward.selection.per_entry(torch.linalg.vector_norm(inputs.sae.W_dec, dim=1))
