"""Sequences written with a latent held up, beside four controls, and how many have what the latent stands for.

The latent is the one with the highest F1 on the fit side for the goal's label (table association_labels). It is clamped to a multiple of its largest
activation while a masked language model fills in a row of masks. Controls: no edit; a random living latent of like firing rate, clamped alike; a random
direction of the same norm as the edit; the latent of another label. Judges that know nothing of the SAE: for a pattern the pattern itself
(`evaluate.sequences`, low complexity left out), for a label a logistic probe on the unedited subject's activations, fitted on the fit side, and hydropathy.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor

from sparselight.corpus.protein.residues import AMINO_ACIDS
from sparselight.evaluate import Dataset
from sparselight.evaluate.sequences import hydropathy, summarize_sequences
from sparselight.evaluate.statistics import wilson
from sparselight.intervene import edit_function
from sparselight.intervene.unmask import unmask
from sparselight.protocols import EditFunction, Example
from sparselight.records import Edit
from sparselight.sae import Sae
from sparselight.subjects import MaskedLM
from sparselight.subjects.batching import batches_by_length

STRENGTHS = (1.0, 2.0, 5.0)
PROBE_EXAMPLES, HELIX_WINDOW, BATCH_TOKENS = 300, 19, 8192
PATTERN = "zinc_finger_C2H2"


def steer_towards(
    subject: MaskedLM, sae: Sae, site: str, goal: str, coder: str, evaluation: Path, dataset: Dataset, n: int, length: int, seed: int,
) -> Iterator[dict[str, Any]]:
    """A row for each arm and strength."""
    labels = best_latents(evaluation, coder)
    if goal not in labels:
        yield {"arm": "none", "why_not": "no latent was found for the label"}
        return
    latent, rng = labels[goal], np.random.default_rng(seed)
    largest, rates = activity(subject, sae, site, dataset)
    alive = np.flatnonzero((rates > 0) & (np.arange(len(rates)) != latent))
    alike = alive[np.argsort(np.abs(np.log(rates[alive]) - np.log(max(rates[latent], 1e-9))))[:10]]
    other = next((found for label, found in labels.items() if label != goal and found != latent), None)
    judge = judge_of(subject, site, goal, dataset)
    yield {"arm": "no edit", "strength": 0.0, "latent": latent, **judge(write(subject, {}, n, length, seed))}
    for strength in STRENGTHS:
        arms = {"latent": clamp(sae, site, latent, strength * largest[latent])}
        random = int(rng.choice(alike)) if len(alike) else latent
        arms["random latent"] = clamp(sae, site, random, strength * largest[random])
        arms["random direction"] = push(rng.standard_normal(sae.d_in), strength * largest[latent] * float(sae.W_dec[latent].norm()))
        if other is not None:
            arms["other label"] = clamp(sae, site, other, strength * largest[other])
        for arm, edit in arms.items():
            yield {"arm": arm, "strength": strength, "latent": latent, **judge(write(subject, {site: edit}, n, length, seed))}


def best_latents(evaluation: Path, coder: str) -> dict[str, int]:
    """Label to its best latent by F1 on the fit side."""
    rows = pq.read_table(evaluation / "tables" / "association.association_labels.parquet").to_pylist()
    return {f"{row['kind']}={row['label']}": row["latent"] for row in rows if row["coder"] == coder and row["criterion"] == "f1" and row["rank"] == 1
            and row["level"] == "spans"}


def activity(subject: MaskedLM, sae: Sae, site: str, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Largest activation and firing rate of every latent over some fit proteins."""
    codes = sae.encode(captured(subject, dataset.fit[:PROBE_EXAMPLES], site)[0])
    dense_max = torch.zeros(sae.n_latents).scatter_reduce_(0, codes.latents.long(), codes.values, "amax")
    return dense_max.numpy(), np.bincount(codes.latents.numpy(), minlength=sae.n_latents) / codes.n_tokens


def clamp(sae: Sae, site: str, latent: int, amount: float) -> EditFunction:
    return edit_function(Edit(site=site, latents=[latent], operation="clamp", amount=float(amount)), sae)


def push(direction: np.ndarray, norm: float) -> EditFunction:
    step = torch.from_numpy(direction / np.linalg.norm(direction) * norm).float()

    def edit(x: Tensor, *_: object) -> Tensor:
        return x + step.to(x)

    return edit


def write(subject: MaskedLM, edits: dict[str, EditFunction], n: int, length: int, seed: int) -> list[str]:
    found = unmask(subject, [length], edits, temperature=1.0, seeds=range(seed, seed + n), allowed=AMINO_ACIDS)
    return [sequence.text for sequence in found]


def judge_of(subject: MaskedLM, site: str, goal: str, dataset: Dataset) -> Callable[[list[str]], dict[str, Any]]:
    """From sequences to how many have what the goal asks for, and what they are like."""
    probe, auroc = (None, None) if goal.startswith("pattern=") else probe_for(subject, site, goal, dataset)

    def judge(sequences: list[str]) -> dict[str, Any]:
        found = summarize_sequences(sequences, PATTERN, subject)
        row = {"low_complexity": found.low_complexity, "identity": found.identity, "pseudo_perplexity": found.pseudo_perplexity,
               "hydropathy": float(np.mean([hydropathy(text, HELIX_WINDOW) for text in sequences]))}
        if probe is None:
            return {**row, "hits": found.hit_frac.model_dump(exclude_defaults=True), "chance": found.chance_frac.model_dump(exclude_defaults=True)}
        x, example, _ = captured(subject, [Example(str(number), text, str(number)) for number, text in enumerate(sequences)], site)
        found_residues = np.bincount(example, weights=probe.predict(x.numpy()), minlength=len(sequences))
        hits, share = int((found_residues >= HELIX_WINDOW).sum()), float((found_residues / np.bincount(example, minlength=len(sequences))).mean())
        return {**row, "probe_frac": share, "probe_auroc": auroc, "hits": wilson(hits, len(sequences), "sequences").model_dump(exclude_defaults=True)}

    return judge


def probe_for(subject: MaskedLM, site: str, goal: str, dataset: Dataset) -> tuple[LogisticRegression, float]:
    """A logistic probe of the label on raw activations of unedited natural proteins, and its AUROC on held-out ones."""
    x, _, y = captured(subject, dataset.fit[:PROBE_EXAMPLES], site, goal)
    probe = LogisticRegression(max_iter=500, class_weight="balanced").fit(x.numpy(), y)
    x, _, y = captured(subject, dataset.held_out[:PROBE_EXAMPLES], site, goal)
    return probe, float(roc_auc_score(y, probe.decision_function(x.numpy()))) if 0 < y.sum() < len(y) else float("nan")


def captured(subject: MaskedLM, examples: Sequence[Example], site: str, goal: str = "=") -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Activations of all residues, their example, and whether they carry the label."""
    kind, _, value = goal.partition("=")
    xs, owners, carried = [], [], []
    for group in batches_by_length(subject.n_tokens(list(examples)), BATCH_TOKENS, subject.ref().token_policy):
        batch = subject.prepare([examples[index] for index in group])
        xs.append(subject.capture(batch, [site])[site].cpu())
        local, start = batch.example.numpy(), batch.char_start.numpy()
        owners.append(np.array(group)[local])
        inside = np.zeros(batch.n_tokens, dtype=bool)
        for number, index in enumerate(group):
            for span in examples[index].spans:
                if (span.name, span.value) == (kind, value):
                    inside |= (local == number) & (start >= span.start) & (start < span.end)
        carried.append(inside)
    return torch.cat(xs), np.concatenate(owners), np.concatenate(carried)
