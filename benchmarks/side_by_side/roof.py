"""The least time that a training step of a k-sparse SAE can take on a device, from what the device was seen to do.

    floor = 2 B m d / product_flops + (28 * 2 m d + 3 * 4 B k d) / copy_bytes
One dense product decides which latents are active; Adam reads weight, gradient and two moments and writes three of them back for both
matrices, all float32; decoding and the two sparse gradients each read or write k rows of width d a token. All else is left out, so the
fraction reached is below 1 by construction.
"""

import time
from collections.abc import Callable

import torch

from .task import Task

SIZE, COPY_BYTES, REPEATS = 8192, 2 << 30, 10


def measure(device: str) -> dict[str, float]:
    """bf16 product speed on random data and copy bandwidth, bytes read and written."""
    size = SIZE if device == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    product_s = seconds(lambda: torch.mm(a, b), device)
    source = torch.ones((COPY_BYTES if device == "cuda" else COPY_BYTES >> 5) // 4, device=device)
    target = torch.empty_like(source)
    return {"product_flops": 2 * size**3 / product_s, "copy_bytes_s": 2 * 4 * source.numel() / seconds(lambda: target.copy_(source), device)}


def seconds(work: Callable[[], object], device: str) -> float:
    for n in (3, REPEATS):
        if device == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(n):
            work()
        if device == "cuda":
            torch.cuda.synchronize()
        took = (time.perf_counter() - began) / n
    return took


def floor_s(task: Task, roof: dict[str, float]) -> float:
    """The formula above."""
    entries = task.n_latents * task.d_in
    traffic = 28 * 2 * entries + 3 * 4 * task.batch * task.k * task.d_in
    return 2 * task.batch * entries / roof["product_flops"] + traffic / roof["copy_bytes_s"]
