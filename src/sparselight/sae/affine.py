"""Affine maps of activations: how training scales its rows, and what folding undoes.

A map takes x to (x - mean) @ A, where A is a number, one number a dimension, or a matrix; its inverse is kept beside a matrix.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Affine:
    """x -> (x - mean) @ A."""

    A: float | Float[Tensor, " d"] | Float[Tensor, "d d"]
    mean: Float[Tensor, " d"] | None = None
    inverse: Float[Tensor, "d d"] | None = None
    """Of a matrix A."""

    def __call__(self, x: Float[Tensor, "row d"]) -> Float[Tensor, "row d"]:
        return self.linear(x if self.mean is None else x - self.mean)

    def linear(self, x: Float[Tensor, "row d"]) -> Float[Tensor, "row d"]:
        """x @ A."""
        return x @ self.A if isinstance(self.A, Tensor) and self.A.ndim == 2 else x * self.A

    def linear_of(self, W: Float[Tensor, "d column"]) -> Float[Tensor, "d column"]:
        """A @ W."""
        if not isinstance(self.A, Tensor):
            return W * self.A
        return self.A @ W if self.A.ndim == 2 else W * self.A.unsqueeze(1)

    def undo_linear(self, y: Float[Tensor, "row d"]) -> Float[Tensor, "row d"]:
        """y @ A^-1."""
        return y / self.A if self.inverse is None else y @ self.inverse

    def inverted(self) -> "Affine":
        """The map back: y -> y @ A^-1 + mean."""
        if not isinstance(self.A, Tensor):
            A: float | Tensor = 1 / self.A
        elif self.A.ndim == 1:
            A = 1 / self.A
        else:
            assert self.inverse is not None
            A = self.inverse
        mean = None if self.mean is None else -self.linear(self.mean.unsqueeze(0))[0]
        return Affine(A, mean, self.A if self.inverse is not None and isinstance(self.A, Tensor) else None)

    def to(self, where: torch.device | torch.dtype) -> "Affine":
        def move(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.to(where)

        return Affine(self.A.to(where) if isinstance(self.A, Tensor) else self.A, move(self.mean), move(self.inverse))

    def __str__(self) -> str:
        if not isinstance(self.A, Tensor):
            return f"times {self.A:.6g}"
        return "each dimension divided by its standard deviation" if self.A.ndim == 1 else "whitened (ZCA)"


IDENTITY = Affine(1.0)
