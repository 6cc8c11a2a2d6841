"""Named tensors of one file, checked as they are taken, and the SAE that is made of them.

Owns: shape, finiteness and precision of everything that enters an SAE from outside. Refuses what is missing, of another shape or not
finite, and what is left over: a tensor that nobody knows may change outputs.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sparselight.sae.base import Sae
from sparselight.sae.formats.place import Place


class Tensors:
    """The tensors of one file; `take` each, `finish` at the end."""

    def __init__(self, place: Place, file: str, values: Mapping[str, Any] | None = None, prefix: str = ""):
        content = place.content(file) if values is None else values
        self.place, self.file = place, file
        self.values = {name.removeprefix(prefix): content[name] for name in content if name.startswith(prefix)}
        self.left = set(self.values)
        self.dtypes: set[torch.dtype] = set()

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensor(name).shape)

    def matrix(self, name: str) -> tuple[int, int]:
        """The two sizes of a matrix."""
        shape = self.shape(name)
        if len(shape) != 2 or 0 in shape:
            raise self.place.refuse(f"{name} in {self.file} has shape {list(shape)}, not that of a matrix", "restore that file")
        return shape[0], shape[1]

    def take(self, name: str, *shape: int) -> Float[Tensor, "..."]:
        """A tensor in float32.

        Raises:
            SaeError: when it is not there, of another shape, no floating-point tensor or not finite.
        """
        tensor = self._tensor(name)
        if tuple(tensor.shape) != shape:
            raise self.place.refuse(f"{name} in {self.file} has shape {list(tensor.shape)}, the other tensors and settings ask for {list(shape)}",
                                    "restore all files from one source")
        if not tensor.is_floating_point():
            raise self.place.refuse(f"{name} in {self.file} holds {tensor.dtype}, not floating-point numbers", "restore that file")
        self.dtypes.add(tensor.dtype)
        result = tensor.detach().float()
        if not result.isfinite().all():
            raise self.place.refuse(f"{name} in {self.file} holds values that are not finite", "restore that file")
        self.left.discard(name)
        return result

    def four(self, names: tuple[str, str, str, str], W_enc: str, W_dec: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """W_enc [d_in, latent], b_enc, W_dec [latent, d_out] and b_dec of tensors with these names.

        Args:
            W_enc, W_dec: how the matrices lie in the file: "d_in latent" or "latent d_in", "latent d_out" or "d_out latent".
        """
        shapes = dict(zip(W_enc.split(), self.matrix(names[0]), strict=True)) | dict(zip(W_dec.split(), self.matrix(names[2]), strict=True))
        encoder, decoder = (self.take(name, *(shapes[axis] for axis in axes.split())) for name, axes in ((names[0], W_enc), (names[2], W_dec)))
        b_enc, b_dec = self.take(names[1], shapes["latent"]), self.take(names[3], shapes["d_out"])
        return encoder if W_enc == "d_in latent" else encoder.T, b_enc, decoder if W_dec == "latent d_out" else decoder.T, b_dec

    def number(self, name: str) -> float:
        """A scalar, stored as a tensor of one value or a plain number."""
        value = self.values.get(name)
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.item()
        if not isinstance(value, int | float) or isinstance(value, bool) or value != value or value in (float("inf"), float("-inf")):
            raise self.place.refuse(f"{name} in {self.file} is no finite number", "restore that file")
        self.left.discard(name)
        return float(value)

    def skip(self, *names: str) -> None:
        """Leave out what no output depends on."""
        self.left.difference_update(names)

    def finish(self) -> None:
        """Refuse what nobody took.

        Raises:
            SaeError: naming it.
        """
        if self.left:
            held = ", ".join(sorted(self.left))
            raise self.place.refuse(f"{self.file} also holds {held}, of which nothing is known", "give a file of that format, or name another")

    def _tensor(self, name: str) -> Tensor:
        value = self.values.get(name)
        if not isinstance(value, Tensor):
            held = ", ".join(sorted(self.values)) or "nothing"
            raise self.place.refuse(f"{self.file} has no tensor {name}, only {held}", "restore that file, or name its format")
        if value.is_sparse or value.is_quantized or value.is_complex():
            raise self.place.refuse(f"{name} in {self.file} is no plain dense tensor", "restore that file")
        return value

    def dtype_note(self) -> str:
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in self.dtypes))
        return "stored and computed in float32" if names == "float32" else f"stored in {names}, computed in float32"


@torch.no_grad()
def assemble(
    W_enc: Float[Tensor, "d_in latent"], b_enc: Float[Tensor, " latent"], W_dec: Float[Tensor, "latent d_out"], b_dec: Float[Tensor, " d_out"], *,
    subtract_b_dec: bool, threshold: Float[Tensor, " latent"] | float | None = None, k: int | None = None, W_skip: Float[Tensor, "d_in d_out"] | None = None,
) -> Sae:
    """An SAE of these weights; where b_dec is subtracted beside a skip connection, that is moved into b_enc."""
    into_bias = subtract_b_dec and W_skip is not None
    d_in, n_latents = W_enc.shape
    sae = Sae(d_in, n_latents, subtract_b_dec and not into_bias, d_out=W_dec.shape[1], k=k, skip=W_skip is not None).requires_grad_(False)
    sae.W_enc.copy_(W_enc)
    sae.W_dec.copy_(W_dec)
    sae.b_dec.copy_(b_dec)
    sae.b_enc.copy_(b_enc - b_dec @ W_enc if into_bias else b_enc)
    if isinstance(threshold, Tensor):
        sae.threshold.copy_(threshold)
    elif threshold is not None:
        sae.threshold.fill_(threshold)
    if sae.W_skip is not None and W_skip is not None:
        sae.W_skip.copy_(W_skip)
    return sae


def check_k(place: Place, k: int, n_latents: int) -> int:
    """k as a number of latents.

    Raises:
        SaeError: when it is not one.
    """
    if not 1 <= k <= n_latents:
        raise place.refuse(f"k = {k} of {n_latents} latents", f"give k from 1 to {n_latents}")
    return k


def without_negative_gates(place: Place, threshold: Float[Tensor, " latent"]) -> Float[Tensor, " latent"]:
    """Thresholds of a library that lets pass what exceeds them without a ReLU: below 0 that would be negative activations.

    Raises:
        SaeError: when there are such.
    """
    n_negative = int((threshold < 0).sum())
    if n_negative:
        raise place.refuse(f"{n_negative} thresholds lie below 0, where its library lets negative activations pass; an SAE here has none",
                           "set them to 0 if that is meant, and save it again")
    return threshold
