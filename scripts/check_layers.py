"""Check that no stage of src/sparselight imports a later one: `python scripts/check_layers.py [FOLDER]`.

The folder list is the architecture diagram. Every import statement counts, also one inside a function or under TYPE_CHECKING.
`testing` may import anything and nothing imports it; `from sparselight import <public function>` counts as an import of `api`.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = "sparselight"
# From left to right; a module imports its own row and the rows above it.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "files", "places", "config", "vocab", "records", "protocols"),
    ("corpus",), ("select",), ("subjects",), ("kernels",), ("store",), ("sae",), ("train",), ("evaluate",), ("interpret",), ("intervene",), ("report",),
    ("pipeline",), ("serve",), ("api",), ("cli",), ("__init__", "__main__"),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
RANK["testing"] = len(LAYERS)
OPEN_NAMES = {"__version__"}  # of the package itself, free to all


class Offense(NamedTuple):
    """An import that goes the wrong way."""

    path: Path
    line: int
    why: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.why}"


def check_tree(package: Path) -> list[Offense]:
    """All offenses of a package folder, in file order."""
    return [offense for path in sorted(package.rglob("*.py")) for offense in check_file(path, package)]


def check_file(path: Path, package: Path) -> list[Offense]:
    """Offenses of one file."""
    parts = path.relative_to(package).with_suffix("").parts
    stage = parts[0]
    if stage not in RANK:
        return [Offense(path, 1, f"{stage} has no place in LAYERS of scripts/check_layers.py: add it where it belongs")]
    offenses = []
    for line, target in imports(ast.parse(path.read_text(encoding="utf-8"), str(path)), parts, package):
        if target not in RANK:
            offenses.append(Offense(path, line, f"imports {PACKAGE}.{target}, which has no place in LAYERS of scripts/check_layers.py"))
        elif RANK[target] > RANK[stage]:
            offenses.append(Offense(path, line, f"{stage} imports {target}, which stands to its right"))
    return offenses


def imports(tree: ast.Module, parts: tuple[str, ...], package: Path) -> Iterator[tuple[int, str]]:
    """(line, stage) of every import of the package's own modules; `parts` is the importing module's path inside the package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            yield from ((node.lineno, name[1] if len(name) > 1 else "__init__") for name in names if name[0] == PACKAGE)
        elif isinstance(node, ast.ImportFrom):
            module = _absolute(node, parts)
            if module[:1] == [PACKAGE]:
                yield from ((node.lineno, stage) for stage in (_stage(module, alias.name, package) for alias in node.names) if stage)


def _absolute(node: ast.ImportFrom, parts: tuple[str, ...]) -> list[str]:
    module = node.module.split(".") if node.module else []
    if node.level == 0:
        return module
    return [*[PACKAGE, *parts][:-node.level], *module]


def _stage(module: list[str], name: str, package: Path) -> str | None:
    if len(module) > 1:
        return module[1]
    if name in OPEN_NAMES:
        return None
    is_module = name in RANK or (package / name).is_dir() or (package / f"{name}.py").is_file()
    return name if is_module else "api"


def main(arguments: list[str]) -> int:
    package = Path(arguments[0]) if arguments else Path(__file__).resolve().parents[1] / "src" / PACKAGE
    offenses = check_tree(package)
    for offense in offenses:
        print(offense)
    print(f"import order: {len(list(package.rglob('*.py')))} files, {len(offenses)} offenses")
    return 1 if offenses else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
