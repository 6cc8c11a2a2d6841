"""What a coder does to the subject's predictions: next-token cross entropy with activations replaced by their reconstruction.

Formulas are those of vocab.METRICS. ce_recovered_zero is SAEBench core's CE score (arXiv 2503.09532); ce_recovered_mean sets the same
against replacing every activation by the mean training activation, which is the stricter comparison, because 0 lies far outside what
the subject ever sees. Only counted tokens are replaced. Positions with nothing before them have no prediction: they are left out and
counted. Refuses: a cross entropy that is not finite.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparselight.errors import SaeError, SubjectError
from sparselight.evaluate.statistics import Resampled, Resamples, ratio

LEAST_GAP_NATS = 1e-6  # an ablation that costs less tells nothing of what a coder recovers


@dataclass(slots=True)
class LossSums:
    """Cross entropy summed over the tokens of each group: of the unedited subject, and of the subject with each coder spliced in."""

    scored: Float[Tensor, " group"]
    """Tokens that have a prediction."""
    own: Float[Tensor, " group"]
    spliced: dict[str, Float[Tensor, " group"]]
    n_unscored: int = 0

    @classmethod
    def empty(cls, n_groups: int) -> "LossSums":
        return cls(torch.zeros(n_groups, dtype=torch.float64), torch.zeros(n_groups, dtype=torch.float64), {})

    def add_own(self, loss: Float[Tensor, " token"], group: Int[Tensor, " token"]) -> None:
        """Add the losses of the unedited subject; nan marks the tokens without a prediction.

        Raises:
            SubjectError: when one is infinite.
        """
        nats, scored = loss.cpu().double(), ~loss.isnan().cpu()
        if nats.isinf().any():
            raise SubjectError(asked="measure the subject's cross entropy", why=f"it is infinite for {int(nats.isinf().sum())} tokens",
                               instead="run the subject with subject.dtype = 'float32'")
        self.scored.index_add_(0, group, scored.double())
        self.own.index_add_(0, group, nats.where(scored, 0.0))
        self.n_unscored += int((~scored).sum())

    def add_spliced(self, name: str, loss: Float[Tensor, " token"], own: Float[Tensor, " token"], group: Int[Tensor, " token"], asked: str) -> None:
        """Add the losses with a coder spliced in.

        Raises:
            SaeError: when one is not finite where the subject's own is.
        """
        nats, scored = loss.cpu().double(), ~own.isnan().cpu()
        if not torch.isfinite(nats[scored]).all():
            raise SaeError(asked=asked, why="the cross entropy with it spliced in is not finite",
                           instead="check the size of its reconstructions, or run the subject with subject.dtype = 'float32'")
        total = self.spliced.setdefault(name, torch.zeros_like(self.own))
        total.index_add_(0, group, nats.where(scored, 0.0))

    def own_metrics(self, resamples: Resamples) -> dict[str, Resampled]:
        """ce_nats of the unedited subject."""
        return {"ce_nats": self._mean(self.own, resamples)}

    def metrics(self, name: str, zero: str, mean: str, resamples: Resamples) -> dict[str, Resampled]:
        """ce_nats, ce_increase_nats, ce_recovered_zero and ce_recovered_mean over all resamples.

        Args:
            zero, mean: the names under which the two ablations were added.
        """
        own, spliced = self._mean(self.own, resamples), self._mean(self.spliced[name], resamples)
        ablated = {key: self._mean(self.spliced[ablation], resamples) for key, ablation in (("ce_recovered_zero", zero), ("ce_recovered_mean", mean))}
        recovered = {key: ratio(ce - spliced, ce - own, LEAST_GAP_NATS) for key, ce in ablated.items()}
        return {"ce_nats": spliced, "ce_increase_nats": spliced - own, **recovered}

    def _mean(self, total: Float[Tensor, " group"], resamples: Resamples) -> Resampled:
        return ratio(resamples.totals(total.numpy()), resamples.totals(self.scored.numpy()))
