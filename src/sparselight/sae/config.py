"""The settings that say which SAE is trained: architecture, width, sparsity, first weights.

Settings that only some architectures know are refused with the others (`ARCHITECTURES[...].settings`).
"""

import itertools
from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from sparselight.config import Config
from sparselight.errors import ConfigError


class SaeConfig(Config):
    """What kind of SAE."""

    architecture: str = "batch_topk"
    """How latents are selected while training (sparselight.sae.ARCHITECTURES)."""
    n_latents: int | None = Field(None, gt=0)
    """Width of the dictionary; leave out to have expansion * d_in."""
    expansion: float = Field(8.0, gt=0)
    """Latents per input dimension, where n_latents is not given."""
    k: float = Field(32.0, gt=0)
    """Active latents a token: exactly (topk), on average (batch_topk, matryoshka)."""
    group_fracs: tuple[float, ...] = (1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
    """Of matryoshka: each nested group's share of the latents, in order; they add up to 1."""
    within_token: bool = False
    """Of matryoshka: select the k largest of each token in place of k * batch of the whole batch."""
    bandwidth: float = Field(0.03, gt=0)
    """Of jump_relu: width of the window around a threshold in which its gradient is estimated, in units of the scaled pre-activations."""
    first_threshold: float = Field(0.03, gt=0)
    """Of jump_relu: every latent's threshold to begin with."""
    threshold: Literal["calibrated", "ema"] = "calibrated"
    """Of batch_topk and matryoshka: the inference threshold is the mean cutoff over fresh batches at the final weights, or a running mean through training."""
    target_site: str | None = None
    """Train a transcoder: what is decoded is this site's activations, stored beside the input's. Leave out to decode the input itself."""
    skip: bool = False
    """Of a transcoder: add a linear map from input to output (arXiv 2501.18823)."""
    tied_init: bool = True
    """Begin with W_enc = W_dec^T; else with an encoder drawn by itself."""
    decoder_norm: Literal["unit", "free"] = "unit"
    """Keep decoder rows at unit norm while training, or let them be learned (the L1 term then needs objective.l1_decoder_norm). Saved SAEs have unit rows,
    but for topk with normalize = per_dimension or whiten: other units would make other latents the k largest."""

    @field_validator("group_fracs")
    @classmethod
    def _whole(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or min(value) <= 0 or abs(sum(value) - 1) > 1e-6:
            raise ValueError("are not positive shares that add up to 1")
        return value

    @model_validator(mode="after")
    def _skip_has_a_target(self) -> Self:
        if self.skip and self.target_site is None:
            raise ValueError("skip = true needs target_site: a skip connection would copy the input")
        return self

    @model_validator(mode="after")
    def _a_token_has_whole_latents(self) -> Self:
        if self.within_token and self.k != round(self.k):
            raise ValueError(f"k = {self.k:g} must be whole with within_token = true")
        if self.within_token and "threshold" in self.model_fields_set:
            raise ValueError("threshold means nothing with within_token = true: inference keeps the k largest of each token")
        return self


def group_ends(fracs: Sequence[float], n_latents: int) -> tuple[int, ...]:
    """Where each nested group ends; the last one takes what rounding leaves.

    Raises:
        ConfigError: when that leaves a group without latents.
    """
    ends, total = [], 0.0
    for frac in fracs[:-1]:
        total += frac
        ends.append(round(total * n_latents))
    ends.append(n_latents)
    for number, (start, end) in enumerate(itertools.pairwise([0, *ends]), 1):
        if start >= end:
            raise ConfigError(asked=f"divide {n_latents} latents into groups of the shares group_fracs = {', '.join(f'{frac:g}' for frac in fracs)}",
                              why=f"group {number} has none", instead="give fewer groups, or more latents (n_latents, expansion)")
    return tuple(ends)
