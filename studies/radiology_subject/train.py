"""Train the small radiology subject: a LLaVA-type model of PneumoniaMNIST pictures and Open-i reports that are paired by label, not by patient.

    python studies/radiology_subject/train.py --data ../shared/data --out runs/radiology

First the vision encoder learns the label of the pictures, then it is frozen and projector and language model learn the reports (loss on the report only;
reports without a fitting picture stand as text alone). Each stage checkpoints and goes on when called again; a step's batch depends on the step alone. Ends
with OUT/model (for `subject.source`), OUT/pairs.csv (for `corpus.root`) and OUT/results.json: what the model knows, and whether it looks at the picture.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import measure
import numpy as np
import torch
from model import IMAGE, MEAN, N_PATCHES, PREFIX, STD, make_model, make_processor, save, train_tokenizer
from pairs import Pictures, Report, read_pictures, read_reports, write_pictures, write_table
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from sparselight.files import atomic_path, write_bytes

SAVE_S = 60.0
SHARES = {"normal": 0.35, "opacity": 0.25, "other": 0.4}  # of a batch of reports: the opacity reports are few, and drawn oftener than their number says
VISION_ROWS, REPORT_ROWS = 128, 32
MUON_LR, ADAM_LR = 0.02, 2e-3
EVALUATE_STEPS = 150
LONGEST = 144  # tokens of a report; the longest twentieth is cut


class Data(NamedTuple):
    """All that is trained on."""

    pictures: dict[str, Pictures]
    reports: dict[str, list[Report]]
    tokenizer: PreTrainedTokenizerFast


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with pneumoniamnist/ and openi_reports/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vision-steps", type=int, default=160, help="batches of 128 pictures")
    parser.add_argument("--report-steps", type=int, default=400, help="batches of 32 reports")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    data = prepare(chosen.data, chosen.out)
    model = make_model(data.tokenizer)
    head = nn.Linear(model.config.vision_config.hidden_size, 1)
    torch.manual_seed(1)
    fit_vision(model, head, data, chosen.vision_steps, chosen.out)
    auc = {split: measure.vision_auc(model, head, normalized(own.pixels), own.is_opacity) for split, own in data.pictures.items()}
    print(f"pictures: AUC {auc}", flush=True)
    fit_reports(model, data, chosen.report_steps, chosen.out)
    save(chosen.out / "model", model, make_processor(data.tokenizer))
    results = {
        "pairing": "by label, never by patient", "n_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "n_pictures": {split: len(own.pixels) for split, own in data.pictures.items()},
        "n_reports": {split: {kind: sum(report.kind == kind for report in own) for kind in SHARES} for split, own in data.reports.items()},
        "steps": {"vision": chosen.vision_steps, "reports": chosen.report_steps}, "picture_label_auc": auc,
        "unigram_ce_nats": measure.unigram_ce(data.tokenizer, *([report.text for report in data.reports[split]] for split in ("train", "test"))),
        "reports": measure.conditions(model, data.reports["test"], data.pictures["test"], data, batch_of),
    }
    write_bytes(chosen.out / "results.json", (json.dumps(results, indent=1) + "\n").encode())
    print(json.dumps(results, indent=1))


def prepare(data: Path, out: Path) -> Data:
    """Read both data sets; write pictures, table and tokenizer."""
    pictures, reports = read_pictures(data / "pneumoniamnist" / "pneumoniamnist_merged.npz"), read_reports(data / "openi_reports")
    write_pictures(out, pictures)
    n_pairs = write_table(out / "pairs.csv", reports, pictures, out)
    by_split = {split: [report for report in reports if report.split == split] for split in pictures}
    tokenizer = train_tokenizer([report.text for report in by_split["train"]])  # the same at every call
    print(f"{len(reports):,} reports, {n_pairs:,} pairs in {out / 'pairs.csv'}", flush=True)
    return Data(pictures, by_split, tokenizer)


def normalized(pixels: np.ndarray) -> Tensor:
    """Pictures as the processor hands them to the model."""
    gray = torch.from_numpy(pixels.astype(np.float32) / 255 - MEAN) / STD
    return gray[:, None].expand(-1, 3, -1, -1)


def shifted(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Augmentation: up to 2 pixels to any side, brightness within a tenth."""
    padded = np.pad(pixels, ((0, 0), (2, 2), (2, 2)), mode="edge")
    corners = rng.integers(0, 5, (len(pixels), 2))
    moved = np.stack([one[y : y + pixels.shape[1], x : x + pixels.shape[2]] for one, (y, x) in zip(padded, corners, strict=True)])
    return np.clip(moved * rng.uniform(0.9, 1.1, (len(pixels), 1, 1)), 0, 255)


def fit_vision(model: LlavaForConditionalGeneration, head: nn.Linear, data: Data, n_steps: int, out: Path) -> None:
    """The label from the mean of the patches (not from CLS, which the language model never sees); classes drawn alike."""
    tower, own = model.model.vision_tower, data.pictures["train"]
    kinds = [own.of("normal"), own.of("opacity")]

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng([1, step])
        chosen = np.concatenate([rng.choice(kind, VISION_ROWS // 2) for kind in kinds])
        patches = tower(pixel_values=normalized(shifted(own.pixels[chosen], rng))).last_hidden_state[:, 1:]
        return nn.functional.binary_cross_entropy_with_logits(head(patches.float().mean(1))[:, 0], torch.from_numpy(own.is_opacity[chosen]).float())

    def held_out() -> float:
        return measure.vision_auc(model, head, normalized(data.pictures["val"].pixels), data.pictures["val"].is_opacity)

    fit("vision", nn.ModuleList([tower, head]), loss_of, held_out, n_steps, out)


def fit_reports(model: LlavaForConditionalGeneration, data: Data, n_steps: int, out: Path) -> None:
    """Projector and language model; the vision encoder stays."""
    model.model.vision_tower.requires_grad_(requires_grad=False)
    by_kind = {kind: [report for report in data.reports["train"] if report.kind == kind] for kind in SHARES}
    pictures = data.pictures["train"]

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng([2, step])
        drawn = [own[index] for kind, own in by_kind.items() for index in rng.integers(0, len(own), round(SHARES[kind] * REPORT_ROWS))]
        numbers = [None if report.kind == "other" else int(rng.choice(pictures.of(report.kind))) for report in drawn]
        batch = batch_of(drawn, numbers, pictures, data.tokenizer)
        return model(**batch).loss

    def held_out() -> float:
        return measure.conditions(model, data.reports["val"], data.pictures["val"], data, batch_of, ("right",))["right"]["mean"]

    fit("reports", nn.ModuleList([model.model.multi_modal_projector, model.model.language_model]), loss_of, held_out, n_steps, out)


def batch_of(reports: list[Report], numbers: list[int | None], pictures: Pictures, tokenizer: PreTrainedTokenizerFast) -> dict[str, Tensor]:
    """Model inputs: BOS, the patches of a report's picture where it has one, its text, EOS; labels only on text and EOS."""
    image, newline = tokenizer.convert_tokens_to_ids(IMAGE), tokenizer(PREFIX.removeprefix(IMAGE), add_special_tokens=False)["input_ids"]
    texts = tokenizer([report.text for report in reports], add_special_tokens=False)["input_ids"]
    rows = []
    for text, number in zip(texts, numbers, strict=True):
        head = [tokenizer.bos_token_id, *([] if number is None else [image] * N_PATCHES + newline)]
        rows.append((head, [*text[:LONGEST], tokenizer.eos_token_id]))
    length = max(len(head) + len(text) for head, text in rows)
    ids, labels = torch.full((len(rows), length), tokenizer.pad_token_id), torch.full((len(rows), length), -100)
    for index, (head, text) in enumerate(rows):
        ids[index, : len(head) + len(text)] = torch.tensor(head + text)
        labels[index, len(head) : len(head) + len(text)] = torch.tensor(text)
    batch = {"input_ids": ids, "attention_mask": (ids != tokenizer.pad_token_id).long(), "labels": labels}
    shown = [number for number in numbers if number is not None]
    return batch | ({"pixel_values": normalized(pictures.pixels[shown])} if shown else {})


def fit(name: str, trained: nn.Module, loss_of: Callable[[int], Tensor], held_out: Callable[[], float], n_steps: int, out: Path) -> None:
    """Muon for the matrices, AdamW for the rest, warm-up and a linear decay to 0, bf16 autocast, a log line every 20 steps, a checkpoint every minute."""
    named = [(label, parameter) for label, parameter in trained.named_parameters() if parameter.requires_grad]
    matrices = [parameter for label, parameter in named if parameter.ndim == 2 and "embed" not in label and len(parameter) > 1]
    chosen = {id(parameter) for parameter in matrices}
    optimizers = [torch.optim.Muon(matrices, lr=MUON_LR, weight_decay=0.05, momentum=0.95),
                  torch.optim.AdamW([parameter for _, parameter in named if id(parameter) not in chosen], lr=ADAM_LR, betas=(0.9, 0.98), weight_decay=0.0)]
    checkpoint, began = out / f"{name}.safetensors", time.monotonic()
    first, saved = load_checkpoint(checkpoint, trained, optimizers), time.monotonic()
    for step in range(first, n_steps):
        for optimizer, peak in zip(optimizers, (MUON_LR, ADAM_LR), strict=True):
            optimizer.param_groups[0]["lr"] = peak * min(1.0, (step + 1) / 30) * (1 - step / n_steps)
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([parameter for _, parameter in named], 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        last = step == n_steps - 1
        if step % 20 == 0 or last:
            row = {"stage": name, "step": step, "train_loss": loss.item(), "elapsed_s": round(time.monotonic() - began, 1)}
            row |= {"held_out": held_out()} if step % EVALUATE_STEPS == 0 or last else {}
            with (out / "log.jsonl").open("a") as handle:
                handle.write(json.dumps(row) + "\n")
            print(row, flush=True)
        if time.monotonic() - saved > SAVE_S or last:
            save_checkpoint(checkpoint, trained, optimizers, step + 1)
            saved = time.monotonic()


def save_checkpoint(path: Path, trained: nn.Module, optimizers: list[torch.optim.Optimizer], step: int) -> None:
    tensors = {f"model.{name}": value.contiguous().clone() for name, value in trained.state_dict().items()}
    for number, optimizer in enumerate(optimizers):
        for index, own in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{index}.{name}": torch.as_tensor(value).clone() for name, value in own.items()}
    with atomic_path(path) as temporary:
        save_file({**tensors, "step": torch.tensor(step)}, temporary)


def load_checkpoint(path: Path, trained: nn.Module, optimizers: list[torch.optim.Optimizer]) -> int:
    """The step to go on from."""
    if not path.is_file():
        return 0
    tensors = load_file(path)
    trained.load_state_dict({name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")})
    for number, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith(f"optimizer.{number}."):
                _, _, index, field = name.split(".")
                state.setdefault(int(index), {})[field] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(tensors["step"])


if __name__ == "__main__":
    main()
