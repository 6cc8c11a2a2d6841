"""The auxiliary loss of a gated SAE."""

from jaxtyping import Float
from torch import Tensor

from sparselight.train.objectives.objective import TermInputs


def gate(inputs: TermInputs) -> Float[Tensor, ""]:
    """mean over tokens of ||t - x_hat_gate||^2 / d, or without the division (objective.mse = "sum"); its weight is 1 as in the paper.

    x_hat_gate is decoded from the gate's positive pre-activations by the decoder held constant, so that its gradient reaches the encoder
    and b_gate only: without it the gate would learn nothing of reconstruction (arXiv 2404.16014, section 3.2).
    """
    side = inputs.forward.side
    assert side is not None
    squares = (side.x_hat - inputs.target).square()
    return squares.mean() if inputs.config.objective.mse == "mean" else squares.sum(1).mean()
