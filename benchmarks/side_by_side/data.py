"""What every candidate is given: the same activations, and the same weights to start from. Run as a program it writes the activations.

Activations are sparse sums of 4 d_in unit directions whose frequencies fall off like a power (Zipf), with exponential amplitudes, a common
offset and a little noise, scaled to a mean norm of sqrt(d_in). Weights are unit rows, encoder = decoder^T, decoder bias = mean activation.
They are made block by block from seeds, so that no process ever holds a second copy that would count as its library's memory.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, normalize

N_BATCHES = 2
N_ACTIVE = 24
ZIPF_EXPONENT = 0.7
NOISE = 0.05
BLOCK = 2048
ROWS_AT_ONCE = 1024


class Given(NamedTuple):
    """As a worker reads it."""

    batches: list[Tensor]
    mean: Tensor
    threshold: float
    """Above it lie k of all pre-activations of a token, on average."""


def write(folder: Path, d_in: int, n_latents: int, batch: int, k: int, seed: int) -> None:
    x = activations(d_in, N_BATCHES * batch, seed)
    x.numpy().tofile(folder / "x.f32")
    facts = {"d_in": d_in, "batch": batch, "threshold": threshold_for(x - x.mean(0), n_latents, k, seed)}
    (folder / "facts.json").write_text(json.dumps(facts))


def read(folder: Path, device: str) -> Given:
    facts = json.loads((folder / "facts.json").read_text())
    n_tokens = N_BATCHES * facts["batch"]
    x = torch.from_file(str(folder / "x.f32"), shared=False, size=n_tokens * facts["d_in"]).view(n_tokens, facts["d_in"])
    mean = x.mean(0)
    return Given([part.clone().to(device) for part in x.split(facts["batch"])], mean.to(device), facts["threshold"])


def activations(d_in: int, n_tokens: int, seed: int) -> Tensor:
    """[token d_in]"""
    generator = torch.Generator().manual_seed(seed)
    n_directions = 4 * d_in
    directions = normalize(torch.randn(n_directions, d_in, generator=generator))
    frequency = torch.arange(1, n_directions + 1).float().pow(-ZIPF_EXPONENT)
    parts = []
    for start in range(0, n_tokens, ROWS_AT_ONCE):
        n = min(ROWS_AT_ONCE, n_tokens - start)
        chosen = torch.multinomial(frequency.expand(n, -1), min(N_ACTIVE, n_directions), generator=generator)
        amplitude = 0.2 + torch.empty(chosen.shape).exponential_(generator=generator)
        parts.append(embedding_bag(chosen, directions, per_sample_weights=amplitude, mode="sum"))
    x = torch.cat(parts) + directions[:8].mean(0)
    x += NOISE * x.std() * torch.randn(x.shape, generator=generator)
    return x * (d_in ** 0.5 / x.norm(dim=1).mean())


def weight_blocks(d_in: int, n_latents: int, seed: int) -> Iterator[tuple[slice, Tensor]]:
    """Unit decoder rows [latent d_in], block by block, on the CPU."""
    for start in range(0, n_latents, BLOCK):
        stop = min(start + BLOCK, n_latents)
        generator = torch.Generator().manual_seed(1_000_003 * (seed + 1) + start)
        yield slice(start, stop), normalize(torch.randn(stop - start, d_in, generator=generator))


def threshold_for(x: Tensor, n_latents: int, k: int, seed: int) -> float:
    """The value above which k / n_latents of the pre-activations lie, from some tokens and latents."""
    pre = torch.cat([(x[:512] @ rows.T).flatten() for (_, rows), _ in zip(weight_blocks(x.shape[1], n_latents, seed), range(4), strict=False)])
    return float(pre.topk(max(1, round(len(pre) * k / n_latents))).values[-1])


if __name__ == "__main__":
    write(Path(sys.argv[1]), *(int(argument) for argument in sys.argv[2:]))
