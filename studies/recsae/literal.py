"""What the sign in RecSAE's published auxiliary loss does: their training as their code writes it, and with the sign of Gao et al. (arXiv 2406.04093).

    loss = FVU + aux / 32      aux = min(n_dead / k_aux, 1) ||e_hat - e||^2 / ||x - mean||^2      e = x_hat - x (literal), or x - x_hat

e_hat is decoded from the k_aux = d / 2 largest dead latents, b_dec added in the literal form; dead: not among the k largest in the last epoch. Adam with weight
decay on all but biases, decoder rows renormalized once an epoch. A study's script, apart from the package: the wrong sign is nothing to train with.

    python studies/recsae/literal.py STORE_FOLDER --epochs 20 --out runs/recsae/literal.json
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from sparselight.files import write_bytes
from sparselight.store import FolderStore


def train(x: Tensor, k: int, scale: int, epochs: int, batch: int, lr: float, literal: bool, seed: int) -> dict[str, float]:
    """Train once.

    Returns:
        fvu of all rows, and latents that are dead at the end.
    """
    torch.manual_seed(seed)
    d, m = x.shape[1], x.shape[1] * scale
    encoder = torch.nn.Linear(d, m)
    torch.nn.init.zeros_(encoder.bias)
    W_dec = torch.nn.Parameter(normalize(encoder.weight.detach().clone(), dim=1))
    b_dec = torch.nn.Parameter(torch.zeros(d))
    optimizer = torch.optim.Adam([{"params": [encoder.weight, W_dec, b_dec], "weight_decay": 1e-6}, {"params": [encoder.bias]}], lr=lr)
    generator = torch.Generator().manual_seed(seed)
    dead = torch.zeros(m, dtype=torch.bool)
    for _ in range(epochs):
        with torch.no_grad():
            W_dec.copy_(normalize(W_dec, dim=1))
        fired = torch.zeros(m, dtype=torch.bool)
        for rows in torch.randperm(len(x), generator=generator).split(batch):
            if len(rows) < 2:
                continue
            part = x[rows]
            pre = encoder(part - b_dec).relu()
            top = pre.topk(k, dim=1)
            fired[top.indices.flatten()] = True
            x_hat = (top.values[..., None] * W_dec[top.indices]).sum(1) + b_dec
            variance = (part - part.mean(0)).pow(2).sum()
            loss = (x_hat - part).pow(2).sum() / variance
            if dead.any():
                loss = loss + auxiliary(pre, W_dec, b_dec, x_hat, part, dead, variance, literal) / 32
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        dead = ~fired
    with torch.no_grad():
        top = encoder(x - b_dec).relu().topk(k, dim=1)
        x_hat = (top.values[..., None] * W_dec[top.indices]).sum(1) + b_dec
        return {"fvu": float((x_hat - x).pow(2).sum() / (x - x.mean(0)).pow(2).sum()), "dead": int(dead.sum())}


def auxiliary(pre: Tensor, W_dec: Tensor, b_dec: Tensor, x_hat: Tensor, x: Tensor, dead: Tensor, variance: Tensor, literal: bool) -> Tensor:
    n_dead, k_aux = int(dead.sum()), x.shape[1] // 2
    chosen = pre[:, dead].topk(min(k_aux, n_dead), dim=1)
    e_hat = (chosen.values[..., None] * W_dec[dead][chosen.indices]).sum(1) + (b_dec if literal else 0)
    e = (x_hat - x).detach() if literal else (x - x_hat).detach()
    return min(n_dead / k_aux, 1.0) * (e_hat - e).pow(2).sum() / variance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/recsae/literal.json"))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--scale", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    chosen = parser.parse_args()
    store = FolderStore.open(chosen.store)
    x = store.read(np.arange(store.n_tokens), next(iter(store.manifest.sites)))
    results = [{"literal": literal, "seed": seed, **train(x, chosen.k, chosen.scale, chosen.epochs, chosen.batch, chosen.lr, literal, seed)}
               for seed in range(chosen.seeds) for literal in (False, True)]
    write_bytes(chosen.out, (json.dumps(results, indent=1) + "\n").encode())
    for row in results:
        print(row)


if __name__ == "__main__":
    main()
