"""Seconds a training step of each variant, in turns on one machine, and seconds of the penalty alone against the number of latents.

Variants take a few steps each in turn, round after round, so that whatever else the machine does meets all of them; a ratio is the median over
rounds of time / time of BatchTopK in the same round. The penalty is timed with its gradient, at chunks of 8,192 latents as in the paper.
"""

import statistics
import time
from typing import Any

import torch
from sources import Source
from torch.nn.functional import normalize
from variants import VARIANTS, settings

from sparselight.kernels import WeightGradients, kernels
from sparselight.train import TrainConfig
from sparselight.train.data import Rows, TrainingData
from sparselight.train.objectives import TERMS, make_objective
from sparselight.train.objectives.orthogonal import add_gradient, chunk_size, pair_cosines, partition
from sparselight.train.step import take_step
from sparselight.train.training import make_state, resolve_device

WARM_UP_STEPS = 60
ROUND_STEPS = 5  # one penalty in it for the variant with every 5th step
WIDTHS = (2048, 4096, 8192, 16384, 32768, 65536)
PENALTY_D = 256
CHUNK = 8192


def measure_steps(source: Source, l1: float, quick: bool) -> dict[str, Any]:
    """Median seconds a step, and the ratio to BatchTopK with its quartiles."""
    n_rounds = 5 if quick else 30
    configs = {name: TrainConfig.parse({**settings(source, name, l1), "seed": 0}, "train") for name in VARIANTS}
    device = resolve_device(configs["batch_topk"].device)
    rows = Rows(source.store, source.site, None, configs["batch_topk"].batch_tokens, 0, device)
    batches = [rows.batch(step) for step in range(ROUND_STEPS * 4)]
    running = {}
    for name, config in configs.items():
        data = TrainingData(rows, config, None)
        running[name] = config, data, make_state(config, data), make_objective(config, TERMS)
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for number in range(-(WARM_UP_STEPS // ROUND_STEPS), n_rounds):
        for name, (config, data, state, objective) in running.items():
            began = now(device)
            for index in range(ROUND_STEPS):
                x, target = data.scaled(batches[(number * ROUND_STEPS + index) % len(batches)])
                take_step(state, objective, config, x, target)
            if number >= 0:
                seconds[name].append((now(device) - began) / ROUND_STEPS)
    rows.close()
    result: dict[str, Any] = {"device": str(device), "threads": torch.get_num_threads(), "n_rounds": n_rounds, "batch_tokens": len(batches[0].x),
                              "n_latents": source.settings["n_latents"], "d_in": batches[0].x.shape[1], "variants": {}}
    for name in VARIANTS:
        ratios = [own / base for own, base in zip(seconds[name], seconds["batch_topk"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        result["variants"][name] = {"step_s": statistics.median(seconds[name]), "ratio": middle, "ratio_low": low, "ratio_high": high}
    return result


def measure_penalty(device_name: str, quick: bool) -> dict[str, Any]:
    """Median seconds of one penalty with its gradient, by width; and what a step of any SAE of that width must compute at least, in the same units."""
    device, reps = resolve_device(device_name), 2 if quick else 5
    rows = []
    for n_latents in WIDTHS[:3] if quick else WIDTHS:
        W_dec = normalize(torch.randn(n_latents, PENALTY_D, generator=torch.Generator().manual_seed(0))).to(device)
        buffers = WeightGradients(torch.zeros_like(W_dec), torch.zeros(n_latents, device=device), torch.zeros_like(W_dec))
        times = []
        for number in range(reps + 1):
            began = now(device)
            order = partition(n_latents, 0, number).to(device)
            partner = kernels(W_dec).nearest_in_chunk(W_dec, order, chunk_size(n_latents, CHUNK))
            cosines = pair_cosines(W_dec, partner)
            add_gradient(W_dec, W_dec, partner, cosines, buffers, 0.25)
            times.append(now(device) - began)
        rows.append({"n_latents": n_latents, "penalty_s": statistics.median(times[1:]), "low": min(times[1:]), "high": max(times[1:])})
        print(f"  penalty at {n_latents} latents: {rows[-1]['penalty_s']:.3f} s", flush=True)
    return {"device": str(device), "threads": torch.get_num_threads(), "d_in": PENALTY_D, "chunk": CHUNK, "rows": rows}


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
