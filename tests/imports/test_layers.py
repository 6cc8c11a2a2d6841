"""The import order of the stages holds, and the check that says so sees an offense."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def check_layers() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_layers", ROOT / "scripts" / "check_layers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_stage_imports_a_later_one(check_layers: ModuleType) -> None:
    assert [str(offense) for offense in check_layers.check_tree(ROOT / "src" / "sparselight")] == []


@pytest.mark.parametrize(("where", "line", "word"), [
    ("sae/topk.py", "from sparselight.train import train_sae", "train"),
    ("sae/topk.py", "import sparselight.report.page as page", "report"),
    ("sae/topk.py", "from ..train import loop", "train"),
    ("sae/topk.py", "from sparselight import train_things", "api"),
    ("sae/topk.py", "def late():\n    from sparselight.cli import main", "cli"),
    ("errors.py", "from sparselight.corpus import Example", "corpus"),
    ("pipeline/engine.py", "import sparselight", "__init__"),
    ("report/page.py", "from sparselight.testing import tiny", "testing"),
    ("cli/run.py", "from sparselight.nowhere import x", "nowhere"),
    ("newstage/x.py", "import os", "newstage"),
])
def test_an_offense_is_named_with_its_line(check_layers: ModuleType, tmp_path: Path, where: str, line: str, word: str) -> None:
    path = tmp_path / "sparselight" / where
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(line + "\n")
    offenses = check_layers.check_tree(tmp_path / "sparselight")
    assert len(offenses) == 1
    assert word in offenses[0].why
    assert str(offenses[0]).startswith(f"{path}:{line.count(chr(10)) + 1}:")


@pytest.mark.parametrize(("where", "line"), [
    ("train/loop.py", "from sparselight.sae import Sae\nfrom sparselight.kernels import dispatch\nfrom sparselight.protocols import Store"),
    ("sae/topk.py", "from . import init\nfrom .init import ones\nfrom ..kernels import ref"),
    ("pipeline/engine.py", "from sparselight import __version__"),
    ("testing/tiny.py", "from sparselight.train import train_sae\nfrom sparselight.cli import main"),
    ("__init__.py", "from sparselight import api\nfrom sparselight.api import run"),
])
def test_what_is_allowed(check_layers: ModuleType, tmp_path: Path, where: str, line: str) -> None:
    path = tmp_path / "sparselight" / where
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(line + "\n")
    assert check_layers.check_tree(tmp_path / "sparselight") == []
