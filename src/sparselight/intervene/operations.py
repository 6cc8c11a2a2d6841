"""Operations of edits: what each makes of a latent's activation.

Every operation is affine in the activation, z' = gain * z + offset, so that edits that differ from row to row are still one matrix product.
Owns: the table, amounts in units of a latent's own scale. Refuses: unknown operations and units, amounts that mean nothing to an operation, a unit whose
reference value nobody measured, swaps without values.
"""

import math
import re
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sparselight.errors import ConfigError, nearest
from sparselight.records import Edit
from sparselight.vocab import EDIT_OPERATIONS

UNITS = ("absolute", "max", "mean", "active_mean", "q99")
QUANTILE = re.compile(r"q(\d{1,2}(?:\.\d+)?|100)")


class Affine(NamedTuple):
    """z' = gain * z + offset; a row for all tokens, or one for each token of an example in order."""

    gain: Float[Tensor, " latent"]
    offset: Float[Tensor, "row latent"]


# Each takes the amounts of the latents, of `swap` one row a token.
OPERATIONS: dict[str, Callable[[Tensor], Affine]] = {
    "ablate": lambda a: Affine(torch.zeros_like(a[0]), torch.zeros_like(a)),
    "ablate_mean": lambda a: Affine(torch.zeros_like(a[0]), a),
    "clamp": lambda a: Affine(torch.zeros_like(a[0]), a),
    "scale": lambda a: Affine(a[0], torch.zeros_like(a)),
    "add": lambda a: Affine(torch.ones_like(a[0]), a),
    "swap": lambda a: Affine(torch.zeros_like(a[0]), a),
}
assert OPERATIONS.keys() == EDIT_OPERATIONS.keys()
WITH_AMOUNT = ("clamp", "scale", "add")
WITH_UNIT = ("clamp", "add")


def affine(edit: Edit) -> Affine:
    """What an edit does to its latents, in their order."""
    if edit.operation == "swap":
        amounts = torch.tensor(edit.values, dtype=torch.float32)
    elif edit.operation == "ablate_mean":
        amounts = torch.tensor([edit.scales], dtype=torch.float32)
    elif edit.unit == "absolute":
        amounts = torch.full((1, len(edit.latents)), edit.amount, dtype=torch.float32)
    else:
        amounts = edit.amount * torch.tensor([edit.scales], dtype=torch.float32)
    return OPERATIONS[edit.operation](amounts)


def unit_of(edit: Edit) -> str:
    """The reference value that an edit needs of its latents; `absolute` for none."""
    return "mean" if edit.operation == "ablate_mean" else edit.unit


def check_operation(edit: Edit, asked: str) -> None:
    """Refuse an operation, an amount or a unit that cannot be honored.

    Raises:
        ConfigError: naming the value.
    """
    if edit.operation not in OPERATIONS:
        raise ConfigError(asked=f"apply an edit with operation = {edit.operation!r}", why="there is no such operation",
                          instead=nearest(edit.operation, OPERATIONS))
    if not math.isfinite(edit.amount):
        raise ConfigError(asked=asked, why=f"the amount {edit.amount} is not finite", instead="give a number")
    if edit.amount and edit.operation not in WITH_AMOUNT:
        raise ConfigError(asked=asked, why=f"{edit.operation} takes no amount, and amount = {edit.amount:g}",
                          instead="leave the amount out, or use clamp, scale or add")
    check_unit(edit.unit, asked)
    if edit.unit != "absolute" and edit.operation not in WITH_UNIT:
        raise ConfigError(asked=asked, why=f"{edit.operation} is measured in nothing, and unit = {edit.unit!r}",
                          instead="leave unit out, or use clamp or add")
    if unit_of(edit) != "absolute":
        _check_scales(edit, asked)
    if edit.operation == "swap":
        _check_values(edit, asked)


def check_unit(unit: str, asked: str) -> None:
    """Refuse an unknown unit.

    Raises:
        ConfigError: offering the nearest.
    """
    if unit not in UNITS and not QUANTILE.fullmatch(unit):
        raise ConfigError(asked=asked, why=f"there is no unit {unit!r}", instead=f"{nearest(unit, UNITS)} (qNN is a quantile of the latent's firings)")


def _check_scales(edit: Edit, asked: str) -> None:
    unit = unit_of(edit)
    if len(edit.scales) != len(edit.latents):
        measured = "nobody measured that" if not edit.scales else f"{len(edit.scales)} are given for {len(edit.latents)} latents"
        raise ConfigError(asked=asked, why=f"it needs the {unit} of each latent's activations (edit.scales), and {measured}",
                          instead="call measure_scales(edit, coder, rows of activations), take the edit from open_run(...).edit, or use unit = 'absolute'")
    for latent, scale in zip(edit.latents, edit.scales, strict=True):
        if not math.isfinite(scale) or (scale <= 0 and edit.operation != "ablate_mean"):
            raise ConfigError(asked=asked, why=f"the {unit} of latent {latent} is {scale:g}", instead="measure it on tokens at which the latent fires")


def _check_values(edit: Edit, asked: str) -> None:
    if not edit.values:
        raise ConfigError(asked=asked, why="a swap needs the activations of another example (edit.values)", instead="make it with swap_edit(...)")
    for row in edit.values:
        if len(row) != len(edit.latents) or not all(map(math.isfinite, row)):
            raise ConfigError(asked=asked, why=f"a row of edit.values does not hold {len(edit.latents)} finite numbers, one a latent",
                              instead="make it with swap_edit(...)")
