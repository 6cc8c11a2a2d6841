"""SAEs: the dictionary at inference, one training-time forward a file, its folder on disk, stitching and grafting.

Owns: weights and what they compute. Knows nothing of optimizers, objectives or stores.
"""

from sparselight.sae.affine import IDENTITY, Affine
from sparselight.sae.architectures import ARCHITECTURES, SPECIFIC, Architecture
from sparselight.sae.base import Sae
from sparselight.sae.batch_topk import BatchTopK
from sparselight.sae.config import SaeConfig, group_ends
from sparselight.sae.disk import load_sae, save_sae, save_stitched
from sparselight.sae.gated import Gated
from sparselight.sae.graft import graft
from sparselight.sae.init import initialize
from sparselight.sae.jump_relu import JumpRelu
from sparselight.sae.relu import Relu
from sparselight.sae.stitched import stitch
from sparselight.sae.topk import TopK
from sparselight.sae.training_pass import TrainingForward, TrainingPass

__all__ = [
    "ARCHITECTURES", "IDENTITY", "SPECIFIC", "Affine", "Architecture", "BatchTopK", "Gated", "JumpRelu", "Relu", "Sae", "SaeConfig", "TopK",
    "TrainingForward", "TrainingPass", "graft", "group_ends", "initialize", "load_sae", "save_sae", "save_stitched", "stitch",
]
