"""Sparse operations on activations: encoding, decoding, gradients, the optimizer's step, each with a slow dense twin.

Owns: the numerics of k-sparse codes and the table of implementations. Knows nothing of SAEs or training.
"""

from sparselight.kernels.dispatch import BACKENDS, Backend, kernels, use_backend
from sparselight.kernels.selection import AnySelection, DenseSelection, Selected, Selection, WeightGradients

__all__ = ["BACKENDS", "AnySelection", "Backend", "DenseSelection", "Selected", "Selection", "WeightGradients", "kernels", "use_backend"]
