"""Edits: from an operation on latents to a function that replaces activations.

Owns: the operations of `vocab.EDIT_OPERATIONS` and the error-preserving splice. Refuses: unknown operations, latents that the
dictionary does not have, a dictionary that was trained at another site, amounts that are not finite.
"""

import math
from collections.abc import Callable
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparselight.errors import ConfigError, nearest
from sparselight.protocols import Codes, EditFunction, SparseCoder
from sparselight.records import Edit
from sparselight.vocab import EDIT_OPERATIONS


class Dictionary(SparseCoder, Protocol):
    """A sparse coder with one decoder direction a latent."""

    @property
    def W_dec(self) -> Tensor: ...  # [latent, d_in]  # noqa: N802


# Each takes the latents' activations [token latent] and the edit's amount.
OPERATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "ablate": lambda z, _amount: torch.zeros_like(z),
    "clamp": torch.full_like,
    "scale": lambda z, amount: z * amount,
    "add": lambda z, amount: z + amount,
}
assert OPERATIONS.keys() == EDIT_OPERATIONS.keys()


def edit_function(edit: Edit, coder: Dictionary) -> EditFunction:
    """The function that applies an edit to activations.

    Error-preserving splice: x' = x + (z' - z) @ W_dec, where z are the latents that the dictionary finds in x and z' the edited
    ones. What the dictionary does not explain, x - decode(z), stays as it is (Marks et al. 2024, "Sparse Feature Circuits", error
    terms; Templeton et al. 2024, "Scaling Monosemanticity", feature steering), and tokens whose latents do not change keep their
    bits. `clamp` and `add` act on every counted token, `ablate` and `scale` only where a latent fires. An edit without latents
    gives back x itself.

    Raises:
        ConfigError: when the edit does not fit the dictionary.
    """
    check_edit(edit, coder)
    if not edit.latents:
        return lambda x: x
    latents = torch.tensor(sorted(set(edit.latents)))
    operation, directions = OPERATIONS[edit.operation], coder.W_dec.detach()[latents.to(coder.W_dec.device)]

    def apply(x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        with torch.no_grad():
            z = gather_latents(coder.encode(x.to(directions.device)), latents)
            change = operation(z, edit.amount) - z
            tokens = change.any(1).nonzero()[:, 0]
            if not len(tokens):
                return x
            return x.index_add(0, tokens.to(x.device), (change[tokens] @ directions.to(change.dtype)).to(x))

    return apply


def gather_latents(codes: Codes, latents: Int[Tensor, " chosen"]) -> Float[Tensor, "token chosen"]:
    """Activations of a few latents (ascending indices) as a dense matrix."""
    latents = latents.to(codes.latents.device)
    column = torch.searchsorted(latents, codes.latents.to(latents.dtype)).clamp(max=len(latents) - 1)
    wanted = latents[column] == codes.latents
    dense = codes.values.new_zeros(codes.n_tokens, len(latents))
    return dense.index_put((codes.tokens()[wanted], column[wanted]), codes.values[wanted])


def check_edit(edit: Edit, coder: Dictionary) -> None:
    """Refuse an edit that the dictionary cannot honour.

    Raises:
        ConfigError: naming the value.
    """
    asked = f"{edit.operation} latents at {edit.site}"
    if edit.operation not in OPERATIONS:
        raise ConfigError(asked=f"apply an edit with operation = {edit.operation!r}", why="there is no such operation",
                          instead=nearest(edit.operation, OPERATIONS))
    outside = [latent for latent in edit.latents if not 0 <= latent < coder.n_latents]
    if outside:
        raise ConfigError(asked=asked, why=f"latent {outside[0]} is out of range, the dictionary has {coder.n_latents} latents",
                          instead=f"give latents from 0 to {coder.n_latents - 1}")
    if not math.isfinite(edit.amount):
        raise ConfigError(asked=asked, why=f"the amount {edit.amount} is not finite", instead="give a number")
    record = getattr(coder, "record", None)
    if record is not None and record.site != edit.site:
        raise ConfigError(asked=asked, why=f"the dictionary was trained at {record.site}",
                          instead=f"edit at {record.site}, or load a dictionary of {edit.site}")
    if getattr(coder, "is_transcoder", False):
        raise ConfigError(asked=asked, why="the dictionary is a transcoder: its directions belong to other activations than those it reads",
                          instead=f"load an SAE of {edit.site} that was trained without train.target_site")
