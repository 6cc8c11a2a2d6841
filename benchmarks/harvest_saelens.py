"""SAELens' cached-activations pipeline, run in SAELens' own environment by harvest.py: one JSON object of settings in, one of seconds out.

Cache: `CacheActivationsRunner.run` on rows that are tokenized already. Epoch: every batch of its `ActivationsStore` over that cache.
"""

import importlib.metadata
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from sae_lens import CacheActivationsRunner, CacheActivationsRunnerConfig
from sae_lens.training.activations_store import ActivationsStore


def main(settings: dict) -> dict:
    torch.set_num_threads(settings["threads"])
    rows = np.load(settings["rows"])  # [row, context], all of one length
    dataset = Dataset.from_dict({"input_ids": rows.tolist()})
    n_tokens, context = rows.size, rows.shape[1]
    batch_rows = settings["batch_tokens"] // context
    token_bytes = settings["d"] * (4 if settings["dtype"] == "float32" else 2)
    with tempfile.TemporaryDirectory(dir=settings["folder"]) as folder:
        cfg = CacheActivationsRunnerConfig(
            dataset_path="rows", model_name=settings["model"], model_batch_size=batch_rows, hook_name=settings["hook"], d_in=settings["d"],
            training_tokens=n_tokens, context_size=context, model_class_name="AutoModelForCausalLM", new_cached_activations_path=f"{folder}/cache",
            shuffle=True, dtype=settings["dtype"], device="cpu", buffer_size_gb=max(n_tokens // 4, 2 * batch_rows * context) * token_bytes / 1e9,
            prepend_bos=False, streaming=False, model_from_pretrained_kwargs={"dtype": torch.float32},
        )
        runner = CacheActivationsRunner(cfg, override_dataset=dataset)
        began = time.perf_counter()
        cached = runner.run()
        cache_s, n_cached = time.perf_counter() - began, len(cached) * context
        n_bytes = sum(path.stat().st_size for path in Path(folder, "cache").rglob("*.arrow"))
        began = time.perf_counter()
        store = ActivationsStore(
            model=runner.model, dataset=dataset, cached_activations_path=f"{folder}/cache", streaming=False, hook_name=settings["hook"],
            hook_head_index=None, context_size=context, d_in=settings["d"], n_batches_in_buffer=16, total_training_tokens=n_cached,
            store_batch_size_prompts=batch_rows, train_batch_size_tokens=settings["train_batch"], prepend_bos=False, normalize_activations="none",
            device=torch.device("cpu"), dtype=settings["dtype"],
        )
        n_read, batches = 0, store.get_data_loader()
        while n_read + settings["train_batch"] <= n_cached:
            n_read += len(next(batches))
        epoch_s = time.perf_counter() - began
    return {"version": importlib.metadata.version("sae-lens"), "cache_s": cache_s, "epoch_s": epoch_s, "n_cached": n_cached, "n_read": n_read,
            "n_bytes": n_bytes}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
