"""Which PyTorch `make setup` asks for, and where."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_env.py"


@pytest.fixture(scope="module")
def make_env() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_env", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_on_linux_the_cpu_builds_come_first_and_fail_fast(make_env: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("SPARSELIGHT_TORCH", raising=False)
    first, second = make_env.torch_attempts()
    assert first[:3] == [make_env.TORCH, "--index-url", make_env.CPU_INDEX]
    assert "--retries" in first
    assert second == [make_env.TORCH]


@pytest.mark.parametrize(("platform", "variables", "wanted"), [
    ("darwin", {}, ["torch==2.13.0"]),
    ("linux", {"CI": "true"}, ["torch==2.13.0"]),
    ("linux", {"SPARSELIGHT_TORCH": "torch==2.9.0 --index-url https://example.org/cu128"}, ["torch==2.9.0", "--index-url", "https://example.org/cu128"]),
    ("linux", {"CI": "true", "SPARSELIGHT_TORCH": "torch"}, ["torch"]),
])
def test_one_spec_where_one_is_set(make_env: ModuleType, monkeypatch: pytest.MonkeyPatch, platform: str, variables: dict[str, str], wanted: list[str]) -> None:
    monkeypatch.setattr("sys.platform", platform)
    for name in ("CI", "SPARSELIGHT_TORCH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert make_env.torch_attempts() == [wanted]
