"""Coders that a trained SAE is set beside: what untrained weights, random directions, linear dictionaries, the mean and zero achieve.

A metric says something of training only where it beats an untrained SAE of the same shape and sparsity, something of directions only where it beats
random ones, and something of sparsity only beside linear codes with as many numbers a token. Which latents are compared with random ones of
the same fire rate is up to each family (`readout.matched_latents`). Owns: CONTROLS and the sets `core` and `full`. Refuses: names of
controls that are not known, and activations that the SAE cannot read.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from sparselight.errors import ConfigError, SaeError, nearest
from sparselight.evaluate.linear_coders import ICA_MOST_DIMS, LinearCoder, first_components, ica, pca, raw_channels
from sparselight.sae import Sae, initialize

CONTROL_ROWS = 40_000  # training activations on which controls and the mean are fitted
CALIBRATION_TOKENS = 8192  # evenly spaced tokens on which l0 is matched: sets it to well under 1 % and keeps the work to seconds
CHUNK_TOKENS = 1024
SEED_OFFSET = 1_000_003  # the seed of an evaluation is often that of a training, and the untrained SAE would be the trained one before its first step

Coder = Sae | LinearCoder


@dataclass(frozen=True, slots=True)
class MeanCoder:
    """Replaces every activation by one vector: fvu is 1 where that is the mean of the evaluated tokens, more elsewhere."""

    mean: Float[Tensor, " d_in"]

    def reconstruct(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        return self.mean.to(x).expand_as(x)


@dataclass(frozen=True, slots=True)
class ZeroCoder:
    """Replaces every activation by 0."""

    def reconstruct(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        return torch.zeros_like(x)


def mean_only(x: Float[Tensor, "token d_in"]) -> MeanCoder:
    """The coder that answers with the mean of `x`, taken in float64."""
    return MeanCoder(x.mean(0, dtype=torch.float64).float())


@torch.no_grad()
def untrained(sae: Sae, x: Float[Tensor, "token d_in"], seed: int = 0) -> Sae:
    """A random SAE of the same shape that is as sparse as the trained one.

    Its weights are those that a training starts from: decoder rows are random unit vectors, W_enc = W_dec^T, b_enc = 0, and b_dec is
    the mean of `x`. One threshold for all latents is chosen so that the mean l0 on evenly spaced rows of `x` is that of the trained SAE
    on the same rows.

    Args:
        x: training activations.

    Raises:
        SaeError: when `x` is empty or of another width, or the trained one is a transcoder.
    """
    _check(sae, x, "make an untrained SAE")
    x = x.to(getattr(sae, "W_dec", x).device, torch.float32)  # a wrapped coder may have no directions
    rows = _evenly(x)
    result = initialize(Sae(sae.d_in, sae.n_latents), x.mean(0, dtype=torch.float64), torch.Generator().manual_seed(seed)).to(x.device)
    n_active = sum(int((sae.encode(chunk).values != 0).sum()) for chunk in x[rows].split(CHUNK_TOKENS))
    result.threshold.fill_(_threshold(result, x[rows], n_active))
    return result


def _check(sae: Sae, x: Float[Tensor, "token d_in"], asked: str) -> None:
    if not len(x):
        raise SaeError(asked=asked, why="there are no activations to fit it on", instead="give training activations")
    sae.check_width(x)
    if sae.is_transcoder:
        raise SaeError(asked=f"{asked} beside a transcoder", why="it gives back other activations than it reads",
                       instead="evaluate an SAE that was trained without train.target_site")


def _evenly(x: Float[Tensor, "token d_in"]) -> Int[Tensor, " row"]:
    return torch.linspace(0, len(x) - 1, min(len(x), CALIBRATION_TOKENS), device=x.device, dtype=torch.float64).round().long()


def _threshold(sae: Sae, x: Float[Tensor, "token d_in"], n_active: int) -> float:
    """The value that `n_active` of all positive pre-activations exceed; 0 where there are not that many."""
    largest = torch.zeros(0, device=x.device)
    for chunk in x.split(CHUNK_TOKENS):
        found = sae.pre_activations(chunk).flatten()
        least = float(largest.min()) if len(largest) > n_active else 0.0
        largest = torch.cat([largest, found[found > least]])
        if len(largest) > n_active + 1:
            largest = largest.topk(n_active + 1, sorted=False).values
    if len(largest) <= n_active:
        return 0.0
    lowest = largest.sort().values[:2]  # the first that must not fire, and the last that must
    return float(lowest.double().mean()) if n_active else float(lowest[0])


@torch.no_grad()
def random_decoder(sae: Sae, x: Float[Tensor, "token d_in"], seed: int = 0) -> Sae:
    """The trained encoder with random directions: the codes of each token stay, what they stand for does not.

    Decoder rows are uniform on the sphere, of the norms of the trained rows, and b_dec is refitted, so that the mean reconstruction of `x` is the mean
    of `x` (the least-squares bias for that decoder). It says what a metric owes to which latents fire, and what to their directions.

    Raises:
        SaeError: when `x` is empty or of another width, or the trained one is a transcoder.
    """
    _check(sae, x, "make an SAE with a random decoder")
    result = copy.deepcopy(sae).fold_centering()  # else another b_dec would change the codes
    rows = torch.randn(sae.n_latents, sae.d_in, generator=torch.Generator().manual_seed(seed)).to(sae.W_dec)
    result.W_dec.copy_(normalize(rows) * sae.W_dec.norm(dim=1, keepdim=True))
    result.b_dec.zero_()
    some = x[_evenly(x)].to(sae.W_dec.device, torch.float32)
    error = sum((chunk.double() - result.reconstruct(chunk).double()).sum(0) for chunk in some.split(CHUNK_TOKENS))
    result.b_dec.copy_(error / len(some))
    result.record, result.imported = None, None
    return result


class Control(NamedTuple):
    """One kind of control."""

    name: str
    """With {k} for the number of latents that a token of the SAE keeps."""
    make: Callable[["_Fit"], Coder]


@dataclass
class _Fit:
    """What controls are made of; PCA is fitted once for all that use it."""

    sae: Sae
    x: Float[Tensor, "token d_in"]
    k: int
    seed: int
    _pca: LinearCoder | None = None

    def pca(self) -> LinearCoder:
        if self._pca is None:
            self._pca = pca(self.x, self.sae.d_in)
        return self._pca


CONTROLS: dict[str, Control] = {
    "untrained": Control("untrained SAE", lambda fit: untrained(fit.sae, fit.x, fit.seed)),
    "random_decoder": Control("random decoder", lambda fit: random_decoder(fit.sae, fit.x, fit.seed)),
    "pca": Control("PCA, {k} components", lambda fit: first_components(fit.pca(), fit.k)),
    "pca_largest": Control("PCA, {k} largest", lambda fit: fit.pca().keeping(fit.k)),
    "ica": Control("ICA, {k} components", lambda fit: ica(fit.x, fit.k, fit.seed)),
    "ica_largest": Control("ICA, {k} largest", lambda fit: ica(fit.x, fit.sae.d_in, fit.seed).keeping(fit.k)),
    "raw": Control("raw channels, {k} largest", lambda fit: raw_channels(fit.x).keeping(fit.k)),
}
"""`components` are codes of rank k; `largest` have all components, of which a token keeps k: the same number of active latents as the SAE."""
CONTROL_SETS: dict[str, tuple[str, ...]] = {"core": ("untrained", "pca"), "full": tuple(CONTROLS)}


def standard_controls(
    sae: Sae, x: Float[Tensor, "token d_in"], which: str | Sequence[str] = "core", seed: int = 0, notes: list[str] | None = None,
) -> dict[str, Coder]:
    """What an SAE stands beside, by name.

    Args:
        x: training activations, on which all are fitted.
        which: `core`, `full`, or keys of CONTROLS.
        seed: of what is random.
        notes: gets a sentence for each control that is left out (ICA in many dimensions), or did not converge.

    Raises:
        ConfigError: for a control that is not known.
    """
    keys = CONTROL_SETS.get(which, (which,)) if isinstance(which, str) else tuple(which)
    for key in keys:
        if key not in CONTROLS:
            raise ConfigError(asked=f"make the control {key!r}", why="there is none of that name", instead=nearest(key, [*CONTROL_SETS, *CONTROLS]))
    l0 = sae.record.l0 if sae.record else len(sae.encode(x).values) / len(x)
    fit = _Fit(sae, x, min(max(1, round(l0)), sae.d_in), seed + SEED_OFFSET)
    result: dict[str, Coder] = {}
    for key in keys:
        control = CONTROLS[key]
        name = control.name.format(k=fit.k)
        if key.startswith("ica") and sae.d_in > ICA_MOST_DIMS:
            _note(notes, f"{name} is left out: fitting it takes many minutes above {ICA_MOST_DIMS} dimensions, and there are {sae.d_in}")
            continue
        if key == "random_decoder" and not hasattr(sae, "W_dec"):
            _note(notes, f"{name} is left out: this coder has no decoder directions")
            continue
        coder = result[name] = control.make(fit)
        _note(notes, getattr(coder, "note", ""))
    return result


def _note(notes: list[str] | None, text: str) -> None:
    if notes is not None and text:
        notes.append(text)
