"""The best state so far: that with the lowest moving mean of the loss, asked every train.best_every_steps steps.

The loss is the whole weighted sum, not fvu alone: where sparsity is learned, reconstruction is best before there is any. For the same reason only
steps with the full sparsity weights count. The moving mean is over about MEAN_STEPS steps: m <- m + (loss - m) / min(n, MEAN_STEPS) at the n-th.
"""

import torch
from torch import Tensor

MEAN_STEPS = 100


class BestLoss:
    """Counts every step, so that what is best depends on no setting of logs or checkpoints."""

    def __init__(self) -> None:
        self.values: Tensor = torch.tensor([0.0, 0.0, torch.inf], dtype=torch.float64)
        """Steps counted, moving mean, the lowest one asked for so far."""

    def update(self, loss: float) -> None:
        self.values[0] += 1
        self.values[1] += (loss - self.values[1]) / min(float(self.values[0]), MEAN_STEPS)

    def is_lowest(self) -> bool:
        """Whether the mean is lower than whenever this was asked before."""
        lower = bool(self.values[1] < self.values[2]) and bool(self.values[0] > 0)
        if lower:
            self.values[2] = self.values[1]
        return lower
