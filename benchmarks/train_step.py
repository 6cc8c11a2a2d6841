"""Ours beside SAELens, dictionary_learning, sparsify and overcomplete: training steps, or encoding and decoding, in turns on one machine.

    make bench-setup                                               # an environment for each of them, once
    python benchmarks/train_step.py                                # what `make bench` runs: about ten minutes on two cores
    python benchmarks/train_step.py --shape all                    # every architecture at every shape
    python benchmarks/train_step.py --shape all --tuned            # with faster matrix products where the processor has them
    python benchmarks/train_step.py --mode encode --shape all      # inference
    python benchmarks/train_step.py --mode own                     # ours alone: cost against the width, and of each term
    python benchmarks/train_step.py --device cuda                  # on a GPU

Every candidate first shows on a few rows that it computes the same thing. Results go to benchmarks/results/train_step.json.
"""

import argparse
import functools
import os
import re
import sys

from side_by_side import results
from side_by_side.candidates import ALL_KINDS, CANDIDATES, OURS
from side_by_side.measure import given, measure
from side_by_side.own import measure_overheads, measure_scaling
from side_by_side.processes import CandidateError
from side_by_side.task import CUDA_SHAPES, ENCODE_KINDS, KINDS, SHAPES, Task

QUICK = {"s": list(KINDS), "m": ["topk", "batch_topk"]}
BACKENDS = {"auto": ["ours"], "torch": ["ours-torch"], "both": ["ours", "ours-torch"]}
say = functools.partial(print, flush=True)
PEERS = [name for name in CANDIDATES if name not in OURS]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=("train", "encode", "own"), default="train")
    parser.add_argument("--shape", default="", help=f"some of {','.join(SHAPES | CUDA_SHAPES)}, or D_INxN_LATENTS, or all; left out: the quick selection")
    parser.add_argument("--kinds", default="", help=f"some of {','.join(ALL_KINDS)}; left out: all")
    parser.add_argument("--peers", default=",".join(PEERS), help=f"some of {','.join(PEERS)} (all), or none for ours alone")
    parser.add_argument("--backend", choices=tuple(BACKENDS), help="ours: the fastest kernels, PyTorch alone, or both (both; auto on a GPU)")
    parser.add_argument("--batch", type=int, default=0, help="tokens a step (4096; 8192 on a GPU)")
    parser.add_argument("--k", type=int, default=0, help="active latents a token (32; 64 for 131072 latents)")
    parser.add_argument("--reps", type=int, default=0, help="rounds that count (5; 3 in the quick selection)")
    parser.add_argument("--warm-up", type=int, default=1, help="rounds before them (1)")
    parser.add_argument("--threads", type=int, default=available_cores(), help="of every library (all cores)")
    parser.add_argument("--tuned", action="store_true", help="float32_matmul_precision medium and huge pages for all; on a processor with AMX that is bfloat16")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="on cuda every library runs under bf16 autocast")
    parser.add_argument("--no-save", action="store_true", help="write no results")
    return parser.parse_args()


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main() -> None:
    chosen = options()
    if chosen.mode == "own":
        measure_own(chosen)
        return
    ours = BACKENDS[chosen.backend or ("auto" if chosen.device == "cuda" else "both")]
    states = ENCODE_KINDS if chosen.mode == "encode" else KINDS
    peers = some_of(chosen.peers, "peers", [*PEERS, "none"])
    reps = chosen.reps or (5 if chosen.shape else 3)
    for shape, kinds in selection(chosen, list(states)).items():
        for kind in kinds:
            tasks = [task_for(chosen, shape, kind, state) for state in states[kind]]
            with given(tasks[0]) as folder:
                for task in tasks:
                    try:
                        save(measure(task, shape, ours, peers, reps, chosen.warm_up, chosen.tuned, folder, say), chosen)
                    except CandidateError as err:
                        say(f"  not measured: {err}")


def measure_own(chosen: argparse.Namespace) -> None:
    """Cost against the width, then what each term adds."""
    reps = chosen.reps or 5
    for kind in some_of(chosen.kinds, "kinds", ["topk", "batch_topk"]):
        save(measure_scaling(task_for(chosen, "s", kind, "fresh"), reps, chosen.warm_up, say), chosen)
    for shape in (chosen.shape or "m").split(","):
        save(measure_overheads(task_for(chosen, shape, "batch_topk", "fresh"), shape, reps, chosen.warm_up, say), chosen)


def selection(chosen: argparse.Namespace, known: list[str]) -> dict[str, list[str]]:
    """The architectures to measure, by shape."""
    kinds = some_of(chosen.kinds, "kinds", known)
    if chosen.shape:
        shapes = list(CUDA_SHAPES if chosen.device == "cuda" else SHAPES) if chosen.shape == "all" else chosen.shape.split(",")
        return dict.fromkeys(shapes, kinds)
    if chosen.device == "cuda":
        return {shape: [kind for kind in kinds if kind in ("topk", "batch_topk", "jump_relu")] for shape in CUDA_SHAPES}
    return {shape: [kind for kind in kinds if kind in quick] for shape, quick in QUICK.items()}


def some_of(text: str, option: str, known: list[str]) -> list[str]:
    names = text.split(",") if text else known
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"--{option} names {', '.join(unknown)}, which cannot be measured here. Instead: some of {','.join(known)}")
    return names


def task_for(chosen: argparse.Namespace, shape: str, kind: str, state: str) -> Task:
    known = SHAPES | CUDA_SHAPES
    if shape not in known and not re.fullmatch(r"\d+x\d+", shape):
        sys.exit(f"--shape names {shape!r}, which is none. Instead: some of {','.join(known)}, all, or two numbers like 384x6144")
    d_in, n_latents = known[shape] if shape in known else tuple(int(part) for part in shape.split("x"))
    cuda = chosen.device == "cuda"
    return Task(
        mode=chosen.mode, kind=kind, state=state, d_in=d_in, n_latents=n_latents, k=chosen.k or (64 if n_latents >= 131072 else 32),
        batch=chosen.batch or (8192 if cuda else 4096), device=chosen.device, precision="medium" if chosen.tuned else "highest", autocast=cuda,
        threads=chosen.threads,
    )


def save(entry: results.Entry, chosen: argparse.Namespace) -> None:
    if not chosen.no_save:
        results.save(entry)


if __name__ == "__main__":
    main()
