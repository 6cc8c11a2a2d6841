"""Planted dictionaries as stores in memory: what the tests of training train on."""

import hashlib
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from sparselight.errors import StoreError
from sparselight.records import Shard, StoreManifest, SubjectRef, TokenPolicy
from sparselight.sae import Sae

SITE, OUT_SITE = "resid_post.1", "mlp_out.1"
SUBJECT = SubjectRef(name="planted", fingerprint="p", token_policy=TokenPolicy(prepend_bos=True, context_tokens=64))
SHARD_TOKENS = 1_000


class MemoryStore:
    """Activations in memory, as a Store. Counts how often it is read."""

    def __init__(self, x: Float[Tensor, "token d_in"] | Mapping[str, Float[Tensor, "token d"]]):
        self.sites = {SITE: x} if isinstance(x, Tensor) else dict(x)
        self.n_tokens, self.n_reads = len(next(iter(self.sites.values()))), 0
        names = [f"shard-{first // SHARD_TOKENS:05d}" for first in range(0, self.n_tokens, SHARD_TOKENS)]
        shards = [Shard(name=name, n_tokens=min(SHARD_TOKENS, self.n_tokens - number * SHARD_TOKENS), n_examples=1, sha256="", tokens_sha256="")
                  for number, name in enumerate(names)]
        self.manifest = StoreManifest(subject=SUBJECT, corpus_fingerprint="c", sites={name: x.shape[1] for name, x in self.sites.items()}, dtype="float32",
                                      shards=shards, n_tokens=self.n_tokens, n_examples=1, harvest_s=0)

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for x in self.sites.values():
            digest.update(x.numpy().tobytes())
        return digest.hexdigest()

    def read(self, rows: np.ndarray, site: str) -> Float[Tensor, "token d_in"]:
        if site not in self.sites:
            raise StoreError(asked=f"read {site}", why="that site is not in it", instead="another")
        self.n_reads += len(rows) > 0
        return self.sites[site][torch.from_numpy(rows)].clone()

    def tokens(self) -> pa.Table:
        """Examples of 7 tokens."""
        return pa.table({"example": np.arange(self.n_tokens) // 7})


def directions(n: int = 48, d_in: int = 32, seed: int = 0) -> Float[Tensor, "latent d_in"]:
    return normalize(torch.randn(n, d_in, generator=torch.Generator().manual_seed(seed)))


def planted(D: Tensor, n: int, seed: int) -> Float[Tensor, "token d_in"]:
    """Each row a sum of about 4 of the directions with amplitudes 3 to 9, off center."""
    return amplitudes(len(D), n, seed) @ D + torch.linspace(-5, 5, D.shape[1])


def amplitudes(n_directions: int, n: int, seed: int) -> Float[Tensor, "token latent"]:
    generator = torch.Generator().manual_seed(seed)
    active = torch.rand(n, n_directions, generator=generator) < 4 / n_directions
    return active * (3 + 6 * torch.rand(n, n_directions, generator=generator))


def two_sites(n: int, seed: int, d_in: int = 32, d_out: int = 20) -> dict[str, Tensor]:
    """A site, and another that holds the same features in other directions, plus a linear map of the first."""
    z = amplitudes(48, n, seed)
    x = z @ directions(48, d_in) + torch.linspace(-5, 5, d_in)
    linear = torch.randn(d_in, d_out, generator=torch.Generator().manual_seed(11)) / 8
    return {SITE: x, OUT_SITE: 0.3 * (z @ directions(48, d_out, seed=7)) + x @ linear + 2}


def fvu(sae: Sae, x: Tensor, target: Tensor | None = None) -> float:
    target = x if target is None else target
    return float((sae.reconstruct(x) - target).square().sum() / (target - target.mean(0)).square().sum())
