"""The safetensors file format, written and read in place: no copy of a shard in memory, a checksum while writing.

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

NUMPY: dict[str, np.dtype] = {  # bfloat16 as its 16 bits
    "BF16": np.dtype("<u2"), "F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "I8": np.dtype("i1"), "U32": np.dtype("<u4"),
}


class Region(NamedTuple):
    """Where a tensor lies in a file."""

    dtype: str
    """A key of NUMPY."""
    shape: tuple[int, ...]
    offset_bytes: int

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * NUMPY[self.dtype].itemsize

    @property
    def end_bytes(self) -> int:
        return self.offset_bytes + self.shape[0] * self.row_bytes


def write_tensors(path: Path, tensors: Mapping[str, tuple[str, np.ndarray]]) -> tuple[str, int]:
    """Write contiguous arrays, each with its safetensors type, as one file.

    Returns:
        SHA-256 and number of the bytes handed to the file system.
    """
    text = make_header({name: (dtype, array.shape) for name, (dtype, array) in tensors.items()})
    digest, n_bytes = hashlib.sha256(), 0
    with path.open("wb") as handle:
        for content in (np.frombuffer(text, np.uint8), *(array.reshape(-1).view(np.uint8) for _, array in tensors.values())):
            handle.write(content.data)
            digest.update(content.data)
            n_bytes += content.size
    return digest.hexdigest(), n_bytes


def make_header(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> bytes:
    """The first bytes of a file with tensors of these types and shapes, in this order, without gaps."""
    header, offset = {}, 0
    for name, (dtype, shape) in tensors.items():
        end = offset + math.prod(shape) * NUMPY[dtype].itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


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
        regions = parse_header(handle.read(start - 8))
    expected = max((region.end_bytes for region in regions.values()), default=start)
    if n_bytes < expected:
        raise ValueError(f"it is truncated: it has {n_bytes} of {expected} bytes")
    return regions


def parse_header(text: bytes) -> dict[str, Region]:
    """The regions that a header (without its length) names.

    Raises:
        ValueError: when it is not the header of a file of ours.
    """
    start = 8 + len(text)
    try:
        entries = {name: entry for name, entry in json.loads(text).items() if name != "__metadata__"}
        ends = {name: start + entry["data_offsets"][1] for name, entry in entries.items()}
        regions = {name: Region(entry["dtype"], tuple(entry["shape"]), start + entry["data_offsets"][0]) for name, entry in entries.items()}
        known = all(region.dtype in NUMPY and region.shape and region.end_bytes == ends[name] for name, region in regions.items())
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise ValueError("its header is not that of a safetensors file") from None
    if not known:
        raise ValueError("its header is not that of a safetensors file of this store")
    return regions
