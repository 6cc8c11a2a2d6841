"""Which latents have not fired for long, counted in tokens."""

import torch
from jaxtyping import Int
from torch import Tensor


class DeadLatents:
    """For each latent the training tokens since it last fired."""

    def __init__(self, n_latents: int, dead_after_tokens: int, device: torch.device | None = None):
        self.dead_after_tokens = dead_after_tokens
        self.silent_tokens: Int[Tensor, " latent"] = torch.zeros(n_latents, dtype=torch.int64, device=device)

    def update(self, n_fires: Int[Tensor, " latent"], n_tokens: int) -> None:
        """Count one batch. A latent that fired in it starts again from 0."""
        self.silent_tokens += n_tokens
        self.silent_tokens[n_fires > 0] = 0

    def indices(self) -> Int[Tensor, " dead"]:
        return (self.silent_tokens >= self.dead_after_tokens).nonzero()[:, 0]
