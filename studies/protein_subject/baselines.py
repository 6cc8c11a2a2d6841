"""What a masked residue can be told from without a model: how frequent residues are, and which ones stand beside it.

The neighbor model interpolates: p(a | neighbors) = (n(a, context) + s p(a | shorter context)) / (n(context) + s), contexts being the residue on each side,
then two on each side. Where a neighbor is masked or missing, the shorter context is all there is.
"""

import numpy as np
import torch

from sparselight.corpus.protein.residues import AMINO_ACIDS

SMOOTHING, N = 200.0, len(AMINO_ACIDS)
CODE = np.full(128, N, dtype=np.int64)  # N: anything else, masked residues included
for _number, _letter in enumerate(AMINO_ACIDS):
    CODE[ord(_letter)] = _number


def measure_baselines(train: list[str], crops: list[str]) -> dict[str, dict[str, float]]:
    """Accuracy and cross entropy of both on the residues that `train.evaluate` masks."""
    from train import encode, mask

    text = codes("#".join(train))
    unigram = np.bincount(text, minlength=N + 1)[:N].astype(float)
    unigram /= unigram.sum()
    tables = [context_counts(text, reach) for reach in (1, 2)]
    wanted, rows = [], {"unigram": [], "neighbors": []}
    for start in range(0, len(crops), 32):
        group = crops[start:start + 32]
        _, labels = mask(encode(group), torch.Generator().manual_seed(start), only_masks=True)
        for row, crop in enumerate(group):
            asked = labels[row, :len(crop)].numpy() != -100
            shown = np.where(asked, N, codes(crop))
            wanted.append(codes(crop)[asked])
            rows["unigram"].append(np.tile(unigram, (int(asked.sum()), 1)))
            rows["neighbors"].append(neighbors(shown, np.flatnonzero(asked), unigram, tables))
    return {name: score(np.concatenate(parts), np.concatenate(wanted)) for name, parts in rows.items()}


def codes(text: str) -> np.ndarray:
    return CODE[np.frombuffer(text.encode(), dtype=np.uint8)]


def contexts(text: np.ndarray, at: np.ndarray, reach: int) -> np.ndarray:
    """A number for the residues on both sides of each position; -1 where one of them is unknown."""
    padded = np.concatenate([np.full(reach, N), text, np.full(reach, N)])
    sides = [padded[at + reach + offset] for offset in range(-reach, reach + 1) if offset]
    number = np.zeros(len(at), dtype=np.int64)
    for side in sides:
        number = number * N + np.minimum(side, N - 1)
    return np.where(np.stack(sides).max(axis=0) == N, -1, number)


def context_counts(text: np.ndarray, reach: int) -> np.ndarray:
    number = contexts(text, np.arange(len(text)), reach)
    known = (number >= 0) & (text < N)
    return np.bincount(number[known] * N + text[known], minlength=N ** (2 * reach + 1)).reshape(-1, N).astype(float)


def neighbors(shown: np.ndarray, at: np.ndarray, unigram: np.ndarray, tables: list[np.ndarray]) -> np.ndarray:
    p = np.tile(unigram, (len(at), 1))
    for reach, table in enumerate(tables, 1):
        number = contexts(shown, at, reach)
        counts = np.where((number >= 0)[:, None], table[np.maximum(number, 0)], 0)
        p = (counts + SMOOTHING * p) / (counts.sum(axis=1, keepdims=True) + SMOOTHING)
    return p


def score(p: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    return {"accuracy": float((p.argmax(axis=1) == wanted).mean()), "ce_nats": float(-np.log(p[np.arange(len(wanted)), wanted]).mean()), "n_masked": len(p)}
