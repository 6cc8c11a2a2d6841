"""Coders that explanations stand beside: what the same search finds for latents that nobody trained.

Owns the two controls, `random_latent` (an SAE of the same width and sparsity with random weights) and `raw_neuron` (channels of the activations, as
many a token as the SAE has latents), and how a latent is compared with control latents that fire about as often. Refuses nothing: a control that
cannot be made for a coder is left out.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int

from sparselight.evaluate.controls import CONTROL_ROWS, SEED_OFFSET, untrained
from sparselight.evaluate.linear_coders import LinearCoder, raw_channels
from sparselight.protocols import Codes, SparseCoder
from sparselight.records import MetricValue
from sparselight.sae import Sae

ControlName = Literal["random_latent", "raw_neuron"]
MOST_LATENTS = 1024  # of an untrained SAE: all its latents are alike, and these give 20 neighbours in firing rate to any latent
N_NEAREST = 20
MOST_RATIO = 4.0  # of firing counts: control latents beyond it do not fire "about as often"


def make_controls(coder: SparseCoder, x: Float[torch.Tensor, "token d_in"], which: Iterable[ControlName], seed: int) -> dict[ControlName, SparseCoder]:
    """The controls of a coder.

    Args:
        x: activations of the explain side, on which sparsity is matched.
    """
    x = x[torch.linspace(0, len(x) - 1, min(len(x), CONTROL_ROWS)).long()]
    result: dict[ControlName, SparseCoder] = {}
    for name in which:
        if name == "raw_neuron":
            codes = coder.encode(x[: CONTROL_ROWS // 8])
            n_active = round(int((codes.values > 0).sum()) / codes.n_tokens)
            result[name] = _LinearLatents(raw_channels(x).keeping(min(max(1, n_active), x.shape[1])))
        elif isinstance(coder, Sae) and not coder.is_transcoder:
            result[name] = _first_latents(untrained(coder, x, seed + SEED_OFFSET))
    return result


class _LinearLatents:
    """A linear coder as the SparseCoder that the pass reads."""

    def __init__(self, coder: LinearCoder):
        self.coder, self.d_in, self.n_latents = coder, coder.d_in, coder.n_latents

    def encode(self, x: Float[torch.Tensor, "token d_in"]) -> Codes:
        return self.coder.encode(x)

    def decode(self, codes: Codes) -> Float[torch.Tensor, "token d_in"]:
        return self.coder.decode(codes)


def _first_latents(sae: Sae) -> Sae:
    """An SAE with one threshold for all latents, cut to MOST_LATENTS: the codes of those that stay are what they were."""
    n = min(sae.n_latents, MOST_LATENTS)
    result = Sae(sae.d_in, n)
    with torch.no_grad():
        result.W_enc.copy_(sae.W_enc[:, :n])
        result.W_dec.copy_(sae.W_dec[:n])
        result.b_enc.copy_(sae.b_enc[:n])
        result.b_dec.copy_(sae.b_dec)
        result.threshold.copy_(sae.threshold[:n])
    result.subtract_b_dec = sae.subtract_b_dec
    return result.to(sae.W_enc.device)


@dataclass(frozen=True, slots=True)
class Reference:
    """Held-out F1 of a control's latents, each with the explanation that the same search found for it, in order of firing."""

    log_n_fires: Float[np.ndarray, " latent"]
    """ln of the explain tokens on which each fires, ascending."""
    f1: Float[np.ndarray, " latent"]

    @classmethod
    def of(cls, n_fires: Int[np.ndarray, " latent"], f1: Float[np.ndarray, " latent"]) -> "Reference":
        """Leave out the latents that never fire."""
        fires = np.flatnonzero(n_fires > 0)
        order = fires[np.argsort(n_fires[fires], kind="stable")]
        return cls(np.log(n_fires[order]), f1[order])

    def near(self, n_fires: int, seed: int) -> MetricValue | None:
        """Mean F1 of the N_NEAREST latents in firing count, with the lowest and the largest; None where fewer than half fire about as often."""
        if not n_fires or not len(self.f1):
            return None
        distance = np.abs(self.log_n_fires - np.log(n_fires))
        nearest = np.argsort(distance, kind="stable")[:N_NEAREST]
        alike = self.f1[nearest[distance[nearest] <= np.log(MOST_RATIO)]]
        if len(alike) < N_NEAREST // 2:
            return None
        return MetricValue(value=float(alike.mean()), low=float(alike.min()), high=float(alike.max()), n=len(alike), unit="latents", seeds=[seed])
