"""Python snippets in the docs parse, and what they take from sparselight exists and is public."""

import ast
import importlib
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```python[^\n]*\n(.*?)^```", re.S | re.M)
SNIPPETS = [
    pytest.param(code, id=f"{path.relative_to(ROOT)}:{number}")
    for path in [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
    for number, code in enumerate(FENCE.findall(path.read_text(encoding="utf-8")), 1)
]


@pytest.mark.parametrize("code", SNIPPETS)
def test_snippet(code: str) -> None:
    assert missing_names(code) == []


def missing_names(code: str) -> list[str]:
    """What a snippet takes from sparselight that does not exist or is private."""
    tree, aliases, faults = ast.parse(code), {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "sparselight":
            faults += [fault for alias in node.names for fault in _lookup(node.module or "", alias.name)]
        elif isinstance(node, ast.Import):
            aliases |= {alias.asname or alias.name: alias.name for alias in node.names if alias.name.partition(".")[0] == "sparselight"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
            faults += _lookup(aliases[node.value.id], node.attr)
    return faults


def _lookup(module: str, name: str) -> list[str]:
    if any(part.startswith("_") for part in [*module.split("."), name]):
        return [f"{module}.{name} is private"]
    try:
        found = importlib.import_module(module)
    except ImportError as err:
        return [str(err)]
    public = getattr(found, "__all__", None)
    is_public = name in public if public is not None else hasattr(found, name)
    return [] if is_public or _is_module(f"{module}.{name}") else [f"{module} has no public {name}"]


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False


@pytest.mark.parametrize(("code", "fault"), [
    ("import sparselight as sl\nsl.load_subjects('demo')", "load_subjects"),
    ("from sparselight.sae import Sea", "Sea"),
    ("from sparselight.nowhere import x", "nowhere"),
    ("from sparselight.api import _evaluate", "private"),
])
def test_a_wrong_snippet_is_seen(code: str, fault: str) -> None:
    assert any(fault in line for line in missing_names(code))
