"""Another library in an environment of its own: a driver script runs there on case folders; where the environment is missing, tests skip aloud."""

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = {"saelens": ".venv-peers", "sparsify": ".venv-bench-sparsify", "dictionary_learning": ".venv-bench-dictionarylearning"}


def run_driver(library: str, driver: str, cases: Sequence[Path]) -> str:
    """Run a driver of this folder on cases with the library's own Python; returns what it printed."""
    python = ROOT / ENVIRONMENTS[library] / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{library} is not installed ({ENVIRONMENTS[library]}): run `make peers`")
    command = [str(python), str(Path(__file__).with_name(driver)), *map(str, cases)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="session", name="run_driver")
def run_driver_fixture() -> Callable[[str, str, Sequence[Path]], str]:
    return run_driver
