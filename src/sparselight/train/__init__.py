"""Training: from a store to a saved SAE.

Owns: the loop, objectives, schedule, dead latents, checkpoints. Architectures stand in `sae`, sparse numerics in `kernels`.
"""

from sparselight.train.config import CHANGES_NO_RESULT, ObjectiveConfig, OptimizerConfig, ScheduleConfig, TrainConfig, n_latents_for
from sparselight.train.training import export_best, train_many, train_sae

__all__ = [
    "CHANGES_NO_RESULT", "ObjectiveConfig", "OptimizerConfig", "ScheduleConfig", "TrainConfig", "export_best", "n_latents_for", "train_many", "train_sae",
]

