"""Every kernel of a training step on its own, in the order of a step, beside what plain dense PyTorch does in its place. For developers.

    python benchmarks/kernels.py                     # the three shapes; two to three minutes on two cores
    python benchmarks/kernels.py --shape m --rounds 20 --no-dense
    SPARSELIGHT_CPU=avx2 python benchmarks/kernels.py --no-dense

Kernels run one after the other as in a step, so that each finds the caches as it would there; medians over rounds. With one thread the
processor's own time is counted instead of the clock's, which other work on the machine disturbs less. Nothing is written.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable

import torch
from side_by_side.data import activations, weight_blocks
from side_by_side.task import SHAPES
from torch import Tensor

from sparselight.kernels import BACKENDS, Backend, WeightGradients, kernels, use_backend
from sparselight.kernels.compiled import available, description

ADAM = {"lr": 2e-4, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "grad_scale": 1.0}


class Step:
    """One TopK training step as a list of kernels; every call times each of them."""

    def __init__(self, backend: Backend, d: int, m: int, batch: int, k: int):
        self.ops, self.k, self.m, self.cache, self.n_steps = backend, k, m, {}, 0
        self.batches = activations(d, 2 * batch, seed=0).split(batch)
        self.W_dec = torch.cat([rows for _, rows in weight_blocks(d, m, seed=0)])
        self.W_enc, self.b_enc, self.b_dec = self.W_dec.clone().T, torch.zeros(m), torch.cat(self.batches).mean(0)
        self.into = WeightGradients(torch.empty(m, d), torch.empty(m), torch.empty(m, d))
        parameters = {"W_enc": self.W_enc.T, "b_enc": self.b_enc, "W_dec": self.W_dec}
        self.moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in parameters.items()}

    def __call__(self, time_it: Callable[[str, Callable], object]) -> None:
        ops, ends = self.ops, (self.m,)
        self.n_steps += 1
        target = self.batches[self.n_steps % 2]
        x = target - self.b_dec
        chosen = time_it("encode_topk", lambda: ops.encode_topk(x, self.W_enc, self.b_enc, self.k, self.cache))
        x_hat = time_it("decode", lambda: ops.decode(chosen.values, chosen.selection, self.W_dec, ends))
        grad = time_it("(loss)", lambda: (x_hat + self.b_dec - target) * (2 / x.numel()))
        grad_pre = time_it("decode_gradient", lambda: ops.decode_gradient(grad, chosen.selection, self.W_dec, ends))
        time_it("weight_gradients", lambda: ops.weight_gradients(x, grad, chosen.values, grad_pre, chosen.selection, ends, self.into))
        parameters = {"W_enc": (self.W_enc.T, self.into.W_enc), "b_enc": (self.b_enc, self.into.b_enc), "W_dec": (self.W_dec, self.into.W_dec)}
        time_it("grad_square", lambda: [ops.grad_square(p, g, name == "W_dec") for name, (p, g) in parameters.items()])
        time_it("adam_step", lambda: [ops.adam_step(
            p, g, *self.moments[name], step=self.n_steps, unit_rows=name == "W_dec", cache=self.cache if name == "W_enc" else None, **ADAM)
            for name, (p, g) in parameters.items()])


def dense(step: Step) -> dict[str, Callable]:
    """The same work in plain PyTorch, each on the results of the one before."""
    x, zero = step.batches[0] - step.b_dec, torch.zeros(len(step.batches[0]), step.m)
    pre = x @ step.W_enc
    values, latents = pre.topk(step.k, dim=1)
    z = zero.scatter(1, latents, values)
    grad = torch.randn_like(x)
    weights = [torch.nn.Parameter(p.clone()) for p in (step.W_enc.T, step.W_dec)]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    optimizer = torch.optim.Adam(weights, fused=True)
    return {
        "encode_topk": lambda: torch.addmm(step.b_enc, x, step.W_enc).topk(step.k, dim=1),
        "decode": lambda: zero.scatter(1, latents, values) @ step.W_dec,
        "decode_gradient": lambda: (grad @ step.W_dec.T).gather(1, latents),
        "weight_gradients": lambda: (z.T @ grad, z.T @ x, z.sum(0)),
        "grad_square": lambda: torch.nn.utils.get_total_norm([weight.grad for weight in weights]),
        "adam_step": optimizer.step,
    }


def measure(name: str, d: int, m: int, options: argparse.Namespace) -> None:
    clock = time.process_time if options.threads == 1 else time.perf_counter
    times: dict[str, list[float]] = defaultdict(list)

    def time_it(what: str, run: Callable) -> object:
        began = clock()
        result = run()
        times[what].append(clock() - began)
        return result

    step = Step(kernels(torch.empty(0)), d, m, options.batch, options.k)
    for warm_up in (True, True, *[False] * options.rounds):
        step(time_it)
        if warm_up:
            times.clear()
    medians = {what: statistics.median(values) for what, values in times.items()}
    plain = {} if options.no_dense else {what: once(run, clock) for what, run in dense(step).items()}
    total = sum(medians.values())
    print(f"\n{name}: d_in {d}, {m} latents, {options.batch} tokens, k {options.k}: {total * 1e3:.1f} ms a step, {options.batch / total:,.0f} tokens/s")
    for what, seconds in medians.items():
        beside = f"   dense {plain[what] * 1e3:8.1f} ms, {plain[what] / seconds:6.1f} x" if what in plain else ""
        print(f"  {what:<17}{seconds * 1e3:8.1f} ms {seconds / total:6.1%}{beside}")
    if plain:
        print(f"  all of them      {total * 1e3:8.1f} ms          dense {sum(plain.values()) * 1e3:8.1f} ms, {sum(plain.values()) / total:6.1f} x")
    stats = step.cache.get("stats")
    if stats:
        print("  a token: " + ", ".join(f"{key} {value / stats['tokens']:.4g}" for key, value in stats.items() if key != "tokens"))
    if options.others:
        for what, seconds in others(step, clock, options.rounds).items():
            print(f"  {what:<24}{seconds * 1e3:8.1f} ms {seconds / total:6.1%} of such a step")


def others(step: Step, clock: Callable[[], float], rounds: int) -> dict[str, float]:
    """Operations that only some SAEs and terms need."""
    x, threshold, caches = step.batches[0] - step.b_dec, torch.empty(step.m), ({}, {})
    order = torch.randperm(step.m, generator=torch.Generator().manual_seed(0))
    ops, n_keep = step.ops, step.k * len(x)
    threshold.fill_(ops.encode_batch_topk(x, step.W_enc, step.b_enc, n_keep, caches[0]).cutoff)
    runs = {
        "encode_batch_topk": lambda: ops.encode_batch_topk(x, step.W_enc, step.b_enc, n_keep, caches[0]),
        "encode_above": lambda: ops.encode_above(x, step.W_enc, step.b_enc, threshold, caches[1], True),
        "nearest_in_chunk 1024": lambda: ops.nearest_in_chunk(step.W_dec, order, 1024),
        "nearest_in_chunk 8192": lambda: ops.nearest_in_chunk(step.W_dec, order, 8192),
    }
    return {what: statistics.median(once(run, clock) for _ in range(rounds)) for what, run in runs.items()}


def once(run: Callable[[], Tensor], clock: Callable[[], float]) -> float:
    began = clock()
    run()
    return clock() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default=",".join(SHAPES), help=f"some of {', '.join(SHAPES)} (all)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count (5)")
    parser.add_argument("--batch", type=int, default=4096, help="tokens a step (4096)")
    parser.add_argument("--k", type=int, default=32, help="active latents a token (32)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="all cores")
    parser.add_argument("--backend", choices=tuple(BACKENDS), default="torch" if available() else "compiled")
    parser.add_argument("--no-dense", action="store_true", help="skip the dense operations beside ours")
    parser.add_argument("--others", action="store_true", help="operations of other SAEs and terms too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with torch.no_grad(), use_backend(options.backend):
        print(f"{options.backend} kernels{f' ({description()})' if options.backend == 'compiled' else ''}, {options.threads} threads")
        for name in options.shape.split(","):
            measure(name, *SHAPES[name], options)


if __name__ == "__main__":
    main()
