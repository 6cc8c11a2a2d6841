"""Make the virtual environment of a Makefile target: `python scripts/make_env.py {dev,peers,bench-*}`. Standard library only.

PyTorch comes first, on its own, because the plain index gives Linux users gigabytes of CUDA libraries that nothing here needs: the
index of CPU builds is tried, then the plain one. SPARSELIGHT_TORCH (what `pip install` takes) or CI=true go straight to one spec.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036  (this script is what tells a user of an older Python)
    sys.exit(f"sparselight needs Python 3.11 or newer, {sys.executable} is {sys.version.split()[0]}. Name another: make PYTHON=python3.12 ...")

ROOT = Path(__file__).resolve().parents[1]
TORCH = "torch==2.13.0"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# What `pip install` takes for each environment, call by call. The bench-* ones hold one library each that the benchmarks measure beside ours;
# two of them come without dependencies that only their language or vision models need (nnsight, torchvision, timm): see benchmarks/side_by_side.
REQUIREMENTS = {
    "dev": [["-e", f"{ROOT}[dev]"]],
    "peers": [["-r", str(ROOT / "tests" / "peers" / "requirements.txt")]],
    "bench-saelens": [["sae-lens==6.54.12"], ["--no-deps", "sae-bench==0.6.0"], ["collectibles", "tabulate"]],  # SAEBench builds on SAELens
    "bench-dictionarylearning": [["--no-deps", "dictionary-learning==0.1.0"], ["einops", "numpy", "tqdm"]],
    "bench-sparsify": [["eai-sparsify==1.3.3"]],
    "bench-overcomplete": [["--no-deps", "overcomplete==0.3.0"],
                           ["einops", "matplotlib", "opencv-python-headless", "scikit-image", "scikit-learn>=1.2,<2", "scipy", "tqdm"]],
}
FOLDERS = {name: ROOT / (".venv" if name == "dev" else f".venv-{name}") for name in REQUIREMENTS}


def make_env(name: str) -> None:
    """Make or complete an environment; what is installed already is kept."""
    folder = FOLDERS[name]
    python = folder / "bin" / "python"
    if not runs_this_version(python):
        run([sys.executable, "-m", "venv", "--clear", str(folder)])
    if not has_torch(python):
        install_torch(python)
    for arguments in REQUIREMENTS[name]:
        run([*pip(python), *arguments])


def runs_this_version(python: Path) -> bool:
    """Whether the environment is there and whole, and of the Python that runs this script."""
    code = "import pip, sys; print(sys.version_info[:2])"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False) if python.exists() else None
    return done is not None and done.stdout.strip() == str(sys.version_info[:2])


def has_torch(python: Path) -> bool:
    code = "import importlib.metadata as m; print(m.version('torch').partition('+')[0])"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    return "SPARSELIGHT_TORCH" not in os.environ and done.stdout.strip() == TORCH.partition("==")[2]


def install_torch(python: Path) -> None:
    for arguments in torch_attempts():
        print(f"installing {' '.join(arguments)}", flush=True)
        if subprocess.run([*pip(python), *arguments], check=False).returncode == 0:
            return
    sys.exit(f"cannot install PyTorch: no index has it. Instead: set SPARSELIGHT_TORCH to what `pip install` needs here, for example {TORCH!r}.")


def torch_attempts() -> list[list[str]]:
    """Arguments of `pip install`, in the order in which they are tried."""
    spec = os.environ.get("SPARSELIGHT_TORCH", "")
    if spec:
        return [shlex.split(spec)]
    if os.environ.get("CI") == "true" or sys.platform != "linux":
        return [[TORCH]]
    return [[TORCH, "--index-url", CPU_INDEX, "--retries", "0", "--timeout", "5"], [TORCH]]


def pip(python: Path) -> list[str]:
    quiet = [] if sys.stdout.isatty() else ["--quiet"]
    return [str(python), "-m", "pip", "install", "--disable-pip-version-check", *quiet]


def run(command: list[str]) -> None:
    print(" ".join(command), flush=True)
    done = subprocess.run(command, check=False)
    if done.returncode != 0:
        sys.exit(f"that command failed (exit code {done.returncode}). Instead: mend what it names above and call make again; it goes on from here.")


if __name__ == "__main__":
    if sys.argv[1:] not in ([name] for name in FOLDERS):
        sys.exit(f"usage: {sys.argv[0]} {{{','.join(FOLDERS)}}}")
    make_env(sys.argv[1])
