"""Recommendations of an edited recommender for a million users out of a hundred thousand items: seconds, and that memory stays bounded.

A factor model with random vectors, a TopK SAE on its user vectors, one edit that scales latents, twenty items that each user has. The users come in blocks
and their lists are dropped, as a batch job that writes them out would do. Measured in a process of its own for each size, one thread: wall and CPU seconds,
and by how much the peak of memory exceeds what stood before the first block (tables of users and items included there). Goal: the excess of the whole is no
larger than that of a hundredth of the users (one block at least), but for a tenth.
Run: `python benchmarks/recommender_scoring.py [--users 1000000] [--items 100000] [--small]`; writes results/recommender_scoring.json.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from sparselight import __version__
from sparselight.intervene.edited_recommender import EditedRecommender
from sparselight.pipeline.engine import machine
from sparselight.records import Edit
from sparselight.sae import Sae
from sparselight.subjects import RecommenderConfig
from sparselight.subjects.recommender.models import make_model
from sparselight.subjects.recommender.scoring import SeenItems
from sparselight.subjects.recommender.subject import USER_VECTOR

RESULT = Path(__file__).parent / "results" / "recommender_scoring.json"
D, EXPANSION, K_SAE, K, N_SEEN, BLOCK = 64, 16, 8, 10, 20, 1 << 14
GOAL = {"excess_ratio": 1.1, "excess_mb": 1000}


def served(n_users: int, n_items: int) -> EditedRecommender:
    """A recommender with an SAE and an edit."""
    generator = torch.Generator().manual_seed(0)
    module = make_model(RecommenderConfig.parse({"architecture": "bpr_mf", "d": D}), n_users, n_items)
    with torch.no_grad():
        for value in module.parameters():
            value.normal_(std=0.3, generator=generator)
    sae = Sae(D, D * EXPANSION, k=K_SAE).requires_grad_(False)
    directions = torch.nn.functional.normalize(torch.randn(D * EXPANSION, D, generator=generator), dim=1)
    sae.W_dec.copy_(directions)
    sae.W_enc.copy_(directions.T)
    return EditedRecommender(module, sae, [Edit(site=USER_VECTOR, latents=list(range(50)), operation="scale", amount=0.0)])


def measure(n_users: int, n_items: int) -> dict[str, Any]:
    """The measurement, in this process."""
    torch.set_num_threads(1)
    model, generator = served(n_users, n_items), torch.Generator().manual_seed(1)
    before, wall, cpu, checksum = _peak_mb(), time.perf_counter(), time.process_time(), 0
    for start in range(0, n_users, BLOCK):
        users = torch.arange(start, min(start + BLOCK, n_users))
        items = torch.randint(1, n_items + 1, (len(users), N_SEEN), generator=generator)
        starts = torch.arange(len(users)) * N_SEEN
        top = model.recommend(items[:, :1], torch.ones_like(users), users, K, SeenItems(items.flatten(), starts, starts + N_SEEN))
        checksum = (checksum + int(top.items.sum())) % (1 << 32)
    return {"n_users": n_users, "n_items": n_items, "wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu, "before_mb": before,
            "excess_mb": _peak_mb() - before, "checksum": checksum}


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--small", action="store_true", help="20,000 users and 40,000 items")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--one", action="store_true", help="measure one size in this process")
    options = parser.parse_args()
    n_users, n_items = (20_000, 40_000) if options.small else (options.users, options.items)
    if options.one:
        print(json.dumps(measure(options.users, options.items)))
        return
    load = os.getloadavg()[0]
    cases = {name: _in_a_process(size, n_items) for name, size in (("a hundredth", max(BLOCK, n_users // 100)), ("all", n_users))}
    result = {"cases": cases, "d": D, "n_latents": D * EXPANSION, "k": K, "goal": GOAL,
              "excess_ratio": cases["all"]["excess_mb"] / cases["a hundredth"]["excess_mb"], "load_before": load,
              "machine": machine(), "threads": 1, "torch": torch.__version__, "sparselight": __version__}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


def _in_a_process(n_users: int, n_items: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", "--users", str(n_users), "--items", str(n_items)]
    result: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return result


if __name__ == "__main__":
    main()
