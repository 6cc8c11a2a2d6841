"""What `import sparselight` costs beside `import torch`: fresh processes, interleaved, medians of the ratios within a round.

The public functions import their stage when they are called, so the stages are measured too. Goal: `import sparselight` <= 1.5 x `import torch`.
Run: `python benchmarks/import_time.py [ROUNDS]`; writes results/import_time.json.
"""

import json
import platform
import statistics
import subprocess
import sys
from pathlib import Path

import torch

from sparselight import __version__
from sparselight.pipeline.engine import machine

RESULT = Path(__file__).parent / "results" / "import_time.json"
GOAL_RATIO = 1.5
STATEMENTS = {
    "torch": "import torch",
    "sparselight": "import sparselight",
    "sparselight_api": "from sparselight import evaluate, explain, harvest, load_corpus, load_sae, load_subject, run, select, steer, train",
    "every_stage": "import " + ", ".join(f"sparselight.{name}" for name in (  # what their first calls import in all
        "corpus", "subjects", "select", "store", "sae.formats", "train", "evaluate", "interpret", "intervene", "pipeline")),
}
CHILD = "import time; began = time.perf_counter(); {statement}; print(time.perf_counter() - began)"


def measure(statement: str) -> float:
    """Seconds that a statement takes in a fresh process, the start of Python not counted."""
    done = subprocess.run([sys.executable, "-c", CHILD.format(statement=statement)], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main(n_rounds: int) -> None:
    for statement in STATEMENTS.values():
        measure(statement)  # fills the file cache and writes byte code
    rounds = [{name: measure(statement) for name, statement in STATEMENTS.items()} for _ in range(n_rounds)]
    result = {
        "machine": machine(), "python": platform.python_version(), "torch": str(torch.__version__), "sparselight": __version__, "n_rounds": n_rounds,
        "statements": STATEMENTS,
        "median_s": {name: round(statistics.median(row[name] for row in rounds), 4) for name in STATEMENTS},
        "median_ratio_to_torch": {name: round(statistics.median(row[name] / row["torch"] for row in rounds), 3) for name in STATEMENTS},
        "goal_ratio": GOAL_RATIO,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    for name in STATEMENTS:
        print(f"{name:<17} {result['median_s'][name]:7.3f} s   {result['median_ratio_to_torch'][name]:6.3f} x torch")
    reached = "reached" if result["median_ratio_to_torch"]["sparselight"] <= GOAL_RATIO else "MISSED"
    print(f"goal: import sparselight <= {GOAL_RATIO} x import torch: {reached}; written to {RESULT}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9)
