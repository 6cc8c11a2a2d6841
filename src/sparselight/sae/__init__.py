"""SAEs: the dictionary at inference, one training-time forward a file, its folder on disk, stitching.

Owns: weights and what they compute. Knows nothing of optimizers, objectives or stores.
"""

from sparselight.sae.architectures import ARCHITECTURES, Architecture, TrainingForward
from sparselight.sae.base import Sae
from sparselight.sae.batch_topk import BatchTopK, TrainingPass
from sparselight.sae.disk import load_sae, save_sae, save_stitched
from sparselight.sae.init import initialize
from sparselight.sae.stitched import stitch

__all__ = [
    "ARCHITECTURES", "Architecture", "BatchTopK", "Sae", "TrainingForward", "TrainingPass",
    "initialize", "load_sae", "save_sae", "save_stitched", "stitch",
]
