"""Find the build of the CPU kernels that this processor can run, and load it onto the threads that PyTorch has already.

SPARSELIGHT_CPU names another instruction set than the widest (a name of build.py), for checks. Threads come from PyTorch's own OpenMP
runtime, because a second one would spin against it; where none is found everything runs on one thread.
"""

import ctypes
import ctypes.util
import os
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from sparselight.kernels.cpu import build

VARIABLE = "SPARSELIGHT_CPU"
REBUILD = "python -m sparselight.kernels.cpu.build"
RUNTIMES = r"lib(gomp|omp|iomp5)\b[^/]*\.(so|dylib)[^/]*"


class Library(NamedTuple):
    """The kernels as loaded."""

    isa: str
    functions: ctypes.CDLL
    runtime: str | None
    """File of the OpenMP runtime whose threads are used."""


class NotAvailable(Exception):  # noqa: N818  (not an error: the pure PyTorch path takes over)
    """Why the kernels cannot run here."""


@cache
def library() -> Library:
    """Load the kernels.

    Raises:
        NotAvailable: when nothing was built, or what was asked for cannot run here.
    """
    generic = open_library("generic")
    wanted = os.environ.get(VARIABLE, "")
    usable = [isa for isa in build.instruction_sets() if build.library(isa).exists() and generic.sl_supports(isa.encode())]
    if wanted and wanted not in usable:
        raise NotAvailable(f"{VARIABLE}={wanted}: this machine and build offer {', '.join(usable)}")
    isa = wanted or usable[-1]
    functions = open_library(isa)
    if functions.sl_supports(isa.encode()) != 1:  # also asks for the tile registers, on behalf of this process
        raise NotAvailable(f"the processor refuses {isa}")
    runtime = find_runtime()
    if runtime is not None:
        functions.sl_set_runtime(ctypes.cast(ctypes.CDLL(runtime).GOMP_parallel, ctypes.c_void_p))
    return Library(isa, functions, runtime)


def open_library(isa: str) -> ctypes.CDLL:
    path = build.library(isa)
    if not path.exists():
        raise NotAvailable(f"they were not built at installation; with a C++ compiler: {REBUILD}")
    try:
        functions = ctypes.CDLL(str(path))
        functions.sl_fingerprint.restype = ctypes.c_char_p
        is_current = functions.sl_fingerprint() == build.fingerprint().encode()
    except (OSError, AttributeError) as err:
        raise NotAvailable(f"{path.name} does not load ({err}); to make it again: {REBUILD}") from err
    if not is_current:
        raise NotAvailable(f"{path.name} was built from other sources; to make it again: {REBUILD}")
    declare(functions)
    return functions


def find_runtime() -> str | None:
    """The OpenMP runtime that PyTorch computes with: its own, else one that is in memory, else the system's."""
    for path in [*bundled_runtimes(), *mapped_runtimes(), *filter(None, (ctypes.util.find_library(name) for name in ("gomp", "omp")))]:
        try:
            ctypes.CDLL(path).GOMP_parallel  # noqa: B018
        except (OSError, AttributeError):
            continue
        return path
    return None


def bundled_runtimes() -> list[str]:
    folder = Path(torch.__file__).parent
    return sorted(str(path) for place in (folder / "lib", folder.parent / "torch.libs") if place.is_dir() for path in place.iterdir()
                  if re.fullmatch(RUNTIMES, path.name))


def mapped_runtimes() -> list[str]:
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return sorted({line.split(maxsplit=5)[5] for line in lines if re.search(rf"/{RUNTIMES}$", line)})


def declare(functions: ctypes.CDLL) -> None:
    """Argument types of everything that is called."""
    pointer, long, integer, text = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_char_p
    signatures: dict[str, tuple[type | None, list]] = {
        "sl_supports": (integer, [text]),
        "sl_set_runtime": (None, [pointer]),
        "sl_formats": (integer, []),
        "sl_decode": (integer, [pointer, pointer, pointer, long, pointer, long, pointer, long, pointer, integer]),
        "sl_decode_gradient": (integer, [pointer, pointer, pointer, long, pointer, long, pointer, long, pointer, integer]),
        "sl_suffix_sums": (integer, [pointer, long, long, pointer, integer]),
        "sl_sort_by_latent": (integer, [pointer, long, long, pointer, pointer]),
        "sl_weight_gradients": (integer, [pointer]),
        "sl_adam": (integer, [pointer]),
        "sl_grad_square": (integer, [pointer, pointer, long, long, integer, pointer, integer]),
        "sl_packed_bytes": (long, [integer, long, long]),
        "sl_topk": (integer, [pointer]),
        "sl_above": (pointer, [pointer]),
        "sl_found_take": (integer, [pointer, long, long, long, pointer, pointer, pointer]),
        "sl_found_free": (None, [pointer]),
        "sl_nearest": (integer, [pointer]),
        "sl_take_rows": (long, [pointer]),
        "sl_permute": (None, [pointer]),
        "sl_pack": (integer, [pointer, long, long, integer, pointer, integer]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(functions, name)
        function.restype, function.argtypes = result, arguments
