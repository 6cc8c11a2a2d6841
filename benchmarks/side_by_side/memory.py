"""Peak memory of a process, or of its GPU, above what it held when the measurement began."""

import contextlib
import resource
import sys
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Memory:
    """Begins at what is held now: libraries imported, data loaded."""

    def __init__(self, device: str):
        self.device = device
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
            return
        forget_peak()
        self.before = resident()

    def peak(self) -> int:
        return (torch.cuda.max_memory_allocated() if self.device == "cuda" else highest()) - self.before


def forget_peak() -> None:
    """Let Linux begin its high-water mark again; an import can reach higher than what it leaves. Elsewhere the mark of the start stays."""
    with contextlib.suppress(OSError):
        CLEAR.write_text("5")


def resident() -> int:
    return _status_bytes("VmRSS") or highest()


def highest() -> int:
    """Of this process in its life, or since forget_peak."""
    unit = 1 if sys.platform == "darwin" else 1024
    return _status_bytes("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status_bytes(name: str) -> int | None:
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)
