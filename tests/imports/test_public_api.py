"""The public functions are what `sparselight.NAME` gives, also where a stage's folder has the same name, in whatever order things are imported."""

import subprocess
import sys

import pytest

CHECK = "import sparselight as sl; bad = [name for name in sl.__all__ if type(getattr(sl, name)).__name__ == 'module']; assert not bad, bad"


@pytest.mark.parametrize("before", [
    "", "import sparselight.train, sparselight.select, sparselight.evaluate", "from sparselight.pipeline import Recipe", "import sparselight.api",
])
def test_public_names_are_functions(before: str) -> None:
    done = subprocess.run([sys.executable, "-c", f"{before}\n{CHECK}\n{CHECK}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]


STAGES = ", ".join(f"sparselight.{name}" for name in (
    "corpus", "subjects", "select", "store", "sae.formats", "train", "evaluate", "interpret", "intervene", "pipeline"))


@pytest.mark.parametrize(("statement", "heavy"), [
    ("from sparselight import evaluate, explain, load_corpus, load_subject, run, select, serve, train",
     "scipy sklearn pandas pyarrow duckdb transformers fastapi"),
    (f"import {STAGES}", "scipy.stats sklearn pandas duckdb transformers fastapi"),
])
def test_libraries_are_imported_where_they_are_used(statement: str, heavy: str) -> None:
    check = f"import sys; found = [name for name in {heavy.split()} if name in sys.modules]; assert not found, found"
    done = subprocess.run([sys.executable, "-c", f"{statement}\n{check}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
