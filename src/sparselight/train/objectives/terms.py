"""The table of terms."""

from sparselight.train.config import TrainConfig
from sparselight.train.objectives.aux import aux
from sparselight.train.objectives.gate import gate
from sparselight.train.objectives.objective import Term
from sparselight.train.objectives.orthogonal import orthogonal
from sparselight.train.objectives.reconstruction import mse, tilted
from sparselight.train.objectives.sparsity import l0_penalty, l1, warmup


def orthogonal_weight(config: TrainConfig, step: int) -> float:
    """The last of every n steps, so that lines of the log, written after whole tens by default, show the term; it then weighs n times as much."""
    every = config.objective.orthogonal_every
    return config.objective.orthogonal * every if (step + 1) % every == 0 else 0.0


TERMS: dict[str, Term] = {
    "mse": Term(mse, lambda *_: 1.0, lambda config: config.objective.tilt == 0),
    "tilted": Term(tilted, lambda *_: 1.0, lambda config: config.objective.tilt > 0),
    "gate": Term(gate, lambda *_: 1.0, lambda config: config.architecture == "gated"),
    "l1": Term(l1, lambda config, step: config.objective.l1 * warmup(config, step), lambda config: config.objective.l1 > 0),
    "l0_penalty": Term(l0_penalty, lambda config, step: config.objective.l0 * warmup(config, step), lambda config: config.objective.l0 > 0),
    "aux": Term(aux, lambda config, _: config.objective.aux, lambda config: config.objective.aux > 0),
    "orthogonal": Term(orthogonal, orthogonal_weight, lambda config: config.objective.orthogonal > 0),
}
