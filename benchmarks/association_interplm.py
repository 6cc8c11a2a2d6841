"""InterPLM's association step on the activations, labels and SAE that association.py gives it: started by `association.py --interplm CHECKOUT`.

    PYTHONPATH=CHECKOUT python benchmarks/association_interplm.py FOLDER      # FOLDER: activations.npy, labels.npz, sae.npz, settings.json

Runs `process_shard` of github.com/ElanaPearl/InterPLM (sparse counting, 250 latents at a time, as its `analyze_concepts` calls it) and writes the counts
beside the input; prints seconds as one JSON object. Modules that only its training and downloads import, and that are not installed, are left empty.
"""

import importlib.util
import json
import sys
import time
import types
from pathlib import Path

import numpy as np
import torch
from scipy import sparse

UNRELATED = ("wandb", "nnsight")  # experiment tracking and interventions


def main(folder: Path) -> dict[str, float]:
    for name in UNRELATED:
        if importlib.util.find_spec(name) is None:
            sys.modules[name] = types.ModuleType(name)
    from interplm.analysis.concepts.compare_activations import process_shard
    from interplm.sae.dictionary import ReLUSAE

    settings = json.loads((folder / "settings.json").read_text())
    torch.set_num_threads(settings["threads"])
    torch.set_grad_enabled(False)
    weights = np.load(folder / "sae.npz")
    sae = ReLUSAE(*weights["W_enc"].shape)
    sae.bias.data, sae.encoder.bias.data = torch.from_numpy(weights["b_dec"]), torch.from_numpy(weights["b_enc"])
    sae.encoder.weight.data = torch.from_numpy(np.ascontiguousarray(weights["W_enc"].T))
    x, labels = torch.from_numpy(np.load(folder / "activations.npy")), sparse.load_npz(folder / "labels.npz")
    began, cpu = time.perf_counter(), time.process_time()
    tp, fp, domains = process_shard(sae, torch.device("cpu"), x, labels, settings["thresholds"], [False] * labels.shape[1], feat_chunk_max=250)
    found = {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}
    np.savez(folder / "counts.npz", hits=tp, false_alarms=fp, spans_found=domains)
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
