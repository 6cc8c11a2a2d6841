"""From a table of interactions to a concept dictionary: reading, the recommender, activations, the SAE, concepts with all controls; seconds a step.

What a user does who follows docs/guides/recommenders.md on a table of 100,000 rows with the settings of recipes/recommender_ml.toml and nothing cached.
Goal: three minutes on two cores. Wall time counts other work on the machine, CPU seconds do not: both stand in the result.
Run: `python benchmarks/item_dictionary.py FOLDER_OF_ML_LATEST_SMALL [--threads 2]`; writes results/item_dictionary.json.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import sparselight as sl
from sparselight import __version__
from sparselight.pipeline.engine import machine

RESULT = Path(__file__).parent / "results" / "item_dictionary.json"
GOAL_S = 180
SAE = {"expansion": 16, "k": 8, "n_tokens": 1_000_000, "batch_tokens": 1024, "dead_after_tokens": 40_000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    steps: dict[str, dict[str, float]] = {}
    load = os.getloadavg()[0]

    def timed(name: str, work: Callable[[], Any]) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        steps[name] = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        print(f"{name}: {steps[name]['wall_s']:.1f} s, {steps[name]['cpu_s']:.1f} CPU s", flush=True)
        return result

    with tempfile.TemporaryDirectory() as place:
        corpus = timed("reading", lambda: sl.load_corpus(str(options.root), kind="interactions", interactions={"k_core": 5}))
        subject = timed("recommender", lambda: sl.train_recommender(corpus, Path(place) / "subject", architecture="sasrec"))
        found_on, tested_on = corpus.split(0.3)
        store = timed("activations", lambda: sl.harvest(subject, found_on, "user_vector", Path(place) / "store", dtype="float32"))
        sae = timed("SAE", lambda: sl.train(store, Path(place) / "sae", **SAE))
        record = timed("dictionary", lambda: sl.concept_dictionary(subject, sae, found_on, tested_on))
    n_rows = sum(1 for line in (options.root / "ratings.csv").open(encoding="utf-8")) - 1
    total = {key: sum(step[key] for step in steps.values()) for key in ("wall_s", "cpu_s")}
    result = {"n_interactions": n_rows, "n_users": len(corpus), "n_items": len(subject.items), "n_activations": store.n_tokens, "n_latents": sae.n_latents,
              "n_concepts": len(record.concepts), "steps": steps, **total, "goal_s": GOAL_S, "load_before": load, "machine": machine(),
              "threads": options.threads, "torch": torch.__version__, "sparselight": __version__}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
