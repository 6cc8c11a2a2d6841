"""What a candidate offers, and how all candidates get the same weights.

A candidate calls its library's own trainer where that runs without a language model, with the library's defaults for all that the task
does not fix. What it has to leave out or redo is said in its file.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..data import Given, weight_blocks
from ..task import FRESH_THRESHOLD, Task


class Weights(NamedTuple):
    """Views of a candidate's own parameters; writing to them changes the candidate."""

    W_enc: Tensor
    """[latent d_in]"""
    b_enc: Tensor
    W_dec: Tensor
    """[latent d_in]"""
    b_dec: Tensor | None
    """None where the library has no decoder bias."""
    subtracts_b_dec: bool
    """Whether the encoder reads x - b_dec."""


class Candidate(Protocol):
    """One library doing one task. `forward` gives dense codes and the reconstruction, as computed while training (or at inference in that mode)."""

    def weights(self) -> Weights: ...
    def set_threshold(self, value: float) -> None: ...
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]: ...
    def run(self, x: Tensor) -> None: ...


@torch.no_grad()
def give_weights(candidate: Candidate, task: Task, given: Given) -> None:
    """Set a candidate to the state that the task asks for. Where the library does not subtract b_dec, the encoder bias does the same."""
    weights = candidate.weights()
    for block, rows in weight_blocks(task.d_in, task.n_latents, task.seed):
        weights.W_dec[block].copy_(rows)
        weights.W_enc[block].copy_(rows)
        weights.b_enc[block] = 0.0 if weights.subtracts_b_dec else -(rows.to(given.mean) @ given.mean)
    if weights.b_dec is not None:
        weights.b_dec.copy_(given.mean)
    if task.kind == "relu" and task.state == "sparse":
        weights.b_enc.sub_(given.threshold)
    if task.kind == "jump_relu":
        candidate.set_threshold(given.threshold if task.state == "sparse" else FRESH_THRESHOLD)
