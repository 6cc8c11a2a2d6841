"""Measure the demo subject on held-out packages and put it into the package.

    python studies/demo_subject/evaluate.py --out runs/demo_subject [--install]

Writes results.json (bits per byte of the model as shipped, in bf16, beside a unigram model over its tokens, gzip -9 and xz -9e on the
same bytes), the loss curve (curve.jsonl) and its picture (curve.svg) beside this file.
"""

import argparse
import gzip
import json
import lzma
import math
import platform
import shutil
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from train import CONTEXT, HELD_OUT, encode_stream, load_texts

HERE = Path(__file__).parent
STRIDE = 256  # every token but the first few of a file has at least CONTEXT - STRIDE tokens before it


@torch.no_grad()
def stream_nats(model: LlamaForCausalLM, stream: np.ndarray) -> float:
    """Total -log p of a stream of files, each begun by BOS (BOS itself is free: a decoder knows where files begin)."""
    total, begin, scored_to = 0.0, 0, 1
    while scored_to < len(stream):
        window = torch.from_numpy(stream[begin:begin + CONTEXT].astype(np.int64)).unsqueeze(0).clone()
        window[:, 0] = 0
        losses = torch.nn.functional.cross_entropy(model(input_ids=window).logits[0, :-1].float(), window[0, 1:], reduction="none")
        fresh = torch.arange(begin + 1, begin + window.shape[1])
        counted = (fresh >= scored_to) & (window[0, 1:] != 0)
        total += losses[counted].double().sum().item()
        scored_to = begin + window.shape[1]
        begin += STRIDE
    return total


def unigram_nats(train: np.ndarray, held: np.ndarray, vocabulary: int) -> float:
    """Total -log p of the held-out tokens under add-one unigram frequencies of the training tokens."""
    counts = np.bincount(train[train != 0], minlength=vocabulary) + 1.0
    return float(-np.log(counts / counts.sum())[held[held != 0]].sum())


def measure(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, train: np.ndarray, texts: list[str]) -> dict[str, float]:
    raw = "".join(texts).encode()
    held = encode_stream(tokenizer, texts)
    bits = {
        "sparselight demo subject": stream_nats(model, held) / math.log(2),
        "unigram over the same tokens": unigram_nats(train, held, len(tokenizer)) / math.log(2),
        "gzip -9": 8 * len(gzip.compress(raw, 9)), "xz -9e": 8 * len(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)),
    }
    per_byte = {f"{name}, bits per byte": value / len(raw) for name, value in bits.items()}
    return {"n_files": len(texts), "n_bytes": len(raw), "n_tokens": int((held != 0).sum()), **per_byte}


def curve_svg(rows: list[dict[str, float]], xz: float) -> str:
    """Training and held-out cross entropy over tokens as one small SVG."""
    width, height, left, bottom = 640, 320, 50, 40
    x_of = lambda tokens: left + (width - left - 10) * tokens / rows[-1]["tokens"]  # noqa: E731
    y_of = lambda nats: height - bottom - (height - bottom - 10) * nats / 9  # noqa: E731
    line = lambda points: " ".join(f"{x_of(t):.1f},{y_of(v):.1f}" for t, v in points)  # noqa: E731
    train = line([(row["tokens"], row["train_ce_nats"]) for row in rows])
    held = line([(row["tokens"], row["held_out_ce_nats"]) for row in rows if "held_out_ce_nats" in row])
    ticks = "".join(f'<text x="{left - 8}" y="{y_of(v) + 4:.0f}" text-anchor="end">{v}</text>' for v in (0, 2, 4, 6, 8))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12" fill="#444">'
        f'<rect width="{width}" height="{height}" fill="#fff"/>{ticks}'
        f'<polyline points="{train}" fill="none" stroke="#9ab" stroke-width="1"/><polyline points="{held}" fill="none" stroke="#c50" stroke-width="2"/>'
        f'<line x1="{left}" x2="{width - 10}" y1="{y_of(xz):.1f}" y2="{y_of(xz):.1f}" stroke="#333" stroke-dasharray="4 4"/>'
        f'<text x="{width - 14}" y="{y_of(xz) - 6:.0f}" text-anchor="end">xz -9e on the held-out bytes</text>'
        f'<text x="{left}" y="{height - 12}">tokens seen, up to {rows[-1]["tokens"] / 1e6:.0f} M; cross entropy in nats a token: '
        "training (thin), held-out packages (thick)</text></svg>\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder that train.py wrote")
    parser.add_argument("--install", action="store_true", help="copy model and tokenizer into src/sparselight/assets/demo_subject")
    arguments = parser.parse_args()
    model = LlamaForCausalLM.from_pretrained(arguments.out / "model", dtype=torch.float32).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(arguments.out / "tokenizer")
    train_texts, held, held_tests = load_texts()
    train = encode_stream(tokenizer, train_texts)
    results = {
        "n_parameters": sum(p.numel() for p in model.parameters()), "python": platform.python_version(), "held_out_packages": list(HELD_OUT),
        "n_train_files": len(train_texts), "n_train_tokens": len(train),
        "held_out": measure(model, tokenizer, train, held), "held_out_tests": measure(model, tokenizer, train, held_tests),
    }
    rows = [json.loads(line) for line in (arguments.out / "curve.jsonl").read_text().splitlines()]
    results["tokens_seen"] = rows[-1]["tokens"]
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    shutil.copy(arguments.out / "curve.jsonl", HERE / "curve.jsonl")
    per_token = results["held_out"]["xz -9e, bits per byte"] * math.log(2) * results["held_out"]["n_bytes"] / results["held_out"]["n_tokens"]
    (HERE / "curve.svg").write_text(curve_svg(rows, per_token))
    print(json.dumps(results, indent=1))
    if arguments.install:
        target = HERE.parents[1] / "src" / "sparselight" / "assets" / "demo_subject"
        target.mkdir(parents=True, exist_ok=True)
        for source in [*(arguments.out / "model").iterdir(), *(arguments.out / "tokenizer").iterdir()]:
            shutil.copy(source, target / source.name)


if __name__ == "__main__":
    main()
