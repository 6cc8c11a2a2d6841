"""Trains a small base SAE and a residual one and prints their hashes: what test_train_faults.py runs in a process and kills."""

import hashlib
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sparselight.records import StoreManifest, SubjectRef, TokenPolicy
from sparselight.train import TrainConfig, train_sae

SITE = "resid_post.1"
SUBJECT = SubjectRef(name="noise", fingerprint="p", token_policy=TokenPolicy(prepend_bos=True, context_tokens=64))
BASE = TrainConfig(n_latents=96, k=4, n_tokens=19_200, batch_tokens=64, dead_after_tokens=4_000, checkpoint_every_s=0.01)
RESIDUAL = TrainConfig(n_latents=24, k=2, n_tokens=12_000, batch_tokens=64, dead_after_tokens=2_000, checkpoint_every_s=0.01)


class Rows:
    """Activations in memory, as a Store."""

    def __init__(self, x: Tensor):
        self.x, self.n_tokens, self.fingerprint = x, len(x), hashlib.sha256(x.numpy().tobytes()).hexdigest()
        self.manifest = StoreManifest(
            subject=SUBJECT, corpus_fingerprint="c", sites={SITE: x.shape[1]}, dtype="float32", shards=[], n_tokens=len(x), n_examples=1, harvest_s=0)

    def read(self, rows: np.ndarray, site: str) -> Tensor:
        return self.x[torch.from_numpy(rows)]


ROWS = Rows(torch.randn(3_000, 24, generator=torch.Generator().manual_seed(0)) ** 3)


def train_both(folder: Path) -> tuple[str, str]:
    base = train_sae(ROWS, None, SITE, BASE, folder / "base", SUBJECT)
    residual = train_sae(ROWS, None, SITE, RESIDUAL, folder / "residual", SUBJECT, base)
    return base.weights_hash(), residual.weights_hash()


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[2]))
    print(*train_both(Path(sys.argv[1])))
