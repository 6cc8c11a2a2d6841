"""Planted features that cause predictions: a linear head on the planted activations, so that what any edit does to them is known in closed form."""

import numpy as np
import torch
from torch import Tensor

from sparselight.evaluate.planted import SITE, PlantedConfig, PlantedSubject
from sparselight.protocols import Codes

CONFIG = PlantedConfig(d_in=24, n_features=12, mean_active=2.0, n_hierarchies=0, n_compositions=0, n_groups=0, n_dark=0, noise_frac=0.0, bias=0.0,
                       example_tokens=16, fit_tokens=2000, held_out_tokens=800, max_rate=0.4, exponent=0.3)


class PlantedReadout(PlantedSubject):
    """p(v) = softmax(gain <x, d_v>) over one token a feature and a constant one, d_v the planted directions."""

    kind = "module"
    n_vocabulary = CONFIG.n_features + 1

    def __init__(self, config: PlantedConfig = CONFIG, gain: float = 1.5):
        super().__init__(config)
        zero = torch.zeros(1, config.d_in)
        self.head = gain * torch.cat([zero, self.world.directions]).T

    @torch.no_grad()
    def predict(self, batch, edits=None) -> Tensor:
        x = self.capture(batch, [SITE])[SITE]
        return (edits[SITE](x) if edits else x) @ self.head

    def loss(self, batch, edits=None) -> Tensor:
        raise NotImplementedError

    def output_effects(self, directions, site):
        return directions @ self.head


class TrueCoder:
    """Latent f is the planted feature f, found by least squares (exact without noise)."""

    def __init__(self, subject: PlantedSubject):
        self.W_dec = subject.world.directions.clone()
        self.n_latents, self.d_in = self.W_dec.shape
        self.inverse = torch.linalg.pinv(self.W_dec)

    def encode(self, x: Tensor) -> Codes:
        z = (x @ self.inverse).clamp(min=0)
        z = torch.where(z > 1e-4, z, 0.0)
        tokens, latents = z.nonzero(as_tuple=True)
        indptr = torch.cat([torch.zeros(1, dtype=torch.long), torch.bincount(tokens, minlength=len(x)).cumsum(0)])
        return Codes(z[tokens, latents], latents, indptr, self.n_latents)

    def decode(self, codes: Codes) -> Tensor:
        return codes.to_dense() @ self.W_dec


def softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def analytic(subject: PlantedReadout, examples, feature: int, amounts) -> tuple[np.ndarray, np.ndarray]:
    """Mean probability of the feature's token, and mean KL from no edit, when amount x its direction is added to every activation; in float64."""
    x = subject.capture(subject.prepare(examples), [SITE])[SITE].double().numpy()
    head, d = subject.head.double().numpy(), subject.world.directions[feature].double().numpy()
    before = softmax(x @ head)
    after = [softmax((x + amount * d) @ head) for amount in amounts]
    return np.array([p[:, feature + 1].mean() for p in after]), np.array([(before * np.log(before / p)).sum(1).mean() for p in after])
