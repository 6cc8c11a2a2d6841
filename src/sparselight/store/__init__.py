"""The store stage: activations on disk, written once, read in any order.

Owns: harvesting a subject's activations, the folder format (plan.py), reading (reader.py) and the shuffled stream (stream.py).
"""

from sparselight.store.config import HarvestConfig
from sparselight.store.harvest import harvest
from sparselight.store.permutation import Permutation
from sparselight.store.reader import FolderStore
from sparselight.store.stream import RowStream

__all__ = ["FolderStore", "HarvestConfig", "Permutation", "RowStream", "harvest"]
