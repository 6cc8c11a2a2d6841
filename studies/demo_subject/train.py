"""Train the demo subject: a small Llama-type language model of Python's standard library.

    python studies/demo_subject/train.py --out runs/demo_subject --minutes 60

Reads the standard library of the interpreter that runs it, holds some packages out, trains a byte-level BPE tokenizer
and a 4.3 M parameter model (Muon for the matrices, AdamW for the rest), checkpoints every few minutes and goes on from
the checkpoint when called again. `evaluate.py` measures the result and writes it into the package.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sparselight.corpus.python_source import iter_source_files, stdlib_root

# A package is held out with everything whose path names it (its tests, its helpers), so that no test quotes a held-out module.
HELD_OUT = (
    "json", "logging", "http", "argparse", "statistics", "sqlite3", "tomllib", "difflib", "smtplib", "wsgiref", "zipfile", "textwrap", "secrets", "hmac",
)
CONTEXT, VOCABULARY, BOS = 512, 4096, "<|bos|>"
# Words (with a leading space and underscores), single digits, runs of punctuation, a newline with the indentation that follows it.
SPLIT = r" ?_*[A-Za-z]+|\d| ?[^\sA-Za-z0-9_]+|_+|\r?\n[ \t]*|[ \t]+|\s+"


def is_held_out(path: str) -> bool:
    parts = path.removesuffix(".py").split("/")
    return any(part == name or part == f"test_{name}" or part.startswith((f"{name}_", f"test_{name}_")) for part in parts for name in HELD_OUT)


def is_test(path: str) -> bool:
    return bool({"test", "tests"}.intersection(path.split("/")))


def load_texts() -> tuple[list[str], list[str], list[str]]:
    """Texts of the training files, of the held-out packages and of the held-out packages' tests, without exact duplicates."""
    train, held, held_tests, seen = [], [], [], set()
    for path, text in iter_source_files(stdlib_root()):
        if text not in seen:
            seen.add(text)
            (train if not is_held_out(path) else held_tests if is_test(path) else held).append(text)
    return train, held, held_tests


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[BOS], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, model_max_length=CONTEXT)


def encode_stream(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> np.ndarray:
    """All texts as one stream of token ids, the BOS token before each."""
    ids = [[tokenizer.bos_token_id, *row] for row in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    return np.concatenate([np.asarray(row, dtype=np.uint16) for row in ids])


def make_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=704, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4,
        max_position_embeddings=CONTEXT, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, rope_theta=10000.0,
    ))


def draw_batch(stream: np.ndarray, step: int, rows: int) -> torch.Tensor:
    """Batch of a step: windows at random offsets, each starting with BOS. A function of the step alone, so that a resumed run sees the same data."""
    starts = np.random.default_rng([0, step]).integers(0, len(stream) - CONTEXT, rows)
    batch = np.stack([stream[start:start + CONTEXT] for start in starts]).astype(np.int64)
    batch[:, 0] = 0
    return torch.from_numpy(batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60, help="training time in minutes; fixes the length of the schedule through --tokens-per-s")
    parser.add_argument("--tokens-per-s", type=float, default=11000, help="expected speed, to lay out the schedule")
    parser.add_argument("--rows", type=int, default=32, help="windows of 512 tokens a step")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    train_texts, held_texts, _ = load_texts()
    tokenizer_dir = arguments.out / "tokenizer"
    if not tokenizer_dir.exists():
        train_tokenizer(train_texts).save_pretrained(tokenizer_dir)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_dir)
    stream, held = encode_stream(tokenizer, train_texts), encode_stream(tokenizer, held_texts)
    held_bytes = sum(len(text.encode()) for text in held_texts)
    n_steps = int(arguments.minutes * 60 * arguments.tokens_per_s / (arguments.rows * CONTEXT))
    print(f"train {len(stream):,} tokens, held out {len(held):,} tokens = {held_bytes:,} bytes, {n_steps} steps", flush=True)

    model = make_model()
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = [
        torch.optim.Muon(matrices, lr=0.02, weight_decay=0.01, momentum=0.95),
        torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    checkpoint, first = arguments.out / "checkpoint.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first = state["step"]
    log, began, saved_at = (arguments.out / "curve.jsonl").open("a"), time.monotonic(), time.monotonic()
    for step in range(first, n_steps):
        fraction = step / n_steps
        scale = min(1.0, (step + 1) / 100) * (1.0 if fraction < 0.4 else max(0.0, (1 - fraction) / 0.6))
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * scale
        batch = draw_batch(stream, step, arguments.rows)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if step % 20 == 0 or step == n_steps - 1:
            row = {"step": step, "tokens": (step + 1) * arguments.rows * CONTEXT, "train_ce_nats": loss.item(), "elapsed_s": time.monotonic() - began}
            if step % 200 == 0 or step == n_steps - 1:
                row["held_out_ce_nats"] = quick_ce(model, held)
                row["held_out_bits_per_byte"] = row["held_out_ce_nats"] * len(held) / held_bytes / math.log(2)
            print(json.dumps(row), file=log, flush=True)
            print(row, flush=True)
        if time.monotonic() - saved_at > 180 or step == n_steps - 1:
            temporary = checkpoint.with_suffix(".tmp")
            torch.save({"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "step": step + 1}, temporary)
            temporary.replace(checkpoint)
            saved_at = time.monotonic()
    model.to(torch.bfloat16).save_pretrained(arguments.out / "model", safe_serialization=True)


@torch.no_grad()
def quick_ce(model: LlamaForCausalLM, stream: np.ndarray) -> float:
    """Mean cross entropy (nats a token) on 64 evenly spaced windows: a progress figure; `evaluate.py` covers every byte."""
    starts = np.linspace(0, len(stream) - CONTEXT, 64).astype(int)
    losses = []
    for group in np.array_split(starts, 4):
        batch = torch.from_numpy(np.stack([stream[start:start + CONTEXT] for start in group]).astype(np.int64))
        batch[:, 0] = 0
        with torch.autocast("cpu", torch.bfloat16):
            losses.append(model(input_ids=batch, labels=batch).loss.item())
    return float(np.mean(losses))


if __name__ == "__main__":
    main()
