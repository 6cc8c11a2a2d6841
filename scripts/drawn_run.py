"""Make the run on images with text that the documentation shows: `python scripts/drawn_run.py OUT [--steps 450]`.

Drawn studies (`drawn_studies.py`), a small LLaVA-type model trained on them here, and a whole run of it in OUT/run. What is there is not made again. Nothing is
downloaded. What the model learns is to describe drawings; the run is there to look at pages.
"""

import argparse
import csv
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drawn_studies import TRAIN_FRAC, write_studies
from PIL import Image
from torch import Tensor

from sparselight.files import write_bytes
from sparselight.pipeline import run_pipeline
from sparselight.pipeline.recipe import Recipe
from sparselight.testing.image_text import tiny_llava

N_STUDIES = 480
SIDE, PATCH = 64, 8
N_PATCHES = (SIDE // PATCH) ** 2
ROWS, LR, CLIP = 16, 2e-3, 1.0
VOCABULARY, CONTEXT = 700, 288
SPLIT = r" ?[A-Za-z]+|\d| ?[^\sA-Za-z0-9]+|\n|\s+"
PREFIX = "{images}\n"


def make_tokenizer(texts: list[str]) -> Any:
    """Byte-level BPE of whole words."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
                                                       pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["<s>", "</s>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def read_table(path: Path) -> list[tuple[list[Path], str]]:
    """Pictures and text of each study, as the corpus makes it."""
    found: dict[str, tuple[list[Path], str]] = {}
    with path.open(newline="", encoding="utf-8") as handle:
        for row in csv.DictReader(handle):
            text = "\n".join(f"{name.upper()}: {row[name]}" for name in ("indication", "findings", "impression") if row[name])
            found.setdefault(row["study"], ([], text))[0].append(path.parent / row["path"])
    return list(found.values())


def train_model(folder: Path, table: Path, n_steps: int) -> None:
    """A LLaVA of random weights, trained as a whole to write the reports."""
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    studies = read_table(table)
    tokenizer = make_tokenizer([text for _, text in studies])
    made = tiny_llava(folder.with_name("untrained"), tokenizer=tokenizer, d=96, n_layers=3, vision_d=64, vision_layers=4, image_size=SIDE, patch_size=PATCH,
                      context_tokens=CONTEXT, initializer_range=0.02)
    processor = AutoProcessor.from_pretrained(made)
    model = LlavaForConditionalGeneration.from_pretrained(made, torch_dtype=torch.float32)
    image_id, tokens = model.config.image_token_id, processor.tokenizer
    heads = {n: [tokens.bos_token_id, *[image_id] * (N_PATCHES * n), *tokens("\n", add_special_tokens=False)["input_ids"]] for n in (1, 2)}
    texts = [[*tokens(text, add_special_tokens=False)["input_ids"], tokens.eos_token_id] for _, text in studies]
    pixels = [processor.image_processor([Image.open(path).convert("RGB") for path in paths], return_tensors="pt")["pixel_values"] for paths, _ in studies]
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.98), weight_decay=0.01)
    began, n_train = time.monotonic(), round(len(studies) * TRAIN_FRAC)
    for step in range(n_steps):
        rows = np.random.default_rng([7, step]).integers(0, n_train, ROWS).tolist()
        for group in optimizer.param_groups:
            group["lr"] = LR * min(1.0, (step + 1) / 40) * (1 - step / n_steps)
        loss = model(**batch_of(rows, texts, pixels, heads, tokens.pad_token_id)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        if step % 50 == 0 or step == n_steps - 1:
            print(f"step {step}: {loss.item():.3f} nats a token, {time.monotonic() - began:.0f} s", flush=True)
    model.eval()
    with torch.no_grad():
        held_out = [model(**batch_of(list(range(first, min(first + 32, len(studies)))), texts, pixels, heads, tokens.pad_token_id)).loss.item()
                    for first in range(n_train, len(studies), 32)]
    print(f"held out: {np.mean(held_out):.3f} nats a token", flush=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    write_bytes(folder / "training.json", json.dumps({"steps": n_steps, "held_out_nats": float(np.mean(held_out))}).encode())


def batch_of(rows: list[int], texts: list[list[int]], pixels: list[Tensor], heads: dict[int, list[int]], pad: int) -> dict[str, Tensor]:
    """Model inputs; the loss counts the report alone."""
    lines = [(heads[len(pixels[row])], texts[row]) for row in rows]
    length = max(len(head) + len(text) for head, text in lines)
    ids, labels = torch.full((len(rows), length), pad), torch.full((len(rows), length), -100)
    seen = torch.zeros((len(rows), length), dtype=torch.long)
    for index, (head, text) in enumerate(lines):
        end = len(head) + len(text)
        ids[index, :end], labels[index, len(head):end], seen[index, :end] = torch.tensor(head + text), torch.tensor(text), 1
    return {"input_ids": ids, "attention_mask": seen, "labels": labels, "pixel_values": torch.cat([pixels[row] for row in rows])}


def recipe(table: Path, model: Path) -> Recipe:
    """The run: all patches count; the domain is what has a pacemaker."""
    sae = {"architecture": "batch_topk", "batch_tokens": 1024}
    return Recipe.parse({
        "name": "Drawn chest pictures with invented reports",
        "corpus": {"kind": "image_text", "root": str(table), "id": "study", "group": "patient", "split": "split", "held_out_values": ["test"],
                   "image_text": {"image": "path", "image_name": "view", "boxes": str(table.with_name("boxes.csv")), "box_name": "drawn"}},
        "select": {"seed_labels": ["device=pacemaker"], "max_tokens": 14_000, "guard": "off"},
        "subject": {"source": str(model), "context_tokens": CONTEXT, "image_text": {"image_tokens": "all", "prompt_prefix": PREFIX}},
        "sample": {"general_tokens": 36_000, "held_out_tokens": 10_000}, "harvest": {"site": "resid_post.1"},
        "train": {**sae, "n_latents": 384, "k": 10, "n_tokens": 300_000}, "residual": {**sae, "n_latents": 48, "k": 2, "n_tokens": 60_000},
        "evaluate": {"suite": "reconstruction,behaviour", "n_bootstrap": 300, "n_tokens": 4_000},
        "explain": {"explain_tokens": 30_000, "score_tokens": 10_000, "n_shuffles": 3, "n_bootstrap": 200, "context_tokens": 48},
        "intervene": {"n_features": 2, "side_effect_tokens": 800},
    })


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=450, help="of training the model, 16 studies each")
    given = parser.parse_args()
    table, model = given.out / "studies.csv", given.out / "model"
    if not table.is_file():
        write_studies(given.out, N_STUDIES)
    if not (model / "training.json").is_file():
        train_model(model, table, given.steps)
    result = run_pipeline(recipe(table, model), given.out / "run")
    print(f"run: {given.out / 'run'} ({', '.join(result.stages)})")


if __name__ == "__main__":
    main()
