"""Training: from a store to a saved SAE.

Owns: the loop, objectives, schedule, dead latents, checkpoints. Architectures stand in `sae`, sparse numerics in `kernels`.
"""

from sparselight.train.config import CHANGES_NO_RESULT, TrainConfig, n_latents_for
from sparselight.train.training import train_sae

__all__ = ["CHANGES_NO_RESULT", "TrainConfig", "n_latents_for", "train_sae"]
