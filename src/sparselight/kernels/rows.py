"""What reading rows of a store needs of the compiled kernels: which rows a shuffled batch holds, and their values in one pass from memory-mapped files.

There is no second implementation behind these: who calls them asks `available` first and has a way of his own (store/permutation.py, store/reader.py).
"""

import ctypes

import numpy as np
from jaxtyping import Int

from sparselight.kernels.cpu.loader import NotAvailable, library

VALUE_BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}  # number formats that it reads


class TakeRowsCall(ctypes.Structure):
    """`TakeRows` of rows.cpp."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("values", "sums", "scale", "rows", "targets")),
        *((name, ctypes.c_int64) for name in ("n", "d", "row_bytes")),
        ("number_factor", ctypes.c_uint32), ("value_bytes", ctypes.c_int32),
    ]


class PermuteCall(ctypes.Structure):
    """`Permute` of rows.cpp."""

    _fields_ = [
        ("keys", ctypes.c_void_p), ("values", ctypes.c_void_p), ("count", ctypes.c_int64), ("n", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("n_rounds", "width_left", "width_right")),
    ]


def permute(values: Int[np.ndarray, " position"], n: int, keys: np.ndarray, widths: tuple[int, int]) -> None:
    """Positions of an order of n things become its elements, in place (int64, contiguous): `Permutation` of store/permutation.py, bit for bit."""
    keys = np.ascontiguousarray(keys, np.uint64)
    library().functions.sl_permute(ctypes.byref(PermuteCall(keys.ctypes.data, values.ctypes.data, len(values), n, len(keys), *widths)))


def available(dtype: str = "float32") -> bool:
    """Whether the compiled kernels run here and read rows of this number format."""
    if dtype not in VALUE_BYTES:
        return False
    try:
        library()
    except NotAvailable:
        return False
    return True


def take_rows(
    values: int, sums: int | None, scale: int | None, rows: Int[np.ndarray, " row"], targets: Int[np.ndarray, " row"], d: int, dtype: str, number_factor: int,
) -> int:
    """Write rows as float32, each to its own address, on the calling thread and without holding the interpreter.

    Args:
        values: address of the first row.
        sums: address of one checksum a row (uint32: the sum of its words, of its scale's bits and of (number + 1) * number_factor), or None to check nothing.
        scale: address of one factor a row, of int8.
        rows: which rows, ascending.
        targets: addresses of d floats for each of them.

    Returns:
        How many rows do not match their checksums; they are written all the same.
    """
    rows, targets = np.ascontiguousarray(rows, np.int64), np.ascontiguousarray(targets, np.int64)
    call = TakeRowsCall(values, sums, scale, rows.ctypes.data, targets.ctypes.data, len(rows), d, d * VALUE_BYTES[dtype], number_factor, VALUE_BYTES[dtype])
    return library().functions.sl_take_rows(ctypes.byref(call))
