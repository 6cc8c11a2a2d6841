"""Four recommenders, small and plain: a sequence model, a multi-interest one, matrix factorization, and a graph convolution.

Each follows its paper and the ReChorus implementation that RecSAE studied, so that published weights load; what differs is said in each file.
"""

import numpy as np
from jaxtyping import Int

from sparselight.subjects.recommender.config import RecommenderConfig
from sparselight.subjects.recommender.models.bpr_mf import BprMf
from sparselight.subjects.recommender.models.lightgcn import LightGcn
from sparselight.subjects.recommender.models.sasrec import SasRec
from sparselight.subjects.recommender.models.timirec import TiMiRec
from sparselight.subjects.recommender.module import Recommender

__all__ = ["BprMf", "LightGcn", "SasRec", "TiMiRec", "make_model"]


def make_model(config: RecommenderConfig, n_users: int, n_items: int, edges: Int[np.ndarray, "2 edge"] | None = None) -> Recommender:
    """An untrained model.

    Args:
        edges: user number and item id of each training interaction; for lightgcn.
    """
    if config.architecture == "sasrec":
        return SasRec(n_items, config.d, config.n_layers, config.n_heads, config.max_history, config.dropout)
    if config.architecture == "timirec":
        return TiMiRec(n_items, config.d, config.n_interests, config.d_attention, config.max_history)
    if config.architecture == "bpr_mf":
        return BprMf(n_users, n_items, config.d)
    return LightGcn(n_users, n_items, config.d, config.n_layers, edges if edges is not None else np.zeros((2, 0), np.int64))
