"""The table of architectures: how each selects latents while it trains. Inference is the same for all (base.py)."""

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from jaxtyping import Float
from torch import Tensor

from sparselight.sae.base import Sae
from sparselight.sae.batch_topk import BatchTopK, TrainingPass


class TrainingForward(Protocol):
    """A training-time forward pass and how its inference threshold is found."""

    cutoff: float | None

    def __call__(self, sae: Sae, x: Float[Tensor, "token d_in"]) -> TrainingPass: ...
    def calibrate(self, sae: Sae, batches: Iterable[Float[Tensor, "token d_in"]]) -> None: ...


class Architecture(NamedTuple):
    """One row of the table."""

    make: Callable[[float], TrainingForward]
    """From the mean number of active latents a token."""
    saelens_name: str
    """What SAELens calls it, for cfg.json."""
    source: str


ARCHITECTURES: dict[str, Architecture] = {
    "batch_topk": Architecture(BatchTopK, "batchtopk", "arXiv 2412.06410"),
}
