"""What each step trains on: rows of the stream as the encoder reads them, and what the decoder shall give back, both scaled.

A base SAE reads s * x and gives back s * x. A residual SAE reads s_in * (x - mean) and gives back s_out * (x - base(x)): input and error
differ much in size, so each has its own scale (arXiv 2507.12990). Scales make E||. - mean||^2 = d_in, estimated on the first batches of
the stream, in float64. Sae.fold undoes them. Refuses: rows that are not finite, and rows that are all the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sparselight.errors import TrainingError
from sparselight.sae import Sae
from sparselight.store import RowStream

SCALE_BATCHES = 8


class Moments(NamedTuple):
    """Of rows: their mean and the mean square distance from it."""

    mean: Float[Tensor, " d_in"]
    spread: float


@dataclass(frozen=True)
class Scaling:
    """From raw rows to what training sees."""

    scale_in: float
    scale_out: float
    mean: Float[Tensor, " d_in"] | None
    """Subtracted from the encoder's input; None where the SAE learns that itself."""
    b_dec: Float[Tensor, " d_in"] | None
    """The decoder bias to begin with, already scaled; None for an SAE without one."""


class TrainingData:
    """Scaled batches of a stream; a pure function of the step."""

    def __init__(self, stream: RowStream, base: Sae | None):
        self.stream, self.base = stream, base
        self.scaling = self._estimate()

    def batch(self, step: int) -> tuple[Float[Tensor, "token d_in"], Float[Tensor, "token d_in"]]:
        """Encoder input and target of a step, scaled."""
        x, target = self.raw(step)
        scaling = self.scaling
        rows = x.mul_(scaling.scale_in) if scaling.mean is None else (x - scaling.mean).mul_(scaling.scale_in)
        return rows, rows if self.base is None else target.mul_(scaling.scale_out)

    def inputs(self, first_step: int, n: int) -> Iterator[Float[Tensor, "token d_in"]]:
        """The scaled encoder inputs of n steps."""
        return (self.batch(step)[0] for step in range(first_step, first_step + n))

    def raw(self, step: int) -> tuple[Float[Tensor, "token d_in"], Float[Tensor, "token d_in"]]:
        """Activations and target of a step, unscaled.

        Raises:
            TrainingError: naming the step, when activations are not finite.
        """
        x = self.stream.batch(step).clone()  # in memory aligned by torch: matrix products can round otherwise by alignment
        if not x.isfinite().all():
            row = int(self.stream.batch_rows(step)[int((~x.isfinite()).any(1).nonzero()[0, 0])])
            raise TrainingError(asked=f"train on step {step}", why=f"row {row} of the store holds activations that are not finite at {self.stream.site}",
                                instead="harvest again (another harvest.dtype, if values overflow it); the last good checkpoint is kept")
        return x, x if self.base is None else x - self.base.reconstruct(x)

    def _estimate(self) -> Scaling:
        batches = [self.raw(step) for step in range(SCALE_BATCHES)]
        d_in = batches[0][0].shape[1]
        x = moments([x for x, _ in batches])
        if not x.spread > 0:
            raise TrainingError(asked=f"scale the activations of {self.stream.site}", why="all rows are the same", instead="harvest another site or corpus")
        scale_in = (d_in / x.spread) ** 0.5
        if self.base is None:
            return Scaling(scale_in, scale_in, None, (x.mean * scale_in).float())
        error = moments([target for _, target in batches])
        if not error.spread > 0:
            raise TrainingError(asked="train a residual SAE", why="the base SAE leaves no error", instead="use the base SAE alone")
        return Scaling(scale_in, (d_in / error.spread) ** 0.5, x.mean.float(), None)


def moments(batches: list[Float[Tensor, "token d_in"]]) -> Moments:
    """Mean and E||x - mean||^2 over all batches, in float64."""
    n = sum(len(x) for x in batches)
    mean = torch.stack([x.sum(0, dtype=torch.float64) for x in batches]).sum(0) / n
    return Moments(mean, sum(float((x - mean).square().sum()) for x in batches) / n)
