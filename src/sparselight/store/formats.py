"""How rows of activations stand on disk: number formats, their rounding error, and a checksum a row.

Per site a shard holds `SITE` [token, d_in], for int8 `SITE.row_scale` [token], and `SITE.row_sum` [token]. A row's checksum is the sum of
its bytes as 32-bit words, of its scale and of a multiple of its number, modulo 2^32: every flipped bit and every zeroed or displaced row
changes it, and checking costs a twentieth of the read. Shards of version 1 have no sums.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparselight.records import Rounding
from sparselight.store.tensors import NUMPY, Region, make_header, parse_header

# Name in the settings -> name in safetensors files, type in torch.
FORMATS: dict[str, tuple[str, torch.dtype]] = {
    "bfloat16": ("BF16", torch.bfloat16), "float16": ("F16", torch.float16), "float32": ("F32", torch.float32), "int8": ("I8", torch.int8),
}
INT8_MAX = 127
MEASURE_EVERY = 64  # rows; every 16th would cost 3 % of the harvest of a small model
ROW_NUMBER_FACTOR = np.uint32(2654435761)  # odd and irregular (2^32 / golden ratio), so that neighbouring rows differ in all bits
DECODE_VALUES = 32767  # in one piece: stays in the cache between its two passes, and PyTorch divides only more than that among threads


class StoredRows(NamedTuple):
    """Rows as they stand on disk."""

    values: Int[np.ndarray, "row d_in"] | Float[np.ndarray, "row d_in"]
    """In the type NUMPY[...] of the format."""
    scale: Float[np.ndarray, " row"] | None
    """int8 only: stored value times scale is the activation."""


def value_bytes(dtype: str) -> int:
    return NUMPY[FORMATS[dtype][0]].itemsize


def encode(x: Float[Tensor, "row d_in"], dtype: str) -> tuple[Tensor, Float[Tensor, " row"] | None]:
    """Round activations to a number format. int8: q = round(x / s) with s = max|x| / 127 of the row."""
    if dtype != "int8":
        return x.to(FORMATS[dtype][1]), None
    scale = x.float().abs().amax(1) / INT8_MAX
    inverse = torch.where(scale > 0, 1 / scale, 0).nan_to_num(posinf=0.0)  # rows of zeros, and of values so small that their scale is
    return (x.float() * inverse[:, None]).round_().clamp_(-INT8_MAX, INT8_MAX).to(torch.int8), scale


class RoundingMeter:
    """Adds up what a number format changes, over evenly spaced rows of each batch. Spread: sum ||x||^2 - n ||mean||^2, in float64."""

    def __init__(self, d_in: int):
        self.n, self.total, self.squares, self.error = 0, np.zeros(d_in), 0.0, 0.0

    def add(self, x: Float[Tensor, "row d_in"], values: Tensor, scale: Float[Tensor, " row"] | None) -> None:
        """In NumPy: so few values are added up sooner on one thread than PyTorch's threads are woken."""
        exact = x[::MEASURE_EVERY].cpu().float().numpy().astype(np.float64)
        stored = values[::MEASURE_EVERY].cpu().float().numpy().astype(np.float64)
        if scale is not None:
            stored *= scale[::MEASURE_EVERY].cpu().numpy()[:, None]
        self.n += len(exact)
        self.total += exact.sum(0)
        self.squares += float(np.square(exact).sum())
        self.error += float(np.square(exact - stored).sum())

    def result(self) -> Rounding:
        return Rounding(n_rows=self.n, error=self.error, spread=max(self.squares - float(np.square(self.total).sum()) / max(self.n, 1), 0.0))


def to_numpy(values: Tensor) -> np.ndarray:
    """A contiguous CPU tensor as the array that is written: bfloat16 as its 16 bits. Shares memory."""
    return (values.view(torch.int16) if values.dtype == torch.bfloat16 else values).numpy().view(_numpy_type(values.dtype))


def _numpy_type(dtype: torch.dtype) -> np.dtype:
    return next(NUMPY[name] for name, torch_type in FORMATS.values() if torch_type == dtype)


def from_numpy(values: np.ndarray, dtype: str) -> Tensor:
    """The reverse of to_numpy. Shares memory."""
    return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16) if dtype == "bfloat16" else torch.from_numpy(values)


def row_sums(rows: StoredRows, numbers: Int[np.ndarray, " row"]) -> Int[np.ndarray, " row"]:
    """The checksum of each row; `numbers` counts from the first row of the shard."""
    n_bytes = rows.values.shape[1] * rows.values.itemsize
    word = np.dtype("<u4") if n_bytes % 4 == 0 else np.dtype("<u2") if n_bytes % 2 == 0 else np.dtype("u1")
    sums: np.ndarray = rows.values.view(word).sum(axis=1, dtype=np.uint32) + (numbers.astype(np.uint32) + np.uint32(1)) * ROW_NUMBER_FACTOR
    return sums if rows.scale is None else sums + rows.scale.view("<u4")


def shard_tensors(rows: Mapping[str, StoredRows], dtype: str) -> dict[str, tuple[str, np.ndarray]]:
    """All that one shard's file holds, in order, ready for write_tensors."""
    tensors = {}
    for site, stored in rows.items():
        tensors[site] = (FORMATS[dtype][0], stored.values)
        if stored.scale is not None:
            tensors[f"{site}.row_scale"] = ("F32", stored.scale)
        tensors[f"{site}.row_sum"] = ("U32", row_sums(stored, np.arange(len(stored.values))))
    return tensors


def expected_regions(sites: dict[str, int], dtype: str, n_rows: int) -> dict[str, Region]:
    """Where each tensor of a shard must lie."""
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
    for site, width in sites.items():
        shapes[site] = (FORMATS[dtype][0], (n_rows, width))
        if dtype == "int8":
            shapes[f"{site}.row_scale"] = ("F32", (n_rows,))
        shapes[f"{site}.row_sum"] = ("U32", (n_rows,))
    return parse_header(make_header(shapes)[8:])


def decode_into(rows: StoredRows, order: Int[np.ndarray, " row"] | None, dtype: str, out: Float[Tensor, "row d_in"]) -> None:
    """Write rows as float32: out[i] = rows[order[i]], or rows[i] where there is no order. On one thread: others are waited for longer than this takes."""
    values, scale = from_numpy(rows.values, dtype), None if rows.scale is None else torch.from_numpy(rows.scale)
    step = max(1, DECODE_VALUES // max(1, rows.values.shape[1]))
    piece = np.empty((0 if order is None else min(step, len(order)), rows.values.shape[1]), rows.values.dtype)
    piece_values = from_numpy(piece, dtype)
    for start in range(0, len(out), step):
        target = out[start:start + step]
        if order is None:
            part, part_scale = values[start:start + step], None if scale is None else scale[start:start + step]
        else:
            chosen = order[start:start + step]
            np.take(rows.values, chosen, axis=0, out=piece[:len(chosen)], mode="clip")  # "clip" writes to `out` without a buffer between; all are in range
            part, part_scale = piece_values[:len(chosen)], None if scale is None else scale[torch.from_numpy(chosen)]
        target.copy_(part)
        if part_scale is not None:
            target.mul_(part_scale[:, None])
