"""A coder that an evaluation measures: what it is asked for, where it runs, and the check of what it gives back.

Owns: which of a coder's methods are used, so that codes and reconstruction are those of one encoding. Refuses: reconstructions of
another shape or with values that are not finite.
"""

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparselight.errors import SaeError
from sparselight.protocols import Codes, Reconstructor, SparseCoder


@dataclass(frozen=True, slots=True)
class Contender:
    """A coder to be measured.

    A coder that has `encode` and `decode` is measured through them, so that l0 and reconstruction are those of the same codes; any
    other coder through `reconstruct`, and has no l0 and no dead latents.
    """

    coder: Reconstructor
    is_control: bool

    @property
    def n_latents(self) -> int | None:
        """Width of the dictionary, None where the coder has none."""
        return self.sparse.n_latents if self.sparse is not None else None

    @property
    def sparse(self) -> SparseCoder | None:
        """The coder as one with codes, None where it has none."""
        return cast("SparseCoder", self.coder) if all(hasattr(self.coder, name) for name in ("encode", "decode", "n_latents")) else None

    def there(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        """The activations on the device where the coder is."""
        parameter = next(self.coder.parameters(), None) if isinstance(self.coder, nn.Module) else None
        return x if parameter is None else x.to(parameter.device)

    @torch.no_grad()
    def apply(self, x: Float[Tensor, "token d_in"], asked: str) -> tuple[Float[Tensor, "token d_in"], Codes | None]:
        """Codes, where the coder has them, and reconstruction (see `rebuild`)."""
        codes = None if self.sparse is None else self.sparse.encode(self.there(x))
        return self.rebuild(x, codes, asked), codes

    @torch.no_grad()
    def rebuild(self, x: Float[Tensor, "token d_in"], codes: Codes | None, asked: str) -> Float[Tensor, "token d_in"]:
        """Reconstruct on the device where the coder is; the result comes back on that of `x`, in float32.

        Args:
            codes: of `x`; None for a coder without.

        Raises:
            SaeError: when the result has another shape than `x` or is not finite.
        """
        x_hat = self.coder.reconstruct(self.there(x)) if self.sparse is None or codes is None else self.sparse.decode(self._codes_there(codes))
        if x_hat.shape != x.shape:
            raise SaeError(asked=asked, why=f"it returns {list(x_hat.shape)} for activations of shape {list(x.shape)}",
                           instead="give a coder that was trained at this site of this subject")
        if not torch.isfinite(x_hat).all():
            raise SaeError(asked=asked, why=f"its reconstruction is not finite for {int((~torch.isfinite(x_hat)).any(1).sum())} of {len(x)} tokens",
                           instead="check its weights for nan and inf, and that it was trained at this site of this subject")
        return x_hat.to(device=x.device, dtype=torch.float32)

    def _codes_there(self, codes: Codes) -> Codes:
        parameter = next(self.coder.parameters(), None) if isinstance(self.coder, nn.Module) else None
        if parameter is None or parameter.device == codes.values.device:
            return codes
        there = parameter.device
        return Codes(codes.values.to(there), codes.latents.to(there), codes.indptr.to(there), codes.n_latents)
