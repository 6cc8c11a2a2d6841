"""Training: from a store to a saved SAE.

Owns: the loop, objectives, schedule, dead latents, checkpoints, going on from an SAE, influence of examples. Architectures stand in `sae`, sparse
numerics in `kernels`.
"""

from sparselight.train.config import CHANGES_NO_RESULT, FinetuneConfig, ObjectiveConfig, OptimizerConfig, ScheduleConfig, TrainConfig, n_latents_for
from sparselight.train.influence import influence
from sparselight.train.training import export_best, train_many, train_sae

__all__ = [
    "CHANGES_NO_RESULT", "FinetuneConfig", "ObjectiveConfig", "OptimizerConfig", "ScheduleConfig", "TrainConfig", "export_best", "influence", "n_latents_for",
    "train_many", "train_sae",
]

