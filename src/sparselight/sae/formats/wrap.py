"""Dictionaries from outside as coders: callables, and weights that are plain arrays.

`wrap_coder` makes anything that encodes and decodes usable by evaluate and explain; `sae_from_arrays` makes an SAE of NumPy arrays, which
steering, stitching and saving take too. Refuses outputs of another shape, not finite, or with negative activations.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sparselight.errors import SaeError
from sparselight.protocols import Codes
from sparselight.sae.base import Sae
from sparselight.sae.formats.tensors import assemble

Array = Any  # NumPy arrays, tensors, and what NumPy makes an array of


class WrappedCoder:
    """A coder made of callables: a SparseCoder and a Reconstructor."""

    record, is_transcoder = None, False  # as an SAE that nothing is known of

    def __init__(
        self, encode: Callable[[Any], Any], decode: Callable[[Any], Any], d_in: int, n_latents: int, *, numpy: bool = False, W_dec: Array | None = None,
        reconstruct: Callable[[Any], Any] | None = None,
    ):
        self.d_in, self.n_latents = d_in, n_latents
        self._encode, self._decode, self._reconstruct, self._numpy = encode, decode, reconstruct, numpy
        if W_dec is not None:
            self.W_dec = as_tensor(W_dec, "W_dec", (n_latents, d_in))
        self._last: tuple[Codes, Tensor] | None = None

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "token d_in"]) -> Codes:
        """The callable's activations as sparse codes.

        Raises:
            SaeError: when they are of another shape, negative or not finite.
        """
        self.check_width(x)
        found = self._encode(self._given(x))
        codes = found if isinstance(found, Codes) else sparse_codes(as_tensor(found, "what encode returns", (len(x), self.n_latents)), self.n_latents)
        if codes.n_latents != self.n_latents or codes.n_tokens != len(x):
            raise SaeError(asked="wrap a coder", why=f"encode returns codes of {codes.n_tokens} tokens and {codes.n_latents} latents",
                           instead=f"return {len(x)} tokens and {self.n_latents} latents")
        self._last = (codes, x)
        return codes

    @torch.no_grad()
    def decode(self, codes: Codes, x: Float[Tensor, "token d_in"] | None = None) -> Float[Tensor, "token d_in"]:
        """What the callable makes of dense activations, or `reconstruct` of what was encoded where that was given.

        Raises:
            SaeError: when it is of another shape or not finite; or when only `reconstruct` could tell and x is not known.
        """
        if self._reconstruct is not None:
            if x is None and self._last is not None and self._last[0] is codes:
                x = self._last[1]
            if x is None:
                raise SaeError(asked="decode codes with this wrapped coder", why="its `reconstruct` needs what was encoded", instead="call decode(codes, x)")
            return as_tensor(self._reconstruct(self._given(x)), "what reconstruct returns", tuple(x.shape))
        return as_tensor(self._decode(self._given(codes.to_dense())), "what decode returns", (codes.n_tokens, self.d_in))

    def reconstruct(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        return self.decode(self.encode(x), x)

    def check_width(self, x: Float[Tensor, "token d_in"]) -> None:
        """Refuse activations of another width.

        Raises:
            SaeError: naming both widths.
        """
        if x.ndim != 2 or x.shape[1] != self.d_in:
            raise SaeError(asked=f"encode activations of shape {list(x.shape)}", why=f"this coder reads rows of width d_in = {self.d_in}",
                           instead="give activations of the site that it was made for")

    def _given(self, x: Tensor) -> Any:
        return x.cpu().numpy() if self._numpy else x

    def __repr__(self) -> str:
        return f"WrappedCoder(d_in {self.d_in}, n_latents {self.n_latents})"


def wrap_coder(
    encode: Callable[[Any], Any], decode: Callable[[Any], Any], d_in: int, n_latents: int, *, numpy: bool = False, W_dec: Array | None = None,
    reconstruct: Callable[[Any], Any] | None = None,
) -> WrappedCoder:
    """Anything that encodes and decodes, as a coder for evaluate and explain.

    Args:
        encode: rows [token, d_in] to activations [token, latent], dense (a tensor or an array, none negative) or Codes.
        decode: activations [token, latent] to rows [token, d_in].
        numpy: hand NumPy arrays to the callables, not tensors.
        W_dec: directions [latent, d_in], for what a latent promotes and for edits.
        reconstruct: rows to rows, for a library whose decoding needs its input (one that normalizes each vector): used in place of decode.

    Raises:
        SaeError: when W_dec is of another shape; later, when a callable returns something else than said here.
    """
    return WrappedCoder(encode, decode, d_in, n_latents, numpy=numpy, W_dec=W_dec, reconstruct=reconstruct)


def sae_from_arrays(
    W_enc: Array, W_dec: Array, b_enc: Array | None = None, b_dec: Array | None = None, *, threshold: Array | float = 0.0, k: int | None = None,
    subtract_b_dec: bool, W_skip: Array | None = None,
) -> Sae:
    """An SAE of weights that are plain arrays: z = relu(p) * (p > threshold) or the k largest, p = (x - b_dec) @ W_enc + b_enc.

    Args:
        W_enc, W_dec: [d_in, latent] and [latent, d_out].
        subtract_b_dec: whether b_dec is subtracted before encoding; there is no default, because libraries differ.

    Raises:
        SaeError: naming an array of another shape or with values that are not finite.
    """
    if np.ndim(W_enc) != 2 or np.ndim(W_dec) != 2:
        raise SaeError(asked="make an SAE of arrays", why="W_enc and W_dec are matrices", instead="give W_enc [d_in, latent] and W_dec [latent, d_out]")
    (d_in, n_latents), d_out = np.shape(W_enc), np.shape(W_dec)[1]
    directions = as_tensor(W_dec, "W_dec", (n_latents, d_out))
    vectors = {"b_enc": (b_enc, n_latents), "b_dec": (b_dec, d_out)}
    given = {name: torch.zeros(size) if value is None else as_tensor(value, name, (size,)) for name, (value, size) in vectors.items()}
    thresholds = float(threshold) if np.ndim(threshold) == 0 else as_tensor(threshold, "threshold", (n_latents,))
    return assemble(as_tensor(W_enc, "W_enc", (d_in, n_latents)), given["b_enc"], directions, given["b_dec"],
                    subtract_b_dec=subtract_b_dec, threshold=thresholds, k=k, W_skip=None if W_skip is None else as_tensor(W_skip, "W_skip", (d_in, d_out)))


def sparse_codes(dense: Float[Tensor, "token latent"], n_latents: int) -> Codes:
    """The entries above 0.

    Raises:
        SaeError: when some are below.
    """
    if bool((dense < 0).any()):
        raise SaeError(asked="wrap a coder", why="encode returns negative activations, and latents here fire or are 0",
                       instead="return activations of 0 and above")
    tokens, latents = dense.nonzero(as_tuple=True)
    indptr = torch.zeros(len(dense) + 1, dtype=torch.long, device=dense.device)
    indptr[1:] = torch.bincount(tokens, minlength=len(dense)).cumsum(0)
    return Codes(dense[tokens, latents], latents, indptr, n_latents)


def as_tensor(value: Array, what: str, shape: tuple[int, ...]) -> Tensor:
    """A finite float32 tensor of a shape.

    Raises:
        SaeError: when it is not.
    """
    dense = value.to_dense() if isinstance(value, Tensor) and value.layout is not torch.strided else value
    tensor = dense.detach() if isinstance(dense, Tensor) else torch.from_numpy(np.array(dense, dtype=np.float32))
    if tuple(tensor.shape) != shape:
        raise SaeError(asked="wrap a coder", why=f"{what} has shape {list(tensor.shape)}", instead=f"give shape {list(shape)}")
    tensor = tensor.float()
    if not tensor.isfinite().all():
        raise SaeError(asked="wrap a coder", why=f"{what} holds values that are not finite", instead="give finite numbers")
    return tensor
