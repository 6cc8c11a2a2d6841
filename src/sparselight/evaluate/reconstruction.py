"""How well a coder rebuilds activations: fvu, explained variance, cosine, l0, dead latents.

Formulas are those of vocab.METRICS, in the corrected form of SAEBench core (arXiv 2503.09532, section "Core"): the variance is taken
about one global mean of the evaluated tokens (not about the mean of each batch, and not from squared means), and error and variance
are each summed over tokens before they are divided. Tokens are summed into their groups in float64, so that every metric can be
resampled over groups. Refuses: reconstructions of another shape or with values that are not finite.
"""

from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sparselight.errors import SaeError
from sparselight.evaluate.statistics import Resampled, Resamples, ratio
from sparselight.protocols import Codes, Reconstructor, SparseCoder

VARIANCE_FLOOR = 1e-12  # of the second moment; below it a variance in float64 is rounding


@dataclass(frozen=True, slots=True)
class Contender:
    """A coder to be measured.

    A coder that has `encode` and `decode` is measured through them, so that l0 and reconstruction are those of the same codes; any
    other coder through `reconstruct`, and has no l0 and no dead latents.
    """

    coder: Reconstructor
    is_control: bool

    @property
    def n_latents(self) -> int | None:
        """Width of the dictionary, None where the coder has none."""
        return self.sparse.n_latents if self.sparse is not None else None

    @property
    def sparse(self) -> SparseCoder | None:
        """The coder as one with codes, None where it has none."""
        return cast("SparseCoder", self.coder) if all(hasattr(self.coder, name) for name in ("encode", "decode", "n_latents")) else None

    def there(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        """The activations on the device where the coder is."""
        parameter = next(self.coder.parameters(), None) if isinstance(self.coder, nn.Module) else None
        return x if parameter is None else x.to(parameter.device)

    @torch.no_grad()
    def apply(self, x: Float[Tensor, "token d_in"], asked: str) -> tuple[Float[Tensor, "token d_in"], Codes | None]:
        """Reconstruct on the device where the coder is; the result comes back on that of `x`, in float32.

        Raises:
            SaeError: when the result has another shape than `x` or is not finite.
        """
        there = self.there(x)
        codes = None if self.sparse is None else self.sparse.encode(there)
        x_hat = self.coder.reconstruct(there) if self.sparse is None or codes is None else self.sparse.decode(codes)
        if x_hat.shape != x.shape:
            raise SaeError(asked=asked, why=f"it returns {list(x_hat.shape)} for activations of shape {list(x.shape)}",
                           instead="give a coder that was trained at this site of this subject")
        if not torch.isfinite(x_hat).all():
            raise SaeError(asked=asked, why=f"its reconstruction is not finite for {int((~torch.isfinite(x_hat)).any(1).sum())} of {len(x)} tokens",
                           instead="check its weights for nan and inf, and that it was trained at this site of this subject")
        return x_hat.to(device=x.device, dtype=torch.float32), codes


@dataclass(slots=True)
class InputSums:
    """Sums over the tokens of each group that fvu needs of the activations alone, about a fixed point `about` near their mean.

    The fixed point changes no result; it keeps the variance from being a small difference of large numbers.
    """

    about: Float[Tensor, " d_in"]
    n: Float[Tensor, " group"]
    first: Float[Tensor, "group d_in"]
    second: Float[Tensor, " group"]

    @classmethod
    def empty(cls, n_groups: int, about: Float[Tensor, " d_in"]) -> "InputSums":
        d_in = len(about)
        return cls(about.cpu().double(), _zeros(n_groups), torch.zeros(n_groups, d_in, dtype=torch.float64), _zeros(n_groups))

    def add(self, x: Float[Tensor, "token d_in"], group: Int[Tensor, " token"]) -> None:
        centered = x.cpu().double() - self.about
        self.n.index_add_(0, group, torch.ones(len(x), dtype=torch.float64))
        self.first.index_add_(0, group, centered)
        self.second.index_add_(0, group, centered.square().sum(1))

    def variance(self, resamples: Resamples) -> Resampled:
        """sum ||x - mean(x)||^2 over the tokens of each resample, about the mean of that resample; nan where it is 0."""
        second, n = resamples.totals(self.second.numpy()), resamples.totals(self.n.numpy())
        variance = second - ratio(np.square(resamples.totals(self.first.numpy())).sum(1), n)
        return np.where(variance > VARIANCE_FLOOR * second, variance, np.nan)


@dataclass(slots=True)
class CoderSums:
    """Sums over the tokens of each group for one coder; `fired` are the latents that fired on any token."""

    error: Float[Tensor, " group"]
    cosine: Float[Tensor, " group"]
    active: Float[Tensor, " group"] | None
    fired: Bool[Tensor, " latent"] | None = field(default=None)

    @classmethod
    def empty(cls, n_groups: int, n_latents: int | None) -> "CoderSums":
        if n_latents is None:
            return cls(_zeros(n_groups), _zeros(n_groups), None)
        return cls(_zeros(n_groups), _zeros(n_groups), _zeros(n_groups), torch.zeros(n_latents, dtype=torch.bool))

    def add(self, x: Float[Tensor, "token d_in"], x_hat: Float[Tensor, "token d_in"], codes: Codes | None, group: Int[Tensor, " token"]) -> None:
        x, x_hat = x.cpu().double(), x_hat.cpu().double()
        self.error.index_add_(0, group, (x - x_hat).square().sum(1))
        # A zero vector points nowhere: its cosine counts as 0.
        self.cosine.index_add_(0, group, nn.functional.cosine_similarity(x, x_hat, dim=1, eps=1e-30))
        if codes is not None:
            assert self.active is not None
            assert self.fired is not None
            firing = codes.values != 0
            self.active.index_add_(0, group[codes.tokens()[firing].cpu()], torch.ones(int(firing.sum()), dtype=torch.float64))
            self.fired[codes.latents[firing].cpu()] = True

    def metrics(self, inputs: InputSums, resamples: Resamples) -> dict[str, Resampled]:
        """fvu, explained_variance, cosine and, of a sparse coder, l0, over all resamples."""
        n = resamples.totals(inputs.n.numpy())
        fvu = ratio(resamples.totals(self.error.numpy()), inputs.variance(resamples))
        result = {"fvu": fvu, "explained_variance": 1 - fvu, "cosine": ratio(resamples.totals(self.cosine.numpy()), n)}
        if self.active is not None:
            result["l0"] = ratio(resamples.totals(self.active.numpy()), n)
        return result

    def dead_frac(self) -> float | None:
        """Latents that fired on no token / n_latents. It gets no interval: a resample holds fewer different tokens, so all would lie above it."""
        return None if self.fired is None else float((~self.fired).double().mean())


def _zeros(n_groups: int) -> Float[Tensor, " group"]:
    return torch.zeros(n_groups, dtype=torch.float64)
