"""What the normalization before the output layer does to a direction, measured instead of read from its parameters.

Models write their norms in many ways (weight, 1 + weight, centring or not, bias or not); two probes tell them apart.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


def norm_gain(norm: nn.Module, width: int, like: Tensor) -> tuple[Float[Tensor, " d_in"], bool]:
    """The gain g of norm(x) = g * normalized(x) + bias, and whether the norm subtracts the mean.

    For a probe p of mean 0 and mean square 1, LayerNorm and RMSNorm alike give norm(p) = g * p + bias, so
    g = (norm(p) - norm(-p)) / 2p. A norm that centres does not see a constant added to its input.

    Args:
        width: of the norm's input; 2 or more.
        like: a tensor whose device and dtype the model uses.
    """
    probe = torch.ones(width)
    probe[1::2] = -1.0
    if width % 2:
        probe[-3:] = torch.tensor([1.0, 1.0, -2.0])
    probe = (probe / probe.square().mean().sqrt()).to(like.device)

    def apply(x: Tensor) -> Tensor:
        return norm(x.to(like.dtype)[None, None])[0, 0].float()

    gain = (apply(probe) - apply(-probe)) / (2 * probe)
    shift = (apply(probe + 1.0) - apply(probe)).abs().max()
    return gain, bool(shift < 0.05 * gain.abs().max())
