"""The store stage: activations on disk, written once, read in any order.

Owns: harvesting a subject's activations, the folder format (plan.py), reading (reader.py), the shuffled stream (stream.py), the same
without a disk (live.py), and what is done to finished stores (harvest.append, combine.py, check.py).
"""

from sparselight.store.check import RepairReport, StoreInfo, repair, store_info, verify
from sparselight.store.combine import merge, split
from sparselight.store.config import HarvestConfig
from sparselight.store.harvest import append, harvest
from sparselight.store.live import LiveStore, LiveStream
from sparselight.store.permutation import Permutation
from sparselight.store.reader import FolderStore
from sparselight.store.stream import RowStream

__all__ = ["FolderStore", "HarvestConfig", "LiveStore", "LiveStream", "Permutation", "RepairReport", "RowStream", "StoreInfo", "append", "harvest", "merge",
           "repair", "split", "store_info", "verify"]
