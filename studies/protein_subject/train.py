"""Train the small protein subject: an ESM-2-architecture masked language model on TMbed's sequences.

    python studies/protein_subject/train.py --data DATA/tmbed --out runs/protein_subject --minutes 60

Folds 0 to 3 are trained on, fold 4 is held out (TMbed's folds are homology-reduced). 15 % of the residues are chosen; of them 80 % are masked, 10 %
replaced, 10 % left, as ESM-2 does. A crop carries <cls> and <eos> at the true ends of its protein only, and ends are shown as often as middles: else
nothing could tell a signal peptide from any other hydrophobic stretch. Checkpoints every few minutes, goes on from the checkpoint when called again; a
step depends on its number alone, so a resumed run does what an uninterrupted one does. Ends with OUT/model, a folder that `subject.source` takes, and
results.json: held-out masked accuracy and cross entropy beside a unigram model and a model of the neighbors.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from baselines import measure_baselines
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import EsmConfig, EsmForMaskedLM

from sparselight.corpus import CorpusConfig, load_corpus
from sparselight.corpus.protein.residues import AMINO_ACIDS
from sparselight.files import atomic_path, write_bytes
from sparselight.testing import tiny_esm_tokenizer
from sparselight.testing.tiny import ESM_VOCABULARY

HELD_OUT_FOLD = "cv_04_a.fasta"
CLS, PAD, EOS, UNK, MASK = (ESM_VOCABULARY.index(token) for token in ("<cls>", "<pad>", "<eos>", "<unk>", "<mask>"))
TOKEN_OF = np.full(128, UNK, dtype=np.int64)
for _number, _token in enumerate(ESM_VOCABULARY):
    if len(_token) == 1:
        TOKEN_OF[ord(_token)] = _number
START, END = "<>"  # the true ends of a protein, in a crop
TOKEN_OF[ord(START)], TOKEN_OF[ord(END)] = CLS, EOS
RESIDUE_TOKENS = torch.tensor([ESM_VOCABULARY.index(letter) for letter in AMINO_ACIDS])
MASKED_FRAC, SHOWN_FRAC, REPLACED_FRAC = 0.15, 0.1, 0.1  # ESM's token dropout assumes these
DROPOUT = 0.1  # every residue is seen several times
EVALUATED = 512  # held-out crops
SAVE_S = 120.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with TMbed's cv_00_a.fasta to cv_04_a.fasta")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60, help="fixes the length of the schedule through --tokens-per-s")
    parser.add_argument("--tokens-per-s", type=float, default=7000, help="expected speed, to lay out the schedule")
    parser.add_argument("--rows", type=int, default=16, help="crops a step")
    parser.add_argument("--tokens", type=int, default=512, help="longest crop, ends included")
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--device", default="cpu")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    train, held_out = sequences(chosen.data)
    n_steps = max(1, int(chosen.minutes * 60 * chosen.tokens_per_s / (chosen.rows * chosen.tokens)))
    print(f"{len(train):,} proteins, {sum(map(len, train)):,} residues; held out {len(held_out):,}, {sum(map(len, held_out)):,}; {n_steps:,} steps", flush=True)
    model = make_model(chosen.width, chosen.layers).to(chosen.device)
    fit(model, train, held_out, n_steps, chosen)
    model.float().cpu().save_pretrained(chosen.out / "model", safe_serialization=True)
    tiny_esm_tokenizer().save_pretrained(chosen.out / "model")
    crops = draw_crops(held_out, np.random.default_rng(1), EVALUATED, chosen.tokens)
    results = {
        "n_parameters": sum(parameter.numel() for parameter in model.parameters()), "n_train_residues": sum(map(len, train)),
        "tokens_seen": n_steps * chosen.rows * chosen.tokens, "held_out_fold": HELD_OUT_FOLD, "n_held_out_crops": len(crops),
        "model": evaluate(model, crops), **measure_baselines(train, crops),
    }
    write_bytes(chosen.out / "results.json", (json.dumps(results, indent=1) + "\n").encode())
    print(json.dumps(results, indent=1))


def sequences(data: Path) -> tuple[list[str], list[str]]:
    """Training and held-out sequences, without the proteins that TMbed's authors exclude."""
    files = sorted(data.glob("cv_0*_a.fasta"))
    if [path.name for path in files][-1:] != [HELD_OUT_FOLD]:
        raise SystemExit(f"{data} lacks TMbed's folds cv_00_a.fasta to {HELD_OUT_FOLD}")
    settings = {"exclude_ids": str(data / "blacklist.txt")}
    folds = [[example.text for example in load_corpus(CorpusConfig.parse({"root": str(path), "protein": settings}, "corpus"))] for path in files]
    return [text for fold in folds[:-1] for text in fold], folds[-1]


def make_model(width: int, n_layers: int) -> EsmForMaskedLM:
    torch.manual_seed(0)
    return EsmForMaskedLM(EsmConfig(
        vocab_size=len(ESM_VOCABULARY), mask_token_id=MASK, pad_token_id=PAD, hidden_size=width, num_hidden_layers=n_layers, num_attention_heads=width // 32,
        intermediate_size=4 * width, max_position_embeddings=1026, position_embedding_type="rotary", token_dropout=True, emb_layer_norm_before=False,
        hidden_dropout_prob=DROPOUT, attention_probs_dropout_prob=0.0,
    ))


def draw_crops(texts: list[str], rng: np.random.Generator, n: int, tokens: int) -> list[str]:
    """Crops about random residues, moved inside the protein where they reach past an end; proteins drawn in proportion to their length."""
    lengths = np.array([len(text) + 2 for text in texts])
    chosen = rng.choice(len(texts), n, p=lengths / lengths.sum())
    starts = np.clip(rng.random(n) * lengths[chosen] - tokens / 2, 0, np.maximum(lengths[chosen] - tokens, 0)).astype(int)
    return [(START + texts[index] + END)[start:start + tokens] for index, start in zip(chosen.tolist(), starts.tolist(), strict=True)]


def encode(crops: list[str]) -> Tensor:
    """Tokens of the crops, padded."""
    rows = np.full((len(crops), max(map(len, crops))), PAD, dtype=np.int64)
    for number, crop in enumerate(crops):
        rows[number, :len(crop)] = TOKEN_OF[np.frombuffer(crop.encode(), dtype=np.uint8)]
    return torch.from_numpy(rows)


def mask(ids: Tensor, generator: torch.Generator, only_masks: bool = False) -> tuple[Tensor, Tensor]:
    """Inputs and labels (-100 where nothing is asked); with `only_masks` every chosen residue is masked."""
    chosen = (torch.rand(ids.shape, generator=generator) < MASKED_FRAC) & torch.isin(ids, RESIDUE_TOKENS)
    kind, inputs = torch.rand(ids.shape, generator=generator), ids.clone()
    inputs[chosen & (only_masks | (kind >= SHOWN_FRAC + REPLACED_FRAC))] = MASK
    replaced = chosen & (kind < REPLACED_FRAC) & (not only_masks)
    inputs[replaced] = RESIDUE_TOKENS[torch.randint(len(RESIDUE_TOKENS), ids.shape, generator=generator)][replaced]
    return inputs, torch.where(chosen, ids, -100)


def fit(model: EsmForMaskedLM, train: list[str], held_out: list[str], n_steps: int, chosen: argparse.Namespace) -> None:
    """AdamW with warm-up and a linear decay to 0 (ESM-2: betas 0.9 and 0.98, weight decay 0.01)."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01)
    first = load_checkpoint(chosen.out / "checkpoint.safetensors", model, optimizer)
    crops, log = draw_crops(held_out, np.random.default_rng(0), 64, chosen.tokens), chosen.out / "log.jsonl"
    began = saved = time.monotonic()
    model.train()
    for step in range(first, n_steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 200) * (1 - step / n_steps)
        ids = encode(draw_crops(train, np.random.default_rng([0, step]), chosen.rows, chosen.tokens))
        inputs, labels = mask(ids, torch.Generator().manual_seed(step))
        torch.manual_seed(step)
        with torch.autocast(chosen.device, torch.bfloat16):
            loss = model(input_ids=inputs.to(chosen.device), attention_mask=(ids != PAD).long().to(chosen.device), labels=labels.to(chosen.device)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        last = step == n_steps - 1
        if step % 20 == 0 or last:
            row = {"step": step, "tokens": (step + 1) * chosen.rows * chosen.tokens, "train_ce_nats": loss.item()}
            row["elapsed_s"] = round(time.monotonic() - began, 1)
            row |= {f"held_out_{name}": value for name, value in evaluate(model, crops).items()} if step % 200 == 0 or last else {}
            with log.open("a") as handle:
                handle.write(json.dumps(row) + "\n")
            print(row, flush=True)
        if time.monotonic() - saved > SAVE_S or last:
            save_checkpoint(chosen.out / "checkpoint.safetensors", model, optimizer, step + 1)
            saved = time.monotonic()


@torch.no_grad()
def evaluate(model: EsmForMaskedLM, crops: list[str]) -> dict[str, float]:
    """Accuracy and cross entropy (nats) of masked residues; the same masks at every call."""
    model.eval()
    device = next(model.parameters()).device
    hits, nats, n = 0, 0.0, 0
    for start in range(0, len(crops), 32):
        ids = encode(crops[start:start + 32])
        inputs, labels = mask(ids, torch.Generator().manual_seed(start), only_masks=True)
        with torch.autocast(device.type, torch.bfloat16):
            logits = model(input_ids=inputs.to(device), attention_mask=(ids != PAD).long().to(device)).logits
        asked = labels != -100
        wanted, scores = labels[asked], logits[asked.to(device)].float().cpu()
        hits += int((scores.argmax(-1) == wanted).sum())
        nats += torch.nn.functional.cross_entropy(scores, wanted, reduction="sum").item()
        n += len(wanted)
    model.train()
    return {"accuracy": hits / n, "ce_nats": nats / n, "n_masked": n}


def save_checkpoint(path: Path, model: EsmForMaskedLM, optimizer: torch.optim.Optimizer, step: int) -> None:
    tensors = {f"model.{name}": value.contiguous().clone() for name, value in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value).clone() for name, value in state.items()}
    with atomic_path(path) as temporary:
        save_file({**tensors, "step": torch.tensor(step)}, temporary)


def load_checkpoint(path: Path, model: EsmForMaskedLM, optimizer: torch.optim.Optimizer) -> int:
    """The step to go on from."""
    if not path.is_file():
        return 0
    tensors = load_file(path)
    model.load_state_dict({name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")})
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, field = name.split(".")
            state.setdefault(int(index), {})[field] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(tensors["step"])


if __name__ == "__main__":
    main()
