"""docs/performance.md from hand-made results."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from benchmarks.side_by_side import results

SCRIPT = Path(__file__).parents[2] / "scripts" / "docs_performance.py"


@pytest.fixture(scope="module")
def docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_performance", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def times(step_s: float, **more: object) -> dict[str, object]:
    return {"step_s": step_s, "min_s": step_s, "max_s": step_s, "n_steps": 3, "tokens_per_s": 4096 / step_s, "peak_bytes": 100 << 20, "version": "1.0"} | more


def entry(**changes: object) -> results.Entry:
    machine = {"processor": "P", "cores": 2, "gpu": None, "torch": "2.13", "threads": 2, "system": "S", "python": "3", "date": "2026-01-01", "load_before": 0.1}
    rows = {
        "ours": times(0.1, kernels="torch"),
        "saelens": times(1.0, ratio={"ours": {"median": 10.0, "min": 9.0, "max": 11.0}}),
        "overcomplete": {"skipped": "overcomplete is not installed: run `make bench-setup`"},
    }
    base = {"device": "P", "mode": "train", "kind": "topk", "state": "fresh", "shape": "s", "d_in": 384, "n_latents": 6144, "k": 32, "batch": 4096,
            "precision": "highest", "autocast": False, "seed": 0, "machine": machine, "rows": rows}
    return base | changes


def test_the_page_shows_what_was_measured_and_what_was_not(docs: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    widths = {"m=2048": times(0.1, n_latents=2048, us_per_token=20.0), "m=4096": times(0.3, n_latents=4096, us_per_token=70.0)}
    terms = {"plain": times(1.0), "tilted (TERM)": times(1.01, compared_with="plain", ratio={"plain": {"median": 1.01, "min": 1.0, "max": 1.02}})}
    monkeypatch.setattr(docs, "load", lambda: [entry(), entry(mode="scaling", shape="d384", rows=widths), entry(mode="overheads", shape="m", rows=terms)])
    page = docs.performance_page("a note")
    assert "| TopK | sparselight | 100.0 | 40,960 |  |  | 100 |" in page
    assert "|  | SAELens 1.0 | 1000.0 | 4,096 | 10.0 x [9.0 to 11.0] |  | 100 |" in page
    assert "Not measured: TopK of overcomplete: overcomplete is not installed" in page
    assert "| TopK and BatchTopK step, against the fastest library as a user gets it | >= 8 x | s: 10.0 x | met |" in page
    assert "| TopK and BatchTopK step, against SAELens' default | >= 25 x | s: **10.0 x** | missed |" in page
    assert "| Matryoshka step, against SAELens | >= 25 x | - | not measured |" in page
    assert "| cost a token over 32 times the width, in linear growth | <= 1 x | d384: **1.75 x** | missed |" in page
    assert "| tilted (TERM) | 1010.0 | +1.0 % [+0.0 to +2.0] of 'plain' |" in page


def test_the_page_stands_without_results(docs: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docs, "load", lambda: [])
    assert "Nothing has been measured yet." in docs.performance_page("a note")
