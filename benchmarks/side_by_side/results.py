"""benchmarks/results/train_step.json: one entry a measurement, replaced when the same is measured again on the same device."""

import datetime
import json
import os
import platform
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "results" / "train_step.json"
KEY = ("device", "mode", "kind", "state", "shape", "d_in", "n_latents", "k", "batch", "precision", "autocast")
Entry = dict[str, Any]


def load(path: Path = RESULTS) -> list[Entry]:
    return json.loads(path.read_text(encoding="utf-8"))["entries"] if path.exists() else []


def save(entry: Entry, path: Path = RESULTS) -> None:
    """Put an entry in its place."""
    entries = [other for other in load(path) if key(other) != key(entry)]
    entries = sorted([*entries, entry], key=lambda each: json.dumps(key(each)))
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps({"format": 1, "entries": entries}, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def key(entry: Entry) -> list[Any]:
    return [entry.get(name) for name in KEY]


def machine(device_name: str | None, torch_version: str, threads: int) -> dict[str, Any]:
    """What a reader must know of where it ran."""
    return {
        "processor": processor(), "cores": os.cpu_count(), "gpu": device_name, "torch": torch_version, "threads": threads, "system": platform.system(),
        "python": platform.python_version(), "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def processor() -> str:
    """The processor's model, with what decides which kernels run on it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    found = [title for flag, title in (("avx512f", "AVX-512"), ("avx512_vnni", "VNNI"), ("avx512_bf16", "BF16"), ("amx_bf16", "AMX")) if flag in flags]
    return f"{model} ({', '.join(found)})" if found else model
