"""Rules of association on many tokens: seconds and memory of one counting pass, by tokens, latents and labels.

    python benchmarks/association.py --tokens 400000                        # a tenth of the goal
    python benchmarks/association.py --tokens 4000000 --latents 10240       # the goal: 5 minutes on two cores, encoding included
    python benchmarks/association.py ... --interplm CHECKOUT --keep         # beside InterPLM's step on the same activations; results/association.json

Proteins of random residues with planted spans; activations of width --width, drawn when they are read, so that memory is that of the counting. The SAE is a
ReLU one with random weights and about --k active latents a token. InterPLM gets the activations of the first --peer-tokens tokens in memory, the same labels
and the same SAE; its counts must equal ours, and processor seconds are compared. Prints one JSON object.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse

from sparselight import __version__
from sparselight.evaluate.case import Tokens
from sparselight.evaluate.concepts.counts import count_pairs, largest_activations
from sparselight.evaluate.concepts.marks import Marks
from sparselight.evaluate.contender import Contender
from sparselight.evaluate.labels import span_labels
from sparselight.pipeline.engine import machine
from sparselight.protocols import Example, Span
from sparselight.sae import Sae, initialize

LENGTH = 400  # residues a protein
THRESHOLDS = 8  # three raw activations and five fractions
PEER_THRESHOLDS = (0.0, 0.15, 0.5, 0.6, 0.8)  # of a latent's largest activation: InterPLM's
GOAL_S, GOAL_TOKENS = 300, 4_000_000
RESULT, DRIVER = Path(__file__).parent / "results" / "association.json", Path(__file__).parent / "association_interplm.py"
MIXED = 0x9E3779B97F4A7C15


class DrawnActivations:
    """A store whose activations are a function of the row: nothing is kept."""

    def __init__(self, width: int):
        self.table = torch.randn(4096, width, generator=torch.Generator().manual_seed(0))

    def read(self, rows: np.ndarray, site: str = "") -> torch.Tensor:  # noqa: ARG002
        first, second = (torch.from_numpy((rows.astype(np.uint64) * np.uint64(MIXED) >> np.uint64(shift)).astype(np.int64) % 4096) for shift in (20, 40))
        return self.table[first] + 0.5 * self.table[second]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=400_000)
    parser.add_argument("--latents", type=int, default=10_240)
    parser.add_argument("--labels", type=int, default=60)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--shuffles", type=int, default=0, help="versions of the labels counted beside the true one")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--interplm", type=Path, help="a checkout of github.com/ElanaPearl/InterPLM")
    parser.add_argument("--peer-tokens", type=int, default=20_000)
    parser.add_argument("--keep", action="store_true", help="write results/association.json")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    load_before = os.getloadavg()[0]
    tokens = make_tokens(chosen.tokens, chosen.labels, chosen.width)
    marks = Marks(span_labels(tokens, "kind").matrix.tocsr().astype(np.int64), tokens.group, len(tokens.groups))
    rng = np.random.default_rng(0)
    versions = [marks, *(marks.shuffled(rng) for _ in range(chosen.shuffles))]
    contender = Contender(sparse_sae(chosen.width, chosen.latents, chosen.k, tokens), is_control=False)
    began, cpu_began = time.perf_counter(), time.process_time()
    largest = largest_activations(tokens, contender, 50_000)
    scaled, cpu = time.perf_counter(), time.process_time()
    scaled_cpu = cpu - cpu_began
    counts = count_pairs(tokens, contender, versions, np.linspace(0, 0.9, THRESHOLDS)[:, None] * largest)
    ended, cpu = time.perf_counter(), time.process_time() - cpu
    coding = time_encoding(tokens, contender)
    result: dict[str, Any] = {
        "machine": machine(), "torch": torch.__version__, "sparselight": __version__, "load_before": load_before, "goal_s": GOAL_S, "goal_tokens": GOAL_TOKENS,
        "n_tokens": tokens.n_tokens, "n_latents": chosen.latents, "n_labels": marks.n_concepts, "n_versions": len(versions),
        "threads": torch.get_num_threads(),
        "l0": float(counts[0].n_fires[0].sum() / tokens.n_tokens),
        "scale_s": round(scaled - began, 2), "scale_cpu_s": round(scaled_cpu, 2), "pass_s": round(ended - scaled, 2), "pass_cpu_s": round(cpu, 2),
        "encoding_cpu_s": round(coding, 2), "tokens_per_s": round(tokens.n_tokens / (ended - scaled)),
        "counts_bytes": sum(part.hits.nbytes + part.spans_found.nbytes for part in counts),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    del counts
    if chosen.interplm is not None:
        result["interplm"] = beside_interplm(tokens.only(np.arange(chosen.peer_tokens // LENGTH * LENGTH)), contender, chosen.interplm, chosen.threads)
    print(json.dumps(result, indent=1))
    if chosen.keep:
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


@torch.no_grad()
def beside_interplm(tokens: Tokens, contender: Contender, checkout: Path, threads: int) -> dict[str, Any]:
    """Processor seconds of both, encoding included, on the same activations, labels, SAE and thresholds."""
    labels = span_labels(tokens, "kind").matrix.tocsr().astype(np.int64)
    marks, sae = Marks(labels, tokens.group, len(tokens.groups)), contender.coder
    largest = largest_activations(tokens, contender, tokens.n_tokens)
    began = time.process_time()
    ours = count_pairs(tokens, contender, [marks], np.array(PEER_THRESHOLDS)[:, None] * largest)[0]
    cpu = time.process_time() - began
    scale = torch.from_numpy(np.where(largest > 0, largest, 1.0)).float()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "activations.npy", tokens.read(np.arange(tokens.n_tokens)).numpy())
        sparse.save_npz(folder / "labels.npz", labels)
        np.savez(folder / "sae.npz", W_enc=(sae.W_enc / scale).numpy(), b_enc=(sae.b_enc / scale).numpy(), b_dec=sae.b_dec.numpy())  # type: ignore[attr-defined]
        (folder / "settings.json").write_text(json.dumps({"threads": threads, "thresholds": PEER_THRESHOLDS}))
        path = os.pathsep.join(filter(None, (str(checkout), os.environ.get("PYTHONPATH", ""))))
        done = subprocess.run([sys.executable, str(DRIVER), str(folder)], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True)
        theirs = json.loads(done.stdout.strip().splitlines()[-1])
        found = np.load(folder / "counts.npz")
        differing = {key: float((found[key].transpose(2, 1, 0) != mine).mean()) for key, mine in (("hits", ours.hits), ("spans_found", ours.spans_found))}
    return {"n_tokens": tokens.n_tokens, "n_thresholds": len(PEER_THRESHOLDS), "ours_cpu_s": round(cpu, 2), "theirs_cpu_s": round(theirs["cpu_s"], 2),
            "ratio": round(theirs["cpu_s"] / cpu, 1), "differing_frac": differing}


def make_tokens(n_tokens: int, n_labels: int, width: int) -> Tokens:
    """Proteins of one group each with a span of 12 residues every 60, its label drawn."""
    n = max(1, n_tokens // LENGTH)
    drawn = np.random.default_rng(1).integers(0, n_labels, (n, LENGTH // 60))
    spans = [tuple(Span(60 * at, 60 * at + 12, "kind", f"label {label}") for at, label in enumerate(row)) for row in drawn.tolist()]
    examples = [Example(str(number), "A" * LENGTH, str(number), {}, own) for number, own in enumerate(spans)]
    example, position = np.repeat(np.arange(n), LENGTH), np.tile(np.arange(LENGTH), n)
    source: Any = DrawnActivations(width)
    return Tokens("drawn", examples, example, example, [str(number) for number in range(n)], position, position, position, position + 1, source,
                  np.arange(n * LENGTH), "site")


@torch.no_grad()
def sparse_sae(width: int, n_latents: int, k: int, tokens: Tokens) -> Sae:
    """A random ReLU SAE whose encoder bias makes about k latents active."""
    x = tokens.read(np.arange(min(4096, tokens.n_tokens)))
    sae = initialize(Sae(width, n_latents), x.mean(0), torch.Generator().manual_seed(0))
    before = (x[:512] - sae.b_dec) @ sae.W_enc + sae.b_enc
    sae.b_enc.sub_(float(before.flatten().kthvalue(before.numel() - 512 * k).values))
    return sae.requires_grad_(False)


def time_encoding(tokens: Tokens, contender: Contender) -> float:
    """Processor seconds that encoding alone takes for all tokens, from a fortieth of them."""
    n = max(16_384, tokens.n_tokens // 40)
    began = time.process_time()
    for start in range(0, n, 16_384):
        contender.sparse.encode(tokens.read(np.arange(start, min(start + 16_384, tokens.n_tokens))))  # type: ignore[union-attr]
    return (time.process_time() - began) * tokens.n_tokens / n


if __name__ == "__main__":
    main()
