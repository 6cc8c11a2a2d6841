"""The safetensors file format, read and written in place: no copy of a shard in memory, a checksum while writing.

Format (https://github.com/huggingface/safetensors#format): 8 bytes little-endian header length, a JSON header
{name: {dtype, shape, data_offsets}} padded with spaces to a multiple of 8, then the tensors' bytes, row-major. Refuses: a header that
is not JSON, lies outside the file, or names a type other than ours.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

NAMES: dict[torch.dtype, str] = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
NUMPY: dict[str, np.dtype] = {"BF16": np.dtype("<u2"), "F16": np.dtype("<f2"), "F32": np.dtype("<f4")}


class Region(NamedTuple):
    """Where a tensor lies in a file."""

    dtype: str
    """BF16, F16 or F32."""
    shape: tuple[int, ...]
    offset_bytes: int


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write contiguous CPU tensors as one safetensors file.

    Returns:
        SHA-256 of the bytes handed to the file system.
    """
    header, offset = {}, 0
    for name, tensor in tensors.items():
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    contents: list[bytes | memoryview] = [len(text).to_bytes(8, "little"), text, *(_bytes_of(tensor) for tensor in tensors.values())]
    digest = hashlib.sha256()
    with path.open("wb") as handle:
        for content in contents:
            handle.write(content)
            digest.update(content)
    return digest.hexdigest()


def read_header(path: Path) -> dict[str, Region]:
    """Read where each tensor of a file lies.

    Raises:
        ValueError: when the file is truncated or is not safetensors.
    """
    n_bytes = path.stat().st_size
    with path.open("rb") as handle:
        start = 8 + int.from_bytes(handle.read(8), "little")
        if n_bytes < 8 or start > n_bytes:
            raise ValueError(f"it is truncated: its {n_bytes} bytes do not hold the header")
        try:
            header = json.loads(handle.read(start - 8))
            regions = {
                name: (Region(entry["dtype"], tuple(entry["shape"]), start + entry["data_offsets"][0]), start + entry["data_offsets"][1])
                for name, entry in header.items() if name != "__metadata__"
            }
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            raise ValueError("its header is not that of a safetensors file") from None
    for region, end in regions.values():
        if region.dtype not in NUMPY or region.offset_bytes + math.prod(region.shape) * NUMPY[region.dtype].itemsize != end:
            raise ValueError("its header is not that of a safetensors file of this store")
    expected = max((end for _, end in regions.values()), default=start)
    if n_bytes < expected:
        raise ValueError(f"it is truncated: it has {n_bytes} of {expected} bytes")
    return {name: region for name, (region, _) in regions.items()}


def map_tensor(path: Path, region: Region) -> np.ndarray:
    """Map a tensor read-only; bfloat16 comes as its 16 bits in uint16."""
    return np.memmap(path, NUMPY[region.dtype], "r", region.offset_bytes, region.shape)


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data
