"""Every invariant names a test, and that test exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROWS = [line for line in (ROOT / "docs" / "invariants.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
LINES = ROWS[2:]  # after the head and its rule


def test_there_are_invariants() -> None:
    assert len(LINES) >= 8


def test_every_invariant_names_tests_that_exist() -> None:
    for line in LINES:
        tests = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", line)
        assert tests, f"no test in: {line}"
        for path, name in tests:
            assert (ROOT / path).is_file(), f"{path} does not exist"
            assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.M), f"{path} has no test {name}"
