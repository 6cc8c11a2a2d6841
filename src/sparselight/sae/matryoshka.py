"""Matryoshka SAE: one selection over all latents, one reconstruction from each nested prefix of them.

Bussmann et al. 2025, arXiv 2503.17547, section 3: x_hat_i = b_dec + sum over j <= m_i of z_j w_j for sizes m_1 < ... < m_G = m, selection by
BatchTopK over all m latents, loss the sum over i of ||x - x_hat_i||^2 with equal weights. Here the `mse` term is the mean over groups, so that
its scale is that of other architectures. Inference uses the whole dictionary. With `within_token` selection is TopK.
"""

from sparselight.sae.base import Sae
from sparselight.sae.batch_topk import BatchTopK
from sparselight.sae.config import SaeConfig, group_ends
from sparselight.sae.topk import TopK


def matryoshka(sae: Sae, config: SaeConfig) -> BatchTopK | TopK:
    """The training-time forward pass."""
    ends = group_ends(config.group_fracs, sae.n_latents)
    return (TopK if config.within_token else BatchTopK)(sae, config, ends)
