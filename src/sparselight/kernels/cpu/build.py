"""Compile the CPU kernels with whatever C++ compiler this machine has: `python -m sparselight.kernels.cpu.build`.

One shared library for each instruction set, so that no inlined function of a wider one can be picked up by a narrower one; which
of them runs is decided when they are loaded. Runs inside the package build as well, so it needs nothing but the standard library.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
SKIP = "SPARSELIGHT_NO_COMPILE"
FLAGS = ["-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti", "-w",
         "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"]  # no other liberty with floats: NaN and infinity keep their meaning
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-mprefer-vector-width=512"]
X86 = {
    "generic": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": AVX512,
    "avx512_vnni": [*AVX512, "-mavx512vnni"],
    "avx512_bf16": [*AVX512, "-mavx512vnni", "-mavx512bf16"],
    "amx": [*AVX512, "-mavx512vnni", "-mavx512bf16", "-mamx-tile", "-mamx-bf16"],
}


def library(isa: str) -> Path:
    """Where the build for an instruction set lies."""
    return HERE / f"sparselight_{isa}.so"


def instruction_sets() -> dict[str, list[str]]:
    """Compiler flags of every instruction set of this architecture, plainest first; other processors have the generic build alone."""
    return X86 if platform.machine().lower() in ("x86_64", "amd64") else {"generic": []}


def fingerprint() -> str:
    """Of the sources and flags; a library carries that of its own, so that one built from other sources is not used by mistake."""
    digest = hashlib.sha256(repr((FLAGS, X86)).encode())
    for path in sources():
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def sources() -> list[Path]:
    return sorted(path for path in HERE.iterdir() if path.suffix in (".cpp", ".hpp"))


def find_compiler() -> list[str] | None:
    """The user's CXX, else the first compiler found."""
    if os.environ.get("CXX"):
        return os.environ["CXX"].split()
    return next(([name] for name in ("c++", "g++", "clang++") if shutil.which(name)), None)


def build() -> dict[str, str | None]:
    """Compile everything that the compiler can.

    Returns:
        For every instruction set None, or why it was left out.
    """
    compiler = find_compiler()
    if os.environ.get(SKIP) == "1":
        return dict.fromkeys(instruction_sets(), f"{SKIP}=1")
    if compiler is None:
        return dict.fromkeys(instruction_sets(), "no C++ compiler was found")
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return dict(zip(instruction_sets(), pool.map(lambda item: compile_one(compiler, *item), instruction_sets().items()), strict=True))


def compile_one(compiler: list[str], isa: str, flags: list[str]) -> str | None:
    """Build one library, moved into place when whole; else what the compiler said."""
    with tempfile.TemporaryDirectory(dir=HERE) as folder:
        made = Path(folder) / "made.so"
        undefined = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
        units = [str(path) for path in sources() if path.suffix == ".cpp"]
        command = [*compiler, *FLAGS, *flags, f'-DSL_FINGERPRINT="{fingerprint()}"', "-shared", *undefined, *units, "-o", str(made)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as err:
            return str(err)
        if done.returncode != 0:
            return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[0]
        made.replace(library(isa))
    return None


if __name__ == "__main__":
    outcome = build()
    for isa, why_not in outcome.items():
        print(f"{isa:<12} {why_not or library(isa)}")
    sys.exit(outcome["generic"] is not None)
