"""SAEBench's and SAELens' core evaluation, run in SAELens' environment by evaluate.py: one JSON object of settings in, one of values and seconds out.

Both get the rows of token ids that our suite sees, in the same order, and the SAE that we saved in SAELens' layout. SAEBench reads it through its own
JumpReluSAE, SAELens through its loader. Model and rows are in memory before the clock starts.
"""

import importlib.metadata
import json
import sys
import time
from typing import Any

import numpy as np
import sae_bench.evals.core.main as core
import sae_lens.evals as lens
import torch
from sae_bench.custom_saes.jumprelu_sae import JumpReluSAE
from sae_bench.evals.core.eval_config import CoreEvalConfig
from sae_lens import SAE
from sae_lens.load_model import load_model
from sae_lens.training.activation_scaler import ActivationScaler


class Rows:
    """What both take of an ActivationsStore: batches of token ids, from the first row again after a reset."""

    def __init__(self, rows: torch.Tensor, batch: int):
        self.rows, self.store_batch_size_prompts, self.context_size, self._next = rows, batch, rows.shape[1], 0

    def get_batch_tokens(self, batch: int) -> torch.Tensor:
        part = self.rows[self._next : self._next + batch]
        self._next += batch
        return part

    def reset_input_dataset(self) -> None:
        self._next = 0


def saebench_sae(folder: str, model: str, layer: int, hook: str) -> JumpReluSAE:
    """Their class encodes x as it is, so that the subtraction of b_dec moves into b_enc."""
    theirs = SAE.load_from_disk(folder)
    sae = JumpReluSAE(theirs.cfg.d_in, theirs.cfg.d_sae, model, layer, torch.device("cpu"), torch.float32, hook_name=hook)
    with torch.no_grad():
        sae.W_enc.copy_(theirs.W_enc)
        sae.W_dec.copy_(theirs.W_dec)
        sae.b_dec.copy_(theirs.b_dec)
        sae.b_enc.copy_(theirs.b_enc - theirs.b_dec @ theirs.W_enc if theirs.cfg.apply_b_dec_to_input else theirs.b_enc)
        sae.threshold.copy_(theirs.threshold)
    sae.cfg.architecture, sae.cfg.architecture_str = "jumprelu", "jumprelu"
    return sae


def main(settings: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(settings["threads"])
    torch.set_grad_enabled(False)
    rows = torch.from_numpy(np.load(settings["rows"]))
    model = load_model("AutoModelForCausalLM", settings["model"], "cpu", {"dtype": torch.float32}, hook_names=[settings["hook"]])
    n_batches = len(rows) // settings["batch_rows"]
    found: dict[str, Any] = {}

    def timed(name: str, package: str, work: Any) -> None:
        work(rows[: settings["batch_rows"]], 1)  # imports and allocator
        wall, cpu = time.perf_counter(), time.process_time()
        metrics, per_latent = work(rows, n_batches)
        flat = {key: float(value) for group, values in metrics.items() if group != "token_stats" for key, value in values.items()}
        density = np.array(per_latent["feature_density"])
        flat |= {"frac_alive": float((density > 0).mean()), "freq_over_1_percent": float((density > 0.01).mean()),
                 "freq_over_10_percent": float((density > 0.1).mean())}
        found[name] = {"version": importlib.metadata.version(package), "wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu, "values": flat}

    everything = {f"compute_{part}": True for part in ("kl", "ce_loss", "l2_norms", "sparsity_metrics", "variance_metrics", "featurewise_density_statistics")}

    def config(n: int) -> dict[str, Any]:
        return {**everything, "batch_size_prompts": settings["batch_rows"], "n_eval_reconstruction_batches": n, "n_eval_sparsity_variance_batches": n}

    ours_in_saebench = saebench_sae(settings["sae"], settings["model"], settings["layer"], settings["hook"])
    timed("saebench", "sae-bench", lambda part, n: core.run_evals(
        ours_in_saebench, Rows(part, settings["batch_rows"]), model, CoreEvalConfig(**config(n), exclude_special_tokens_from_reconstruction=True)))
    in_saelens = SAE.load_from_disk(settings["sae"])
    in_saelens.cfg.metadata.hook_name = settings["hook"]
    timed("saelens", "sae-lens", lambda part, n: lens.run_evals(
        in_saelens, Rows(part, settings["batch_rows"]), model, ActivationScaler(), lens.EvalConfig(**config(n)), exclude_special_tokens=False))
    return found


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
