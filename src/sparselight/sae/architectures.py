"""The table of architectures: how each selects latents while it trains. Inference is the same for all (base.py)."""

from collections.abc import Callable
from typing import NamedTuple

from sparselight.sae.base import Sae
from sparselight.sae.batch_topk import BatchTopK
from sparselight.sae.config import SaeConfig
from sparselight.sae.gated import Gated
from sparselight.sae.jump_relu import JumpRelu
from sparselight.sae.matryoshka import matryoshka
from sparselight.sae.relu import Relu
from sparselight.sae.topk import TopK
from sparselight.sae.training_pass import TrainingForward


class Architecture(NamedTuple):
    """One row of the table."""

    make: Callable[[Sae, SaeConfig], TrainingForward]
    saelens_name: str
    """What SAELens calls it while training, for cfg.json."""
    source: str
    settings: frozenset[str]
    """Fields of SaeConfig that mean something to it, beside those that all know."""


ARCHITECTURES: dict[str, Architecture] = {
    "relu": Architecture(Relu, "standard", "Bricken et al. 2023", frozenset()),
    "jump_relu": Architecture(JumpRelu, "jumprelu", "arXiv 2407.14435", frozenset({"bandwidth", "first_threshold"})),
    "gated": Architecture(Gated, "gated", "arXiv 2404.16014", frozenset()),
    "topk": Architecture(TopK, "topk", "arXiv 2406.04093", frozenset({"k"})),
    "batch_topk": Architecture(BatchTopK, "batchtopk", "arXiv 2412.06410", frozenset({"k", "threshold"})),
    "matryoshka": Architecture(matryoshka, "matryoshka_batchtopk", "arXiv 2503.17547", frozenset({"k", "threshold", "group_fracs", "within_token"})),
}
SPECIFIC = frozenset[str]().union(*(row.settings for row in ARCHITECTURES.values()))
