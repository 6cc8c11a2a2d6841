"""Training: from a store to a saved SAE.

Owns: the loop, objectives, schedule, dead latents, checkpoints. Architectures stand in `sae`, sparse numerics in `kernels`.
"""

from sparselight.train.config import TrainConfig, n_latents_for
from sparselight.train.training import train_sae

__all__ = ["TrainConfig", "n_latents_for", "train_sae"]
