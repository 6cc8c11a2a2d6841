"""Sparse operations on activations: selection, encoding, decoding, dead latents, each with a slow dense twin.

Owns: the numerics of k-sparse codes and their gradients, and the table of implementations. Knows nothing of SAEs or training.
"""

from sparselight.kernels.dispatch import BACKENDS, Backend, kernels, use_backend
from sparselight.kernels.selection import Selected, Selection

__all__ = ["BACKENDS", "Backend", "Selected", "Selection", "kernels", "use_backend"]
