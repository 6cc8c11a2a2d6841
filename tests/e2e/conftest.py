"""One finished small run that the tests of this folder look at."""

import json
from pathlib import Path

import pytest
from small_run import overrides, run_command


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A finished small run: its folder and the JSON result that the command printed."""
    out = tmp_path_factory.mktemp("runs") / "small"
    done = run_command("run", "demo", "--out", str(out), "--json", *overrides())
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout)
